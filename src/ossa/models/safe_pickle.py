"""Reads torch's zip files (weights, states of a training) without running what stands in them.

`parse_pickle` gives what the file describes; here the numbers of its tensors are read from the
archive, whose every size is checked first, and the tensors of a network are found.

Format: the members `<folder>/data.pkl` and `<folder>/data/<key>` (raw storages, uncompressed).
"""

import io
import math
import os
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

_MAX_PICKLE_BYTES = 32 << 20
_MAX_DIRECTORY_BYTES = 8 << 20
"""Of the archive: some 100,000 members."""
_MAX_ENTRIES = 100_000
"""Of the tree of modules, which may be small as a pickle and endless as a tree."""
_MAX_NAME_LENGTH = 500
_MAX_DIMENSIONS = 8

_SIGNS_OF_DAMAGE = (
    *(zipfile.BadZipFile, struct.error, EOFError),
    *(ValueError, TypeError, LookupError, ArithmeticError),
    RuntimeError,  # of torch, and of zipfile for encrypted members
    Warning,  # where the user's Python turns warnings into errors
)
"""What zipfile, pickletools and the code below raise on bytes that do not fit together."""


@dataclass(frozen=True)
class ArchivedNetwork:
    """The tensors and plain values of a weights file; nothing in it can run."""

    tensors: dict[str, Tensor]
    """By name as in a state dict, on the CPU, of the dtype stored; some may share their numbers."""
    names: tuple[str, ...] | None
    """The K class names, where the network has any."""
    meta: dict[str, str | int | float | bool | None]
    """The plain values beside the network: epoch, date, licence."""


def read_torch_file(path: Path | str) -> Any:
    """Returns what torch.save wrote: plain values, lists, tuples, dicts and tensors on the CPU.

    Objects of other classes are an `InertObject` each. Takes the memory that the file has, and
    for tensors that share their numbers no more.

    Raises:
        CheckpointError: the file is missing, damaged, no torch zip file, or names something that
            weights never need (`os.system`).
    """
    path = Path(path)
    try:
        _check_kind(path)
        with _Directory(path) as file, zipfile.ZipFile(file) as archive:
            file.limit = None
            reader = _TensorReader(archive, _checked_folder(archive, path.stat().st_size))
            return parse_pickle(reader.pickled(), reader.tensor)
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


def read_torch_archive(path: Path | str) -> ArchivedNetwork:
    """Returns the tensors of a network that torch.save wrote, such as the official `yolov5n.pt`.

    They are those of its `ema` when set, else of its `model` or `state_dict` (modules or state
    dicts), else of the file's own state dict or module.

    Raises:
        CheckpointError: as `read_torch_file`, or no tensors in it.
    """
    try:
        return _network_of(read_torch_file(path))
    except UnusableError as error:
        raise CheckpointError(f"cannot read the weights in {path}: {error}") from None


def _check_kind(path: Path) -> None:
    if not os.path.isfile(path):  # which, unlike Path's, takes any text
        raise UnusableError("there is no such file")
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


class _Directory(io.FileIO):
    """A file of which zipfile can read a directory of a million members only in part."""

    limit: int | None = _MAX_DIRECTORY_BYTES
    """Bytes that may be read at once; None for any number."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise UnusableError("its zip file has more members than any network has tensors")
        return super().read(-1 if size is None else size)


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
        raise UnusableError("its data.pkl is larger than 32 MiB, which no detector needs")
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

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        """Returns the view of a storage that a pickle describes."""
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


def _check_view(storage_numel: int, offset: Any, shape_and_strides: tuple[Any, Any]) -> None:
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


def _network_of(root: Any) -> ArchivedNetwork:
    top = _entries(root)
    network = next(
        (top[key] for key in ("ema", "model", "state_dict") if _is_container(top.get(key))), root
    )
    tensors = dict(_named_tensors(network))
    if not tensors:
        raise UnusableError("expected a network or a state dict in it, found no tensors")
    state = _entries(network.state) if isinstance(network, InertObject) else {}
    return ArchivedNetwork(
        tensors=tensors,
        names=_class_names(state.get("names", top.get("names"))),
        meta={k: v for k, v in top.items() if isinstance(k, str) and isinstance(v, PLAIN_TYPES)},
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


def _named_tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors under their names, in the order of torch's `state_dict`."""
    if not _is_module(network):
        values = ((n, v) for n, v in _prefixed("", network) if not isinstance(v, PLAIN_TYPES))
        yield from (_checked(name, value) for name, value in values)
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
        kept = (*parameters, *((n, value) for n, value in buffers if n not in hidden))
        yield from (_checked(name, value) for name, value in kept if value is not None)
        pending.extend((f"{name}.", c) for name, c in reversed(children) if _is_module(c))


def _checked(name: str, value: Any) -> tuple[str, Tensor]:
    if not isinstance(value, Tensor):
        found = value.name if isinstance(value, InertObject) else type(value).__name__
        raise UnusableError(f"expected a dense tensor as its {shown(name)}, found {shown(found)}")
    return name, value


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
    members = pickled_set.arguments[:1] if isinstance(pickled_set, InertObject) else ()
    return members[0] if members and isinstance(members[0], list) else []


def _class_names(node: Any) -> tuple[str, ...] | None:
    if node is None:
        return None
    if isinstance(node, dict) and list(node) == list(range(len(node))):
        node = list(node.values())
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise UnusableError("expected its class names as a list, or as a dict from 0 on")
    return tuple(node)
