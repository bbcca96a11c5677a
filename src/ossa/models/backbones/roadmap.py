"""The road map from ResNet-50 to ConvNeXt-T: one network in sixteen steps, one change at a time.

Each `Step` changes one thing of the step before it, and is registered with timm under its own name:
`timm.create_model("roadmap_patchify")`; so it is a backbone like any other.

Source: Liu et al., A ConvNet for the 2020s (2022), section 2 and table 10.
Shapes: B images, C channels, H W cells.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from timm.layers import DropPath, LayerNorm2d, LayerScale2d  # pyright: ignore[reportPrivateImportUsage]
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

_EXPANSION = 4
"""The wide layers of a block over its narrow ones."""


@dataclass(frozen=True)
class Step:
    """The settings of one step's network; the defaults are ResNet-50.

    A block has three convolutions, `conv1` to `conv3`, and adds their result to its input.
    """

    name: str
    """The name of the network in timm."""
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Blocks of each stage."""
    width: int = 64
    """Channels of the stem and narrow channels of stage 0; stage s has 2^s times as many."""
    stem: Literal["pool", "patchify"] = "pool"
    """A 7x7 convolution with a max pool after it, or one 4x4 convolution of stride 4."""
    block: Literal["bottleneck", "inverted", "spatial_first"] = "bottleneck"
    """Channels before, between and after the convolutions: wide-narrow-narrow-wide, the same
    inverted, or narrow-narrow-wide-narrow. The spatial one is between equals."""
    depthwise: bool = False
    """The spatial convolution has as many groups as channels."""
    kernel: int = 3
    """Side of the spatial convolution."""
    activation: Literal["relu", "gelu"] = "relu"
    activations_after: tuple[str, ...] = ("stem", "conv1", "conv2", "sum")
    norms_after: tuple[str, ...] = ("conv1", "conv2", "conv3")
    """Within a block; stem, shortcut and downsampling always have theirs."""
    norm: Literal["batch", "layer"] = "batch"
    downsampling: Literal["in_block", "between_stages"] = "in_block"
    """By the first block (stride and a shortcut convolution), or by a norm and a 2x2 convolution
    before it."""
    biases: bool = False
    """Every convolution has one, not only those without a norm after them."""
    layer_scale: float | None = None
    """First value of the learned factors, one per channel, of what is added; None: no factors."""
    head_norm: bool = False
    """A norm between global pooling and classifier."""

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the four feature maps."""
        growth = _EXPANSION if self.block == "bottleneck" else 1
        return tuple(growth * self.width * 2**stage for stage in range(4))


def _road() -> Iterator[Step]:
    """Yield the steps in the order of the paper's table 10."""
    yield (step := Step("roadmap_resnet50"))
    yield (step := replace(step, name="roadmap_stage_ratio", depths=(3, 3, 9, 3)))
    yield (step := replace(step, name="roadmap_patchify", stem="patchify"))
    yield (step := replace(step, name="roadmap_depthwise", depthwise=True))
    yield (step := replace(step, name="roadmap_width", width=96))
    yield (step := replace(step, name="roadmap_inverted", block="inverted"))
    yield (step := replace(step, name="roadmap_move_up", block="spatial_first"))
    for kernel in (5, 7, 9, 11):  # siblings, of which 7 goes on
        yield replace(step, name=f"roadmap_kernel{kernel}", kernel=kernel)
    step = replace(step, kernel=7)
    yield (step := replace(step, name="roadmap_gelu", activation="gelu"))
    yield (step := replace(step, name="roadmap_fewer_activations", activations_after=("conv2",)))
    yield (step := replace(step, name="roadmap_fewer_norms", norms_after=("conv1",)))
    yield (step := replace(step, name="roadmap_layernorm", norm="layer"))
    yield replace(
        step,
        name="roadmap_convnext_tiny",
        downsampling="between_stages",
        biases=True,
        layer_scale=1e-6,
        head_norm=True,
    )


ROADMAP = tuple(_road())


