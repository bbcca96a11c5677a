"""The resized images of a split, decoded once: in memory that processes share, or on disk.

A cache is one file, opened by memory map. First come the pixels of all images, one after the
other, then columns (`ossa.data.cache_files`) that say where each is, then eight bytes that say
where the columns are. The metadata of the columns identifies images, files and decoders: a cache
is only used for what it was made of.

A file of `memfd_create` has no folder: its memory is free as soon as the last process has ended
that had it open, also by SIGKILL. Other processes of the same user find it in /proc by its name.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol, Self, TypeAlias

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from ossa import __version__
from ossa.config import Tiles
from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import SourceLog, cache_folder, read_columns, write_columns
from ossa.data.description import DataDescription
from ossa.data.letterbox import Resized, read_resized
from ossa.data.tiles import sides_seen
from ossa.errors import CheckpointError, DataError, RunFailed, os_reason
from ossa.files import held, open_regular
from ossa.machine import count_processors, free_memory

CachePlace: TypeAlias = Literal["auto", "disk", "none"]

_SHARE_OF_MEMORY: Final = 0.25
"""Largest fraction of the free memory that a cache takes."""
_MOST_IN_MEMORY: Final = 4_000_000_000
_END_BYTES: Final = 8
_MOST_THREADS: Final = 8
_AT_ONCE: Final = 64
"""Images for each thread that are decoded before they are written: as many wait in memory."""
_PROC: Final = Path("/proc")


class CacheCallback(Protocol):
    """Receives how a cache is built; every `ossa.train.callbacks.Callback` is one."""

    def note(self, sentence: str) -> None: ...

    def on_prepare(self, doing: str, *, done: int, total: int) -> None: ...


class PixelCache:
    """Resized images by their position in an index, as they were read from their files.

    Nothing is in memory before it is used, and workers and processes share what is. A copy that is
    sent to another process opens the same file there.
    """

    def __init__(
        self, file: Path, rows: NDArray[np.int64] | None = None, memory: BinaryIO | None = None
    ) -> None:
        """Opens a cache, or its images at these rows (n,) in this order.

        `memory` is the open file of one that has no name of its own.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is none, or it is cut short.
        """
        raw = np.memmap(file, np.uint8, mode="r")
        end = int.from_bytes(raw[-_END_BYTES:].tobytes(), "little")
        self.about, self.columns = read_columns(raw[end:-_END_BYTES])
        self.file = file
        self.nbytes = len(raw)
        self._memory = memory
        self._pixels = np.asarray(raw[:end])
        self._rows = np.arange(len(self.columns["image_ids"])) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Resized:
        row = self._rows[position]
        height, width = self.columns["sizes_hw"][row].tolist()
        start = int(self.columns["offsets"][row])
        pixels = self._pixels[start : start + 3 * height * width]
        return Resized(pixels.reshape(height, width, 3), self.columns["scales_yx"][row])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self._rows)

    def faults(self) -> list[str | None]:
        """Returns for every position why its image cannot be decoded, or None."""
        faults = dict(self.about["faults"])
        return [faults.get(row) for row in self._rows.tolist()]

    def of(self, index: DatasetIndex) -> Self:
        """Returns the images of an index that has a part of these, in their order."""
        return self.at(np.flatnonzero(np.isin(self.columns["image_ids"], index.image_ids)))

    def at(self, rows: NDArray[np.int64]) -> Self:
        """Returns these images of the file, in this order."""
        return type(self)(self.file, rows, self._memory)


def open_pixels(
    index: DatasetIndex,
    place: CachePlace,
    *,
    description: DataDescription,
    split: str,
    imgsz: int,
    reduced: bool,
    callback: CacheCallback,
    strict: bool = False,
    tiles: Tiles | None = None,
) -> PixelCache | None:
    """Returns the resized images of a split, decoded once, or None where they are not kept.

    They are decoded now, where that was not done before or an image file has changed since.

    Args:
        index: all images of the split; one that cannot be decoded has a fault instead of pixels.
        place: 'auto' for memory that all processes share and that is free as soon as the last of
            them has ended, as long as the images fit into a quarter of the free memory and 4 GB;
            'disk' for a file in the cache folder; 'none'.
        description: with `split` it identifies the cache.
        split: of the index.
        imgsz: longer sides in pixels, where there are no tiles.
        reduced: as for `read_resized`.
        callback: receives size, place and progress, and why nothing is kept.
        strict: raise at the first image that cannot be decoded.
        tiles: in which the images are seen: they are kept as large as their windows need.

    Raises:
        RunFailed: place 'disk', and there is no room or the cache folder cannot be written.
        DataError: an image cannot be decoded and `strict`.
    """
    if place == "none":
        return None
    size = imgsz if tiles is None else (imgsz, tiles.side)
    identity = repr((str(description.file), split, size, reduced))
    name = f"pixels-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
    what = f"{len(index):,} images of split '{split}' at {imgsz} px"
    what += "" if tiles is None else f" in tiles of {tiles.side} px"
    sides = sides_seen(index.sizes_wh, imgsz, tiles)
    builder = _Builder(index, size, sides, reduced, name, what, callback, strict)
    find, build = builder.in_memory, builder.build_in_memory
    if place == "disk":
        find, build = builder.on_disk, builder.build_on_disk
    try:
        pixels = find()
        if pixels is None:
            cache_folder().mkdir(parents=True, exist_ok=True)
            on_wait = lambda owner: callback.note(f"waiting for {owner}")  # noqa: E731
            with held(cache_folder(), on_wait=on_wait):  # who builds a cache is alone
                pixels = find() or build()
    except (OSError, CheckpointError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error.reason
        if place == "auto":
            callback.note(f"no cache of {what}: {reason}")
            return None
        raise RunFailed(
            f"could not write the cache of {what}, {_size(builder.nbytes)}: {reason}",
            path=cache_folder(),
            advice="free some space, name another folder in OSSA_CACHE, or take --cache none",
        ) from error
    if pixels is not None:
        where = f"in {pixels.file}" if place == "disk" else "in memory"
        callback.note(f"cache of {what}: {_size(pixels.nbytes)} {where}")
    return pixels


@dataclass(frozen=True)
class _Builder:
    """Finds a cache or builds it."""

    index: DatasetIndex
    size: int | tuple[int, int]
    sides: NDArray[np.int64]
    reduced: bool
    name: str
    what: str
    callback: CacheCallback
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
        said = (__version__, cv2.__version__, PIL.__version__, self.size, self.reduced)
        digest = hashlib.sha256(repr((*said, str(self.index.root))).encode())
        digest.update("\0".join(self.index.file_names.tolist()).encode(errors="surrogatepass"))
        for column in (self.index.image_ids, self.index.sizes_wh):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Length of the file, or a little more."""
        sizes_wh = self.index.sizes_wh
        shorter = np.ceil(sizes_wh.min(axis=1) * (self.sides / sizes_wh.max(axis=1)))
        # The shorter side of a reduced image may be rounded to a pixel more.
        pixels = (self.sides * (shorter + 1)).sum()
        return int(3 * pixels) + 100 * len(self.index) + 2000  # columns and header

    def on_disk(self) -> PixelCache | None:
        return self._opened(cache_folder() / f"{self.name}.bin")

    def build_on_disk(self) -> PixelCache:
        file = cache_folder() / f"{self.name}.bin"
        unfinished = file.with_name(f".{self.name}.tmp")
        for leftover in cache_folder().glob(".pixels-*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        file.unlink(missing_ok=True)  # of other images or times; its space may be needed
        if not self._sources.settled:
            time.sleep(2)  # after which every change of a file shows in its stamp
        try:
            with unfinished.open("xb") as stream:
                self._write(stream, "on disk")
                os.fsync(stream.fileno())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        return PixelCache(file)

    def in_memory(self) -> PixelCache | None:
        """Returns the pixels that another process, or this one, has in memory."""
        for memory in open_memory_files(f"ossa-{self.name}"):
            pixels = self._opened(_path_of(memory), memory)
            if pixels is not None:
                return pixels
            memory.close()
        return None

    def build_in_memory(self) -> PixelCache | None:
        room = min(int(_SHARE_OF_MEMORY * free_memory()), _MOST_IN_MEMORY)
        if self.nbytes > room:
            self.callback.note(
                f"no cache of {self.what}: {_size(self.nbytes)}, more than the {_size(room)} of "
                "memory that --cache auto takes; --cache disk keeps them"
            )
            return None
        memory = new_memory_file(f"ossa-{self.name}")
        try:
            self._write(memory, "in memory")
        except BaseException:
            memory.close()
            raise
        # A later change of files as new as these might not show: nobody else may find them.
        if self._sources.settled:
            seal(memory)
        return PixelCache(_path_of(memory), memory=memory)

    def _opened(self, file: Path, memory: BinaryIO | None = None) -> PixelCache | None:
        """Returns the pixels of a file, or None where it has others than those asked for."""
        with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or of another version
            pixels = PixelCache(file, memory=memory)
            stamps = pixels.columns["stamps"]
            if pixels.about["key"] == self._key and np.array_equal(stamps, self._sources.stamps):
                return pixels
        return None

    def _write(self, stream: BinaryIO, where: str) -> None:
        """Decodes all images and writes the file; reserves the room for it first."""
        _allocate(stream, self.nbytes)
        self.callback.note(f"decoding {self.what} once, {_size(self.nbytes)} {where}")
        count, at = len(self.index), 0
        columns = {
            "image_ids": self.index.image_ids,
            "offsets": np.zeros(count, np.int64),
            "sizes_hw": np.zeros((count, 2), np.int32),
            "scales_yx": np.zeros((count, 2)),
            "stamps": self._sources.stamps,
        }
        faults: list[tuple[int, str]] = []
        for position, read in enumerate(self._read()):
            columns["offsets"][position] = at
            if isinstance(read, Resized):
                columns["sizes_hw"][position] = read.image.shape[:2]
                columns["scales_yx"][position] = read.scale_yx
                at += stream.write(np.ascontiguousarray(read.image).data)
            elif self.strict:
                raise read
            else:
                faults.append((position, read.reason))
            self.callback.on_prepare("decoding for the cache", done=position + 1, total=count)
        at += stream.write(bytes(-at % _END_BYTES))  # so that the columns are aligned
        write_columns(stream, columns, {"key": self._key, "faults": faults})
        stream.write(at.to_bytes(_END_BYTES, "little"))
        stream.flush()
        stream.truncate(stream.tell())

    def _read(self) -> Iterator[Resized | DataError]:
        """Yields every image, or what is wrong with it, in their order."""

        def read(position: int) -> Resized | DataError:
            try:
                side = int(self.sides[position])
                return read_resized(self.index, position, side, reduced=self.reduced)
            except DataError as error:
                return error

        threads = min(count_processors(), _MOST_THREADS)
        pool = ThreadPoolExecutor(threads)
        try:
            for first in range(0, len(self.index), _AT_ONCE * threads):
                last = min(first + _AT_ONCE * threads, len(self.index))
                yield from pool.map(read, range(first, last))
        finally:
            pool.shutdown(cancel_futures=True)


def _allocate(stream: BinaryIO, nbytes: int) -> None:
    """Makes a file so long that a full disk or memory shows before the work, with an OSError."""
    try:
        os.posix_fallocate(stream.fileno(), 0, nbytes)
    except AttributeError:  # macOS
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
            raise


def new_memory_file(name: str) -> BinaryIO:
    """Returns an empty file in memory that is open for writing; OSError on other systems."""
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "only Linux has files in memory that processes share")
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb")


def seal(file: BinaryIO) -> None:
    """Makes a file in memory what it is for good: only then do others find it."""
    import fcntl  # of Linux, as are files in memory

    file.flush()
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def open_memory_files(name: str) -> Iterator[BinaryIO]:
    """Yields the sealed files of a name that any process of this user has, opened for reading."""
    if not hasattr(os, "memfd_create"):
        return
    import fcntl

    for process in _PROC.glob("[0-9]*/fd"):
        with suppress(OSError):  # ended meanwhile, or of somebody else
            for link in process.iterdir():
                with suppress(OSError):
                    if os.readlink(link) != f"/memfd:{name} (deleted)":
                        continue
                    file = open_regular(link)
                    # Root sees those of everybody, who may have written anything.
                    is_own = os.fstat(file.fileno()).st_uid == os.geteuid()
                    if is_own and fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                        yield file
                    else:
                        file.close()


def _path_of(memory: BinaryIO) -> Path:
    # By which the processes that this one starts find it, too.
    return Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
