"""The names that users know: presets with their own neck, and the parts they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from ossa.errors import ConfigError
from ossa.models.backbones.cspdarknet import SCALES, Scale

_NECK_CHANNELS = {4: 128, 8: 256, 16: 512, 32: 1024}
"""By stride, at width 1. Stride 4 is half of 8, as 8 is of 16."""
_NECK_REPEATS = 3
_PRESET_PREFIX = "yolov5"
_BACKBONE_PREFIX = "cspdarknet_"

PRESETS = tuple(_PRESET_PREFIX + scale for scale in SCALES)
CSPDARKNETS = tuple(_BACKBONE_PREFIX + scale for scale in SCALES)


@dataclass(frozen=True)
class NeckPlan:
    """Widths (channels a level, fine to coarse) and depth (bottlenecks in each C3)."""

    widths: tuple[int, ...]
    depth: int


def neck_plan(scale_name: str, strides: Sequence[int]) -> NeckPlan:
    """Returns the neck of YOLOv5 n, s, m, l or x for levels at these strides.

    Raises:
        ConfigError: a stride for which there is no width.
    """
    if not set(strides) <= set(_NECK_CHANNELS):
        raise ConfigError(
            f"the neck has widths for the strides {list(_NECK_CHANNELS)}, found {list(strides)}"
        )
    scale = SCALES[scale_name]
    widths = tuple(scale.channels(_NECK_CHANNELS[stride]) for stride in strides)
    return NeckPlan(widths=widths, depth=scale.repeats(_NECK_REPEATS))


def preset_scale(name: str) -> str | None:
    """Returns 'n' for 'yolov5n' and so on, None for a name that is no preset."""
    return name.removeprefix(_PRESET_PREFIX) if name in PRESETS else None


def cspdarknet_scale(name: str) -> Scale | None:
    """Returns the scale of 'cspdarknet_n' and so on, None for any other name."""
    return SCALES[name.removeprefix(_BACKBONE_PREFIX)] if name in CSPDARKNETS else None
