"""Memory that processes share by opening each other's files, and how much of it is free.

A file of `memfd_create` has no folder: its memory is free as soon as the last process has ended
that had it open, also by SIGKILL. Other processes of the same user find it in /proc by its name.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol, TypeAlias

from ossa.data.annotations import DatasetIndex
from ossa.data.description import DataDescription
from ossa.data.index_cache import cache_folder
from ossa.data.pixels import PixelCache, PixelRequest
from ossa.errors import RunFailed
from ossa.files import open_regular

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def new_memory_file(name: str) -> BinaryIO:
    """Returns an empty file in memory that is open for writing.

    Raises:
        OSError: this system has no such files.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "only Linux has files in memory that processes share")
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb")


def seal(file: BinaryIO) -> None:
    """Makes a file in memory what it is for good: only then do others find it."""
    file.flush()
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def open_memory_files(name: str) -> Iterator[BinaryIO]:
    """Yields the sealed files of a name that any process of this user has, opened for reading."""
    for link in _open_files():
        with suppress(OSError):  # closed meanwhile, or of a process that may not be looked into
            if os.readlink(link) != f"/memfd:{name} (deleted)":
                continue
            file = open_regular(link)
            # Root sees those of everybody, who may have written anything.
            is_own = os.fstat(file.fileno()).st_uid == os.geteuid()
            if is_own and fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                yield file
            else:
                file.close()


def _open_files() -> Iterator[Path]:
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            yield from (process / "fd").iterdir()


def free_memory() -> int:
    """Returns the bytes of memory that this process may still take, of the machine or its group.

    What the system keeps of files, and would give up, counts as free.
    """
    meminfo = (_PROC / "meminfo").read_text()
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return min([1024 * int(available.split()[1]), *_free_of_groups()])


def _free_of_groups() -> Iterator[int]:
    """Yields what each control group of this process that has a limit leaves (cgroups v2 or v1)."""
    try:
        entries = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        _, controllers, own = entry.split(":", 2)
        if not controllers:
            mount, most, taken = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount = _CGROUPS / "memory"
            most, taken = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = mount / own.strip("/")
        # In a container the group's own files may lie at the top.
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError, KeyError):  # no limit is called max
                limit, used = (int((group / name).read_text()) for name in (most, taken))
                stat = dict(line.split() for line in (group / "memory.stat").open())
                yield limit - used + int(stat["inactive_file"]) + int(stat["active_file"])


CachePlace: TypeAlias = Literal["auto", "disk", "none"]

_LOCK_FILE: Final = "pixels.lock"
_UNFINISHED: Final = ".pixels-*.tmp"
_SETTLED_SECONDS: Final = 2.0
"""After which every change of a file shows in its time (`ossa.data.sources`)."""
_SHARE_OF_MEMORY: Final = 0.25
"""Of what is free, the most that a cache in memory takes."""
_MOST_IN_MEMORY: Final = 4_000_000_000


class Listener(Protocol):
    """Is told how a cache is built; every `ossa.train.callbacks.Callback` is one."""

    def note(self, sentence: str) -> None: ...

    def on_prepare(self, doing: str, *, done: int, total: int) -> None: ...


def open_pixels(
    index: DatasetIndex,
    place: CachePlace,
    *,
    description: DataDescription,
    split: str,
    imgsz: int,
    reduced: bool,
    listener: Listener,
    strict: bool = False,
) -> PixelCache | None:
    """Returns the resized images of a split, decoded once, or None where they are not kept.

    They are decoded now, where that was not done before or an image file has changed since.

    Args:
        index: all images of the split; one that cannot be decoded has a fault instead of pixels.
        place: 'auto' for memory that all processes share and that is free as soon as the last of
            them has ended, as long as the images fit into a quarter of the free memory and 4 GB;
            'disk' for a file in the cache folder; 'none'.
        description: of the data set.
        split: of it.
        imgsz: of the longer sides in pixels.
        reduced: as for `read_resized`.
        listener: receives size, place and progress, and why nothing is kept.
        strict: raise at the first image that cannot be decoded.

    Raises:
        RunFailed: place 'disk', and there is no room or the cache folder cannot be written.
        DataError: an image cannot be decoded and `strict`.
    """
    if place == "none":
        return None
    said = repr((str(description.file), split, imgsz, reduced))
    name = f"pixels-{hashlib.sha256(said.encode()).hexdigest()[:24]}"
    what = f"{len(index):,} images of split '{split}' at {imgsz} px"
    request = PixelRequest(index, imgsz, reduced)
    build = _Build(request, name, what, listener, strict)
    try:
        pixels = build.on_disk() if place == "disk" else build.in_memory()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if place == "auto":
            listener.note(f"no cache of {what}: {reason}")
            return None
        raise RunFailed(
            f"could not write the cache of {what}, {_size(request.nbytes())}, in "
            f"{cache_folder()}: {reason}; free some space, name another folder in OSSA_CACHE, or "
            "take --cache none"
        ) from error
    if pixels is not None:
        where = f"in {pixels.file}" if place == "disk" else "in memory"
        listener.note(f"cache of {what}: {_size(pixels.nbytes)} {where}")
    return pixels


