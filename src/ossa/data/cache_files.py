"""Files of the cache folder: arrays in the layout of safetensors, and stamps of their sources."""

import hashlib
import json
import math
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import CheckpointError, DataError
from ossa.files import sha256_of, write_atomically

ALIGNMENT: Final = 64
"""The offset of columns in their file is a multiple of so many bytes."""
Stamp = tuple[int, int, int]
"""Size, modification time and inode change time of a file in nanoseconds."""

_NAMES_OF_TYPES: Final[Mapping[str, str]] = {
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_TYPES: Final[Mapping[str, str]] = {short: name for name, short in _NAMES_OF_TYPES.items()}
_SETTLED_NS: Final = 2_000_000_000
"""A file changed twice within one tick of its file system's clock (2 s for FAT) keeps its time."""
_ABSENT: Final = (-1, -1, -1)


def cache_folder() -> Path:
    """Returns $OSSA_CACHE, else `ossa` in $XDG_CACHE_HOME, else ~/.cache/ossa."""
    own, common = os.environ.get("OSSA_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(common) if common else Path("~/.cache").expanduser()) / "ossa"


class SourceLog:
    """Stamps of the files and folders that a reading depends on, absent ones included.

    Each is added before it is read, so that a change during the reading shows afterwards.
    A folder stands for its list of names, not for the content of its files.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.settled = True
        """Whether every file was old enough when added that a later change must show."""
        self._stamps = array("q")

    def add(self, path: str | PathLike[str]) -> None:
        """Records the stamp of a file or folder, or its absence."""
        stamp = _stamp_of(os.fspath(path))
        self.paths.append(os.fspath(path))
        self._stamps.extend(stamp)
        self.settled = self.settled and _is_settled(stamp)

    @property
    def stamps(self) -> NDArray[np.int64]:
        """(number of paths, 3) as `Stamp`."""
        return np.frombuffer(self._stamps, np.int64).reshape(-1, 3)


def unchanged(paths: Iterable[str], stamps: NDArray[np.int64]) -> bool:
    """Returns whether all files still have their stamps."""
    return all(
        _stamp_of(path) == tuple(stamp) for path, stamp in zip(paths, stamps.tolist(), strict=True)
    )


def write_columns(
    stream: BinaryIO, columns: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Writes arrays as a safetensors file, with JSON metadata."""
    header: dict[str, Any] = {"__metadata__": {"ossa": json.dumps(about)}}
    offset = 0
    # The widest numbers first: so all begin at a multiple of their width.
    ordered = sorted(columns.items(), key=lambda item: -item[1].dtype.itemsize)
    for name, column in ordered:
        header[name] = {
            "dtype": _NAMES_OF_TYPES[column.dtype.name],
            "shape": list(column.shape),
            "data_offsets": [offset, offset + column.nbytes],
        }
        offset += column.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for _, column in ordered:
        # Little-endian, as on every machine that PyTorch runs on.
        stream.write(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)


def read_columns(raw: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns the metadata and the arrays, which are views of `raw`.

    Raises:
        ValueError, KeyError, TypeError: not written by `write_columns`, or cut short.
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


def content_fingerprint(index: DatasetIndex) -> str:
    """Returns a sha256 over the bytes of all images of a split, in their order.

    The hash of each image is kept in the cache folder, where that can be written, and taken from
    there as long as the image's stamp is unchanged.

    Raises:
        DataError: an image cannot be read.
    """
    digest = hashlib.sha256(os.fsencode(index.root.absolute())).hexdigest()
    file = cache_folder() / f"contents-{digest[:24]}.safetensors"
    known = _read_hashes(file)
    names: list[str] = index.file_names.tolist()
    # Before a file is read, so that a change during the reading shows the next time.
    stamps = {name: _stamp_of(os.path.join(index.root, name)) for name in names}
    new = [name for name in stamps if name not in known or known[name][0] != stamps[name]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing frees the interpreter
        found = pool.map(lambda name: _hash_of(index.root / name), new)
        known |= {name: (stamps[name], content) for name, content in zip(new, found, strict=True)}
    if any(_is_settled(stamps[name]) for name in new):
        _write_hashes(file, {name: item for name, item in known.items() if _is_settled(item[0])})
    return hashlib.sha256(b"".join(known[name][1] for name in names)).hexdigest()


def _hash_of(file: Path) -> bytes:
    try:
        return bytes.fromhex(sha256_of(file))
    except CheckpointError as error:
        advice = "it was there when the data set was read"
        raise DataError(error.reason, path=error.path, advice=advice) from None


def _read_hashes(file: Path) -> dict[str, tuple[Stamp, bytes]]:
    try:
        _, columns = read_columns(np.fromfile(file, np.uint8))
        names = json.loads(columns["names"].tobytes())
        stamps, digests = columns["stamps"].tolist(), columns["digests"]
        return {
            name: (tuple(stamp), content.tobytes())
            for name, stamp, content in zip(names, stamps, digests, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none yet, or damaged: hashed anew and written over


def _write_hashes(file: Path, known: Mapping[str, tuple[Stamp, bytes]]) -> None:
    stamps, digests = zip(*known.values(), strict=True)
    columns = {
        "names": np.frombuffer(json.dumps(list(known)).encode(), np.uint8),
        "stamps": np.array(stamps, np.int64),
        "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(len(known), -1),
    }
    with suppress(OSError, CheckpointError):  # then they are hashed anew each time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: write_columns(stream, columns, {}))


def _is_settled(stamp: Stamp) -> bool:
    """Returns whether a file is so old that a later change of it must show in its stamp."""
    return max(stamp[1:]) < time.time_ns() - _SETTLED_NS


def _stamp_of(path: str) -> Stamp:
    # The time of inode change, too: unlike that of modification, no tool sets it back.
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path can have such characters
        return _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
