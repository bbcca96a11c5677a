"""What is looked at in an exported file before a runtime sees it.

An export of ossa holds all of its weights itself and has no use for other files, entities, loops or
sparse tensors; so a file that has is refused, whatever the runtime would make of it.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from ossa.errors import CheckpointError, os_reason

_MOST_BYTES = 2**31
"""Of an .onnx: protobuf's own limit."""
_MOST_XML = 64 * 2**20
_MOST_PARTS = 500_000
"""Fields of an ONNX file, or elements of an XML; the largest networks have a tenth of them."""
_DEEPEST = 40

# Which field of each of ONNX's messages holds a message of which kind.
_MESSAGES = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
}
_FORBIDDEN = {
    ("model", 20): "steps of training",
    ("graph", 15): "sparse weights",
    ("attribute", 6): "loops or branches",
    ("attribute", 11): "loops or branches",
    ("attribute", 22): "sparse weights",
    ("tensor", 13): "weights in another file",
    ("tensor", 14): "weights in another file",
}
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Of a number of each of TensorProto's data types."""
_DIMS, _DATA_TYPE, _LOCATION, _RAW = 1, 2, 14, 9
_TYPED = (4, 5, 7, 10, 11)


class _Refused(Exception):  # noqa: N818 - its text is what was found
    """What is no ONNX or XML, more than any network needs, or what no export of ossa has."""


def screen(file: Path) -> None:
    """Raises CheckpointError for an .onnx or .xml that names other files or lies about sizes."""
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise _Refused(f"{size:,} bytes, more than 2 GiB")
        if file.suffix == ".xml":
            _screen_xml(file)
        elif size:
            with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=1) as content:
                _Screen(content).message("model", 0, size, depth=0)
    except (_Refused, expat.ExpatError, UnicodeError) as problem:
        raise CheckpointError(
            expected=f"an {'OpenVINO' if file.suffix == '.xml' else 'ONNX'} file by ossa",
            found=f"a damaged or foreign one with {problem}",
            path=file,
            advice="fetch or export it again",
        ) from None
    except OSError as problem:
        raise CheckpointError(f"could not read it: {os_reason(problem)}", path=file) from None


class _Screen:
    """Walks through the messages of an ONNX file, by protobuf's wire format."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._parts = content, 0

    def message(self, kind: str, start: int, end: int, *, depth: int) -> None:
        if depth > _DEEPEST:
            raise _Refused(f"graphs nested more than {_DEEPEST} deep")
        dims: list[int] = []
        data_type = raw = 0
        is_typed = False
        for number, value, (first, last) in self._fields(start, end):
            inner = _MESSAGES[kind].get(number)
            # A location of 0 is this file.
            if (kind, number) in _FORBIDDEN and (number != _LOCATION or value):
                raise _Refused(_FORBIDDEN[kind, number])
            if inner is not None:
                self.message(inner, first, last, depth=depth + 1)
            elif kind == "tensor" and number == _DIMS:
                dims += [value] if value is not None else self._varints(first, last)
            elif kind == "tensor" and number == _DATA_TYPE:
                data_type = value or 0
            elif kind == "tensor" and number == _RAW:
                raw = last - first
            elif kind == "tensor" and number in _TYPED:
                is_typed, raw = True, raw + last - first
        if kind == "tensor" and data_type in _BYTES:
            needed = math.prod(dims) * _BYTES[data_type]
            # Typed numbers are varints, of a byte at least, or as wide as they are.
            if needed != raw and not (is_typed and math.prod(dims) <= raw):
                raise _Refused(f"a tensor that claims {needed:,} bytes and holds {raw:,}")

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int | None, tuple[int, int]]]:
        """Yields number and either the value, or where it begins and ends, of each field."""
        place = start
        while place < end:
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise _Refused(f"more than {_MOST_PARTS:,} fields")
            key, place = self._varint(place, end)
            wire = key & 7
            value = None
            first = place
            if wire == 0:
                value, place = self._varint(place, end)
            elif wire == 2:
                length, first = self._varint(place, end)
                place = first + length
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
            else:
                raise _Refused("what is no protobuf")
            if place > end:
                raise _Refused("its end missing")
            yield key >> 3, value, (first, place)

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                raise _Refused("its end missing")
            byte = self._content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
        raise _Refused("what is no protobuf")

    def _varints(self, start: int, end: int) -> list[int]:
        values = []
        while start < end and len(values) <= _DEEPEST:
            value, start = self._varint(start, end)
            values.append(value)
        return values


def _screen_xml(file: Path) -> None:
    weights = file.with_suffix(".bin")
    if not weights.is_file():
        raise _Refused(f"no weights at {weights}")
    if weights.resolve().parent != file.resolve().parent:
        raise _Refused(f"a link to {weights.resolve()} in place of its weights")
    size = weights.stat().st_size
    parser = expat.ParserCreate()
    depth = parts = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, parts
        depth, parts = depth + 1, parts + 1 + len(attributes)
        if depth > _DEEPEST or parts > _MOST_PARTS:
            raise _Refused("more elements, or more deeply nested, than any network has")
        if tag.endswith("body"):
            raise _Refused("loops or branches")
        if tag == "data" and "offset" in attributes and "size" in attributes:
            numbers = attributes["offset"], attributes["size"]
            if not all(one.isascii() and one.isdecimal() and len(one) < 18 for one in numbers):
                raise _Refused(f"weights at {', '.join(numbers)}")
            if sum(map(int, numbers)) > size:
                raise _Refused(f"weights beyond the {size:,} bytes of {weights.name}")

    def end(_tag: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise _Refused("a DOCTYPE or entities")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = doctype
    if file.stat().st_size > _MOST_XML:
        raise _Refused(f"an XML of more than {_MOST_XML:,} bytes")
    parser.Parse(file.read_bytes(), True)  # at once: in pieces, a long token takes quadratic time
