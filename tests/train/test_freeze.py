"""Freezing: not one bit of the frozen part changes, and all the rest learns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ossa.config import EvaluateConfig, ModelConfig, RunConfig, TrainConfig
from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError
from ossa.models.detector import build_detector, create_detector
from ossa.train.callbacks import Callback
from ossa.train.loop import train
from ossa.train.optim import EMA, freeze, set_training
from ossa.train.resume import STATE_FILE

FROZEN = ("backbone", "neck.top_down.1")


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def layers_of(keys: set[str]) -> set[str]:
    return {key.rpartition(".")[0] for key in keys}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path, list[str]]:
    """A run of one epoch, 3 batches with a step behind each; its folder and its notes."""
    root = tmp_path_factory.mktemp("frozen")
    data = write_scenes(root / "scenes", images={"train": 24, "val": 2}, imgsz=128)
    config = RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"),
        data=str(data),
        train=TrainConfig(
            epochs=1, imgsz=64, batch=8, nominal_batch=8, warmup_epochs=0, freeze=FROZEN
        ),
        evaluate=EvaluateConfig(max_detections=20),
    )
    notes: list[str] = []

    class Notes(Callback):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    (root / "run").mkdir()
    train(config, root / "run", callback=Notes())
    return config, root / "run", notes


@pytest.mark.parametrize("what", ["detector", "average"])
def test_not_one_bit_of_the_frozen_part_changes_in_an_epoch(
    run: tuple[RunConfig, Path, list[str]], what: str
):
    config, folder, _ = run
    torch.manual_seed(config.seed)
    before = build_detector(config.model, num_classes=4, imgsz=64).state_dict()
    after: dict[str, Tensor] = torch.load(folder / STATE_FILE, weights_only=True)[what]
    assert list(after) == list(before)
    frozen = {key for key in before if key.startswith(("backbone.", "neck.top_down.1."))}
    assert any("running_var" in key for key in frozen)
    assert any("num_batches_tracked" in key for key in frozen)
    changed = {key for key in before if bits(before[key]) != bits(after[key])}
    assert changed.isdisjoint(frozen)
    # Every other layer learns; the anchors of the head are no parameters.
    assert layers_of(changed) == layers_of(set(before) - frozen - {"head.anchors_wh"})


def test_a_run_tells_how_much_is_frozen_and_that_it_is_random(
    run: tuple[RunConfig, Path, list[str]],
):
    _, _, notes = run
    before = create_detector("yolov5n", num_classes=4, imgsz=64)
    parts = (before.backbone, before.get_submodule("neck.top_down.1"))
    frozen = sum(p.numel() for part in parts for p in part.parameters())
    total = sum(p.numel() for p in before.parameters())
    assert notes[1] == f"frozen: {frozen:,} of {total:,} parameters"
    assert notes[2] == (
        f"{frozen:,} of them stay as they were drawn at random, such as backbone.stem.conv.weight"
    )


def test_a_stage_learns_behind_a_frozen_one():
    detector = create_detector("yolov5n", num_classes=1, imgsz=64)
    frozen = freeze(detector, ["backbone.stem", "backbone.stages.0"])
    set_training(detector, frozen)
    raw = detector(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    torch.stack([logits.sum() for logits in raw.logits]).sum().backward()
    without = {name for name, p in detector.named_parameters() if p.grad is None}
    assert without == {
        name
        for name, _ in detector.named_parameters()
        if name.startswith(("backbone.stem.", "backbone.stages.0."))
    }


def test_frozen_modules_stay_in_evaluation_mode_when_the_detector_is_set_to_train():
    detector = nn.ModuleDict({"a": nn.Sequential(nn.BatchNorm2d(1)), "b": nn.BatchNorm2d(1)})
    set_training(detector, freeze(detector, ["a"]))
    modes = {name: module.training for name, module in detector.named_modules()}
    assert modes == {"": True, "a": False, "a.0": False, "b": True}


def test_the_names_of_the_frozen_tensors_are_those_within_the_modules():
    detector = nn.ModuleDict({"a": nn.BatchNorm2d(1), "ab": nn.Linear(1, 1)})
    frozen = freeze(detector, ["a"])
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert frozen.tensor_names == {f"a.{key}" for key in norm}


def test_the_average_does_not_touch_what_is_frozen():
    network = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    for parameter in network.parameters():
        nn.init.constant_(parameter, -0.0)
    average = EMA(network, decay=0.9, ramp=0.1, frozen={"a.weight", "a.bias"})
    before = bits(average.network.state_dict()["a.weight"])
    average.update(network)
    assert bits(average.network.state_dict()["a.weight"]) == before
    # Without it the sign of -0.0 would be lost.
    assert bits(average.network.state_dict()["b.weight"]) != before


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["backbon"], "there is no module named 'backbon'. Did you mean backbone"),
        (["backbone.stage.0"], "Did you mean backbone.stages.0"),
        (["10"], "there is no module named '10'. There are backbone, neck, head."),
        # A lateral of yolov5n is nothing: its widths fit already.
        (["neck.laterals"], "there is no module named 'neck.laterals'."),
        (["backbone", "neck", "head"], "expected a part that is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(names: list[str], complaint: str):
    with torch.device("meta"):
        detector = create_detector("yolov5n", num_classes=1, imgsz=64)
    with pytest.raises(ConfigError) as refusal:
        freeze(detector, names)
    assert complaint in str(refusal.value)
