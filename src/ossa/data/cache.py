"""The resized images of a split, decoded once: in memory that processes share, or on disk.

A cache is one file, opened by memory map. First come the pixels of all images, one after the other,
then columns (`ossa.data.cache_files`) that say where each is, then eight bytes that say where the
columns are. The metadata of the columns identifies images, files and decoders: a cache is only used
for what it was made of.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol, Self, TypeAlias

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from ossa import __version__
from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import (
    ALIGNMENT,
    SourceLog,
    cache_folder,
    read_columns,
    write_columns,
)
from ossa.data.description import DataDescription
from ossa.data.letterbox import Resized, read_resized
from ossa.data.shared_memory import free_memory, new_memory_file, open_memory_files, seal
from ossa.errors import DataError, RunFailed, os_reason

CachePlace: TypeAlias = Literal["auto", "disk", "none"]

_LOCK_FILE: Final = "pixels.lock"
_UNFINISHED: Final = ".pixels-*.tmp"
_SETTLED_SECONDS: Final = 2.0
"""After which every change of a file shows in its stamp (`ossa.data.cache_files`)."""
_SHARE_OF_MEMORY: Final = 0.25
"""Largest fraction of the free memory that a cache takes."""
_MOST_IN_MEMORY: Final = 4_000_000_000
_END_BYTES: Final = 8
_BYTES_OF_COLUMNS: Final = 100
"""For each image, beside its pixels."""
_BYTES_OF_HEADER: Final = 2000
_MOST_THREADS: Final = 8
_AT_ONCE: Final = 64
"""Images for each thread that are decoded before they are written: as many wait in memory."""


class Listener(Protocol):
    """Receives how a cache is built; every `ossa.train.callbacks.Callback` is one."""

    def note(self, sentence: str) -> None: ...

    def on_prepare(self, doing: str, *, done: int, total: int) -> None: ...


class PixelCache:
    """Resized images by their position in an index, as they were read from their files.

    Nothing is in memory before it is used, and workers and processes share what is. A copy that is
    sent to another process opens the same file there.
    """

    def __init__(self, file: Path, *, held: BinaryIO | None = None) -> None:
        """Opens a cache; `held` is the open file of one that has no name of its own.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is none, or it is cut short.
        """
        raw = np.memmap(file, np.uint8, mode="r")
        end = int.from_bytes(raw[-_END_BYTES:].tobytes(), "little")
        self.about, columns = read_columns(raw[end:-_END_BYTES])
        self.file = file
        self.nbytes = len(raw)
        self.stamps = columns["stamps"]
        self._held = held
        self._image_ids = columns["image_ids"]
        self._offsets = columns["offsets"]
        self._sizes_hw = columns["sizes_hw"]
        self._scales_yx = columns["scales_yx"]
        self._pixels = np.asarray(raw[:end])
        self._rows = np.arange(len(self._image_ids))
        """Row in the file of every position."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Resized:
        row = int(self._rows[position])
        height, width = (int(side) for side in self._sizes_hw[row])
        start = int(self._offsets[row])
        pixels = self._pixels[start : start + 3 * height * width]
        return Resized(pixels.reshape(height, width, 3), self._scales_yx[row])

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_rows, (self.file, self._rows)

    def faults(self) -> list[str | None]:
        """Returns for every position why its image cannot be decoded, or None."""
        faults = dict(self.about["faults"])
        return [faults.get(row) for row in self._rows.tolist()]

    def of(self, index: DatasetIndex) -> Self:
        """Returns the images of an index that has a part of these, in their order."""
        return self.at(np.flatnonzero(np.isin(self._image_ids, index.image_ids)))

    def at(self, rows: NDArray[np.int64]) -> Self:
        """Returns the images at these rows (n,) of the file, in this order."""
        chosen = type(self)(self.file, held=self._held)
        chosen._rows = rows
        return chosen


def _open_rows(file: Path, rows: NDArray[np.int64]) -> PixelCache:
    return PixelCache(file).at(rows)


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
    identity = repr((str(description.file), split, imgsz, reduced))
    name = f"pixels-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
    what = f"{len(index):,} images of split '{split}' at {imgsz} px"
    builder = _Builder(index, imgsz, reduced, name, what, listener, strict)
    try:
        pixels = builder.on_disk() if place == "disk" else builder.in_memory()
    except OSError as error:
        if place == "auto":
            listener.note(f"no cache of {what}: {os_reason(error)}")
            return None
        raise RunFailed(
            f"could not write the cache of {what}, {_size(builder.nbytes)}: {os_reason(error)}",
            path=cache_folder(),
            advice="free some space, name another folder in OSSA_CACHE, or take --cache none",
        ) from error
    if pixels is not None:
        where = f"in {pixels.file}" if place == "disk" else "in memory"
        listener.note(f"cache of {what}: {_size(pixels.nbytes)} {where}")
    return pixels


