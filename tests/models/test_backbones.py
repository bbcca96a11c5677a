import re
from types import SimpleNamespace

import pytest
import timm
import torch

from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.models.backbones.cspdarknet import cspdarknet_scale
from ossa.models.backbones.timm import TimmBackbone, create_timm_backbone
from ossa.models.detector import create_backbone
from ossa.types import Level


def shapes_of(backbone: torch.nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        return [tuple(features.shape) for features in backbone.eval()(images)]


def map_sizes(network: torch.nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    """Returns height and width of each map of a network on the meta device."""
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8, device="meta")
    pixels = images if isinstance(network, TimmBackbone) else images.float()
    return [tuple(features.shape[2:]) for features in network.eval()(pixels)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (128, 256, 512)),
        ("mobilenetv2_050", (16, 48, 160)),
        ("convnext_atto", (80, 160, 320)),
        ("cspdarknet_n", (64, 128, 256)),
        ("cspdarknet-w0.3-d0.1", (80, 160, 312)),  # of 76.8, 153.6 and 307.2: multiples of 8
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


def test_nhwc_maps_are_turned_and_hold_the_same_numbers():
    few = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
    backbone = create_backbone("swin_tiny_patch4_window7_224", imgsz=64, build_args=few).eval()
    assert isinstance(backbone, TimmBackbone)
    assert backbone.channels_last
    assert shapes_of(backbone, 64, 64) == [(1, 48, 8, 8), (1, 96, 4, 4), (1, 192, 2, 2)]
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        turned, own = backbone(images), backbone.network(backbone.normalize(images))
    assert torch.equal(turned[0][0, 5], own[0][0, :, :, 5])


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


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception_v3", "inception_v4")),
        pytest.param("inception_resnet_v2", marks=pytest.mark.slow),
    ],
)
def test_unpadded_maps_lack_the_same_cells_at_every_size(name: str):
    for imgsz in (160, 224, 320, 640):
        with torch.device("meta"):
            backbone = create_backbone(name, imgsz=imgsz)
        assert isinstance(backbone, TimmBackbone)
        assert backbone.only_imgsz is None
    assert map_sizes(backbone.network, 160, 160) == [(17, 17), (8, 8), (3, 3)]
    assert map_sizes(backbone.network, 640, 640) == [(77, 77), (38, 38), (18, 18)]
    assert map_sizes(backbone, 160, 160) == [(20, 20), (10, 10), (5, 5)]
    assert map_sizes(backbone, 384, 672) == [(48, 84), (24, 42), (12, 21)]


class Pooled(torch.nn.Module):
    """Maps of one channel at `strides`, each without `unpadded` cells, perhaps at one size only."""

    def __init__(
        self, strides: tuple[int, ...], unpadded: int, only_imgsz: int | None = None
    ) -> None:
        super().__init__()
        self.strides, self.unpadded, self.only_imgsz = strides, unpadded, only_imgsz
        self.feature_info = SimpleNamespace(
            reduction=lambda: (8, 16, 32), channels=lambda: (1, 1, 1), out_indices=(0, 1, 2)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        _, _, *sides = images.shape
        if self.only_imgsz not in (None, *sides):
            raise ValueError("not this size")
        cells = [[-(-side // stride) - self.unpadded for side in sides] for stride in self.strides]
        return [images.new_zeros(1, 1, *shape) for shape in cells]


@pytest.mark.parametrize("imgsz", [64, 640])
@pytest.mark.parametrize(
    ("strides", "unpadded", "wrong"),
    [((16, 16, 32), 0, 8), ((8, 32, 32), 0, 16), ((4, 16, 32), 0, 8), ((8, 16, 32), -1, 8)],
)
def test_a_map_of_another_stride_than_declared_is_refused(
    imgsz: int,
    strides: tuple[int, ...],
    unpadded: int,
    wrong: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Pooled(strides, unpadded))
    cells, found = imgsz // wrong, imgsz // strides[(8, 16, 32).index(wrong)] - unpadded
    said = (
        f"declares stride {wrong}, a map of {cells} x {cells} at {imgsz} x {imgsz} px, "
        f"but returns {found} x {found}"
    )
    with pytest.raises(UnsupportedBackbone, match=said):
        create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=imgsz)


def test_unpadded_convolutions_may_cost_64_pixels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Pooled((8, 16, 32), 2))
    create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=320)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Pooled((8, 16, 32), 3))
    with pytest.raises(UnsupportedBackbone, match=r"a map of 10 x 10 at .* but returns 7 x 7"):
        create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=320)


