import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ossa.errors import CheckpointError
from ossa.models.backbones.pretrained import read_backbone_weights
from ossa.models.backbones.timm import TimmBackbone
from ossa.models.detector import create_backbone

NAME = "mobilenetv2_050"
METADATA = {
    "mean": json.dumps([0.5, 0.5, 0.5]),
    "std": json.dumps([0.5, 0.4, 0.2]),
    "model_args": json.dumps({"pad_type": "same"}),
    "license": "Apache-2.0",
}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """The state of the whole classifier, as timm names it."""
    torch.manual_seed(0)
    return timm.create_model(NAME).state_dict()


def backbone_from(file: Path) -> TimmBackbone:
    weights, _ = read_backbone_weights(str(file))
    backbone = create_backbone(NAME, imgsz=64, weights=weights)
    assert isinstance(backbone, TimmBackbone)
    return backbone


def test_weights_arrive_with_their_statistics_and_constructor_arguments(tensors, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, METADATA)
    backbone = backbone_from(file)
    own = backbone.network.state_dict()
    assert len(own) > 200
    assert all(torch.equal(own[key], tensors[key]) for key in own)
    assert backbone.normalize.mean.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert backbone.normalize.std.flatten().tolist() == pytest.approx([0.5, 0.4, 0.2])
    # A pixel of 255 is (1 - 0.5) / std.
    white = backbone.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([1, 1.25, 2.5])
    assert type(backbone.network.get_submodule("conv_stem")).__name__ == "Conv2dSame"


def test_the_metadata_come_back(tensors, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, METADATA)
    weights, metadata = read_backbone_weights(str(file), mean=(0.1, 0.2, 0.3))
    assert metadata["license"] == "Apache-2.0"
    assert weights.mean == (0.1, 0.2, 0.3)  # the argument wins over the file
    assert weights.build_args == {"pad_type": "same"}


def test_a_file_without_statistics_is_refused_unless_they_are_given(tensors, tmp_path: Path):
    file = tmp_path / "bare.safetensors"
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="--backbone-mean and --backbone-std"):
        read_backbone_weights(str(file))
    weights, _ = read_backbone_weights(str(file), mean=(0, 0, 0), std=(1, 1, 1))
    assert weights.build_args == {}


def test_statistics_that_are_not_three_numbers_are_refused(tensors, tmp_path: Path):
    file = tmp_path / "grey.safetensors"
    save_file(tensors, file, METADATA | {"mean": "[0.5]"})
    with pytest.raises(
        CheckpointError, match=r"grey\.safetensors: mean\.1: field required, found \[0\.5\]"
    ):
        read_backbone_weights(str(file))


def test_metadata_that_are_not_json_are_refused(tensors, tmp_path: Path):
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file, METADATA | {"model_args": "{pad_type: same}"})
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_backbone_weights(str(file))


def test_weights_of_another_architecture_are_refused_with_the_keys(tmp_path: Path):
    file = tmp_path / "resnet.safetensors"
    with torch.device("cpu"):
        save_file(timm.create_model("test_resnet").state_dict(), file, METADATA)
    weights, _ = read_backbone_weights(str(file), build_args={})
    with pytest.raises(CheckpointError) as refusal:
        create_backbone(NAME, imgsz=64, weights=weights)
    message = str(refusal.value)
    assert "does not hold the weights of mobilenetv2_050" in message
    assert "missing (blocks.0.0.bn1.bias, " in message
    assert "unexpected (bn1." not in message  # both have a bn1
    assert "unexpected (conv1." in message


def test_weights_of_another_width_are_refused(tensors, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, METADATA)
    weights, _ = read_backbone_weights(str(file))
    with pytest.raises(CheckpointError, match=r"mobilenetv2_100: 256 of another shape \(conv_stem"):
        create_backbone("mobilenetv2_100", imgsz=64, weights=weights)


def test_arguments_of_another_architecture_are_refused(tensors, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, METADATA)
    weights, _ = read_backbone_weights(str(file))
    with pytest.raises(CheckpointError, match="the weights of another architecture"):
        create_backbone("resnet18", imgsz=64, weights=weights)


@pytest.mark.parametrize("classes", [0, 7])
def test_the_classifier_does_not_count(tensors, tmp_path: Path, classes: int):
    kept = {key: value for key, value in tensors.items() if not key.startswith("classifier")}
    if classes:
        kept |= {"classifier.weight": torch.zeros(classes, 1280), "classifier.bias": torch.ones(7)}
    file = tmp_path / "headless.safetensors"
    save_file(kept, file, METADATA)
    own = backbone_from(file).network.state_dict()
    assert all(torch.equal(own[key], tensors[key]) for key in own)


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path):
    file = tmp_path / "text.safetensors"
    file.write_text("not weights")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        read_backbone_weights(str(file))


@pytest.mark.realdata
def test_the_real_mobilenet_arrives_bit_by_bit_with_its_padding(shared: Path):
    file = shared / "weights" / "mobilenetv2_100_in1k.safetensors"
    weights, metadata = read_backbone_weights(str(file))
    backbone = create_backbone("mobilenetv2_100", imgsz=64, weights=weights)
    assert isinstance(backbone, TimmBackbone)
    stored, own = load_file(file), backbone.network.state_dict()
    floating = [key for key in own if own[key].is_floating_point()]
    assert len(floating) > 200
    assert all(torch.equal(own[key], stored[key]) for key in floating)
    assert type(backbone.network.get_submodule("conv_stem")).__name__ == "Conv2dSame"
    # The input that it was trained on is x / 127.5 - 1.
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert backbone.normalize(pixels).flatten().tolist() == pytest.approx([-1, -0.6, 1])
    assert metadata["license"].lower() == "apache-2.0"
