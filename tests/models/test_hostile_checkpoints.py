"""Weights files that claim what they do not hold, or ask for what no file may name."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ossa.config import ModelConfig
from ossa.errors import CheckpointError, ConfigError
from ossa.models.backbones.pretrained import read_backbone_weights
from ossa.models.checkpoint import detector_from, read_checkpoint, save_checkpoint
from ossa.models.detector import build_detector

MODEL: dict[str, Any] = {"name": "yolov5n", "neck": "own"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, file = ModelConfig(**MODEL), tmp_path_factory.mktemp("sound") / "own.safetensors"
    detector = build_detector(model, num_classes=2, imgsz=64)
    save_checkpoint(file, detector, model=model, names=("a", "b"), imgsz=64, details={})
    return file


def changed(sound: Path, file: Path, change: Any) -> Path:
    """Writes a checkpoint whose header `change` has changed, its description parsed, in place."""
    content = sound.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    description = json.loads(header["__metadata__"]["ossa"])
    header = change(header, description) or header
    header["__metadata__"] = {"ossa": json.dumps(description)}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return file


def claiming(file: Path, model: dict[str, Any], **others: Any) -> Path:
    """Writes a checkpoint of one number that claims a model."""
    description = {
        "format": "ossa-detector-1",
        "model": {"neck": "n", **model},
        "names": ["a"],
        "imgsz": 224,
        "details": {},
    }
    metadata = {"ossa": json.dumps({**description, **others})}
    save_file({"backbone.x": torch.zeros(1)}, file, metadata)
    return file


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as archive:
        return archive.metadata()


@pytest.mark.parametrize(
    "name", ["eva_giant_patch14_224", "vit_gigantic_patch14_224", "convnext_xxlarge"]
)
def test_a_claim_of_a_billion_parameters_is_refused_before_anything_is_built(
    name: str, tmp_path: Path
):
    file = claiming(tmp_path / "x.safetensors", {"name": name})
    assert file.stat().st_size < 600
    start = time.process_time()
    with pytest.raises(CheckpointError, match=rf"{name} has [\d,]{{11,}} parameters, and the file"):
        read_checkpoint(file)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cspdarknet-w2-d2", "does not fit this detector"),
        ("cspdarknet-w9-d9", "describes no detector: Expected cspdarknet-wWIDTH-dDEPTH"),
        ("cspdarknet-w0.5-d99999", "describes no detector: Expected cspdarknet-wWIDTH-dDEPTH"),
    ],
)
def test_a_scale_of_cspdarknet_that_a_file_claims_is_refused_in_time(
    name: str, reason: str, tmp_path: Path
):
    start = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(claiming(tmp_path / "x.safetensors", {"name": name}))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"pretrained_cfg_overlay": {"url": "data:,x"}, "pad_type": "same"}, "pretrained_cfg_ov"),
        ({"cache_dir": "/tmp/x"}, "cache_dir"),
        ({"checkpoint_path": "/tmp/x"}, "checkpoint_path"),
        ({"pretrained": True}, "pretrained"),
        ({"pretrained_cfg": "hf-hub:a/b"}, "pretrained_cfg"),
        ({"channels": 100_000}, "channels"),
        ({"img_size": 100_000}, "img_size"),
        ({"img_size": "/etc"}, "img_size"),
        ({"drop_path_rate": [0.1]}, "drop_path_rate"),
        ({"pad_type": "/etc"}, "pad_type"),
    ],
)
def test_no_file_hands_timm_an_argument_beside_the_listed(
    arguments: dict[str, Any], key: str, tmp_path: Path
):
    model = {"name": "resnet18", "backbone_args": arguments}
    with pytest.raises(CheckpointError, match=rf"model\.backbone_args\.{key}"):
        read_checkpoint(claiming(tmp_path / "x.safetensors", model))
    file = tmp_path / "backbone.safetensors"
    metadata = {"mean": "[0, 0, 0]", "std": "[1, 1, 1]", "model_args": json.dumps(arguments)}
    save_file({"x": torch.zeros(1)}, file, metadata)
    with pytest.raises(CheckpointError, match=rf"model_args\.{key}"):
        read_backbone_weights(str(file))


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "../x", "/etc/x", "resnet18.a/b", "", "a\nb"]
)
def test_a_model_is_never_an_address_or_a_path(name: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"model\.name: "):
        read_checkpoint(claiming(tmp_path / "x.safetensors", {"name": name}))


def test_what_a_checkpoint_once_started_from_is_forgotten(sound: Path, tmp_path: Path):
    def change(_: Any, description: Any) -> None:
        description["model"] |= {"weights": "/etc/x.pt"}

    checkpoint = read_checkpoint(changed(sound, tmp_path / "x.safetensors", change))
    assert checkpoint.model == ModelConfig(**MODEL)


@pytest.mark.parametrize(
    ("section", "value", "sentence"),
    [
        ("names", [], "names: tuple should have at least 1 item"),
        ("names", [1], "names.0: input should be a valid string"),
        ("names", ["\ud800"], "names.0: "),
        ("names", {"0": "a"}, "names: input should be a valid tuple"),
        ("names", ["a"] * 300_000, "does not fit this detector"),
        ("names", ["a", "b", "c"], "does not fit this detector: 6 of another shape"),
        ("details", [], "details: input should be a valid dictionary"),
        ("details", {"metrics": [1]}, "details.metrics: "),
        ("details", {"metrics": {"best_confidence": "high"}}, "details.metrics.best_confidence"),
        ("details", {"metrics": {"best_confidence": "0.5"}}, "details.metrics.best_confidence"),
        ("details", {"run": 3}, "details.run: "),
        ("imgsz", "large", "imgsz: input should be a valid integer"),
        ("imgsz", 10**6, "imgsz: input should be less than or equal to 4096"),
        ("format", "ossa-detector-2", "expected a detector of the format ossa-detector-1, found"),
        ("format", None, "found None: read it with the version that wrote it"),
        ("model", [], "model: input should be a valid dictionary"),
        ("model", {**MODEL, "anchors_wh": [[[1, 1]] * 99] * 3}, "model.anchors_wh.0: "),
        ("model", {**MODEL, "strides": [8] * 9}, "model.strides: "),
        ("model", {**MODEL, "strides": [8] * 99_999}, "a model in more than 64 KiB"),
        ("model", {**MODEL, "colour": "red"}, "there is no setting 'model.colour'"),
    ],
)
def test_a_description_of_another_shape_is_told_in_a_sentence(
    section: str, value: Any, sentence: str, sound: Path, tmp_path: Path
):
    def change(_: Any, description: Any) -> None:
        description[section] = value

    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(changed(sound, tmp_path / "x.safetensors", change))
    assert sentence in str(refusal.value)
    assert "x.safetensors" in str(refusal.value)
    assert len(str(refusal.value)) < 1000


KEY = "backbone.stem.conv.weight"


@pytest.mark.parametrize(
    "lie",
    [
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [2**63, 2**63 + 4]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [6912, 0]},
        {"data_offsets": [-1, 6911]},
        {"shape": [2**40]},
        {"shape": [16, 3, 36]},
        {"shape": [1] * 10_000},
        {"dtype": "F16"},
        {"dtype": "I32"},
        {"dtype": "no"},
    ],
)
def test_a_header_that_lies_about_a_tensor_is_refused(
    lie: dict[str, Any], sound: Path, tmp_path: Path
):
    def change(header: Any, _: Any) -> None:
        header[KEY] |= lie

    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(changed(sound, tmp_path / "x.safetensors", change))
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("dtype", ["C64", "F64"])
def test_a_count_of_batches_is_a_whole_number(dtype: str, sound: Path, tmp_path: Path):
    def change(header: Any, _: Any) -> None:
        header["backbone.stem.norm.num_batches_tracked"]["dtype"] = dtype

    with pytest.raises(CheckpointError, match=rf"1 of another type \(.*_tracked {dtype}\)"):
        read_checkpoint(changed(sound, tmp_path / "x.safetensors", change))


def test_a_tensor_that_overlaps_another_is_refused(sound: Path, tmp_path: Path):
    def change(header: Any, _: Any) -> None:
        header["overlapping"] = header[KEY]

    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        read_checkpoint(changed(sound, tmp_path / "x.safetensors", change))


@pytest.mark.parametrize("size", [0, 9_000_000, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_an_absurd_length_is_refused(size: int, sound: Path, tmp_path: Path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", size) + sound.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"expected a safetensors file at .*x\.safetensors"):
        read_checkpoint(file)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(number: float, tmp_path: Path):
    model, file = ModelConfig(**MODEL), tmp_path / "x.safetensors"
    detector = build_detector(model, num_classes=2, imgsz=64)
    with torch.no_grad():
        detector.get_parameter(KEY)[0, 0, 0, 0] = number
    save_checkpoint(file, detector, model=model, names=("a", "b"), imgsz=64, details={})
    with pytest.raises(CheckpointError, match=rf"expected finite weights, found others in {KEY}"):
        read_checkpoint(file)


def official(file: Path, tensors: dict[str, Tensor], names: list[str]) -> Path:
    torch.save({"model": tensors, "names": names}, file)
    return file


def test_half_precision_views_of_one_storage_are_refused_before_they_are_copied(tmp_path: Path):
    shared = torch.zeros(4_000_000, dtype=torch.float16)
    tensors = {f"model.{i}.conv.weight": shared for i in range(24)}
    tensors |= {f"model.1.{i}": shared for i in range(500)}  # 8 GB in single precision
    tensors["model.0.conv.weight"] = torch.zeros(16, 3, 6, 6)
    tensors["model.24.anchors"] = torch.ones(3, 3, 2)
    file = official(tmp_path / "views.pt", tensors, ["a"])
    assert file.stat().st_size < 8_500_000
    with pytest.raises(CheckpointError, match=r"does not fit this detector: .*unexpected"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("anchors", "names", "sentence"),
    [
        (torch.ones(3), ["a"], r"expected anchors of shape \(3, 3, 2\), found \(3,\)"),
        (torch.ones(3, 3, 2), [], "expected layers model.0 to model.24 with anchors and class"),
        (torch.ones(3, 3, 2), ["a"] * 100_000, "does not fit this detector"),
    ],
)
def test_an_official_file_with_other_anchors_or_names_is_told(
    anchors: Tensor, names: list[str], sentence: str, tmp_path: Path
):
    tensors = {"model.0.conv.weight": torch.zeros(16, 3, 6, 6), "model.24.anchors": anchors}
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(official(tmp_path / "x.pt", tensors, names))


def test_the_configuration_refuses_what_a_file_may_not_say():
    with pytest.raises(ValueError, match="cache_dir"):
        ModelConfig(name="resnet18", backbone_args={"cache_dir": "/tmp"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ConfigError, match="there is no model named 'resnet19'"):
        build_detector(ModelConfig(name="resnet19"), num_classes=1, imgsz=64)


def test_a_sound_checkpoint_is_built_as_before(sound: Path):
    assert not detector_from(read_checkpoint(sound)).training


@pytest.mark.parametrize("size", [0.0, -3.0, 3e38])
def test_anchors_of_no_possible_size_are_refused(sound: Path, tmp_path: Path, size: float):
    checkpoint = read_checkpoint(sound)
    checkpoint.tensors["head.anchors_wh"][1] = size
    file = tmp_path / "x.safetensors"
    detector = detector_from(checkpoint)
    save_checkpoint(file, detector, model=checkpoint.model, names=("a", "b"), imgsz=64, details={})
    with pytest.raises(CheckpointError, match=r"anchors of more than 0 and at most 4,096 pixels"):
        read_checkpoint(file)


@pytest.mark.slow
def test_maxvit_of_large_images_is_refused_in_time(tmp_path: Path):
    file = claiming(tmp_path / "x.safetensors", {"name": "maxvit_tiny_tf_224"}, imgsz=2048)
    save_file({"backbone.x": torch.zeros(16_000_000, dtype=torch.float16)}, file, metadata_of(file))
    start = time.process_time()
    with pytest.raises(CheckpointError, match="does not fit this detector: 725 missing"):
        read_checkpoint(file)
    assert time.process_time() - start < 15
