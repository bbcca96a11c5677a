"""Files that are either complete or not there: atomic writes, hashes, folders of one's own."""

import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ossa.errors import CheckpointError

TEMPORARY_FILES = ".*.tmp"
"""Pattern of what `write_atomically` leaves behind in a folder where it is killed."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256_of(path: Path | str) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {_reason(error)}") from error


def write_atomically(path: Path | str, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file whole: until the last byte is on the disk, `path` keeps what it held before.

    Args:
        path: in a folder that exists.
        content: the bytes, or a function that writes them to the open file it is given.

    Raises:
        CheckpointError: the disk is full or cannot be written; nothing half-written stays.
    """
    path = Path(path)
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with _os_errors_told(path):
            with temporary.open("xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 like `write_atomically`."""
    write_atomically(path, text.encode())


def write_json_atomically(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON like `write_atomically`; NaN and infinities become null.

    JSON has no word for them, and readers other than Python's refuse the file that has.
    """
    text = json.dumps(_without_nan(value), indent=2, allow_nan=False)
    write_text_atomically(path, text + "\n")


def new_folder(path: Path | str) -> Path:
    """Returns a folder that is this process's alone: `path`, or the first free of path-2, path-3...

    An existing empty folder is free. The folder is locked until this process ends, however that
    happens, so that two runs which start at the same moment never write into one.

    Raises:
        CheckpointError: the folder cannot be made.
    """
    path = Path(path)
    numbered = (Path(f"{path}-{number}") for number in itertools.count(2))
    with _os_errors_told(path):
        return next(folder for folder in itertools.chain([path], numbered) if _claim(folder))


@contextmanager
def folder_of_results(path: Path | str) -> Iterator[Path]:
    """Yields a `new_folder`; one that is left empty is taken away at the end.

    Raises:
        CheckpointError: the folder cannot be made.
    """
    path = Path(path)
    missing = [place for place in (path, *path.parents) if not place.exists()]
    folder = new_folder(path)
    made = [folder, *missing] if folder != path else missing
    try:
        yield folder
    finally:
        with suppress(OSError):  # until one has something in it
            for place in made:
                place.rmdir()


def _claim(folder: Path) -> bool:
    """Returns whether the folder, which is made where it is missing, is this process's now."""
    try:
        folder.mkdir(parents=True)
        is_made = True
    except FileExistsError:
        is_made = False
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # removed by another, or a file
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = folder.exists() and os.path.samestat(os.fstat(lock), folder.stat())
    except BlockingIOError:
        is_ours = False
    except OSError:  # a file system without locks: who has made the folder has it
        is_ours = is_made
    if is_ours and not any(folder.iterdir()):
        return True  # the lock stays, and ends with the process
    os.close(lock)
    return False


@contextmanager
def _os_errors_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save turns an OSError of the file into a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        advice = (
            "free some space and start again (a training continues with --resume)"
            if cause.errno in _NO_SPACE
            else "choose a folder that can be written"
        )
        raise CheckpointError(
            f"could not write {path}: {_reason(cause)}; what was there before is untouched; "
            f"{advice}"
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