@dataclass(frozen=True)
class _Builder:
    """Finds a cache or builds it."""

    index: DatasetIndex
    imgsz: int
    reduced: bool
    name: str
    what: str
    listener: Listener
    strict: bool

    @cached_property
    def _sources(self) -> SourceLog:
        """The image files as they are when they are first needed."""
        sources = SourceLog()
        for position in range(len(self.index)):
            sources.add(self.index.image_path(position))
        return sources

    @cached_property
    def _key(self) -> str:
        """A digest of everything but the image files that decides what the pixels are."""
        said = (__version__, cv2.__version__, PIL.__version__, self.imgsz, self.reduced)
        digest = hashlib.sha256(repr((*said, str(self.index.root))).encode())
        digest.update("\0".join(self.index.file_names.tolist()).encode(errors="surrogatepass"))
        for column in (self.index.image_ids, self.index.sizes_wh):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Length of the file, or a little more."""
        ratios = self.imgsz / self.index.sizes_wh.max(axis=1, keepdims=True)
        shorter = np.ceil(self.index.sizes_wh.min(axis=1, keepdims=True) * ratios)
        # The shorter side of a reduced image may be rounded to a pixel more.
        pixels = self.imgsz * (shorter + 1).sum()
        return int(3 * pixels) + _BYTES_OF_COLUMNS * len(self.index) + _BYTES_OF_HEADER

    def on_disk(self) -> PixelCache:
        file = cache_folder() / f"{self.name}.bin"
        pixels = self._opened(file)
        if pixels is not None:
            return pixels
        with _lock(self.listener):
            for leftover in cache_folder().glob(_UNFINISHED):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            pixels = self._opened(file)
            if pixels is not None:
                return pixels
            file.unlink(missing_ok=True)  # of other images or times; its space may be needed
            if not self._sources.settled:
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
        if self.nbytes > _MOST_IN_MEMORY:
            return self._too_large(_MOST_IN_MEMORY)
        pixels = self._shared()
        if pixels is not None:
            return pixels
        with _lock(self.listener, needed=False):
            pixels = self._shared()
            if pixels is not None:
                return pixels
            room = int(_SHARE_OF_MEMORY * free_memory())
            if self.nbytes > room:
                return self._too_large(room)
            held = new_memory_file(f"ossa-{self.name}")
            try:
                self._write(held, "in memory")
            except BaseException:
                held.close()
                raise
            # A later change of files as new as these might not show: nobody else may find them.
            if self._sources.settled:
                seal(held)
        return PixelCache(_path_of(held), held=held)

    def _shared(self) -> PixelCache | None:
        """Returns the pixels that another process, or this one, has in memory."""
        for held in open_memory_files(f"ossa-{self.name}"):
            pixels = self._opened(_path_of(held), held=held)
            if pixels is not None:
                return pixels
            held.close()
        return None

    def _opened(self, file: Path, *, held: BinaryIO | None = None) -> PixelCache | None:
        """Returns the pixels of a file, or None where it has others than those asked for."""
        try:
            pixels = PixelCache(file, held=held)
            is_same = pixels.about["key"] == self._key and np.array_equal(
                pixels.stamps, self._sources.stamps
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none yet, or not written by this version
        return pixels if is_same else None

    def _too_large(self, room: int) -> None:
        self.listener.note(
            f"no cache of {self.what}: {_size(self.nbytes)}, more than the {_size(room)} of memory "
            "that --cache auto takes; --cache disk keeps them"
        )

    def _write(self, stream: BinaryIO, where: str) -> None:
        """Decodes all images and writes the file; reserves the room for it first.

        Raises:
            DataError: an image cannot be decoded and `strict`.
            OSError: as of no space.
        """
        _allocate(stream, self.nbytes)
        self.listener.note(f"decoding {self.what} once, {_size(self.nbytes)} {where}")
        count = len(self.index)
        sizes_hw = np.zeros((count, 2), np.int32)
        scales_yx = np.zeros((count, 2))
        offsets = np.zeros(count, np.int64)
        faults: list[tuple[int, str]] = []
        at = 0
        for position, read in enumerate(self._read()):
            offsets[position] = at
            if isinstance(read, Resized):
                sizes_hw[position], scales_yx[position] = read.image.shape[:2], read.scale_yx
                at += stream.write(np.ascontiguousarray(read.image).data)
            elif self.strict:
                raise read
            else:
                faults.append((position, read.reason))
            self.listener.on_prepare("decoding for the cache", done=position + 1, total=count)
        at += stream.write(bytes(-at % ALIGNMENT))
        columns = {
            "image_ids": self.index.image_ids,
            "offsets": offsets,
            "sizes_hw": sizes_hw,
            "scales_yx": scales_yx,
            "stamps": self._sources.stamps,
        }
        write_columns(stream, columns, {"key": self._key, "faults": faults})
        stream.write(at.to_bytes(_END_BYTES, "little"))
        stream.flush()
        stream.truncate(stream.tell())

    def _read(self) -> Iterator[Resized | DataError]:
        """Yields every image, or what is wrong with it, in their order."""
        threads = min(os.cpu_count() or 1, _MOST_THREADS)
        pool = ThreadPoolExecutor(threads)
        try:
            for first in range(0, len(self.index), _AT_ONCE * threads):
                last = min(first + _AT_ONCE * threads, len(self.index))
                yield from pool.map(self._read_one, range(first, last))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_one(self, position: int) -> Resized | DataError:
        try:
            return read_resized(self.index, position, self.imgsz, reduced=self.reduced)
        except DataError as error:
            return error


def _allocate(stream: BinaryIO, nbytes: int) -> None:
    """Makes a file so long that a full disk or memory shows before the work, with an OSError."""
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
