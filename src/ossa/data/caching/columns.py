"""Arrays in one stream, opened by memory map.

It is laid out as safetensors lays out tensors (any of its readers opens it): a length, a header in
JSON, the columns.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

_NAMES_OF_TYPES: Final[Mapping[str, str]] = {
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_TYPES: Final[Mapping[str, str]] = {short: name for name, short in _NAMES_OF_TYPES.items()}
ALIGNMENT: Final = 64
"""Bytes, of which the place of a stream of columns in its file is a multiple."""


def write_columns(
    stream: BinaryIO, columns: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Writes the columns, and what JSON can say about them."""
    header: dict[str, Any] = {"__metadata__": {"ossa": json.dumps(about)}}
    at = 0
    # The widest numbers first: so all begin at a multiple of their width.
    ordered = sorted(columns.items(), key=lambda item: -item[1].dtype.itemsize)
    for name, column in ordered:
        header[name] = {
            "dtype": _NAMES_OF_TYPES[column.dtype.name],
            "shape": list(column.shape),
            "data_offsets": [at, at + column.nbytes],
        }
        at += column.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for _, column in ordered:
        # Little-endian, as on every machine that PyTorch runs on.
        stream.write(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)


def read_columns(raw: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns what is said about the columns, and these, as views.

    Raises:
        ValueError, KeyError, TypeError: it is no such stream, or cut short.
    """
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    about = json.loads(header["__metadata__"]["ossa"])
    return about, dict(_views(header, np.asarray(raw[start:])))


def _views(
    header: Mapping[str, Any], data: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[Any]]]:
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), entry["shape"]
        if last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"column {name} is not as long as its shape")
        yield name, data[first:last].view(dtype).reshape(shape)
        end = max(end, last)
    if end != len(data):
        raise ValueError("cut short")
