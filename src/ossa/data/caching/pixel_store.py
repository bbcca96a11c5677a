"""Where caches of pixels are kept: on the disk, or in memory that is free after its last user.

One process builds a cache while others that want it wait; all later ones find it.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol, TypeAlias

from ossa.data.caching.indexes import cache_folder
from ossa.data.caching.pixels import PixelCache, PixelRequest
from ossa.data.caching.shared_memory import free_memory, new_memory_file, open_memory_files, seal
from ossa.data.description import DataDescription
from ossa.data.index import DatasetIndex
from ossa.errors import RunFailed

CachePlace: TypeAlias = Literal["ram", "disk"]

_UNFINISHED: Final = ".pixels-*.tmp"
_SETTLED_SECONDS: Final = 2.0
"""After which every change of a file shows in its time (`ossa.data.sources`)."""
_SHARE_OF_MEMORY: Final = 0.8
"""Of what is free, the most that a cache may take: the training needs some, too."""


class Listener(Protocol):
    """Is told how a cache is built; every `ossa.train.events.Watcher` is one."""

    def note(self, sentence: str) -> None: ...

    def preparing(self, doing: str, *, done: int, total: int) -> None: ...


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
) -> PixelCache:
    """Returns the resized images of a split, as they were decoded once.

    They are decoded now, where that was not done before or an image file has changed since.

    Args:
        index: all images of the split; one that cannot be decoded has a fault instead of pixels.
        place: 'disk' for a file in the user's cache folder, 'ram' for memory that processes share
            and that is free as soon as the last of them has ended, however it does.
        description: of the data set.
        split: of it.
        imgsz: of the longer sides in pixels.
        reduced: as for `read_resized`.
        listener: is told of size, place and progress.
        strict: raise at the first image that cannot be decoded.

    Raises:
        RunFailed: there is no room, or the cache folder cannot be written.
        DataError: an image cannot be decoded and `strict`.
    """
    request = PixelRequest.of(index, imgsz=imgsz, reduced=reduced)
    said = repr((str(description.file), split, imgsz, reduced))
    name = f"pixels-{hashlib.sha256(said.encode()).hexdigest()[:24]}"
    what = f"{len(index):,} images of split '{split}' at {imgsz} px"
    order = _Order(request, name, what, listener, strict)
    store = _OnDisk(order) if place == "disk" else _InMemory(order)
    with _os_errors_told(what):
        pixels = store.found()
        if pixels is None:
            remove_unfinished(cache_folder())
            with _alone(cache_folder() / f".{name}-{place}.tmp", listener) as unfinished:
                pixels = store.found() or store.built(unfinished)
    listener.note(f"cache of {what}: {_size(pixels.nbytes)} {store.where}")
    return pixels


@dataclass(frozen=True)
class _Order:
    request: PixelRequest
    name: str
    what: str
    listener: Listener
    strict: bool

    def write(self, stream: BinaryIO) -> None:
        if not self.request.settled:
            time.sleep(_SETTLED_SECONDS)

        def tell(done: int, total: int) -> None:
            self.listener.preparing("decoding for the cache", done=done, total=total)

        self.request.write(stream, strict=self.strict, on_image=tell)
        stream.flush()

    def check_room(self, free: int, where: str, advice: str) -> None:
        """Raises RunFailed where a cache needs more than what is free, else tells what it needs."""
        needed = self.request.nbytes()
        if needed > free:
            raise RunFailed(
                f"the cache of {self.what} needs {_size(needed)} {where}, found {_size(free)} "
                f"free: {advice}, or leave the cache out"
            )
        self.listener.note(f"decoding {self.what} once, {_size(needed)} {where}")


class _OnDisk:
    """A file in the user's cache folder."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._file = cache_folder() / f"{order.name}.bin"
        self.where = f"in {self._file}"

    def found(self) -> PixelCache | None:
        return self._order.request.opened(self._file)

    def built(self, unfinished: BinaryIO) -> PixelCache:
        # Of other images or times, it is no one's; and its space may be needed.
        self._file.unlink(missing_ok=True)
        self._order.check_room(
            shutil.disk_usage(self._file.parent).free,
            self.where,
            "free some space, or name another folder in OSSA_CACHE",
        )
        self._order.write(unfinished)
        os.fsync(unfinished.fileno())
        Path(unfinished.name).replace(self._file)
        return PixelCache(self._file)


class _InMemory:
    """A file without a folder, which every process that uses it keeps open."""

    where = "in memory"

    def __init__(self, order: _Order) -> None:
        self._order = order

    def found(self) -> PixelCache | None:
        for held in open_memory_files(f"ossa-{self._order.name}"):
            pixels = self._order.request.opened(_path_of(held), held=held)
            if pixels is not None:
                return pixels
            held.close()
        return None

    def built(self, _: BinaryIO) -> PixelCache:
        self._order.check_room(
            int(_SHARE_OF_MEMORY * free_memory()),
            self.where,
            "take a smaller --imgsz or --cache disk",
        )
        held = new_memory_file(f"ossa-{self._order.name}")
        try:
            self._order.write(held)
        except BaseException:
            held.close()
            raise
        seal(held)
        return PixelCache(_path_of(held), held=held)


def _path_of(held: BinaryIO) -> Path:
    # By which the processes that this one starts find it, too.
    return Path(f"/proc/{os.getpid()}/fd/{held.fileno()}")


@contextmanager
def _alone(path: Path, listener: Listener) -> Iterator[BinaryIO]:
    """Yields an empty file at `path` that is this process's; others wait here as long.

    It is gone afterwards, unless it was renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = _locked(path, listener)
    while not _is_at(path, stream):  # who had it has renamed or removed it
        stream.close()
        stream = _locked(path, listener)
    with stream:
        stream.truncate(0)  # a killed process may have begun it
        try:
            yield stream
        finally:
            if _is_at(path, stream):
                path.unlink()


def _locked(path: Path, listener: Listener) -> BinaryIO:
    stream = path.open("ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        listener.note("waiting for another process that builds the same cache")
        fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


def _is_at(path: Path, stream: BinaryIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    return False


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes have left in a cache folder."""
    for path in folder.glob(_UNFINISHED):
        with suppress(OSError), path.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or else it is being written
            if _is_at(path, stream):
                path.unlink()


@contextmanager
def _os_errors_told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"could not write the cache of {what} in {cache_folder()}: "
            f"{(error.strerror or str(error)).lower()}; free some space or name another folder in "
            "OSSA_CACHE, or leave the cache out"
        ) from error


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