@dataclass(frozen=True)
class _Build:
    """Finds a cache or builds it."""

    request: PixelRequest
    name: str
    what: str
    listener: Listener
    strict: bool

    def on_disk(self) -> PixelCache:
        file = cache_folder() / f"{self.name}.bin"
        pixels = self.request.opened(file)
        if pixels is not None:
            return pixels
        with _lock(self.listener):
            for leftover in cache_folder().glob(_UNFINISHED):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            pixels = self.request.opened(file)
            if pixels is not None:
                return pixels
            file.unlink(missing_ok=True)  # of other images or times; its space may be needed
            if not self.request.settled:
                time.sleep(_SETTLED_SECONDS)
            unfinished = file.with_name(f".{self.name}.tmp")
            try:
                with unfinished.open("xb") as stream:
                    self._write(stream, "on disk")
                    os.fsync(stream.fileno())
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
        return PixelCache(file)

    def in_memory(self) -> PixelCache | None:
        needed = self.request.nbytes()
        if needed > _MOST_IN_MEMORY:
            return self._too_large(_MOST_IN_MEMORY)
        pixels = self._shared()
        if pixels is not None:
            return pixels
        with _lock(self.listener, needed=False):
            pixels = self._shared()
            if pixels is not None:
                return pixels
            room = int(_SHARE_OF_MEMORY * free_memory())
            if needed > room:
                return self._too_large(room)
            held = new_memory_file(f"ossa-{self.name}")
            try:
                self._write(held, "in memory")
            except BaseException:
                held.close()
                raise
            # A later change of files as new as these might not show: nobody else may find them.
            if self.request.settled:
                seal(held)
        return PixelCache(_path_of(held), held=held)

    def _shared(self) -> PixelCache | None:
        """Returns the pixels that another process, or this one, has in memory."""
        for held in open_memory_files(f"ossa-{self.name}"):
            pixels = self.request.opened(_path_of(held), held=held)
            if pixels is not None:
                return pixels
            held.close()
        return None

    def _write(self, stream: BinaryIO, where: str) -> None:
        """Asks for the room first, so that a full disk or memory shows before the work."""
        room = self.request.nbytes()
        _allocate(stream, room)
        self.listener.note(f"decoding {self.what} once, {_size(room)} {where}")

        def tell(done: int, total: int) -> None:
            self.listener.on_prepare("decoding for the cache", done=done, total=total)

        self.request.write(stream, strict=self.strict, on_image=tell)
        stream.flush()
        stream.truncate(stream.tell())

    def _too_large(self, room: int) -> None:
        self.listener.note(
            f"no cache of {self.what}: {_size(self.request.nbytes())}, more than the "
            f"{_size(room)} of memory that --cache auto takes; --cache disk keeps them"
        )


def _allocate(stream: BinaryIO, nbytes: int) -> None:
    """Makes a file so long, of blocks that are its own.

    Raises:
        OSError: there is no room.
    """
    try:
        os.posix_fallocate(stream.fileno(), 0, nbytes)
    except AttributeError:  # macOS
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
            raise


def _path_of(held: BinaryIO) -> Path:
    # By which the processes that this one starts find it, too.
    return Path(f"/proc/{os.getpid()}/fd/{held.fileno()}")


@contextmanager
def _lock(listener: Listener, *, needed: bool = True) -> Iterator[None]:
    """Holds the lock of all who build caches; others wait here as long.

    Raises:
        OSError: the cache folder cannot be written, and the lock is `needed`.
    """
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        stream = (cache_folder() / _LOCK_FILE).open("ab")
    except OSError:
        if needed:
            raise
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            listener.note("waiting for another process that builds a cache")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
