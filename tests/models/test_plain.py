"""Plain transformers, and what transformers share: image sizes they were not built for."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor

from ossa.config import LossConfig
from ossa.errors import UnsupportedBackbone
from ossa.models.backbones.plain import PlainBackbone, SimpleFeaturePyramid
from ossa.models.backbones.pretrained import read_backbone_weights
from ossa.models.backbones.timm import TimmBackbone
from ossa.models.complexity import count_cost
from ossa.models.detector import create_backbone, create_detector
from ossa.types import Batch, Level


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(name: str, **settings) -> PlainBackbone:
    backbone = create_backbone(name, **{"imgsz": 64, **settings})
    assert isinstance(backbone, PlainBackbone)
    return backbone.eval()


def on_meta(name: str, **settings) -> TimmBackbone | PlainBackbone:
    with torch.device("meta"):
        backbone = create_backbone(name, **settings)
    assert isinstance(backbone, TimmBackbone | PlainBackbone)
    return backbone.eval()


def shapes_of(backbone: torch.nn.Module, height: int, width: int) -> list[tuple[int, ...]]:
    """Channels, height and width of each map."""
    device = next(backbone.parameters()).device
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device))
    return [tuple(features.shape[1:]) for features in maps]


def random_images(*, images: int = 1, height: int = 64, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)


# The pyramid


def test_finer_levels_have_fewer_channels_and_coarser_ones_as_many():
    pyramid = SimpleFeaturePyramid(Level(16, 192), (4, 8, 16, 32))
    assert pyramid.levels == (Level(4, 48), Level(8, 96), Level(16, 192), Level(32, 192))
    maps = pyramid(torch.zeros(2, 192, 4, 6))
    assert [tuple(features.shape) for features in maps] == [
        (2, 48, 16, 24),
        (2, 96, 8, 12),
        (2, 192, 4, 6),
        (2, 192, 2, 3),
    ]


def test_stride_16_is_the_map_itself_and_stride_32_its_largest_values():
    features = torch.arange(16.0).view(1, 4, 2, 2)
    same, coarse = SimpleFeaturePyramid(Level(16, 4), (16, 32))(features)
    assert torch.equal(same, features)
    assert coarse.flatten().tolist() == [3, 7, 11, 15]


def test_stride_8_makes_four_cells_of_one():
    pyramid = SimpleFeaturePyramid(Level(16, 4), (8,))
    deconvolution = pyramid.branches[0]
    assert isinstance(deconvolution, torch.nn.ConvTranspose2d)
    with torch.no_grad():
        deconvolution.weight.zero_()
        deconvolution.weight[0, 1] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        assert deconvolution.bias is not None
        deconvolution.bias.copy_(torch.tensor([5.0, 0.0]))
    features = torch.zeros(1, 4, 1, 2)
    features[0, 0, 0, 1] = 10
    (fine,) = pyramid(features)
    assert fine[0, 0].tolist() == [[5, 5, 5, 5], [5, 5, 5, 5]]
    assert fine[0, 1].tolist() == [[0, 0, 10, 20], [0, 0, 30, 40]]


def test_stride_4_has_norm_and_gelu_between_its_two_deconvolutions():
    pyramid = SimpleFeaturePyramid(Level(16, 4), (4,))
    first, last = pyramid.branches[0][0], pyramid.branches[0][-1]  # type: ignore[index]
    with torch.no_grad():
        for deconvolution in (first, last):
            deconvolution.weight.fill_(1.0)
            deconvolution.bias.zero_()
        first.weight[:, 1] = 2.0
    (fine,) = pyramid(torch.full((1, 4, 1, 1), 25.0))
    # 100 and 200 become -1 and 1 by the norm; GELU(1) + GELU(-1) = 0.8413 - 0.1587.
    torch.testing.assert_close(fine, torch.full((1, 1, 4, 4), 0.6827), rtol=0, atol=1e-4)


# Plain backbones


def test_a_plain_transformer_gets_the_levels_of_the_pyramid():
    backbone = on_meta("vit_tiny_patch16_224", imgsz=64, build_args={"depth": 3})
    assert isinstance(backbone, PlainBackbone)
    assert backbone.levels == (Level(8, 96), Level(16, 192), Level(32, 192))
    assert backbone.resampled is None
    assert shapes_of(backbone, 64, 64) == [(96, 8, 8), (192, 4, 4), (192, 2, 2)]
    fine = on_meta("test_vit", imgsz=64, strides=(4, 8, 16, 32))
    assert shapes_of(fine, 64, 64) == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (64, 2, 2)]


def test_the_pyramid_stands_on_the_normalised_patch_tokens_of_timm():
    backbone = plain("test_vit", strides=(16,))
    timms = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    network = backbone.trunk.network.get_submodule("model")
    timms.load_state_dict(network.state_dict(), strict=True)
    images = random_images()
    with torch.no_grad():
        (ours,) = backbone(images)
        tokens = timms.forward_features(images / 255)[:, 1:]  # type: ignore[operator]
    torch.testing.assert_close(ours, tokens.mT.reshape(1, 64, 4, 4), rtol=1e-4, atol=1e-5)
    # The norm has weight one and bias zero: each cell has mean 0 and deviation 1.
    torch.testing.assert_close(ours.mean(dim=1), torch.zeros(1, 4, 4), rtol=0, atol=1e-5)


def test_images_of_other_sizes_and_rectangles_are_taken():
    backbone = plain("test_vit")
    assert backbone.only_imgsz is None
    assert shapes_of(backbone, 64, 96) == [(32, 8, 12), (64, 4, 6), (64, 2, 3)]
    assert shapes_of(backbone, 128, 32) == [(32, 16, 4), (64, 8, 2), (64, 4, 1)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vit_small_patch14_dinov2", (192, 384, 384)),
        ("vit_small_patch16_dinov3", (192, 384, 384)),
        ("eva02_tiny_patch14_224", (96, 192, 192)),
        # Its map of 768 channels passes a neck of its own in place of a norm.
        ("samvit_base_patch16", (128, 256, 256)),
    ],
)
def test_families_of_plain_transformers_give_maps_of_384_x_672(
    name: str, channels: tuple[int, ...]
):
    backbone = on_meta(name, build_args={"depth": 3})
    assert tuple(level.channels for level in backbone.levels) == channels
    fine, middle, coarse = channels
    assert shapes_of(backbone, 384, 672) == [(fine, 48, 84), (middle, 24, 42), (coarse, 12, 21)]


def test_every_parameter_receives_a_gradient_in_a_step_of_the_detector():
    detector = create_detector("test_vit", num_classes=3, neck="n", imgsz=64).train()
    batch = Batch(
        images=random_images(images=2),
        boxes_xyxy=torch.tensor([[4.0, 4, 20, 16], [8, 8, 40, 48]]),
        labels=torch.tensor([0, 2]),
        image_index=torch.tensor([0, 1]),
        image_ids=(0, 1),
        letterboxes=(),
    )
    loss = detector.head.criterion(LossConfig(), imgsz=64)
    loss(detector(batch.images), batch).total().backward()
    gradients = {name: p.grad for name, p in detector.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    for name in ("cls_token", "pos_embed", "norm.weight", "patch_embed.proj.weight"):
        gradient = gradients[f"backbone.trunk.network.model.{name}"]
        assert gradient is not None
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2",  # register tokens
        "test_vit3",  # a head that pools by attention
        "deit_tiny_distilled_patch16_224",  # two class tokens, two heads
        "eva02_tiny_patch14_224",  # a norm behind the pooling instead of before
        "xcit_nano_12_p16_224",  # class attention in blocks of its own
    ],
)
def test_nothing_is_left_in_the_backbone_that_the_maps_do_not_need(name: str):
    backbone = on_meta(name, imgsz=64, build_args={"depth": 3})
    maps = backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device="meta"))
    sum(features.sum() for features in maps).backward()  # type: ignore[union-attr]
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


def test_the_cost_counts_attention():
    with torch.device("meta"):
        detector = create_detector("vit_tiny_patch16_224", num_classes=3, neck="n", imgsz=64)
    # 16 patches and the class token; 192 channels, 12 blocks.
    tokens, width = 17, 192
    projections = (3 + 1 + 4 + 4) * tokens * width * width
    attention = 2 * tokens * tokens * width
    embedding, pyramid = 16 * width * 3 * 16 * 16, 16 * width * (width // 2) * 4
    expected = 12 * (projections + attention) + embedding + pyramid
    assert count_cost(detector, 64).parts["backbone"].macs == expected


# Patches of 14 pixels


def test_patches_of_14_pixels_are_rebuilt_as_16_and_this_is_said():
    backbone = on_meta("vit_small_patch14_dinov2", imgsz=64, build_args={"depth": 3})
    assert isinstance(backbone, PlainBackbone)
    assert backbone.resampled == "patches of 14 pixels resampled to 16"
    weight = backbone.trunk.network.get_parameter("model.patch_embed.proj.weight")
    assert tuple(weight.shape) == (384, 3, 16, 16)


def test_pretrained_patches_and_positions_are_resampled_as_by_timm(tmp_path: Path):
    arguments: dict[str, Any] = {"patch_size": 14, "img_size": 56}
    torch.manual_seed(0)
    native = timm.create_model("test_vit", **arguments).state_dict()
    file = tmp_path / "patch14.safetensors"
    metadata = {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    save_file(native, file, metadata | {"model_args": json.dumps(arguments)})
    weights, _ = read_backbone_weights(str(file))
    backbone = plain("test_vit", imgsz=96, weights=weights)
    assert backbone.resampled is not None
    assert backbone.trunk.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    own = dict(backbone.trunk.network.get_submodule("model").state_dict())

    patches, native_patches = own.pop("patch_embed.proj.weight"), native["patch_embed.proj.weight"]
    assert torch.equal(patches, resample_patch_embed(native_patches, [16, 16]))
    # On a patch of one colour the answer is the sum of the weights, which must not change.
    torch.testing.assert_close(patches.sum((2, 3)), native_patches.sum((2, 3)))

    positions = own.pop("pos_embed")
    expected = resample_abs_pos_embed(native["pos_embed"], [6, 6], num_prefix_tokens=1)
    assert tuple(positions.shape) == (1, 1 + 6 * 6, 64)
    assert torch.equal(positions, expected)
    assert len(own) > 60
    assert all(torch.equal(own[key], native[key]) for key in own)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        # From patches of 32: channels fall by halves as cells are divided.
        ("vit_small_patch32_224", (96, 192, 384)),
        # From patches of 8: coarser levels are pooled and keep them.
        ("vit_small_patch8_224", (384, 384, 384)),
    ],
)
def test_patches_of_32_and_8_get_a_pyramid_too(name: str, channels: tuple[int, ...]):
    backbone = on_meta(name, imgsz=320, build_args={"depth": 3})
    assert backbone.levels == tuple(map(Level, (8, 16, 32), channels))
    maps = backbone(torch.zeros(1, 3, 384, 672, device="meta"))
    assert [tuple(features.shape[1:]) for features in maps] == [
        (c, 384 // stride, 672 // stride) for c, stride in zip(channels, (8, 16, 32), strict=True)
    ]


# Refusals


def test_other_patches_are_refused_with_what_is_declared_and_asked():
    with pytest.raises(UnsupportedBackbone) as refusal:
        on_meta("convmixer_768_32")
    message = str(refusal.value)
    assert "declares feature maps at stride 7 only" in message
    assert "strides [8, 16, 32] were asked for" in message


def test_a_pyramid_reaches_no_finer_than_a_quarter_of_its_stride():
    with pytest.raises(UnsupportedBackbone, match=r"at \[8, 16, 32\] is made, but .*\[4, 8"):
        on_meta("vit_small_patch32_224", imgsz=64, strides=(4, 8, 16, 32))


def test_strides_that_the_pyramid_has_not_are_refused():
    with pytest.raises(UnsupportedBackbone, match=r"at \[4, 8, 16, 32\] is made, but .*64\]"):
        on_meta("test_vit", imgsz=64, strides=(16, 32, 64))


def test_whatever_timm_raises_becomes_a_refusal(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("stages_4")

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(UnsupportedBackbone, match=r"resnet18 gives no feature maps.*stages_4"):
        create_backbone("resnet18", imgsz=64)


# Image sizes


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224"])
def test_windows_take_rectangles(name: str):
    backbone = on_meta(name, build_args={"depths": (1, 1, 1, 1)})
    assert backbone.only_imgsz is None
    sizes = [shape[1:] for shape in shapes_of(backbone, 384, 672)]
    assert sizes == [(48, 84), (24, 42), (12, 21)]


def test_a_backbone_of_one_image_size_says_so_when_another_comes():
    backbone = on_meta("beit_base_patch16_224", imgsz=224, build_args={"depth": 3})
    assert backbone.only_imgsz == 224
    assert [shape[1:] for shape in shapes_of(backbone, 224, 224)] == [(28, 28), (14, 14), (7, 7)]
    with pytest.raises(UnsupportedBackbone) as refusal:
        shapes_of(backbone, 192, 224)
    assert "built for images of 224 x 224 pixels" in str(refusal.value)
    assert "found 192 x 224: give --imgsz 224" in str(refusal.value)