class RoadMapNet(nn.Module):
    """The network of a step: (B, in_chans, H, W) to logits (B, num_classes).

    Its feature maps, at strides 4, 8, 16 and 32, are what the four stages return.
    """

    def __init__(
        self,
        step: Step,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        """`num_classes`: 0 for the pooled features. `drop_path_rate`: how often training skips the
        last block (stochastic depth); the rate falls linearly to 0 at the first.
        """
        super().__init__()
        self.num_classes = num_classes
        self.num_features = step.stage_channels[-1]
        self.feature_info = [
            {"num_chs": channels, "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
            for stage, channels in enumerate(step.stage_channels)
        ]
        self.stem = _stem(step, in_chans)
        self.stages = _stages(step, drop_path_rate)
        self.head = _head(step, num_classes)
        _initialize(self, step)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of layers: the stem, then each block (`coarse`: each stage).

        What brings a map to a stage belongs to the stage's first block, the classifier to neither.
        """
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}


class _Block(nn.Module):
    """Three convolutions whose result is added to the input: (B, C, H, W) to (B, C', H', W')."""

    def __init__(
        self, step: Step, in_channels: int, *, width: int, stride: int, drop_path: float
    ) -> None:
        super().__init__()
        convs = _convolutions(step, in_channels, width=width, stride=stride)
        self.conv1, self.conv2, self.conv3 = convs
        out_channels = self.conv3.out_channels
        self.norm1, self.norm2, self.norm3 = (
            _norm(step, conv.out_channels) if f"conv{number}" in step.norms_after else nn.Identity()
            for number, conv in enumerate(convs, start=1)
        )
        self.act1 = _activation(step, "conv1")
        self.act2 = _activation(step, "conv2")
        self.layer_scale = self.shortcut = nn.Identity()
        if step.layer_scale is not None:
            self.layer_scale = LayerScale2d(out_channels, step.layer_scale)
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _conv_norm(step, in_channels, out_channels, kernel=1, stride=stride)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act_sum = _activation(step, "sum")

    def forward(self, features: Tensor) -> Tensor:
        branch = self.act1(self.norm1(self.conv1(features)))
        branch = self.act2(self.norm2(self.conv2(branch)))
        branch = self.layer_scale(self.norm3(self.conv3(branch)))
        return self.act_sum(self.drop_path(branch) + self.shortcut(features))


def _convolutions(
    step: Step, in_channels: int, *, width: int, stride: int
) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """Return the convolutions of a block: two 1x1, and the spatial one, which has the stride."""
    wide = _EXPANSION * width
    channels, spatial = {
        "bottleneck": ((in_channels, width, width, wide), 2),
        "inverted": ((in_channels, wide, wide, width), 2),
        "spatial_first": ((in_channels, in_channels, wide, width), 1),
    }[step.block]

    def convolution(number: int) -> nn.Conv2d:
        before, after = channels[number - 1 : number + 1]
        bias = step.biases or f"conv{number}" not in step.norms_after
        if number != spatial:
            return nn.Conv2d(before, after, 1, bias=bias)
        groups = before if step.depthwise else 1
        padding = step.kernel // 2
        return nn.Conv2d(before, after, step.kernel, stride, padding, groups=groups, bias=bias)

    return convolution(1), convolution(2), convolution(3)


def _stem(step: Step, in_chans: int) -> nn.Sequential:
    """Return what brings the image to stride 4 and `step.width` channels."""
    kernel, stride = (4, 4) if step.stem == "patchify" else (7, 2)
    stem = _conv_norm(step, in_chans, step.width, kernel=kernel, stride=stride)
    stem.add_module("act", _activation(step, "stem"))
    if step.stem == "pool":
        stem.add_module("pool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    return stem


def _stages(step: Step, drop_path_rate: float) -> nn.Sequential:
    """Return the four stages, each of which but the first halves the map."""
    stages = nn.Sequential()
    before, count = step.width, sum(step.depths)
    drop_rates = (drop_path_rate * index / (count - 1) for index in range(count))
    for stage, (depth, after) in enumerate(zip(step.depths, step.stage_channels, strict=True)):
        stride = 1 if stage == 0 else 2
        downsample = nn.Identity()
        if stride == 2 and step.downsampling == "between_stages":
            conv = nn.Conv2d(before, after, kernel_size=2, stride=2, bias=step.biases)
            downsample = nn.Sequential(OrderedDict(norm=_norm(step, before), conv=conv))
            before, stride = after, 1
        width = step.width * 2**stage
        inputs = [(before, stride)] + [(after, 1)] * (depth - 1)
        blocks = nn.Sequential(
            *(
                _Block(step, channels, width=width, stride=by, drop_path=next(drop_rates))
                for channels, by in inputs
            )
        )
        stages.append(nn.Sequential(OrderedDict(downsample=downsample, blocks=blocks)))
        before = after
    return stages


def _head(step: Step, num_classes: int) -> nn.Sequential:
    """Return global average pooling and a linear classifier: (B, C, H, W) to (B, num_classes)."""
    channels = step.stage_channels[-1]
    parts: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AdaptiveAvgPool2d(1))
    if step.head_norm:
        parts["norm"] = _norm(step, channels)
    classifier = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
    return nn.Sequential(parts | {"flatten": nn.Flatten(), "fc": classifier})


def _conv_norm(
    step: Step, in_channels: int, out_channels: int, *, kernel: int, stride: int
) -> nn.Sequential:
    """Return a convolution with its norm; odd kernels are padded, the 4x4 patches are not."""
    padding = kernel // 2 if kernel % 2 else 0
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=step.biases)
    return nn.Sequential(OrderedDict(conv=conv, norm=_norm(step, out_channels)))


def _norm(step: Step, channels: int) -> nn.Module:
    if step.norm == "batch":
        return nn.BatchNorm2d(channels)
    return LayerNorm2d(channels, eps=1e-6)


def _activation(step: Step, place: str) -> nn.Module:
    """Return the activation after `place`, or nothing where the step has none."""
    if place not in step.activations_after:
        return nn.Identity()
    return nn.ReLU(inplace=True) if step.activation == "relu" else nn.GELU()


def _initialize(network: nn.Module, step: Step) -> None:
    """Draw the weights as ResNet does up to the last step with batch norm, then as ConvNeXt."""
    kinds = nn.Conv2d if step.norm == "batch" else (nn.Conv2d, nn.Linear)
    for module in (module for module in network.modules() if isinstance(module, kinds)):
        if step.norm == "batch":  # the classifier stays as PyTorch draws it
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _register(step: Step) -> None:
    """Make the step a model of timm: `timm.create_model(step.name)`, also `features_only`."""

    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        network = partial(RoadMapNet, step)
        features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
        return build_model_with_cfg(
            network, step.name, pretrained, feature_cfg=features, **arguments
        )

    create.__name__ = step.name  # the name under which timm registers it
    register_model(create)


# timm looks for this name when it registers the models of a module.
default_cfgs = generate_default_cfgs(
    {step.name: {"first_conv": "stem.conv", "classifier": "head.fc"} for step in ROADMAP}
)
for _step in ROADMAP:
    _register(_step)

# Last, because timm adds the names of its models, which are no attributes of this module.
__all__ = ["ROADMAP", "RoadMapNet", "Step"]
