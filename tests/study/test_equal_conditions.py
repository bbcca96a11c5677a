"""In a study only the backbone differs: the same neck and head, from the same initial numbers."""

from pathlib import Path

import pytest
import torch
from tiny_studies import a_plan
from torch import Tensor

from ossa.config import ModelConfig
from ossa.errors import ConfigError
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import build_detector
from ossa.study.plan import PlannedRun
from ossa.study.report.tables import Column, ReportFiles, ReportTable
from ossa.train.callbacks import Callback
from ossa.train.setup import init_run

CPU = torch.device("cpu")


def initial(run: PlannedRun, data: Path) -> dict[str, Tensor]:
    """Returns the initial weights of a planned run."""
    config = run.config.model_copy(update={"data": str(data)})
    state = init_run(config, Path("run"), device=CPU, callback=Callback())
    return state.detector.state_dict()


def drawn(run: PlannedRun) -> dict[str, Tensor]:
    """Returns the same without any data."""
    return build_detector(run.config.model, num_classes=4, imgsz=64, seed=run.seed).state_dict()


def behind_the_laterals(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(("backbone.", "neck.laterals."))
    }


def test_neck_and_head_of_a_seed_start_from_the_same_numbers_behind_every_backbone():
    models = ["cspdarknet_n", "resnet18", "mobilenetv2_100", "ghostnet_100", "convnext_atto"]
    starts = [drawn(run) for run in a_plan(models=models, context="sppf").runs]
    first = behind_the_laterals(starts[0])
    # Of 3 levels at depth 1: a head, an SPPF, 2 reducing and 2 strided convolutions, and 4 C3.
    kernels = [name for name, tensor in first.items() if tensor.ndim == 4]
    assert len(kernels) == 3 + 2 + 4 + 20
    for weights in starts:
        assert weights["neck.laterals.0.conv.weight"].shape[::2] == (64, 1)
        assert "neck.laterals.2.norm.weight" in weights
        assert not any(name.startswith("backbone.context") for name in weights)
        same = behind_the_laterals(weights)
        assert same.keys() == first.keys()
        assert all(torch.equal(same[name], first[name]) for name in first)
    other = behind_the_laterals(drawn(a_plan(context="sppf", seeds=[1]).runs[0]))
    assert not any(torch.equal(first[name], other[name]) for name in kernels)
    # As PyTorch draws: uniform up to 1 / sqrt(9 * 64 channels).
    assert first["neck.downsample.0.conv.weight"].abs().max() == pytest.approx(1 / 24, rel=0.01)


@pytest.mark.parametrize("neck_type", ["fpn", "bifpn", "none"])
def test_so_do_other_necks(neck_type: str):
    starts = []
    for name in ("resnet18", "cspdarknet_n"):
        settings = {"name": name, "neck": "n", "neck_type": neck_type, "equal_conditions": True}
        model = ModelConfig.model_validate(settings)
        built = build_detector(model, num_classes=4, imgsz=64, seed=0)
        starts.append(behind_the_laterals(built.state_dict()))
    first, second = starts
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_of_a_whole_detector_only_the_backbone_is_taken(scenes: Path, tmp_path: Path):
    model = ModelConfig(name="yolov5n", neck="own")
    torch.manual_seed(7)
    detector = build_detector(model, num_classes=4, imgsz=64)
    file = tmp_path / "whole.safetensors"
    details = {"pretraining": "coco", "licence": "AGPL-3.0"}
    names = ("a", "b", "c", "d")
    save_checkpoint(file, detector, model=model, names=names, imgsz=64, details=details)
    weights = {"cspdarknet_n": file.name}
    plan = a_plan(folder=tmp_path, initial_weights=weights, mixed_initial_weights=True)
    start, other = initial(plan.runs[0], scenes), drawn(plan.runs[1])
    stem = detector.state_dict()["backbone.stem.conv.weight"]
    assert torch.equal(start["backbone.stem.conv.weight"], stem)
    same, expected = behind_the_laterals(start), behind_the_laterals(other)
    assert all(torch.equal(same[name], expected[name]) for name in expected)


def test_a_preset_stays_the_original_and_is_marked_in_every_table(tmp_path: Path):
    plan = a_plan(models=["yolov5n", "resnet10t"], neck="own")
    assert [run.config.model.equal_conditions for run in plan.runs] == [False, True]
    assert plan.equality.startswith("Not under equal conditions: yolov5n, with a neck of its own.")
    rows = [{"model": "yolov5n", "alternatives": "resnet10t, yolov5n"}]
    table = ReportTable("any", [Column("model"), Column("alternatives")], rows)
    ReportFiles(tmp_path, mark=plan.marked).table(table)
    for suffix in ("csv", "md", "tex"):
        text = (tmp_path / "tables" / f"any.{suffix}").read_text()
        assert text.count("yolov5n (not under equal conditions)") == 2, suffix
        assert "resnet10t (" not in text
    original = ModelConfig(name="yolov5n", neck="own", equal_conditions=True)
    with pytest.raises(ConfigError, match="yolov5n stays the original"):
        build_detector(original, num_classes=4, imgsz=64)
