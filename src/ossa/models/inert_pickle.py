"""Reads a pickle as torch.save writes it, without running it.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program
names. The one below calls nothing and imports nothing: what the program would call or build
becomes an inert object that remembers a name, arguments and a state. Its time and memory are
bounded by the length of the pickle.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

_MAX_OPERATIONS = 2_000_000
"""yolov5n.pt takes 30,000; the largest YOLOv5 with its optimiser some 500,000."""

_KNOWN_PACKAGES = (
    "collections",
    "models",
    "numpy",
    "pathlib",
    "timm",
    "torch",
    "torchvision",
    "ultralytics",
    "utils",
)
"""Harmless even so: their names are written down like any other and never called."""
_KNOWN_BUILTINS = ("bytearray", "complex", "frozenset", "object", "range", "set", "slice")
_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_NEW_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
PLAIN_TYPES = (str, int, float, type(None))  # bool is an int


class RefusedError(Exception):
    """The pickle names a global that weights never need; the message is that name."""


class UnusableError(Exception):
    """The file is not, or does not hold, what can be read; the message says what was expected."""


@dataclass(frozen=True, eq=False, repr=False)
class _Global:
    """A class or function that the pickle names. It is never imported."""

    name: str


@dataclass(frozen=True, eq=False, repr=False)
class InertStorage:
    """The raw numbers of one or more tensors, in a member of the archive called `key`."""

    dtype: torch.dtype
    key: str
    numel: int


@dataclass(eq=False, repr=False, slots=True)
class InertObject:
    """What calling the global `name` would have given: never called, only written down."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    """What the pickle put in by key, as into an OrderedDict."""


def parse_pickle(pickled: bytes) -> Any:
    """Returns what a pickle of protocol 2 describes: plain values, containers, inert objects.

    Source of the operations: their documentation in CPython's `pickletools`.

    Raises:
        RefusedError: it names something outside the packages that networks are made of.
        UnusableError: it is of another protocol, too long, or holds an unknown kind of storage.
        ValueError, TypeError, LookupError: it is damaged.
    """
    stack: list[Any] = []
    below_marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    operations: Iterator[Any] = pickletools.genops(pickled)
    for count, (operation, argument, _) in enumerate(operations):
        if count == _MAX_OPERATIONS:
            raise UnusableError(f"its pickle has more than {_MAX_OPERATIONS:,} operations")
        match operation.name:
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case name if name in _NEW_VALUES:
                stack.append(_NEW_VALUES[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "MARK":
                below_marks.append(stack)
                stack = []
            case "TUPLE":
                stack = [*below_marks.pop(), tuple(stack)]
            case "APPENDS":
                items, stack = stack, below_marks.pop()
                _append(stack[-1], items)
            case "APPEND":
                _append(stack[-2], [stack.pop()])
            case "SETITEMS":
                items, stack = stack, below_marks.pop()
                _set_items(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "GLOBAL":
                stack.append(_named(argument))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_uncalled(called, arguments))
            case "BUILD":
                _set_state(stack[-2], stack.pop())
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "STOP":
                return stack.pop()
            case name:
                _check_protocol(name, argument)
    raise ValueError("the pickle does not stop")


def _check_protocol(operation: str, argument: Any) -> None:
    if (operation, argument) != ("PROTO", 2):
        raise UnusableError(
            f"expected a pickle of protocol 2, the default of torch.save, "
            f"found {operation} {shown(str(argument))}"
        )


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, InertObject):
        raise ValueError("the pickle appends to what is no list")


def _set_items(target: Any, keys_and_values: list[Any]) -> None:
    entries = target.entries if isinstance(target, InertObject) else target
    if not isinstance(entries, dict):
        raise ValueError("the pickle sets entries of what is no dict")
    for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
        # Nothing here reads other keys, and hashing a tuple of tuples of tuples can take forever.
        if isinstance(key, PLAIN_TYPES):
            entries[key] = value


def _set_state(target: Any, state: Any) -> None:
    if not isinstance(target, InertObject):
        raise ValueError("the pickle gives a state to what is no object")
    target.state = state


def _named(module_and_name: str) -> _Global:
    module, _, name = module_and_name.partition(" ")
    known = (
        module.partition(".")[0] in _KNOWN_PACKAGES
        or (module == "__builtin__" and name in _KNOWN_BUILTINS)
        or (module, name) == ("_codecs", "encode")  # bytes, in protocol 2
    )
    if not known:
        raise RefusedError(shown(f"{module}.{name}"))
    return _Global(f"{module}.{name}")


def _uncalled(called: Any, arguments: Any) -> InertObject:
    if not isinstance(called, _Global) or not isinstance(arguments, tuple):
        raise ValueError("the pickle calls what is no name")
    return InertObject(called.name, arguments)


def _storage(persistent_id: Any) -> InertStorage:
    kind, storage_class, key, _device, numel = persistent_id
    if kind != "storage" or not isinstance(key, str) or not isinstance(numel, int):
        raise ValueError("the pickle refers to something other than a storage")
    dtype = _DTYPES.get(storage_class.name) if isinstance(storage_class, _Global) else None
    if dtype is None:
        found = storage_class.name if isinstance(storage_class, _Global) else "no storage"
        raise UnusableError(f"expected tensors of {', '.join(_DTYPES)}, found {shown(found)}")
    return InertStorage(dtype, key, numel)


def shown(text: str) -> str:
    """Returns foreign text so that it cannot flood or steer a terminal."""
    return ascii(text)[1:-1][:80]
