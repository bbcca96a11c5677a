"""Files of the cache folder: arrays as safetensors, stamps of their sources, and split indexes."""

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ossa import __version__
from ossa.data.annotations import DatasetIndex, IndexReport, LabelSearch
from ossa.data.issues import ImageBoxes, Issue, IssueKind
from ossa.errors import CheckpointError, DataError, os_reason
from ossa.files import sha256_of, write_atomically
from ossa.machine import count_processors

if TYPE_CHECKING:
    from ossa.data.description import DataDescription

Stamp = tuple[int, int, int]
"""Size, modification time and inode change time of a file in nanoseconds."""

_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_SETTLED_NS: Final = 2_000_000_000
"""A file changed twice within one tick of its file system's clock (2 s for FAT) keeps its time."""
_ABSENT: Final = (-1, -1, -1)
_READERS_VERSION: Final = 8
"""To be raised where a reader makes another index than before of the same files."""
_COLUMNS: Final = tuple(
    field.name for field in fields(DatasetIndex) if field.name not in ("root", "names")
)


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


def _stamp_of(path: str) -> Stamp:
    # The time of inode change, too: unlike that of modification, no tool sets it back.
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path can have such characters
        return _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(stamp: Iterable[int]) -> bool:
    """Returns whether a file is so old that a later change of it must show in its stamp."""
    _, *times = stamp
    return max(times) < time.time_ns() - _SETTLED_NS


def write_columns(
    stream: BinaryIO, columns: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Writes arrays as a safetensors file, with JSON metadata."""
    stream.write(safetensors.numpy.save(dict(columns), {"ossa": json.dumps(about)}))


def read_columns(raw: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns the metadata and the arrays, which are views of `raw`.

    Raises:
        ValueError, KeyError, TypeError: not written by `write_columns`, or cut short.
    """
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    about = json.loads(header.pop("__metadata__")["ossa"])
    data, columns = np.asarray(raw[start:]), {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        columns[name] = data[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return about, columns


def load_index(description: "DataDescription", split: str) -> IndexReport | None:
    """Returns what `store_index` kept, or None where there is nothing or a source has changed.

    The columns are read-only views of the mapped file: nothing of them is in memory before it is
    used, and processes share what is.
    """
    try:
        about, columns = read_columns(np.memmap(_index_file(description, split), np.uint8, "r"))
        stamps = [list(_stamp_of(path)) for path in about["source_paths"]]
        if about["key"] != _key(description, split) or stamps != columns["source_stamps"].tolist():
            return None
        columns["file_names"] = np.array(about["file_names"], np.str_)
        index = DatasetIndex(
            root=description.root,
            names=tuple(about["names"]),
            **{name: columns.get(name) for name in _COLUMNS},  # type: ignore[arg-type]
        )
        num_images, *places = about["labels"]
        labels = LabelSearch(num_images, *map(tuple, places))
        issues = tuple(map(_issue, about["issues"]))
        return IndexReport(index, issues, tuple(about["notes"]), labels)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or not written by this version: read anew and written over


def store_index(
    report: IndexReport, description: "DataDescription", split: str, *, sources: SourceLog
) -> IndexReport:
    """Keeps a report for the next time; returns it, with a note where it could not be kept.

    It is not kept where a source is so new that a later change might not show in its stamp.
    """
    if not sources.settled:
        return report
    file, index = _index_file(description, split), report.index
    about = {
        "key": _key(description, split),
        "names": index.names,
        "file_names": index.file_names.tolist(),
        "source_paths": sources.paths,
        "issues": [asdict(issue) | {"path": str(issue.path)} for issue in report.issues],
        "notes": report.notes,
        "labels": astuple(report.labels),
    }
    columns = {name: getattr(index, name) for name in _COLUMNS if name != "file_names"}
    columns = {name: column for name, column in columns.items() if column is not None}
    columns["source_stamps"] = sources.stamps
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: write_columns(stream, columns, about))
    except (OSError, CheckpointError) as error:
        reason = error.reason if isinstance(error, CheckpointError) else os_reason(error)
        note = (
            f"could not keep the index of split '{split}' in {file} ({reason}), so it is read anew "
            "each time: free some space, or name another folder in OSSA_CACHE"
        )
        return replace(report, notes=(*report.notes, note))
    return report


def _index_file(description: "DataDescription", split: str) -> Path:
    digest = hashlib.sha256(f"{description.file}\0{split}".encode()).hexdigest()
    return cache_folder() / f"index-{digest[:24]}.safetensors"


def _key(description: "DataDescription", split: str) -> str:
    """Returns a digest of everything but the files that decides what an index is."""
    said = (
        *(__version__, _READERS_VERSION, split, description.format, str(description.root)),
        *(description.names, description.category_ids, description.splits[split]),
        None if description.classes is None else list(description.classes.items()),
        (description.roots, description.keypoint_columns),
    )
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _issue(stored: Mapping[str, Any]) -> Issue:
    """Returns the issue that `asdict` and JSON made this of."""
    images = tuple(
        ImageBoxes(one["image"], tuple(map(tuple, one["boxes_xyxy"]))) for one in stored["images"]
    )
    kind, path = IssueKind(stored["kind"]), Path(stored["path"])
    return Issue(**{**stored, "kind": kind, "path": path, "images": images})


def content_fingerprint(index: DatasetIndex) -> str:
    """Returns a sha256 over the bytes of all images of a split, in their order.

    The hash of each image is kept in the cache folder, where that can be written, and taken from
    there as long as the image's stamp is unchanged.

    Raises:
        DataError: an image cannot be read.
    """
    digest = hashlib.sha256(os.fsencode(index.root.absolute())).hexdigest()
    file = cache_folder() / f"contents-{digest[:24]}.json"
    try:
        known = {
            n: list(item) for n, item in json.loads(file.read_bytes()).items() if len(item) == 4
        }
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}  # none yet, or damaged: hashed anew and written over
    names: list[str] = index.file_names.tolist()
    # Before a file is read, so that a change during the reading shows the next time.
    stamps = {name: list(_stamp_of(os.path.join(index.root, name))) for name in names}
    new = [name for name in stamps if known.get(name, [])[:-1] != stamps[name]]
    with ThreadPoolExecutor(min(8, count_processors())) as pool:  # hashing frees the interpreter
        hashes = pool.map(lambda name: _hash_of(index.root / name), new)
        known |= {name: [*stamps[name], content] for name, content in zip(new, hashes, strict=True)}
    if any(_is_settled(stamps[name]) for name in new):
        kept = {name: item for name, item in known.items() if _is_settled(item[:-1])}
        with suppress(OSError, CheckpointError):  # then they are hashed anew each time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(kept).encode())
    return hashlib.sha256(b"".join(bytes.fromhex(known[name][-1]) for name in names)).hexdigest()


def _hash_of(file: Path) -> str:
    try:
        return sha256_of(file)
    except CheckpointError as error:
        advice = "it was there when the data set was read"
        raise DataError(error.reason, path=error.path, advice=advice) from None
