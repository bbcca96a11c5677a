"""Read the zip files of `torch.save` (weights, training states) without running what is in them.

A pickle is a program for a stack machine, and Python's machine calls whatever the program names.
The one below imports and calls nothing: what the program would call or build becomes an
`InertObject` with a name, arguments and a state. Every size is checked before memory is taken, so
time and memory are bounded by the length of the file.

`torch.load(weights_only=True)` bounds neither: it allocates a `bytearray` of any size, hashes
tuples nested in tuples as keys, which overflows the C stack or takes forever, and finds the members
of a zip file by another rule than Python, so that what was checked is not what is loaded.

Format: the members `<folder>/data.pkl` and `<folder>/data/<key>` (raw storages, uncompressed).
"""

import io
import math
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ossa.errors import CheckpointError, legible

_MAX_PICKLE_BYTES = 32 << 20
_MAX_DIRECTORY_BYTES = 8 << 20
"""Of the zip file: some 100,000 members."""
_MAX_OPERATIONS = 1_000_000
"""yolov5n.pt takes 30,000; the largest YOLOv5 with its optimizer some 500,000."""
_MAX_DIMENSIONS = 8
_KNOWN_PACKAGES = frozenset(
    ("collections", "models", "numpy", "pathlib", "timm", "torch", "torchvision", "ultralytics")
) | {"utils"}
"""Names in them become inert objects; of any other name the file is refused."""
_KNOWN_NAMES = frozenset(
    f"__builtin__.{name}"
    for name in ("bytearray", "complex", "frozenset", "object", "range", "set", "slice")
) | {"_codecs.encode"}  # bytes, in protocol 2
_DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
        **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32},
        **{"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
    }.items()
}
_OPERATIONS = frozenset(
    (
        *("PROTO", "STOP", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "BINPERSID"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
        *("NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "MARK"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
        *("GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
    )
)
"""What torch.save writes by default, as `pickletools` names it; others are refused."""
PLAIN_TYPES = (str, int, float, type(None))  # bool is an int
_SIGNS_OF_DAMAGE = (
    *(zipfile.BadZipFile, pickle.PickleError, struct.error, EOFError),
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    RuntimeError,  # of torch, and of zipfile for encrypted members
    Warning,  # where the user's Python turns warnings into errors
)
"""What zipfile, pickle and the code below raise for bytes that do not fit together."""


@dataclass(eq=False, repr=False, slots=True)
class InertObject:
    """A class or function that a pickle names, or what calling it would have returned."""

    name: str
    arguments: tuple[Any, ...] | None = None
    """None for the class or function itself."""
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    """What the pickle assigned by key."""

    def extend(self, items: Iterable[Any]) -> None:
        """Leave out what the pickle appends."""

    append = extend


@dataclass(frozen=True, eq=False, repr=False)
class _Storage:
    numbers: Tensor


def read_torch_file(path: Path | str) -> Any:
    """Return what `torch.save` wrote: plain values, lists, tuples, dicts and tensors on the CPU.

    An OrderedDict becomes a dict, any other object an `InertObject`. The memory taken is that of
    the file.

    Raises:
        CheckpointError: the file is missing, damaged, no zip file of torch, or names something that
            weights never need (`os.system`).
    """
    path = Path(path)
    try:
        _check_kind(path)
        with _Directory(path) as file, zipfile.ZipFile(file) as archive:
            file.limit = None
            folder = _checked_folder(archive, path.stat().st_size)
            return _InertUnpickler(archive, folder).load()
    except CheckpointError as error:
        reason: object = error
    except OSError as error:
        reason = error.strerror or error
    except _SIGNS_OF_DAMAGE as error:
        found = f"{type(error).__name__}: {shown(str(error))}"
        reason = f"the file is damaged ({found}), so fetch or export it again"
    raise CheckpointError(f"cannot read the weights in {path}: {reason}") from None


def shown(text: str) -> str:
    """Return foreign text so that it cannot flood or steer a terminal."""
    return legible(ascii(text[:200])[1:-1], 80)


def _check_kind(path: Path) -> None:
    if not os.path.isfile(path):  # which, unlike Path's, takes any text
        raise CheckpointError("there is no such file")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise CheckpointError("the file is empty, so fetch or export it again")
    if head[:1] == b"\x80":
        raise CheckpointError(
            "it has torch's format from before version 1.6, not the zip format: "
            "load it with the program that wrote it and save it with today's torch"
        )
    if head[:2] != b"PK":
        raise CheckpointError("expected a zip file as torch.save writes it, found something else")


class _Directory(io.FileIO):
    """A file that zipfile cannot make read a directory of a million members."""

    limit: int | None = _MAX_DIRECTORY_BYTES
    """Bytes that may be read at once; None for any number."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise CheckpointError("its zip file has more members than any network has tensors")
        return super().read(-1 if size is None else size)


def _checked_folder(archive: zipfile.ZipFile, file_bytes: int) -> str:
    """Return the folder in a zip file of torch's, none of whose members can grow beyond it."""
    members = archive.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            name = shown(member.filename)
            raise CheckpointError(f"its member {name} is compressed, as torch.save never does")
    if sum(member.file_size for member in members) > file_bytes:
        raise CheckpointError("its members claim to be larger than the file itself")
    pickles = [member for member in members if member.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"expected one data.pkl in the zip file, found {len(pickles)}")
    if pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError("its data.pkl is larger than 32 MiB, which no detector needs")
    folder = pickles[0].filename.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
        raise CheckpointError(f"its byte order is not this machine's ({sys.byteorder})")
    return folder


def _check_operations(pickled: bytes) -> None:
    """Raise CheckpointError for a pickle of too many operations, or of others than we know."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if count == _MAX_OPERATIONS:
            raise CheckpointError(f"its pickle has more than {_MAX_OPERATIONS:,} operations")
        if operation.name not in _OPERATIONS or (operation.name == "PROTO" and argument != 2):
            raise CheckpointError(
                "expected a pickle of protocol 2, the default of torch.save, "
                f"found {operation.name} {shown(str(argument))}"
            )


class _InertUnpickler(pickle._Unpickler):
    """Python's stack machine, in which nothing imports, calls, hashes or sets a foreign object."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        pickled = archive.read(f"{folder}data.pkl")
        _check_operations(pickled)
        super().__init__(io.BytesIO(pickled))
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_class, key, _device, numel = pid
        if kind != "storage" or not isinstance(key, str) or not isinstance(numel, int):
            raise ValueError("the pickle refers to something other than a storage")
        dtype = _DTYPES.get(storage_class.name)
        if dtype is None:
            found = shown(storage_class.name)
            raise CheckpointError(f"expected tensors of {', '.join(_DTYPES)}, found {found}")
        if key not in self.storages:
            stored = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            if len(stored) != numel * dtype.itemsize:
                raise CheckpointError(
                    f"its storage {shown(key)} has {len(stored):,} bytes, expected were "
                    f"{numel} x {dtype.itemsize}, so fetch or export it again"
                )
            empty = torch.empty(0, dtype=dtype)
            numbers = torch.frombuffer(stored, dtype=dtype) if stored else empty
            self.storages[key] = _Storage(numbers)
        if self.storages[key].numbers.dtype != dtype:
            raise ValueError("a storage has two types")
        return self.storages[key]

    def find_class(self, module: str, name: str) -> InertObject:
        full_name = f"{module}.{name}"
        if full_name.partition(".")[0] not in _KNOWN_PACKAGES and full_name not in _KNOWN_NAMES:
            raise CheckpointError(
                f"refused, for it asks for {shown(full_name)}, which weights never need and which "
                "may run code (none of it was run): take the file from its official source"
            )
        return InertObject(full_name)

    def load_call(self) -> None:
        """Push the dict or tensor that a call stands for, or an inert object for any other call."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, InertObject) or called.arguments is not None:
            raise ValueError("the pickle calls something that is not a name")
        if not isinstance(arguments, tuple):
            raise ValueError("the pickle calls with something that is not a tuple")
        match called.name:
            case "collections.OrderedDict" if not arguments:
                made: Any = {}
            case "torch._utils._rebuild_tensor_v2":
                made = _view(*arguments[:4])
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                made = arguments[0]
            case name:
                made = InertObject(name, arguments)
        self.stack.append(made)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, InertObject):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict with attributes
            raise ValueError("the pickle gives a state to something that is not an object")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, keys_and_values: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, InertObject) else target
        if not isinstance(entries, dict):
            raise ValueError("the pickle sets entries of something that is not a dict")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            # No other key is read, and hashing a tuple of tuples of tuples can take forever.
            if isinstance(key, PLAIN_TYPES):
                entries[key] = value

    dispatch |= {
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """Return a view that lies inside its storage and is no larger than it.

    The second condition keeps a stride of 0 from turning one stored number into a billion.
    """
    numbers = storage.numbers
    is_sound = len(shape) == len(strides) <= _MAX_DIMENSIONS
    if not is_sound or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor has a malformed shape")
    numel = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if numel > len(numbers) or (numel > 0 and last >= len(numbers)):
        raise CheckpointError(
            "one of its tensors reaches beyond its storage, so fetch or export it again"
        )
    return numbers.as_strided(shape, strides, offset)
