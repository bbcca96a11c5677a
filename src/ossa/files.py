"""Files and folders: safe reading, atomic writing, hashes, and locked folders."""

import errno
import hashlib
import itertools
import json
import math
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from ossa.errors import CheckpointError, ConfigError, DataError, legible, os_reason

TEMPORARY_FILES = ".*.tmp"
"""Pattern of what `write_atomically` leaves behind in a folder where it is killed."""
_CLAIM = ".claimed"
_LOCK, _OWNER = ".lock", ".lock-owner"
_LOCK_SECONDS = 0.5
"""How long a lock is tried for: a process that only asks whether it is held has it briefly."""
_LONGEST_OWNER = 1000
_LARGEST = 16 * 2**20
_KINDS_OF_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_regular(path: Path | str, *, most_bytes: int | None = None) -> BinaryIO:
    """Returns a regular file, open for reading; for whatever a foreign file names.

    A pipe would block, and a device might never end or do something when it is opened.

    Args:
        path: of the file; links are followed.
        most_bytes: largest size.

    Raises:
        OSError: there is none, it cannot be read, is larger or no regular file; see `strerror`.
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


def open_to_append(path: Path) -> BinaryIO:
    """Returns a file, open for appending; a link or pipe in its place is removed.

    One that came with a stranger's folder would lead what is written elsewhere.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_symlink() or path.is_fifo():
        path.unlink()
    return path.open("ab")


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
        raise CheckpointError(f"could not read it: {os_reason(error)}", path=path) from error


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
        with _wrap_os_errors(path), temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        with _wrap_os_errors(path):
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
    text = json.dumps(without_nan(value), indent=2, allow_nan=False)
    write_text_atomically(path, text + "\n")


def read_small_file(file: Path, *, what: str) -> bytes:
    """Returns the content of a regular file of at most 16 MB.

    Args:
        file: to read.
        what: it is, for the message, such as 'the record of a run'.

    Raises:
        DataError: there is no such file, it is no regular one or too large.
    """
    try:
        return read_regular(file, most_bytes=_LARGEST)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        found = "none" if is_missing else os_reason(error)
        raise DataError(expected=what, found=found, path=file) from None


def read_json_object(file: Path, *, what: str) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        DataError: as `read_small_file`, or it holds no JSON object.
    """
    try:
        content = from_json(read_small_file(file, what=what))
    except ValueError as error:
        raise DataError(
            expected=f"{what} in JSON", found=f"a damaged one: {error}", path=file
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            expected=f"{what} in JSON", found="a damaged one: no JSON object", path=file
        )
    return content


@contextmanager
def held(folder: Path, *, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a folder for this process until the end of the `with`, or of the process.

    The lock is the system's (`flock`): whatever ends its owner, SIGKILL included, releases it, and
    on NFS it holds between machines. Where a file system has no locks, `filelock` uses a file with
    host and process number instead. A process may hold a folder twice.

    Args:
        folder: that exists.
        on_wait: called with the owner of the folder, before waiting for it.

    Raises:
        ConfigError: another process holds the folder, and `on_wait` is not given.
        CheckpointError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.resolve() / _LOCK, is_singleton=True)
    with _wrap_os_errors(folder / _LOCK):
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            if on_wait is None:
                raise ConfigError(
                    expected="a folder for this process alone",
                    found=f"it in use by {_owner(folder)}",
                    path=folder,
                    advice="wait until that has ended, or stop it",
                ) from None
            on_wait(_owner(folder))
            lock.acquire(poll_interval=_LOCK_SECONDS)
    try:
        # Not through a link that came with the folder, nor into a pipe.
        write_text_atomically(folder / _OWNER, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        try:
            if lock.lock_counter == 1:
                # RuntimeError: torch raises it anywhere when it hears that a loader process died.
                with suppress(OSError, RuntimeError):
                    (folder / _OWNER).unlink(missing_ok=True)
        finally:
            lock.release()


def is_held(folder: Path) -> bool:
    """Returns whether a process holds the folder."""
    from filelock import FileLock, Timeout

    if not (folder / _LOCK).is_file():
        return False
    try:
        FileLock(folder.resolve() / _LOCK).acquire(timeout=_LOCK_SECONDS / 2).lock.release()
    except Timeout:
        return True
    except OSError:  # of somebody else, not to be written here: a killed owner's word stays
        return (folder / _OWNER).exists()
    return False


def _owner(folder: Path) -> str:
    with suppress(OSError, ValueError):
        return legible(read_regular(folder / _OWNER, most_bytes=_LONGEST_OWNER).decode())
    return "another process"


def new_folder(path: Path | str) -> Path:
    """Returns a folder that is this process's alone: `path`, or the first free of path-2, path-3...

    An existing empty folder is free. The folder is locked until this process ends, however that
    happens, so that two runs which start at the same moment never write into one.

    Raises:
        CheckpointError: the folder cannot be made.
    """
    path = Path(path)
    numbered = (Path(f"{path}-{number}") for number in itertools.count(2))
    with _wrap_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # a file, or a link to nothing
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
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
        import fcntl
    except ImportError:  # Windows, which locks no folders: who has made it has it
        return is_made
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
def _wrap_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save turns an OSError of the file into a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        advice = "what was there before is untouched; " + (
            "free some space and start again (a training of which a state was saved continues with "
            "--resume)"
            if cause.errno in NO_SPACE
            else "choose a folder that can be written"
        )
        raise CheckpointError(
            f"could not write it: {os_reason(cause)}", path=path, advice=advice
        ) from error


def without_nan(value: Any) -> Any:
    """Returns a value for JSON in which NaN and infinities are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
