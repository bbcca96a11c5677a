"""The names that users know: presets with their own neck, and the parts they are made of."""

from dataclasses import dataclass

from ossa.models.backbones.cspdarknet import SCALES, Scale

_NECK_CHANNELS = (256, 512, 1024)
_NECK_REPEATS = 3
_PRESET_PREFIX = "yolov5"
_BACKBONE_PREFIX = "cspdarknet_"

PRESETS = tuple(_PRESET_PREFIX + scale for scale in SCALES)
CSPDARKNETS = tuple(_BACKBONE_PREFIX + scale for scale in SCALES)


@dataclass(frozen=True)
class NeckPlan:
    """Widths (channels a level, for strides 8, 16, 32) and depth (bottlenecks in each C3)."""

    widths: tuple[int, ...]
    depth: int


def neck_plan(scale_name: str) -> NeckPlan:
    """Returns the neck of YOLOv5 n, s, m, l or x."""
    scale = SCALES[scale_name]
    widths = tuple(scale.channels(base) for base in _NECK_CHANNELS)
    return NeckPlan(widths=widths, depth=scale.repeats(_NECK_REPEATS))


def preset_scale(name: str) -> str | None:
    """Returns 'n' for 'yolov5n' and so on, None for a name that is no preset."""
    return name.removeprefix(_PRESET_PREFIX) if name in PRESETS else None


def cspdarknet_scale(name: str) -> Scale | None:
    """Returns the scale of 'cspdarknet_n' and so on, None for any other name."""
    return SCALES[name.removeprefix(_BACKBONE_PREFIX)] if name in CSPDARKNETS else None
