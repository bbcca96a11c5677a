import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ossa.config import ModelConfig
from ossa.errors import CheckpointError
from ossa.models.checkpoint import detector_from, read_checkpoint, save_checkpoint, start_from
from ossa.models.detector import Detector, build_detector, create_detector

MODEL = ModelConfig(name="test_efficientnet", neck="n")
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector(MODEL, num_classes=2, imgsz=64)


def saved(detector: Detector, file: Path, names: tuple[str, ...] = NAMES) -> Path:
    details = {"epoch": 3, "pretraining": "imagenet-1k", "licence": "Apache-2.0"}
    save_checkpoint(file, detector, model=MODEL, names=names, imgsz=64, details=details)
    return file


def test_a_checkpoint_alone_gives_back_the_same_detector(detector: Detector, tmp_path: Path):
    checkpoint = read_checkpoint(saved(detector, tmp_path / "best.safetensors"))
    assert (checkpoint.model, checkpoint.names, checkpoint.imgsz) == (MODEL, NAMES, 64)
    assert checkpoint.details["epoch"] == 3
    assert checkpoint.origin["pretraining"] == "imagenet-1k"
    assert checkpoint.origin["licence"] == "Apache-2.0"
    again = detector_from(checkpoint)
    assert not again.training
    before, after = detector.state_dict(), again.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "name",
    ["test_vit", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)],
)
def test_a_transformer_sees_images_of_another_size_with_the_weights_of_its_training(
    name: str, tmp_path: Path
):
    model, file = ModelConfig(name=name, neck="n"), tmp_path / "best.safetensors"
    detector = build_detector(model, num_classes=2, imgsz=64).eval()
    save_checkpoint(file, detector, model=model, names=NAMES, imgsz=64, details={})
    again = detector_from(read_checkpoint(file))
    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = detector(images).logits, again(images).logits
    assert [tuple(x.shape[2:4]) for x in found] == [(12, 16), (6, 8), (3, 4)]
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_weights_on_channels_last_are_saved_too(detector: Detector, tmp_path: Path):
    other = build_detector(MODEL, num_classes=2, imgsz=64)
    other.load_state_dict(detector.state_dict())
    other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoint = read_checkpoint(saved(other, tmp_path / "last.safetensors"))
    own = detector.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in checkpoint.tensors.items())


