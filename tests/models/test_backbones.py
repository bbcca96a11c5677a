import re

import pytest
import timm
import torch

from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.models.backbones.timm import TimmBackbone
from ossa.models.build import create_backbone
from ossa.types import Level


def shapes_of(backbone: torch.nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        return [tuple(features.shape) for features in backbone.eval()(images)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (128, 256, 512)),
        ("mobilenetv2_050", (16, 48, 160)),
        ("convnext_atto", (80, 160, 320)),
        ("cspdarknet_n", (64, 128, 256)),
    ],
)
def test_levels_are_chosen_by_stride_and_tell_the_real_maps(name: str, channels: tuple[int, ...]):
    backbone = create_backbone(name, imgsz=64)
    assert backbone.levels == tuple(
        Level(*pair) for pair in zip((8, 16, 32), channels, strict=True)
    )
    fine, middle, coarse = channels
    assert shapes_of(backbone, 64, 96) == [
        (1, fine, 8, 12),
        (1, middle, 4, 6),
        (1, coarse, 2, 3),
    ]


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (64, 128, 256, 512)), ("cspdarknet_n", (32, 64, 128, 256))]
)
def test_four_strides_give_a_fourth_level(name: str, channels: tuple[int, ...]):
    strides = (4, 8, 16, 32)
    backbone = create_backbone(name, strides=strides, imgsz=64)
    assert backbone.levels == tuple(Level(*pair) for pair in zip(strides, channels, strict=True))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert shapes_of(backbone, 64, 96) == [
        (1, *shape) for shape in ((c, *size) for c, size in zip(channels, sizes, strict=True))
    ]


def test_a_backbone_of_one_image_size_is_built_for_it_and_its_nhwc_maps_are_turned():
    backbone = create_backbone("swin_tiny_patch4_window7_224", imgsz=64)
    assert isinstance(backbone, TimmBackbone)
    assert backbone.channels_last
    assert shapes_of(backbone, 64, 64) == [(1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)]


def test_turned_maps_hold_the_same_numbers():
    backbone = create_backbone("swin_tiny_patch4_window7_224", imgsz=64).eval()
    assert isinstance(backbone, TimmBackbone)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        turned, own = backbone(images), backbone.network(backbone.normalize(images))
    assert torch.equal(turned[0][0, 5], own[0][0, :, :, 5])


def test_maps_that_are_a_little_too_small_are_padded_by_their_border():
    # Inception's convolutions have no padding: 37, 18 and 8 cells instead of 40, 20 and 10.
    with torch.device("meta"):
        backbone = create_backbone("inception_v4", imgsz=320).eval()
        images = torch.zeros(1, 3, 320, 320, dtype=torch.uint8)
        assert isinstance(backbone, TimmBackbone)
        own = backbone.network(backbone.normalize(images))
        assert [tuple(features.shape[2:]) for features in own] == [(37, 37), (18, 18), (8, 8)]
        padded = [tuple(features.shape[2:]) for features in backbone(images)]
    assert padded == [(40, 40), (20, 20), (10, 10)]


def test_padding_repeats_the_border_on_both_sides():
    class Small(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [torch.tensor([[1.0, 2.0]]).expand(1, 1, 1, 2)]

    backbone = TimmBackbone(
        Small(),
        levels=(Level(8, 1),),
        channels_last=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    (features,) = backbone(torch.zeros(1, 3, 16, 32, dtype=torch.uint8))
    assert features.tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_a_stride_that_a_model_does_not_have_is_refused_with_those_it_declares():
    with pytest.raises(UnsupportedBackbone) as refusal:
        create_backbone("resnet18", strides=(16, 32, 64), imgsz=64)
    message = str(refusal.value)
    assert "strides [2, 4, 8, 16, 32]" in message
    assert "[64] are missing" in message


def test_maps_that_are_not_what_is_declared_are_refused_with_both_sizes():
    with pytest.raises(UnsupportedBackbone, match=r"12 x 12 at 96.*but returns 9 x 9"):
        create_backbone("inception_v3", imgsz=96)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'resnet81'. Did you mean resnet18"):
        create_backbone("resnet81")


def test_a_whole_detector_is_no_backbone():
    with pytest.raises(ConfigError, match="its backbone is cspdarknet_n"):
        create_backbone("yolov5n")


def test_the_layers_of_cspdarknet_do_not_depend_on_its_strides():
    three = create_backbone("cspdarknet_n").eval()
    for strides in ((4, 8, 16, 32), (16, 32)):
        other = create_backbone("cspdarknet_n", strides=strides).eval()
        other.load_state_dict(three.state_dict(), strict=True)
        images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
        with torch.no_grad():
            assert all(map(torch.equal, other(images)[-2:], three(images)[-2:]))


@pytest.mark.parametrize("strides", [(8, 16), (2, 4, 8, 16, 32), (32, 16, 8), (8, 8, 16, 32), ()])
def test_strides_that_cspdarknet_does_not_have_are_refused(strides: tuple[int, ...]):
    asked = re.escape(
        f"[4, 8, 16, 32] and ends with the last of them, but strides {[*strides]} were"
    )
    with pytest.raises(UnsupportedBackbone, match=asked):
        create_backbone("cspdarknet_n", strides=strides)


def test_without_weights_every_backbone_sees_fractions_of_255():
    for name in ("mobilenetv2_050", "cspdarknet_n"):
        backbone = create_backbone(name, imgsz=64)
        pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
        normalize = backbone.normalize
        assert isinstance(normalize, torch.nn.Module)
        assert normalize(pixels).flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_the_maps_are_those_of_timm():
    backbone = create_backbone("mobilenetv2_050", imgsz=64).eval()
    assert isinstance(backbone, TimmBackbone)
    theirs = timm.create_model("mobilenetv2_050", features_only=True).eval()
    # Ours is built without the maps at strides 2 and 4, but of the same layers.
    theirs.load_state_dict(backbone.network.state_dict(), strict=True)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for ours, expected in zip(backbone(images), theirs(images / 255)[2:], strict=True):
            # x / 255 and x times 1 / 255 differ in the last bit, which twenty layers enlarge.
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
