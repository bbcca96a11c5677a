"""CSPDarknet, the backbone of YOLOv5 v6/v7, in its five scales and in others by name."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ossa.errors import ConfigError, UnsupportedBackbone, legible
from ossa.models.blocks import C3, SPPF, ConvNormAct, InputNormalization
from ossa.types import Level

_STAGE_CHANNELS = (128, 256, 512, 1024)
_STAGE_REPEATS = (3, 6, 9, 3)
_STAGE_STRIDES: tuple[int, ...] = (4, 8, 16, 32)
_STEM_CHANNELS = 64


class Scale(NamedTuple):
    """How a YOLOv5 network grows from its base."""

    depth: float
    """Multiple of the base's repeats."""
    width: float
    """Multiple of the base's channels."""

    def channels(self, base: int) -> int:
        """Return the width of a layer, rounded up to a multiple of 8 as YOLOv5 does."""
        return -int(-base * self.width // 8) * 8

    def repeats(self, base: int) -> int:
        return max(round(base * self.depth), 1)


SCALES = {
    "n": Scale(depth=0.33, width=0.25),
    "s": Scale(depth=0.33, width=0.50),
    "m": Scale(depth=0.67, width=0.75),
    "l": Scale(depth=1.00, width=1.00),
    "x": Scale(depth=1.33, width=1.25),
}
CSPDARKNETS = {f"cspdarknet_{name}": scale for name, scale in SCALES.items()}
_OTHER_SCALE = "cspdarknet-w"
_SMALLEST_FACTOR, _LARGEST_FACTOR = 0.1, 2.0


def cspdarknet_scale(name: str) -> Scale | None:
    """Return the scale of a CSPDarknet by its name, None for another architecture.

    Args:
        name: `cspdarknet_n` to `cspdarknet_x`, or width and depth as multiples of the base, such as
            `cspdarknet-w0.375-d0.33`. Both are rounded as in YOLOv5: channels up to a multiple of
            8, repeats to a whole number above 0.

    Raises:
        ConfigError: a width or depth that is not between 0.1 and 2, or has more than three
            decimals or a needless zero: one network has one name.

    Examples:
        >>> cspdarknet_scale("cspdarknet-w0.375-d0.33").channels(64)
        24
    """
    if not name.startswith(_OTHER_SCALE):
        return CSPDARKNETS.get(name)
    number = r"([0-9](?:\.[0-9]{1,3})?)"
    factors = re.fullmatch(f"{_OTHER_SCALE}{number}-d{number}", name)
    if factors is not None:
        width, depth = float(factors[1]), float(factors[2])
        is_canonical = name == f"{_OTHER_SCALE}{width:g}-d{depth:g}"
        if is_canonical and all(
            _SMALLEST_FACTOR <= factor <= _LARGEST_FACTOR for factor in (width, depth)
        ):
            return Scale(depth=depth, width=width)
    raise ConfigError(
        expected="cspdarknet-wWIDTH-dDEPTH with factors of 0.1 to 2 and at most three decimals, "
        "such as cspdarknet-w0.375-d0.33",
        found=legible(name),
    )


class CSPDarknet(nn.Module):
    """Maps uint8 images (B, 3, H, W) to one (B, C_l, H / s_l, W / s_l) per level.

    Without mean and deviation of the input: YOLOv5 sees pixel / 255. The layers and their names
    are the same whatever the strides are, which only choose the maps that come out.
    """

    def __init__(
        self,
        scale: Scale,
        *,
        strides: Sequence[int] = (8, 16, 32),
        context: bool = True,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        """Args:
            scale: depth and width of the network.
            strides: of the levels, fine to coarse, among 4, 8, 16 and 32, the last one 32.
            context: end with an SPPF, as YOLOv5 does.
            mean: (3,) of the input in 0..1.
            std: (3,) of the input in 0..1.

        Raises:
            UnsupportedBackbone: other strides.
        """
        super().__init__()
        _check_strides(strides)
        widths = [scale.channels(base) for base in _STAGE_CHANNELS]
        self.normalize = InputNormalization(mean, std)
        self.stem = ConvNormAct(3, scale.channels(_STEM_CHANNELS), kernel=6, stride=2, padding=2)
        self.stages = nn.ModuleList()
        before = scale.channels(_STEM_CHANNELS)
        for width, repeats in zip(widths, _STAGE_REPEATS, strict=True):
            downsample = ConvNormAct(before, width, kernel=3, stride=2)
            blocks = C3(width, width, depth=scale.repeats(repeats), residual=True)
            self.stages.append(nn.Sequential(downsample, blocks))
            before = width
        self.context = SPPF(widths[-1]) if context else nn.Identity()
        widths_by_stride = dict(zip(_STAGE_STRIDES, widths, strict=True))
        self.levels = tuple(Level(stride, widths_by_stride[stride]) for stride in strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.stem(self.normalize(images))
        wanted = {level.stride for level in self.levels}
        maps = []
        for stride, stage in zip(_STAGE_STRIDES, self.stages, strict=True):
            features = stage(features)
            if stride in wanted:
                maps.append(features)
        return *maps[:-1], self.context(maps[-1])


def _check_strides(strides: Sequence[int]) -> None:
    # The context stands behind the last stage, so a network that ends before it is another one.
    known = sorted(set(strides) & set(_STAGE_STRIDES))
    if list(strides) != known or known[-1:] != [_STAGE_STRIDES[-1]]:
        raise UnsupportedBackbone(
            f"CSPDarknet has feature maps at strides {list(_STAGE_STRIDES)} and ends with the last "
            f"of them, but strides {list(strides)} were asked for"
        )