def test_a_backbone_with_other_code_than_it_was_trained_with_is_told(
    detector: Detector,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    # Other libraries configure logging for the process: MLflow's migrations disable what there is.
    logger = logging.getLogger("ossa")
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    caplog.set_level(logging.WARNING, logger="ossa")
    for file, code in ("old", None), ("changed", "0" * 64):
        details, path = {"backbone_code": code}, tmp_path / f"{file}.safetensors"
        save_checkpoint(path, detector, model=MODEL, names=NAMES, imgsz=64, details=details)
        read_checkpoint(path)
        read_checkpoint(path)
    (told,) = caplog.messages
    assert "changed.safetensors was trained with other code of test_efficientnet than" in told


def test_other_classes_leave_the_head_as_it_was_initialised(detector: Detector, tmp_path: Path):
    checkpoint = read_checkpoint(saved(detector, tmp_path / "best.safetensors"))
    fresh = build_detector(MODEL, num_classes=5, imgsz=64)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    left_out, resampled = start_from(fresh, checkpoint)
    assert resampled == ()
    after = fresh.state_dict()
    levels = (0, 1, 2)
    assert left_out == tuple(
        f"head.predict.{i}.{part}" for i in levels for part in ("bias", "weight")
    )
    assert all(torch.equal(after[key], before[key]) for key in left_out)
    loaded = set(after) - set(left_out)
    assert all(torch.equal(after[key], checkpoint.tensors[key]) for key in loaded)


def test_the_same_classes_take_every_tensor(detector: Detector, tmp_path: Path):
    checkpoint = read_checkpoint(saved(detector, tmp_path / "best.safetensors"))
    fresh = build_detector(MODEL, num_classes=2, imgsz=64)
    assert start_from(fresh, checkpoint) == ((), ())
    assert torch.equal(
        fresh.state_dict()["head.predict.0.bias"], checkpoint.tensors["head.predict.0.bias"]
    )


def test_another_head_starts_anew_behind_the_backbone_and_neck(detector: Detector, tmp_path: Path):
    checkpoint = read_checkpoint(saved(detector, tmp_path / "best.safetensors"))
    dense = build_detector(MODEL.model_copy(update={"head": "dense"}), num_classes=2, imgsz=64)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    left_out, _ = start_from(dense, checkpoint)
    assert set(left_out) == {key for key in checkpoint.tensors if key.startswith("head.")}
    for key, value in dense.state_dict().items():
        expected = before[key] if key.startswith("head.") else checkpoint.tensors[key]
        assert torch.equal(value, expected)


@pytest.mark.parametrize(
    "name", ["test_vit", pytest.param("eva02_tiny_patch14_224", marks=pytest.mark.slow)]
)
def test_a_transformer_starts_at_another_image_size_with_its_positions_resampled(
    name: str, tmp_path: Path
):
    model, file = ModelConfig(name=name, neck="n"), tmp_path / "best.safetensors"
    small = build_detector(model, num_classes=2, imgsz=64)
    save_checkpoint(file, small, model=model, names=NAMES, imgsz=64, details={})
    checkpoint = read_checkpoint(file)
    large = build_detector(model, num_classes=2, imgsz=96)
    key = "backbone.trunk.network.model.pos_embed"
    assert start_from(large, checkpoint) == ((), (key,))
    # A class token and 4 x 4 patches of 16 px before, 6 x 6 now; the token's does not change.
    before, after = checkpoint.tensors[key], large.state_dict()[key]
    assert (before.shape[1], after.shape[1]) == (1 + 16, 1 + 36)
    assert torch.equal(before[:, 0], after[:, 0])
    # The checkpoint itself resamples whenever it sees an image: the same happens once here.
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = detector_from(checkpoint)(images).logits, large.eval()(images).logits
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_the_positions_of_a_wider_transformer_are_refused(tmp_path: Path):
    model, file = ModelConfig(name="test_vit", neck="n"), tmp_path / "best.safetensors"
    narrow = build_detector(model, num_classes=2, imgsz=64)
    save_checkpoint(file, narrow, model=model, names=NAMES, imgsz=64, details={})
    wide = ModelConfig(name="test_vit", neck="n", backbone_args={"embed_dim": 96})
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 17, 64\) instead of \(1, 37, 96\)"):
        start_from(build_detector(wide, num_classes=2, imgsz=96), read_checkpoint(file))


def test_weights_of_another_detector_are_refused_with_the_tensors(
    detector: Detector, tmp_path: Path
):
    checkpoint = read_checkpoint(saved(detector, tmp_path / "best.safetensors"))
    with torch.device("meta"):
        other = create_detector("yolov5n", num_classes=2)
    with pytest.raises(CheckpointError) as refusal:
        start_from(other, checkpoint)
    assert "does not fit this detector" in str(refusal.value)
    assert "missing (backbone.context.enter.conv.weight, " in str(refusal.value)
    assert "unexpected (backbone.network." in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=r"weights file at .*nothing\.safetensors, found none"
    ):
        read_checkpoint(tmp_path / "nothing.safetensors")


def test_weights_of_a_backbone_are_told_from_those_of_a_detector(tmp_path: Path):
    file = tmp_path / "backbone.safetensors"
    save_file({"weight": torch.zeros(1)}, file, {"mean": json.dumps([0, 0, 0])})
    with pytest.raises(CheckpointError, match="weights of a backbone go to --backbone-weights"):
        read_checkpoint(file)


def test_a_damaged_file_is_refused(detector: Detector, tmp_path: Path):
    file = saved(detector, tmp_path / "best.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        read_checkpoint(file)


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path):
    file = tmp_path / "other.pt"
    torch.save({"model": {"layer.weight": torch.zeros(3)}}, file)
    with pytest.raises(CheckpointError, match="holds no YOLOv5 v6/v7 detector"):
        read_checkpoint(file)