def test_a_network_of_one_size_may_lack_an_eighth_of_its_cells(monkeypatch: pytest.MonkeyPatch):
    for strides, unpadded in (((8, 16, 32), 1), ((9, 16, 32), 0)):
        network = Pooled(strides, unpadded, only_imgsz=256)
        monkeypatch.setattr(timm, "create_model", lambda *_, network=network, **__: network)
        backbone = create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=256)
        assert backbone.only_imgsz == 256
    for strides, unpadded in (((8, 16, 32), 2), ((16, 16, 32), 0), ((8, 16, 32), -1)):
        network = Pooled(strides, unpadded, only_imgsz=256)
        monkeypatch.setattr(timm, "create_model", lambda *_, network=network, **__: network)
        with pytest.raises(UnsupportedBackbone, match="at 256 x 256 px, but returns"):
            create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=256)


def test_maps_that_are_right_at_one_size_only_are_taken_at_that_size(
    monkeypatch: pytest.MonkeyPatch,
):
    # 64 pixels are 8 cells of 8 pixels, and of 9 with a last one that reaches beyond the image.
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Pooled((9, 16, 32), 0))
    backbone = create_timm_backbone("resnet18", strides=(8, 16, 32), imgsz=64)
    assert backbone.only_imgsz == 64


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'resnet81'. Did you mean resnet18"):
        create_backbone("resnet81")


def test_a_misspelt_tag_is_answered_with_those_of_the_architecture():
    tags = r"'resnet18d.nope': choose resnet18d.ra2_in1k or resnet18d.ra4_e3600_r224_in1k"
    with pytest.raises(ConfigError, match=tags):
        create_backbone("resnet18d.nope")


def test_a_whole_detector_is_no_backbone():
    with pytest.raises(ConfigError, match="with the backbone cspdarknet_n"):
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


def test_another_scale_of_cspdarknet_rounds_as_yolov5_does():
    scale = cspdarknet_scale("cspdarknet-w0.375-d0.67")
    assert scale is not None
    assert [scale.channels(base) for base in (64, 128, 1024)] == [24, 48, 384]
    assert [scale.repeats(base) for base in (3, 6, 9, 3)] == [2, 4, 6, 2]  # 2.01, 4.02, 6.03
    assert cspdarknet_scale("cspdarknet-w0.5-d0.33") == cspdarknet_scale("cspdarknet_s")


@pytest.mark.parametrize(
    "name",
    [
        *("cspdarknet-w9-d0.33", "cspdarknet-w0.5-d0", "cspdarknet-w0.05-d1"),
        *("cspdarknet-w0.50-d0.33", "cspdarknet-w0.5-d0.3333", "cspdarknet-w0.5", "cspdarknet-w"),
        *("cspdarknet-w-1-d1", "cspdarknet-w1e9-d1", "cspdarknet-w٠.5-d1", "cspdarknet-w.5-d1"),
        *("cspdarknet-w0.5-d0.33/../..", "cspdarknet-w0.5-d0.33\n", "cspdarknet-wnan-dinf"),
    ],
)
def test_a_scale_of_cspdarknet_that_cannot_be_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"factors of 0.1 to 2 .* such as cspdarknet-w0.375-d0.3"):
        create_backbone(name)
