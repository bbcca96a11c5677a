"""A state that cannot be read is refused, with what is left to do."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ossa.errors import CheckpointError
from ossa.train.optim import EMA
from ossa.train.resume import STATE_FILE, Progress, load_state, save_state

LOSSES = ("box", "objectness", "classes")
IDENTITY = {"settings": "abc"}


def parts(optimizer: str = "sgd") -> dict[str, Any]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    settings: Any = {"lr": 0.1, "fused": True}
    return {
        "detector": layer,
        "optimizer": torch.optim.SGD(layer.parameters(), momentum=0.9, **settings)
        if optimizer == "sgd"
        else torch.optim.AdamW(layer.parameters(), **settings),
        "ema": EMA(layer, decay=0.9, ramp=1),
    }


def step(parts: dict[str, Any]) -> None:
    parts["detector"](torch.arange(6.0).view(2, 3)).sum().backward()
    parts["optimizer"].step()


def saved(folder: Path, optimizer: str = "sgd") -> dict[str, Any]:
    """Writes the state of a training of one step and returns what it holds."""
    begun = parts(optimizer)
    step(begun)
    save_state(
        folder,
        progress=Progress(batch_number=1, loss_sums=dict.fromkeys(LOSSES, 0.0)),
        identity=IDENTITY,
        **begun,
    )
    return torch.load(folder / STATE_FILE, weights_only=True)


def loaded(folder: Path, optimizer: str = "sgd") -> dict[str, Any]:
    fresh = parts(optimizer)
    return {"progress": load_state(folder, identity=IDENTITY, losses=LOSSES, **fresh), **fresh}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_goes_on_from_its_state_to_the_bit(optimizer: str, tmp_path: Path):
    saved(tmp_path, optimizer)
    resumed, whole = loaded(tmp_path, optimizer), parts(optimizer)
    step(whole)
    for training in (resumed, whole):  # with the first step's gradients still there
        step(training)
    assert resumed["progress"] == Progress(batch_number=1, loss_sums=dict.fromkeys(LOSSES, 0.0))
    for own, other in zip(
        whole["detector"].parameters(), resumed["detector"].parameters(), strict=True
    ):
        assert torch.equal(own, other)


def test_a_state_that_is_cut_short_names_the_weights_that_are_whole(tmp_path: Path) -> None:
    saved(tmp_path)
    whole = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        CheckpointError, match=rf"{STATE_FILE} is damaged .* --weights {tmp_path}/last\.safetensors"
    ):
        loaded(tmp_path)


HALF = torch.zeros(2, 3, dtype=torch.float16)
LIES = [
    ((), [1, 2], "the state: expected dict, found list"),
    (("identity",), [], "the state.identity: expected dict, found list"),
    (("progress",), [], "the state.progress: expected dict, found list"),
    (("progress", "batch_number"), -1, "progress.batch_number: input should be greater"),
    (("progress", "batch_number"), "1", None),
    (("progress", "best_fitness"), float("nan"), "progress.best_fitness: "),
    (("progress", "train_seconds"), float("inf"), "progress.train_seconds: "),
    (("progress", "loss_sums"), {"box": 1.0}, "progress.loss_sums: 'objectness' is missing"),
    (("progress", "rows"), [{"epoch": "x"}], "progress.rows.0.epoch"),
    (("progress", "rows"), [{"epoch": 10**400}], "progress.rows.0.epoch"),
    (("progress", "metrics"), {"last": {"ap": "high"}}, "progress.metrics.last.ap"),
    (("progress", "epochs"), 3, "progress.epochs: unexpected keyword argument"),
    (("progress", "metrics"), {"last": 3}, "progress.metrics.last: "),
    (("progress", "metrics"), {"last": {"ap": torch.zeros(1)}}, "a value of the type Tensor"),
    (("detector",), {}, "the state.detector: 'weight' is missing"),
    (("detector", "weight"), torch.zeros(3), "expected torch.float32 (2, 3), found torch.float32"),
    (("detector", "weight"), HALF, "expected torch.float32 (2, 3), found torch.float16 (2, 3)"),
    (("average", "bias"), None, "the state.average.bias: expected torch.float32 (2,), found None"),
    (("average_updates",), [1], "the state.average_updates: expected float, found list"),
    (("gradients",), {}, "the state.gradients: expected list, found dict"),
    (("gradients",), [{"other": HALF}], "gradients: 'other' is not known"),
    (("gradients",), [{"weight": HALF}], "gradients.weight: expected torch.float32"),
    (("optimizer",), [], "the state.optimizer: expected dict, found list"),
    (("optimizer", "state"), {7: {}}, "optimizer.state: 7 is not known"),
    (("optimizer", "state", 0), {}, "optimizer.state.0: 'momentum_buffer' is missing"),
    (("optimizer", "state", 0), {"momentum_buffer": HALF}, "optimizer.state.0.momentum_buffer: "),
    (("optimizer", "state", 0), [], "optimizer.state.0: expected dict, found list"),
    (("extra",), 1, "the state: 'extra' is not known"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), LIES)
def test_a_state_with_a_value_of_another_kind_is_told_in_a_sentence(
    path: tuple[Any, ...], value: Any, sentence: str | None, tmp_path: Path
):
    state = copy.deepcopy(saved(tmp_path))
    if path:
        place = state
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    torch.save(state if path else value, tmp_path / STATE_FILE)
    if sentence is None:
        assert loaded(tmp_path)["progress"].batch_number == 1
        return
    with pytest.raises(CheckpointError) as refusal:
        loaded(tmp_path)
    assert sentence in str(refusal.value)
    assert "start a new run, with --weights" in str(refusal.value)


def test_lists_that_are_all_the_same_one_are_counted_as_written_out(tmp_path: Path):
    state = saved(tmp_path)
    value: Any = [0] * 1000
    for _ in range(3):
        value = [value] * 100
    state["progress"]["metrics"] = {"last": {"ap": value}}  # a thousand million values
    torch.save(state, tmp_path / STATE_FILE)
    assert (tmp_path / STATE_FILE).stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="more values than any training writes"):
        loaded(tmp_path)


def test_sgd_takes_a_state_without_the_momentum_of_a_parameter(tmp_path: Path):
    state = saved(tmp_path)
    del state["optimizer"]["state"][0]
    torch.save(state, tmp_path / STATE_FILE)
    step(loaded(tmp_path))
