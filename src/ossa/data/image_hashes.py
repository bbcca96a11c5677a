"""What the image files of a split hold, as hashes that are cheap the second time.

The hashes of a data set lie in one file of the user's cache folder, each with the size and times of
its image: while these are the same, the image is not read again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ossa.data.annotations import DatasetIndex
from ossa.data.index_cache import cache_folder, read_columns, write_columns
from ossa.data.sources import is_settled, stamp_of
from ossa.errors import CheckpointError, DataError
from ossa.files import sha256_of, write_atomically

_Known: TypeAlias = dict[str, tuple[tuple[int, int, int], bytes]]
"""By file name: size and times (`ossa.data.sources.stamp_of`), and the sha256 of the content."""


def content_fingerprint(index: DatasetIndex) -> str:
    """Returns a sha256 over the bytes of all images of a split, in their order.

    Hashes of earlier calls are taken from the user's cache folder where an image's size and times
    are unchanged, and new ones are kept there, where that can be written.

    Raises:
        DataError: an image cannot be read.
    """
    file = _file_of(index.root)
    known = _read(file)
    names: list[str] = index.file_names.tolist()
    # Before a file is read, so that a change during the reading shows the next time.
    stamps = {name: stamp_of(os.path.join(index.root, name)) for name in names}
    new = [name for name in stamps if name not in known or known[name][0] != stamps[name]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing frees the interpreter
        found = pool.map(lambda name: _content(index.root / name), new)
        known |= {name: (stamps[name], content) for name, content in zip(new, found, strict=True)}
    digest = hashlib.sha256(b"".join(known[name][1] for name in names)).hexdigest()
    if any(is_settled(stamps[name]) for name in new):
        _write(file, {name: item for name, item in known.items() if is_settled(item[0])})
    return digest


def _file_of(root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()
    return cache_folder() / f"contents-{digest[:24]}.safetensors"


def _content(file: Path) -> bytes:
    try:
        return bytes.fromhex(sha256_of(file))
    except CheckpointError as error:
        raise DataError(f"{error}; it was there when the data set was read") from None


def _read(file: Path) -> _Known:
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


def _write(file: Path, known: Mapping[str, tuple[tuple[int, int, int], bytes]]) -> None:
    stamps, digests = zip(*known.values(), strict=True)
    columns = {
        "names": np.frombuffer(json.dumps(list(known)).encode(), np.uint8),
        "stamps": np.array(stamps, np.int64),
        "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(len(known), -1),
    }
    with suppress(OSError, CheckpointError):  # then they are hashed anew each time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: write_columns(stream, columns, {}))
