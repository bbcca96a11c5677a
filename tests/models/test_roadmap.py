import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath, LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ossa.errors import CheckpointError, ConfigError
from ossa.models.backbones.pretrained import BackboneWeights
from ossa.models.backbones.roadmap import ROADMAP, RoadMapNet, Step
from ossa.models.detector import create_backbone
from ossa.types import Level

STEPS = {step.name.removeprefix("roadmap_"): step for step in ROADMAP}
every_step = pytest.mark.parametrize("step", ROADMAP, ids=list(STEPS))
MILESTONES = ("resnet50", "inverted", "fewer_norms", "convnext_tiny")
milestones = pytest.mark.parametrize("step", [STEPS[n] for n in MILESTONES], ids=MILESTONES)

CHANGES = {
    # step: (the step before it, what changes)
    "stage_ratio": ("resnet50", {"depths": (3, 3, 9, 3)}),
    "patchify": ("stage_ratio", {"stem": "patchify"}),
    "depthwise": ("patchify", {"depthwise": True}),
    "width": ("depthwise", {"width": 96}),
    "inverted": ("width", {"block": "inverted"}),
    "move_up": ("inverted", {"block": "spatial_first"}),
    "kernel5": ("move_up", {"kernel": 5}),
    "kernel7": ("move_up", {"kernel": 7}),
    "kernel9": ("move_up", {"kernel": 9}),
    "kernel11": ("move_up", {"kernel": 11}),
    "gelu": ("kernel7", {"activation": "gelu"}),
    "fewer_activations": ("gelu", {"activations_after": ("conv2",)}),
    "fewer_norms": ("fewer_activations", {"norms_after": ("conv1",)}),
    "layernorm": ("fewer_norms", {"norm": "layer"}),
    "convnext_tiny": (
        "layernorm",
        {
            "downsampling": "between_stages",
            "biases": True,
            "layer_scale": 1e-6,
            "head_norm": True,
        },
    ),
}

GIGA_MULTIPLY_ADDS = {
    # Liu et al. (2022), table 10, at 224 px. For the last two it prints 4.16 and 4.49, which is
    # more than their convolutions and linear layers (below: convnext_tiny is timm's own).
    "resnet50": 4.09,
    "stage_ratio": 4.53,
    "patchify": 4.42,
    "depthwise": 2.35,
    "width": 5.27,
    "inverted": 4.64,
    "move_up": 4.07,
    "kernel5": 4.10,
    "kernel7": 4.15,
    "kernel9": 4.21,
    "kernel11": 4.29,
    "gelu": 4.15,
    "fewer_activations": 4.15,
    "fewer_norms": 4.15,
    "layernorm": 4.15,
    "convnext_tiny": 4.46,
}


