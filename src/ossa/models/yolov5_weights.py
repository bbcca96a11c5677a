"""Read the official files of YOLOv5 v6/v7: the tensors of their network under our names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ossa.errors import CheckpointError, legible
from ossa.models.backbones.cspdarknet import SCALES
from ossa.models.torch_pickle import PLAIN_TYPES, InertObject, read_torch_file, shown

YOLOV5_STRIDES = (8, 16, 32)
_OFFICIAL_LAYERS = {
    0: "backbone.stem",
    **{2 * stage + 1: f"backbone.stages.{stage}.0" for stage in range(4)},
    **{2 * stage + 2: f"backbone.stages.{stage}.1" for stage in range(4)},
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
_MAX_ENTRIES = 100_000
"""Of the tree of modules, which may be small as a pickle and endless as a tree."""
_MAX_NAME_LENGTH = 500


@dataclass(frozen=True)
class TorchNetwork:
    """What a weights file of torch's says of its network; nothing in it can run."""

    tensors: dict[str, Tensor]
    """By name as in a state dict, on the CPU, of the dtype stored; some may share their storage."""
    names: tuple[str, ...]
    """The K class names; none where the network has none."""
    licence: str | None


def read_yolov5(path: Path) -> tuple[str, TorchNetwork]:
    """Return scale (n to x) and network, by our names, of an official `yolov5*.pt`.

    No code of the file is run.

    Raises:
        CheckpointError: damaged, unsafe, or no YOLOv5 of v6 or v7.
    """
    network = read_torch_network(path)
    stem = network.tensors.get("model.0.conv.weight")
    widths = {scale.channels(64): name for name, scale in SCALES.items()}
    scale = None if stem is None or stem.ndim != 4 else widths.get(stem.shape[0])
    anchors = network.tensors.get(f"model.{_OFFICIAL_HEAD}.anchors")
    if scale is None or anchors is None or not network.names:
        raise CheckpointError(
            f"{path} holds no YOLOv5 v6/v7 detector: expected layers model.0 to model.24 with "
            f"anchors and class names, found {legible(', '.join(sorted(network.tensors)[:3]))}, "
            "...; YOLOv8 and later are not read"
        )
    if anchors.shape != (3, 3, 2):
        raise CheckpointError(
            f"{path}: expected anchors of shape (3, 3, 2), found {tuple(anchors.shape)}"
        )
    tensors = {
        _our_name(key): tensor
        for key, tensor in network.tensors.items()
        if not key.startswith(f"model.{_OFFICIAL_HEAD}.anchor")
    }
    strides = anchors.new_tensor(YOLOV5_STRIDES).float().view(3, 1, 1)
    anchors_wh = tensors["head.anchors_wh"] = anchors.float() * strides
    tensors["backbone.normalize.mean"] = anchors_wh.new_zeros(1, 3, 1, 1)
    tensors["backbone.normalize.std"] = anchors_wh.new_ones(1, 3, 1, 1)
    return scale, replace(network, tensors=tensors)


def _our_name(official: str) -> str:
    """Return our name of an official tensor such as model.4.m.0.cv1.bn.bias.

    A name without a counterpart is returned as it is, and is then reported as unexpected.
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


def read_torch_network(path: Path | str) -> TorchNetwork:
    """Return the tensors of a network that `torch.save` wrote, by their names in its state dict.

    They are those of its `ema` where set, else of its `model` or `state_dict` (modules or state
    dicts), else of the file's own state dict or module.

    Raises:
        CheckpointError: as `read_torch_file`, or there are no tensors in it.
    """
    root = read_torch_file(path)
    top = _entries(root)
    networks = (top.get(key) for key in ("ema", "model", "state_dict"))
    network = next((node for node in networks if _is_module(node) or _entries(node)), root)
    try:
        tensors = dict(_named_tensors(network))
        state = _entries(network.state) if isinstance(network, InertObject) else {}
        names = _class_names(state.get("names", top.get("names")))
        if not tensors:
            raise CheckpointError("expected a network or a state dict in it, found no tensors")
    except CheckpointError as error:
        raise CheckpointError(f"cannot read the weights in {path}: {error}") from None
    licence = top.get("license")
    return TorchNetwork(tensors, names, licence if isinstance(licence, str) else None)


def _entries(node: Any) -> dict[Any, Any]:
    """Return what a dict, or an object that was filled like one, holds by key."""
    if isinstance(node, InertObject):
        return node.entries
    return node if isinstance(node, dict) else {}


def _is_module(node: Any) -> bool:
    return isinstance(node, InertObject) and "_parameters" in _entries(node.state)


def _named_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under their names, in the order of torch's `state_dict`."""
    if not _is_module(network):
        values = _prefixed("", network)
        yield from (_dense(name, v) for name, v in values if not isinstance(v, PLAIN_TYPES))
        return
    pending, visited = [("", network)], 0
    while pending:
        prefix, module = pending.pop()
        state = _entries(module.state)
        groups = [state.get(group) for group in ("_parameters", "_buffers", "_modules")]
        hidden = _non_persistent_buffers(state)
        visited += 1 + len(hidden) + sum(len(_entries(group)) for group in groups)
        if visited > _MAX_ENTRIES:
            raise CheckpointError(f"its modules have more than {_MAX_ENTRIES:,} entries")
        parameters, buffers, children = (_prefixed(prefix, group) for group in groups)
        hidden = {f"{prefix}{name}" for name in hidden if isinstance(name, str)}
        kept = (*parameters, *((name, value) for name, value in buffers if name not in hidden))
        yield from (_dense(name, value) for name, value in kept if value is not None)
        pending.extend((f"{name}.", child) for name, child in children[::-1] if _is_module(child))


def _non_persistent_buffers(state: dict[Any, Any]) -> list[Any]:
    pickled_set = state.get("_non_persistent_buffers_set")
    members = pickled_set.arguments if isinstance(pickled_set, InertObject) else None
    return members[0] if members and isinstance(members[0], list) else []


def _dense(name: str, value: Any) -> tuple[str, Tensor]:
    if not isinstance(value, Tensor):
        found = value.name if isinstance(value, InertObject) else type(value).__name__
        raise CheckpointError(f"expected a dense tensor as its {shown(name)}, found {shown(found)}")
    return name, value


def _prefixed(prefix: str, group: Any) -> list[tuple[str, Any]]:
    """Return the entries of `group` by full name.

    A module that contains itself ends here, since its names grow without end.
    """
    for name in _entries(group):
        if not isinstance(name, str) or len(prefix) + len(name) > _MAX_NAME_LENGTH:
            found = shown(f"{prefix}{name}")
            raise CheckpointError(
                f"expected names of at most {_MAX_NAME_LENGTH} letters for its tensors, "
                f"found {found}"
            )
    return [(f"{prefix}{name}", node) for name, node in _entries(group).items()]


def _class_names(node: Any) -> tuple[str, ...]:
    if node is None:
        return ()
    if isinstance(node, dict) and list(node) == list(range(len(node))):
        node = list(node.values())
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise CheckpointError("expected its class names as a list, or as a dict from 0 on")
    return tuple(node)
