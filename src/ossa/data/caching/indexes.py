"""The index of a split in one file of the user's cache folder, opened by memory map.

A file is whole or not there, whoever writes at the same time, and may be deleted at any moment.
With its columns (`ossa.data.caching.columns`) it says which files the index was read from and what
they were then: while they are, the index is taken from here, else read anew and written over this
one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ossa import __version__
from ossa.data.caching.columns import read_columns, write_columns
from ossa.data.description import DataDescription
from ossa.data.index import DatasetIndex, IndexReport, LabelSearch
from ossa.data.problems import Problem, ProblemKind
from ossa.data.sources import SourceLog, unchanged
from ossa.errors import CheckpointError
from ossa.files import write_atomically

_READERS_VERSION: Final = 5
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
        problems = tuple(_problem(stored) for stored in about["problems"])
        num_images, *paths = about["labels"]
        labels = LabelSearch(num_images, *map(tuple, paths))
        return IndexReport(index, problems, tuple(about["notes"]), labels)
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
        "problems": [{**asdict(problem), "file": str(problem.file)} for problem in report.problems],
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
        description.roots,
    )
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _problem(stored: Mapping[str, Any]) -> Problem:
    """Returns the problem that `asdict` and JSON made this of."""
    box_xyxy = stored["box_xyxy"]
    as_it_was = {
        "file": Path(stored["file"]),
        "kind": ProblemKind(stored["kind"]),
        "box_xyxy": None if box_xyxy is None else tuple(box_xyxy),
    }
    return Problem(**{**stored, **as_it_was})
