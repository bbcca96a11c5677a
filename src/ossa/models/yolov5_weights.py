"""The official files of YOLOv5 v6/v7, with their tensors under our names."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ossa.errors import CheckpointError, legible
from ossa.models.backbones.cspdarknet import SCALES
from ossa.models.safe_pickle import read_torch_archive

YOLOV5_STRIDES = (8, 16, 32)

_OFFICIAL_LAYERS = {
    0: "backbone.stem",
    1: "backbone.stages.0.0",
    2: "backbone.stages.0.1",
    3: "backbone.stages.1.0",
    4: "backbone.stages.1.1",
    5: "backbone.stages.2.0",
    6: "backbone.stages.2.1",
    7: "backbone.stages.3.0",
    8: "backbone.stages.3.1",
    9: "backbone.context",
    10: "neck.reduce.1",
    13: "neck.top_down.1",
    14: "neck.reduce.0",
    17: "neck.top_down.0",
    18: "neck.downsample.0",
    20: "neck.bottom_up.0",
    21: "neck.downsample.1",
    23: "neck.bottom_up.1",
}
"""Our name of each numbered layer of YOLOv5 v6/v7."""
_OFFICIAL_HEAD = 24
_C3_PARTS = {"cv1": "enter", "cv2": "bypass", "cv3": "merge", "m": "bottlenecks"}
_SPPF_PARTS = {"cv1": "enter", "cv2": "merge"}
_BOTTLENECK_PARTS = {"cv1": "pointwise", "cv2": "spatial"}


@dataclass(frozen=True)
class YOLOv5Weights:
    """What an official file holds."""

    scale: str
    """n, s, m, l or x."""
    names: tuple[str, ...]
    """K class names, one at least."""
    tensors: dict[str, Tensor]
    """By our names, of the precision stored; some may share their numbers."""
    licence: str | None


def read_yolov5(path: Path) -> YOLOv5Weights:
    """Returns the weights of an official `yolov5*.pt`, without running code of it.

    Raises:
        CheckpointError: damaged, unsafe, or no YOLOv5 of v6 or v7.
    """
    archive = read_torch_archive(path)
    stem = archive.tensors.get("model.0.conv.weight")
    widths = {scale.channels(64): name for name, scale in SCALES.items()}
    scale = None if stem is None or stem.ndim != 4 else widths.get(stem.shape[0])
    anchors = archive.tensors.get(f"model.{_OFFICIAL_HEAD}.anchors")
    if scale is None or anchors is None or not archive.names:
        raise CheckpointError(
            f"{path} holds no YOLOv5 v6/v7 detector: expected layers model.0 to model.24 with "
            f"anchors and class names, found {legible(', '.join(sorted(archive.tensors)[:3]))}, ..."
        )
    if anchors.shape != (3, 3, 2):
        raise CheckpointError(
            f"{path}: expected anchors of shape (3, 3, 2), found {tuple(anchors.shape)}"
        )
    tensors = {
        _our_name(key): tensor
        for key, tensor in archive.tensors.items()
        if not key.startswith(f"model.{_OFFICIAL_HEAD}.anchor")
    }
    pixels = anchors.new_tensor(YOLOV5_STRIDES).float().view(3, 1, 1)
    anchors_wh = tensors["head.anchors_wh"] = anchors.float() * pixels
    tensors["backbone.normalize.mean"] = anchors_wh.new_zeros(1, 3, 1, 1)
    tensors["backbone.normalize.std"] = anchors_wh.new_ones(1, 3, 1, 1)
    licence = archive.meta.get("license")
    return YOLOv5Weights(
        scale, archive.names, tensors, licence if isinstance(licence, str) else None
    )


def _our_name(official: str) -> str:
    """Returns our name of an official tensor: model.4.m.0.cv1.bn.bias and the like.

    A name that has no counterpart comes back as it is, and is then reported as unexpected.
    """
    match = re.fullmatch(r"model\.(\d+)\.(.+)", official)
    if match is None:
        return official
    layer, rest = int(match[1]), match[2].split(".")
    if layer == _OFFICIAL_HEAD:
        return ".".join(["head.predict", *rest[1:]])
    if layer not in _OFFICIAL_LAYERS:
        return official
    if rest[0] in _C3_PARTS:
        parts = _SPPF_PARTS if layer == 9 else _C3_PARTS
        rest[0] = parts.get(rest[0], rest[0])
        if rest[0] == "bottlenecks" and len(rest) > 2:
            rest[2] = _BOTTLENECK_PARTS.get(rest[2], rest[2])
    rest = ["norm" if part == "bn" else part for part in rest]
    return ".".join([_OFFICIAL_LAYERS[layer], *rest])