def narrow(step: Step) -> RoadMapNet:
    """Returns the step's network with an eighth of the channels and fewer blocks."""
    torch.manual_seed(0)
    return RoadMapNet(replace(step, width=step.width // 8, depths=(1, 2, 2, 1)), num_classes=5)


def multiply_adds(name: str) -> int:
    with torch.device("meta"), torch.no_grad():
        network = timm.create_model(name).eval()
        images = torch.zeros(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            network(images)
    return counter.get_total_flops() // 2


@cache
def on_meta(name: str) -> RoadMapNet:
    with torch.device("meta"):
        return RoadMapNet(STEPS[name])


def number_of(name: str, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in on_meta(name).modules())


def layers_of(network: Any) -> dict[str, int]:
    """Returns the layer of every parameter, from 0 at the image, as timm counts them."""
    return group_parameters(network, network.group_matcher(), reverse=True)


def randomized(name: str) -> Any:
    """Returns timm's model with no norm, bias or layer scale left where it changes nothing."""
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            shift = key.endswith(("bias", "running_mean"))
            tensor.uniform_(-0.5, 0.5) if shift else tensor.uniform_(0.5, 1.5)
    return network


TIMM_KEYS = {
    "roadmap_resnet50": (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        (r"^layer(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.blocks."),
        (r"\.bn(\d)\.", r".norm\1."),
        (r"\.downsample\.0\.", ".shortcut.conv."),
        (r"\.downsample\.1\.", ".shortcut.norm."),
        (r"^fc\.", "head.fc."),
    ),
    "roadmap_convnext_tiny": (
        (r"^stem\.0\.", "stem.conv."),
        (r"^stem\.1\.", "stem.norm."),
        (r"\.downsample\.0\.", ".downsample.norm."),
        (r"\.downsample\.1\.", ".downsample.conv."),
        (r"\.conv_dw\.", ".conv1."),
        (r"(\.blocks\.\d+)\.norm\.", r"\1.norm1."),
        (r"\.mlp\.fc1\.", ".conv2."),
        (r"\.mlp\.fc2\.", ".conv3."),
        (r"\.gamma$", ".layer_scale.gamma"),
    ),
}
"""For each step that is also a model of timm: patterns in timm's keys, and what ours have."""


def from_timm_state_dict(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of timm's `resnet50` or `convnext_tiny` under the keys of our step."""
    renamed = {}
    for theirs, weight in state_dict.items():
        ours = theirs
        for pattern, replacement in TIMM_KEYS[name]:
            ours = re.sub(pattern, replacement, ours)
        # timm's 1x1 convolutions in ConvNeXt are linear layers over the channels.
        as_conv = ".mlp." in theirs and weight.ndim == 2
        renamed[ours] = weight[:, :, None, None] if as_conv else weight
    return renamed


@pytest.mark.parametrize("name", CHANGES)
def test_each_step_differs_from_the_one_before_by_its_change_only(name: str):
    before, change = CHANGES[name]
    expected = asdict(STEPS[before]) | change | {"name": f"roadmap_{name}"}
    assert asdict(STEPS[name]) == expected
    assert all(asdict(STEPS[before])[field] != value for field, value in change.items())


def test_the_road_has_sixteen_steps_in_the_order_of_the_paper():
    assert list(STEPS) == ["resnet50", *CHANGES] == list(GIGA_MULTIPLY_ADDS)


@every_step
def test_the_multiply_adds_are_those_of_the_paper(step: Step):
    short = step.name.removeprefix("roadmap_")
    assert round(multiply_adds(step.name) / 1e9, 2) == GIGA_MULTIPLY_ADDS[short]


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_the_ends_of_the_road_cost_what_timm_has(name: str):
    assert multiply_adds(f"roadmap_{name}") == multiply_adds(name)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_the_ends_of_the_road_are_the_networks_of_timm(name: str):
    theirs = randomized(name)
    weights = from_timm_state_dict(f"roadmap_{name}", theirs.state_dict())
    ours = timm.create_model(f"roadmap_{name}").eval()
    ours.load_state_dict(weights, strict=True)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    our_maps = timm.create_model(f"roadmap_{name}", features_only=True).eval()
    our_maps.load_state_dict(
        # timm names the parts of a feature extractor `stages_0` instead of `stages.0`.
        {
            re.sub(r"^(stem|stages)\.", r"\1_", key): value
            for key, value in weights.items()
            if not key.startswith("head.")
        },
        strict=True,
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected_last, expected_maps = theirs.forward_intermediates(images)
        found = [ours(images), *our_maps(images)]
        expected = [theirs.forward_head(expected_last), *expected_maps[-4:]]
    for one, other in zip(found, expected, strict=True):
        assert other.std() > 0.01
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@milestones
def test_a_step_is_a_backbone_with_the_channels_of_its_stages(step: Step):
    with torch.device("meta"):
        backbone = create_backbone(step.name, strides=(4, 8, 16, 32), imgsz=64)
        maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    first = 256 if step.name == "roadmap_resnet50" else 96
    levels = (Level(4, first), Level(8, 2 * first), Level(16, 4 * first), Level(32, 8 * first))
    assert backbone.levels == levels
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for s, c in levels]


@milestones
def test_the_layers_of_a_step_are_the_stem_and_each_block(step: Step):
    network = narrow(step)  # 1, 2, 2 and 1 blocks
    blocks = ["stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"]
    blocks += ["stages.2.blocks.0", "stages.2.blocks.1", "stages.3.blocks.0"]
    order = ["stem", *blocks, "head"]
    layers = layers_of(network)
    for name, _ in network.named_parameters():
        # What brings a map to a stage is of the stage's first block.
        part = re.sub(r"^(stages\.\d)\.downsample", r"\1.blocks.0", name)
        assert layers[name] == next(i for i, begin in enumerate(order) if part.startswith(begin))
    coarse = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    assert coarse["stages.2.blocks.1.conv1.weight"] == 3
    assert set(coarse.values()) == {0, 1, 2, 3, 4, 5}


def test_the_layers_of_the_last_step_are_those_of_timms_convnext():
    with torch.device("meta"):
        ours = layers_of(timm.create_model("roadmap_convnext_tiny"))
        theirs = layers_of(timm.create_model("convnext_tiny"))
    numbers = {name: torch.tensor(layer) for name, layer in theirs.items()}
    assert ours == from_timm_state_dict("roadmap_convnext_tiny", numbers)
    assert max(ours.values()) == 1 + 18  # the classifier's, behind the stem and 18 blocks


def test_a_misspelt_step_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean roadmap_gelu"):
        create_backbone("roadmap_gelo")


def test_weights_of_a_step_come_from_a_file(tmp_path: Path):
    network = timm.create_model("roadmap_depthwise")
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    weights = BackboneWeights(str(tmp_path / "weights.safetensors"), (0.5,) * 3, (0.25,) * 3)
    backbone = create_backbone("roadmap_depthwise", imgsz=64, weights=weights)
    loaded = backbone.state_dict()["network.stages_3.blocks.2.conv2.weight"]
    assert torch.equal(loaded, network.state_dict()["stages.3.blocks.2.conv2.weight"])
    with pytest.raises(CheckpointError, match="does not hold the weights of roadmap_width"):
        create_backbone("roadmap_width", imgsz=64, weights=weights)


def test_a_step_without_published_weights_says_so():
    message = "No pretrained weights exist for roadmap_gelu"
    with torch.device("meta"), pytest.raises(CheckpointError, match=message):
        create_backbone("roadmap_gelu", imgsz=64, pretrained=True)


@milestones
def test_a_step_learns_with_all_its_parameters(step: Step):
    network = narrow(step)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = nn.functional.cross_entropy(network(images), labels)
    before.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert nn.functional.cross_entropy(network(images), labels) < before


def test_stochastic_depth_grows_linearly_from_the_first_block_to_the_last():
    with torch.device("meta"):
        network = timm.create_model("roadmap_resnet50", drop_path_rate=0.15)
    rates = [m.drop_prob for m in network.modules() if isinstance(m, DropPath)]
    # 16 blocks: 0, 0.01, 0.02, ... 0.15, of which the first needs no module.
    assert rates == pytest.approx([block / 100 for block in range(1, 16)])


def test_a_step_without_classes_gives_the_pooled_features():
    with torch.device("meta"):
        network = timm.create_model("roadmap_kernel11", num_classes=0)
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 768)


def test_activations_and_norms_are_where_the_table_has_them():
    # 18 blocks and 3 shortcuts from `inverted` on.
    assert number_of("resnet50", nn.ReLU) == 1 + 3 * 16
    assert number_of("gelu", nn.ReLU) == 0
    assert number_of("gelu", nn.GELU) == 1 + 3 * 18
    assert number_of("fewer_activations", nn.GELU) == 18
    assert number_of("fewer_activations", nn.BatchNorm2d) == 1 + 3 * 18 + 3
    assert number_of("fewer_norms", nn.BatchNorm2d) == 1 + 18 + 3
    assert number_of("layernorm", nn.BatchNorm2d) == 0
    assert number_of("layernorm", LayerNorm2d) == 1 + 18 + 3
    # Three downsamplings instead of three shortcuts, and one in the classifier.
    assert number_of("convnext_tiny", LayerNorm2d) == 1 + 18 + 3 + 1


@pytest.mark.parametrize(
    ("name", "biased"),
    # Two of three in each of 18 blocks; in the end all, with the stem and three downsamplings.
    [("resnet50", 0), ("fewer_activations", 0), ("fewer_norms", 36), ("convnext_tiny", 58)],
)
def test_a_convolution_has_a_bias_where_no_norm_follows_it_and_in_the_end_everywhere(
    name: str, biased: int
):
    convs = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv2d)]
    assert sum(conv.bias is not None for conv in convs) == biased


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        # First block of stage 1: (channels in, channels out, kernel, stride, groups) of each.
        ("patchify", [(256, 128, 1, 1, 1), (128, 128, 3, 2, 1), (128, 512, 1, 1, 1)]),
        ("depthwise", [(256, 128, 1, 1, 1), (128, 128, 3, 2, 128), (128, 512, 1, 1, 1)]),
        ("inverted", [(96, 768, 1, 1, 1), (768, 768, 3, 2, 768), (768, 192, 1, 1, 1)]),
        ("move_up", [(96, 96, 3, 2, 96), (96, 768, 1, 1, 1), (768, 192, 1, 1, 1)]),
        ("kernel9", [(96, 96, 9, 2, 96), (96, 768, 1, 1, 1), (768, 192, 1, 1, 1)]),
        ("convnext_tiny", [(192, 192, 7, 1, 192), (192, 768, 1, 1, 1), (768, 192, 1, 1, 1)]),
    ],
)
def test_the_convolutions_of_a_block_are_those_of_the_table(
    name: str, shapes: list[tuple[int, ...]]
):
    block: Any = on_meta(name).get_submodule("stages.1.blocks.0")
    found = [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups)
        for c in (block.conv1, block.conv2, block.conv3)
    ]
    assert found == shapes
