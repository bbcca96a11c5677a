"""Files: regular ones opened for reading, atomic writes, hashes, folders of one's own."""

import errno
import hashlib
import itertools
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ossa.errors import CheckpointError

TEMPORARY_FILES = ".*.tmp"
"""Pattern of what `write_atomically` leaves behind in a folder where it is killed."""
_CLAIM = ".claimed"
_KINDS_OF_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_regular(path: Path | str, *, most_bytes: int | None = None) -> BinaryIO:
    """Returns a regular file, open for reading; it opens whatever a file from elsewhere names.

    A pipe would block, and a device never end or do something when it is opened.

    Args:
        path: of the file; links are followed.
        most_bytes: that it may have.

    Raises:
        OSError: there is none, it cannot be read, is larger or no regular file; `strerror` says it.
    """
    try:
        _check_regular(os.stat(path), path, most_bytes)  # before a device is opened
        stream = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    except ValueError as error:  # a null byte
        raise OSError(errno.EINVAL, "a name that no file can have", str(path)) from error
    try:
        _check_regular(os.fstat(stream.fileno()), path, most_bytes)
    except OSError:
        stream.close()
        raise
    return stream


def read_regular(path: Path | str, *, most_bytes: int) -> bytes:
    """Returns the content of a regular file of at most so many bytes; see `open_regular`."""
    with open_regular(path, most_bytes=most_bytes) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(size + 1)
    if len(content) > size:  # files of the system hide their size, and some have no end
        raise OSError(errno.EINVAL, "more bytes than the file says it has", str(path))
    return content


def _open_at_once(path: str, flags: int) -> int:
    # Should a pipe have come in place of the file, it does not block.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _check_regular(status: os.stat_result, path: Path | str, most_bytes: int | None) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        found = f"{_KINDS_OF_FILES.get(kind, 'something')} and no regular file"
        raise OSError(errno.EINVAL, found, str(path))
    if most_bytes is not None and status.st_size > most_bytes:
        found = f"{status.st_size:,} bytes, of which at most {most_bytes:,} are read"
        raise OSError(errno.EFBIG, found, str(path))


def sha256_of(path: Path | str) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
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

    An existing empty folder is free. A hidden file `.claimed` marks the folder as taken, so that
    two runs which start at the same moment never write into one; it is needed until something else
    is in the folder.

    Raises:
        CheckpointError: the folder cannot be made.
    """
    path = Path(path)
    numbered = (Path(f"{path}-{number}") for number in itertools.count(2))
    with _os_errors_told(path):
        return next(folder for folder in itertools.chain([path], numbered) if _claim(folder))


def unmark(folder: Path) -> None:
    """Takes the mark of `new_folder` away, once something else is in the folder."""
    with suppress(OSError):
        (folder / _CLAIM).unlink(missing_ok=True)


@contextmanager
def folder_of_results(path: Path | str) -> Iterator[Path]:
    """Yields a `new_folder`, and at the end takes its mark away; a folder left empty goes, too.

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
        unmark(folder)
        with suppress(OSError):  # until one has something in it
            for place in made:
                place.rmdir()


def _claim(folder: Path) -> bool:
    mark = folder / _CLAIM
    with suppress(FileExistsError):  # a file of that name
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if any(folder.iterdir()):
            return False
        mark.touch(exist_ok=False)
        if any(place != mark for place in folder.iterdir()):  # its owner has just taken its mark
            mark.unlink()
            return False
    except (FileExistsError, FileNotFoundError, NotADirectoryError):  # another was faster
        return False
    return True


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
