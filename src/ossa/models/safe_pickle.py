"""Reads torch's zip files of weights without running a line of what stands in them.

`parse_pickle` gives an inert tree of the file; here the tensors of a network are found in that
tree and their numbers read from the archive, whose every size is checked first.

Format: the members `<folder>/data.pkl` and `<folder>/data/<key>` (raw storages, uncompressed).
"""

import math
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ossa.errors import CheckpointError
from ossa.models.inert_pickle import (
    PLAIN_TYPES,
    InertObject,
    InertStorage,
    RefusedError,
    UnusableError,
    parse_pickle,
    shown,
)

_MAX_FILE_BYTES = 4 << 30
_MAX_PICKLE_BYTES = 64 << 20
_MAX_ENTRIES = 500_000
"""Of the tree of modules, which may be small as a pickle and endless as a tree."""
_MAX_NAME_LENGTH = 500
_MAX_LEVELS = 16
_MAX_DIMENSIONS = 8

_PARAMETER_CALLS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
_SIGNS_OF_DAMAGE = (
    *(zipfile.BadZipFile, struct.error, EOFError),
    *(ValueError, TypeError, LookupError, ArithmeticError),
    RuntimeError,  # of torch, and of zipfile for encrypted members
    Warning,  # where the user's Python turns warnings into errors
)
"""What zipfile, pickletools and the code below raise on bytes that do not fit together."""


@dataclass(frozen=True)
class ArchivedCheckpoint:
    """The tensors and plain values of a weights file; nothing in it can run."""

    tensors: dict[str, Tensor]
    """By name as in a state dict, on the CPU, of the dtype stored."""
    buffers: frozenset[str]
    """The names in `tensors` known to be buffers; empty for a state dict, which does not say."""
    names: tuple[str, ...] | None
    """The K class names, where the network has any."""
    strides: tuple[float, ...] | None
    """Of the network's levels in pixels of its input, where it has any."""
    meta: dict[str, str | int | float | bool | None]
    """The plain values beside the network: epoch, date, licence."""
    source: str
    """Where the tensors stood: 'ema', 'model', 'state_dict', or 'file' for the file itself."""


def read_torch_archive(path: Path | str) -> ArchivedCheckpoint:
    """Returns the tensors of a torch zip file, such as the official `yolov5n.pt`.

    They are those of its `ema` when set, else of its `model` or `state_dict` (modules or state
    dicts), else of the file's own state dict or module.

    Raises:
        CheckpointError: the file is missing, damaged, no torch zip file, without tensors, larger
            than 4 GiB, or names something that weights never need (`os.system`).
    """
    path = Path(path)
    try:
        _check_kind(path)
        with zipfile.ZipFile(path) as archive:
            reader = _TensorReader(archive, _checked_folder(archive, path.stat().st_size))
            return _checkpoint_of(parse_pickle(reader.pickled()), reader)
    except RefusedError as error:
        raise CheckpointError(
            f"refused {path}: the file asks for {error}, which weights never need and which may "
            "run code (none of it was run): take the file from its official source"
        ) from None
    except UnusableError as error:
        raise CheckpointError(f"cannot read the weights in {path}: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read the weights in {path}: {reason}") from error
    except _SIGNS_OF_DAMAGE as error:
        raise CheckpointError(
            f"cannot read the weights in {path}: the file is damaged "
            f"({type(error).__name__}: {shown(str(error))}), so fetch or export it again"
        ) from error


