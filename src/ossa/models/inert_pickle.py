"""Reads a pickle as torch.save writes it, without running it.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program
names. The one below imports nothing and calls nothing but `tensor_of`: what else the program would
call or build becomes an inert object that remembers a name, arguments and a state. Its time and
memory are bounded by the length of the pickle.

`torch.load(weights_only=True)` bounds neither: `bytearray` of any size, tuples within tuples as
keys, whose hashes overflow the stack of C or take forever, and torch finds the members of a zip
file by another rule than Python, so that what was checked is not what is loaded.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ossa.errors import legible

_MAX_OPERATIONS = 1_000_000
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
    """What the pickle put in by key."""


def parse_pickle(pickled: bytes, tensor_of: Callable[..., torch.Tensor]) -> Any:
    """Returns what a pickle of protocol 2 describes: plain values, containers, inert objects.

    An OrderedDict is a dict, a parameter its tensor. Source of the operations: their documentation
    in CPython's `pickletools`.

    Args:
        pickled: the bytes.
        tensor_of: returns the tensor of a storage, an offset, a shape and strides.

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
            case "TUPLE" | "APPENDS" | "SETITEMS" as name:
                items, stack = stack, below_marks.pop()
                _take(name, stack, items)
            case "APPEND":
                _append(stack[-2], [stack.pop()])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "GLOBAL":
                stack.append(_named(argument))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_uncalled(called, arguments, tensor_of))
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


def _take(operation: str, stack: list[Any], items: list[Any]) -> None:
    """Does with the items above a mark what the operation says."""
    if operation == "TUPLE":
        stack.append(tuple(items))
    elif operation == "APPENDS":
        _append(stack[-1], items)
    else:
        _set_items(stack[-1], items)


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
    if isinstance(target, InertObject):
        target.state = state
    elif not isinstance(target, dict):  # of an OrderedDict that has attributes
        raise ValueError("the pickle gives a state to what is no object")


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


def _uncalled(called: Any, arguments: Any, tensor_of: Callable[..., torch.Tensor]) -> Any:
    if not isinstance(called, _Global) or not isinstance(arguments, tuple):
        raise ValueError("the pickle calls what is no name")
    match called.name:
        case "collections.OrderedDict" if not arguments:
            return {}
        case "torch._utils._rebuild_tensor_v2":
            return tensor_of(*arguments[:4])
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
            return arguments[0]
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
    return legible(ascii(text[:200])[1:-1], 80)
