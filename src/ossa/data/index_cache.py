"""Indexes of large splits, kept in the cache folder and opened by memory map."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ossa import __version__
from ossa.data.annotations import DatasetIndex, IndexReport, LabelSearch
from ossa.data.cache_files import (
    SourceLog,
    cache_folder,
    read_columns,
    unchanged,
    write_columns,
)
from ossa.data.description import DataDescription
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import ImageBoxes, Issue
from ossa.errors import CheckpointError, os_reason
from ossa.files import write_atomically

_READERS_VERSION: Final = 7
"""To be raised where a reader makes another index than before of the same files."""
_COLUMNS: Final = tuple(
    field.name for field in fields(DatasetIndex) if field.name not in ("root", "names")
)


def load_index(description: DataDescription, split: str) -> IndexReport | None:
    """Returns what `store_index` kept, or None where there is nothing or a source has changed.

    The columns are read-only views of the mapped file: nothing of them is in memory before it is
    used, and processes share what is.
    """
    try:
        about, columns = read_columns(np.memmap(_file_of(description, split), np.uint8, mode="r"))
        if about["key"] != _key(description, split):
            return None
        if not unchanged(json.loads(columns["source_paths"].tobytes()), columns["source_stamps"]):
            return None
        width = about["characters_of_file_name"]
        columns["file_names"] = columns["file_names"].view(f"<U{width}").reshape(-1)
        index = DatasetIndex(
            root=description.root,
            names=tuple(about["names"]),
            **{name: columns.get(name) for name in _COLUMNS},  # type: ignore[arg-type]
        )
        issues = tuple(map(_issue, about["issues"]))
        num_images, *paths = about["labels"]
        labels = LabelSearch(num_images, *map(tuple, paths))
        return IndexReport(index, issues, tuple(about["notes"]), labels)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or not written by this version: read anew and written over


def store_index(
    report: IndexReport, description: DataDescription, split: str, *, sources: SourceLog
) -> IndexReport:
    """Keeps a report for the next time; returns it, with a note where it could not be kept.

    It is not kept where a source is so new that a later change might not show in its stamp.
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
        "issues": [asdict(issue) | {"path": str(issue.path)} for issue in report.issues],
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
        reason = os_reason(cause) if isinstance(cause, OSError) else str(cause)
        note = (
            f"could not keep the index of split '{split}' in {file} ({reason}), so it is read anew "
            "each time: free some space, or name another folder in OSSA_CACHE"
        )
        return replace(report, notes=(*report.notes, note))
    return report


def _file_of(description: DataDescription, split: str) -> Path:
    digest = hashlib.sha256(f"{description.file}\0{split}".encode()).hexdigest()
    return cache_folder() / f"index-{digest[:24]}.safetensors"


def _key(description: DataDescription, split: str) -> str:
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
