from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ossa.config import LossConfig, ModelConfig
from ossa.errors import ConfigError
from ossa.models.blocks import SPPF, ConvNormAct
from ossa.models.complexity import count_cost
from ossa.models.detector import Detector, build_detector, create_backbone
from ossa.models.head import AnchorHead
from ossa.models.neck import FPN, NECKS, PAFPN, BiFPN
from ossa.types import Batch, Level


def maps_of(levels: tuple[Level, ...], side: int) -> list[Tensor]:
    return [
        torch.randn(2, level.channels, side // level.stride, side // level.stride)
        for level in levels
    ]


def test_a_lateral_exists_only_where_the_channels_differ():
    levels = (Level(8, 40), Level(16, 128), Level(32, 100))
    neck = PAFPN(levels, widths=(64, 128, 256))
    kinds = [type(lateral) for lateral in neck.laterals]
    assert kinds == [ConvNormAct, nn.Identity, ConvNormAct]
    first = neck.laterals[0]
    assert isinstance(first, ConvNormAct)
    assert first.conv.weight.shape == (64, 40, 1, 1)


@pytest.mark.parametrize("strides", [(16, 32), (8, 16, 32), (4, 8, 16, 32)])
@pytest.mark.parametrize("neck_type", NECKS)
def test_every_level_comes_out_at_its_width_and_its_stride(
    neck_type: str, strides: tuple[int, ...]
):
    levels = tuple(Level(stride, 3 * stride) for stride in strides)
    widths = tuple(2 * stride for stride in strides)
    neck = NECKS[neck_type](levels, widths=widths, depth=2)
    if neck_type in ("fpn", "bifpn"):
        widths = widths[:1] * len(widths)
    outputs = neck(maps_of(levels, 64))
    assert neck.levels == tuple(Level(s, w) for s, w in zip(strides, widths, strict=True))
    assert [tuple(x.shape) for x in outputs] == [
        (2, width, 64 // stride, 64 // stride)
        for stride, width in zip(strides, widths, strict=True)
    ]


@pytest.mark.parametrize(
    ("neck_type", "sees"),
    [
        ("pafpn", lambda output, level: True),
        ("fpn", lambda output, level: level >= output),  # from coarse to fine alone
        ("bifpn", lambda output, level: True),
        ("none", lambda output, level: level == output),
    ],
)
def test_which_inputs_an_output_sees(neck_type: str, sees: Callable[[int, int], bool]):
    levels = (Level(4, 16), Level(8, 16), Level(16, 32), Level(32, 64))
    neck = NECKS[neck_type](levels, widths=(16, 16, 32, 64), lateral_everywhere=True).eval()
    inputs = [features.requires_grad_() for features in maps_of(levels, 64)]
    for number, output in enumerate(neck(inputs)):
        gradients = torch.autograd.grad(output.sum(), inputs, retain_graph=True, allow_unused=True)
        seen = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
        assert seen == [sees(number, level) for level in range(4)]


def test_an_fpn_adds_the_coarser_map_to_the_finer_one():
    neck = FPN((Level(8, 4), Level(16, 4)), widths=(4, 9)).eval()
    neck.smooth = nn.ModuleList(nn.Identity() for _ in range(2))
    fine, coarse = torch.ones(1, 4, 2, 2), torch.full((1, 4, 1, 1), 10.0)
    outputs = neck([fine, coarse])
    assert [float(x.mean()) for x in outputs] == [11.0, 10.0]


def test_a_bifpn_weighs_its_inputs_by_their_share_of_positive_weights():
    fusion = BiFPN((Level(8, 4), Level(16, 4)), widths=(4, 4)).rounds[0].get_submodule("down.0")
    fusion.depthwise = fusion.pointwise = nn.Identity()
    fusion.input_weights.data = torch.tensor([3.0, 1.0])
    maps = [torch.full((1, 4, 2, 2), value) for value in (10.0, 20.0)]
    # (3 x 10 + 1 x 20) / (3 + 1 + 0.0001)
    assert fusion(maps).unique().tolist() == pytest.approx([50 / 4.0001])
    fusion.input_weights.data = torch.tensor([-1.0, 2.0])
    assert fusion(maps).unique().tolist() == pytest.approx([2 * 20 / 2.0001])


def test_without_a_neck_there_is_no_fusion_and_its_cost_is_that_of_the_laterals():
    with torch.device("meta"):
        costs = {
            neck_type: count_cost(
                build_detector(
                    ModelConfig.model_validate(
                        {"name": "resnet18", "neck": "n", "neck_type": neck_type}
                    ),
                    num_classes=2,
                    imgsz=64,
                ),
                64,
            )
            for neck_type in NECKS
        }
    assert costs["none"].parts["neck"].params == 0 < costs["none"].parts["lateral"].params
    assert costs["none"].total.flops < costs["fpn"].total.flops


@pytest.mark.parametrize("neck_type", ["fpn", "bifpn"])
def test_a_preset_keeps_its_own_neck(neck_type: str):
    config = ModelConfig.model_validate({"name": "yolov5n", "neck": "own", "neck_type": neck_type})
    with pytest.raises(
        ConfigError, match=f"cspdarknet_n as the backbone before the neck {neck_type}"
    ):
        build_detector(config, num_classes=2, imgsz=64)


def test_the_neck_is_the_same_for_every_backbone():
    plain = PAFPN((Level(8, 128), Level(16, 256), Level(32, 512)), widths=(128, 256, 512))
    other = PAFPN((Level(8, 80), Level(16, 160), Level(32, 320)), widths=(128, 256, 512))
    behind = {key for key in other.state_dict() if not key.startswith("laterals")}
    assert set(plain.state_dict()) == behind


@pytest.mark.parametrize("strides", [(8, 32), (16, 8), (8, 16, 16), (8, 16, 64)])
@pytest.mark.parametrize("neck", NECKS.values())
def test_strides_that_do_not_double_are_refused(neck: type[PAFPN], strides: tuple[int, ...]):
    levels = [Level(stride, 16) for stride in strides]
    with pytest.raises(ConfigError, match="strides that double"):
        neck(levels, widths=[16] * len(levels))


def test_a_missing_width_is_refused_with_both_lists():
    levels = (Level(4, 8), Level(8, 8), Level(16, 8), Level(32, 8))
    with pytest.raises(ConfigError, match=r"widths \[64, 128, 256\] for strides \[4, 8, 16, 32\]"):
        PAFPN(levels, widths=(64, 128, 256))


def test_context_is_an_sppf_behind_the_coarsest_lateral_but_never_a_second_one():
    with torch.device("meta"):
        timm_like, darknet = (
            build_detector(
                ModelConfig(name=name, neck="n", context="sppf"), num_classes=2, imgsz=64
            )
            for name in ("mobilenetv2_050", "cspdarknet_n")
        )
    assert isinstance(timm_like.neck, PAFPN)
    assert isinstance(darknet.neck, PAFPN)
    assert isinstance(timm_like.neck.context, SPPF)
    assert isinstance(darknet.neck.context, nn.Identity)


@pytest.mark.parametrize("neck_type", NECKS)
def test_every_parameter_receives_a_gradient(neck_type: str):
    torch.manual_seed(0)
    backbone = create_backbone("mobilenetv2_050", imgsz=64)
    levels = backbone.levels
    assert isinstance(levels, tuple)
    neck = NECKS[neck_type](levels, widths=(32, 64, 128), context=True)
    detector = Detector(backbone, neck, AnchorHead(neck.levels, num_classes=2)).train()
    batch = Batch(
        images=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        # A box for each level: the anchors are 10x13, 30x61 and 116x90 and larger.
        boxes_xyxy=torch.tensor([[10.0, 10, 22, 24], [5, 2, 35, 62], [0, 0, 64, 64]]),
        labels=torch.tensor([0, 1, 1]),
        image_index=torch.tensor([0, 0, 1]),
        image_ids=(0, 1),
        letterboxes=(),
    )
    loss = detector.head.criterion(LossConfig(), imgsz=64)
    loss(detector(batch.images), batch).total().backward()
    without = [
        key
        for key, parameter in detector.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []
