"""Arrays in one stream, opened by memory map.

It is laid out as safetensors lays out tensors (any of its readers opens it): a length, a header in
JSON, the columns.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ossa import __version__
from ossa.data.annotations import DatasetIndex, IndexReport, LabelSearch
from ossa.data.description import DataDescription
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import ImageBoxes, Issue
from ossa.data.sources import SourceLog, unchanged
from ossa.errors import CheckpointError
from ossa.files import write_atomically

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


_READERS_VERSION: Final = 7
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


def load(description: DataDescription, split: str) -> IndexReport | None:
    """Returns what `store` kept, or None where there is nothing or any source has changed.

    The columns are read-only views of the mapped file: nothing of them is in memory before it is
    used, and processes share what is.
    """
    file = _file_of(description, split)
    try:
        raw = np.memmap(file, np.uint8, mode="r")
        about, columns = read_columns(raw)
        paths = json.loads(columns["source_paths"].tobytes())
        if about["key"] != _key(description, split):
            return None
        if not unchanged(paths, columns["source_stamps"]):
            return None
        width = about["characters_of_file_name"]
        columns["file_names"] = columns["file_names"].view(f"<U{width}").reshape(-1)
        index = DatasetIndex(
            root=description.root,
            names=tuple(about["names"]),
            **{name: columns.get(name) for name in _COLUMNS},  # type: ignore[arg-type]
        )
        issues = tuple(_issue(stored) for stored in about["issues"])
        num_images, *paths = about["labels"]
        labels = LabelSearch(num_images, *map(tuple, paths))
        return IndexReport(index, issues, tuple(about["notes"]), labels)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or not written by this version: read anew and written over


def store(
    report: IndexReport, description: DataDescription, split: str, *, sources: SourceLog
) -> IndexReport:
    """Keeps a report for the next time; returns it, with a note where it could not be kept.

    It is not kept, and nothing is said, where a source is so new that a later change of it might
    not show in its time.
    """
    if not sources.settled:
        return report
    file = _file_of(description, split)
    index = report.index
    width = max(1, index.file_names.dtype.itemsize // 4)
    names = index.file_names.astype(f"<U{width}")
    about = {
        "key": _key(description, split),
        "names": index.names,
        "characters_of_file_name": width,
        "issues": [{**asdict(issue), "path": str(issue.path)} for issue in report.issues],
        "notes": report.notes,
        "labels": astuple(report.labels),
    }
    columns = {name: getattr(index, name) for name in _COLUMNS}
    columns = {name: column for name, column in columns.items() if column is not None} | {
        "file_names": names.view(np.uint8).reshape(len(names), -1),
        "source_paths": np.frombuffer(json.dumps(sources.paths).encode(), np.uint8),
        "source_stamps": sources.stamps,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: write_columns(stream, columns, about))
    except (OSError, CheckpointError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        note = (
            f"could not keep the index of split '{split}' in {file} "
            f"({str(getattr(cause, 'strerror', cause)).lower()}), so it is read anew each time: "
            "free some space, or name another folder in OSSA_CACHE"
        )
        return replace(report, notes=(*report.notes, note))
    return report


def _file_of(description: DataDescription, split: str) -> Path:
    digest = hashlib.sha256(f"{description.file}\0{split}".encode()).hexdigest()
    return cache_folder() / f"index-{digest[:24]}.safetensors"


def _key(description: DataDescription, split: str) -> str:
    """Returns a digest of all but the files that decides what an index is."""
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