def _check_kind(path: Path) -> None:
    if not path.is_file():
        raise UnusableError("there is no such file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise UnusableError("it is larger than 4 GiB, which no detector's weights are")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise UnusableError("the file is empty, so fetch or export it again")
    if head[:2] == b"PK":
        return
    if head[:1] == b"\x80":
        raise UnusableError(
            "it has torch's format from before version 1.6, not the zip format: "
            "load it with the program that wrote it and save it with today's torch"
        )
    raise UnusableError("expected a zip file as torch.save writes it, found something else")


def _checked_folder(archive: zipfile.ZipFile, file_bytes: int) -> str:
    """Returns the folder in which data.pkl lies, once no member can grow beyond the file."""
    members = archive.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise UnusableError(
                f"its member {shown(member.filename)} is compressed, which torch.save never does"
            )
    if sum(member.file_size for member in members) > file_bytes:
        raise UnusableError("its members claim to be larger than the file itself")
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnusableError(
            f"expected one data.pkl as torch.save writes it, found {len(pickles)} in this zip file"
        )
    if pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise UnusableError("its data.pkl is larger than 64 MiB, which no detector needs")
    return pickles[0].filename.removesuffix("data.pkl")


class _TensorReader:
    """Reads tensors out of an archive, each storage once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, Tensor] = {}

    def pickled(self) -> bytes:
        """Returns the bytes of data.pkl, of an archive of this machine's byte order."""
        if f"{self._folder}byteorder" in self._archive.namelist():
            order = self._archive.read(f"{self._folder}byteorder")
            if order != sys.byteorder.encode():
                raise UnusableError(f"its byte order is not this machine's ({sys.byteorder})")
        return self._archive.read(f"{self._folder}data.pkl")

    def tensor(self, node: Any, name: str) -> Tensor:
        """Returns the tensor called `name` that `node` of the tree describes."""
        if isinstance(node, InertObject) and node.name in _PARAMETER_CALLS:
            node = node.arguments[0]
        if not isinstance(node, InertObject) or node.name != "torch._utils._rebuild_tensor_v2":
            found = node.name if isinstance(node, InertObject) else type(node).__name__
            raise UnusableError(
                f"expected a dense tensor as its {shown(name)}, found {shown(found)}"
            )
        storage, offset, shape, strides = node.arguments[:4]
        flat = self._flat(storage)
        _check_view(flat.numel(), offset, (shape, strides))
        return flat.as_strided(shape, strides, offset)

    def _flat(self, storage: Any) -> Tensor:
        if not isinstance(storage, InertStorage):
            raise ValueError("a tensor has no storage")
        if storage.key not in self._storages:
            stored = bytearray(self._archive.read(f"{self._folder}data/{storage.key}"))
            if len(stored) != storage.numel * storage.dtype.itemsize:
                raise UnusableError(
                    f"its storage {shown(storage.key)} has {len(stored):,} bytes, expected were "
                    f"{storage.numel} x {storage.dtype.itemsize}, so fetch or export it again"
                )
            empty = torch.empty(0, dtype=storage.dtype)
            flat = torch.frombuffer(stored, dtype=storage.dtype) if stored else empty
            self._storages[storage.key] = flat
        flat = self._storages[storage.key]
        if flat.dtype != storage.dtype:
            raise ValueError("a storage has two types")
        return flat


def _check_view(storage_numel: int, offset: int, shape_and_strides: tuple[Any, Any]) -> None:
    """Checks that a view lies inside its storage and is no larger than it.

    The second part keeps a stride of 0 from turning one stored number into a billion.
    """
    shape, strides = shape_and_strides
    is_sound = len(shape) == len(strides) <= _MAX_DIMENSIONS
    if not is_sound or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor has a malformed shape")
    numel = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if numel > storage_numel or (numel > 0 and last >= storage_numel):
        raise UnusableError(
            "one of its tensors reaches beyond its storage, so fetch or export it again"
        )


def _checkpoint_of(root: Any, reader: _TensorReader) -> ArchivedCheckpoint:
    top = _entries(root)
    named = (key for key in ("ema", "model", "state_dict") if _is_container(top.get(key)))
    source = next(named, "file")
    network = root if source == "file" else top[source]
    found = list(_tensor_nodes(network))
    tensors = {name: reader.tensor(node, name) for name, node, _ in found}
    if not tensors:
        raise UnusableError("expected a network or a state dict in it, found no tensors")
    if sum(tensor.nbytes for tensor in tensors.values()) > _MAX_FILE_BYTES:
        raise UnusableError("its tensors are larger than 4 GiB, which no detector's weights are")
    state = _entries(network.state) if isinstance(network, InertObject) else {}
    return ArchivedCheckpoint(
        tensors=tensors,
        buffers=frozenset(name for name, _, is_buffer in found if is_buffer),
        names=_class_names(state.get("names", top.get("names"))),
        strides=_strides(state.get("stride"), reader),
        meta={k: v for k, v in top.items() if isinstance(k, str) and isinstance(v, PLAIN_TYPES)},
        source=source,
    )


def _entries(node: Any) -> dict[Any, Any]:
    """Returns what a dict or an object that was filled like one holds by key."""
    if isinstance(node, InertObject):
        return node.entries
    return node if isinstance(node, dict) else {}


def _is_module(node: Any) -> bool:
    return isinstance(node, InertObject) and "_parameters" in _entries(node.state)


def _is_container(node: Any) -> bool:
    return _is_module(node) or bool(_entries(node))


def _tensor_nodes(network: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yields name, node and whether it is a buffer, in the order of torch's `state_dict`."""
    if not _is_module(network):
        for name, node in _prefixed("", network):
            if not isinstance(node, PLAIN_TYPES):
                yield name, node, False
        return
    pending, visited = [("", network)], 0
    while pending:
        prefix, module = pending.pop()
        state = _entries(module.state)
        groups = [state.get(group) for group in ("_parameters", "_buffers", "_modules")]
        left_out = _left_out_of_state_dicts(state)
        visited += 1 + len(left_out) + sum(len(_entries(group)) for group in groups)
        if visited > _MAX_ENTRIES:
            raise UnusableError(f"its modules have more than {_MAX_ENTRIES:,} entries")
        parameters, buffers, children = (_prefixed(prefix, group) for group in groups)
        hidden = {f"{prefix}{name}" for name in left_out if isinstance(name, str)}
        yield from ((name, node, False) for name, node in parameters if node is not None)
        for name, node in buffers:
            if node is not None and name not in hidden:
                yield name, node, True
        pending.extend((f"{name}.", c) for name, c in reversed(children) if _is_module(c))


def _prefixed(prefix: str, group: Any) -> list[tuple[str, Any]]:
    """Returns the entries of `group` under their full names.

    A module that contains itself ends here, for its names grow without end.
    """
    entries = _entries(group)
    for name in entries:
        if not isinstance(name, str) or len(prefix) + len(name) > _MAX_NAME_LENGTH:
            raise UnusableError(
                f"expected names of at most {_MAX_NAME_LENGTH} letters for its tensors, "
                f"found {shown(f'{prefix}{name}')}"
            )
    return [(f"{prefix}{name}", node) for name, node in entries.items()]


def _left_out_of_state_dicts(module_state: dict[Any, Any]) -> list[Any]:
    """Returns the names of the module's buffers that are not persistent."""
    pickled_set = module_state.get("_non_persistent_buffers_set")
    members = pickled_set.arguments[0] if isinstance(pickled_set, InertObject) else None
    return members if isinstance(members, list) else []


def _class_names(node: Any) -> tuple[str, ...] | None:
    if node is None:
        return None
    if isinstance(node, dict) and list(node) == list(range(len(node))):
        node = list(node.values())
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise UnusableError("expected its class names as a list, or as a dict from 0 on")
    return tuple(node)


def _strides(node: Any, reader: _TensorReader) -> tuple[float, ...] | None:
    if node is None:
        return None
    if isinstance(node, InertObject):
        node = reader.tensor(node, "stride")[:_MAX_LEVELS].tolist()
    if not isinstance(node, list) or not all(isinstance(stride, int | float) for stride in node):
        raise UnusableError("expected its strides as a list of numbers")
    return tuple(float(stride) for stride in node)
