"""The resized images of a split in one file, opened by memory map.

First the pixels of all images, one after the other as they are read from their files, then columns
(`ossa.data.index_cache`) that say where each is, then eight bytes that say where the columns
are. What is said with them tells of which images, files and decoders the pixels are: a file is only
used for what it was made of.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from ossa import __version__
from ossa.data.annotations import DatasetIndex
from ossa.data.index_cache import ALIGNMENT, read_columns, write_columns
from ossa.data.letterbox import Resized, read_resized
from ossa.data.sources import SourceLog
from ossa.errors import DataError

_END_BYTES: Final = 8
_BYTES_OF_COLUMNS: Final = 100
"""For each image, beside its pixels."""
_BYTES_OF_HEADER: Final = 2000
_MOST_THREADS: Final = 8
_AT_ONCE: Final = 64
"""Images for each thread that are decoded before they are written: as many wait in memory."""


class PixelCache:
    """Resized images by their position in an index, as they were read from their files.

    Nothing is in memory before it is used, and workers and processes share what is. A copy that is
    sent to another process opens the same file there.
    """

    def __init__(self, file: Path, *, held: BinaryIO | None = None) -> None:
        """`held`: an open file without which there is nothing at `file`.

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
        """In the file, of every position."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Resized:
        row = int(self._rows[position])
        height, width = (int(side) for side in self._sizes_hw[row])
        start = int(self._offsets[row])
        pixels = self._pixels[start : start + 3 * height * width]
        return Resized(pixels.reshape(height, width, 3), self._scales_yx[row])

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.file, self._rows)

    def faults(self) -> list[str | None]:
        """Returns for every position why its image cannot be decoded, or None."""
        told = dict(self.about["faults"])
        return [told.get(row) for row in self._rows.tolist()]

    def of(self, index: DatasetIndex) -> Self:
        """Returns those of the images of an index that has some of these, in their order."""
        return self.at(np.flatnonzero(np.isin(self._image_ids, index.image_ids)))

    def at(self, rows: NDArray[np.int64]) -> Self:
        """Returns the images (n,) of these places in the file, in this order."""
        chosen = type(self)(self.file, held=self._held)
        chosen._rows = rows
        return chosen


def _opened_again(file: Path, rows: NDArray[np.int64]) -> PixelCache:
    return PixelCache(file).at(rows)


@dataclass(frozen=True)
class PixelRequest:
    """Which pixels are wanted."""

    index: DatasetIndex
    imgsz: int
    """Of the longer sides."""
    reduced: bool
    """As for `read_resized`."""

    @cached_property
    def _sources(self) -> SourceLog:
        """The image files as they are now; looked at once, when they are first needed."""
        sources = SourceLog()
        for position in range(len(self.index)):
            sources.add(self.index.image_path(position))
        return sources

    @property
    def settled(self) -> bool:
        """Whether these files are old enough that a later change must show in their stamps."""
        return self._sources.settled

    def key(self) -> str:
        """Returns a digest of all that decides what the pixels are, beside the image files."""
        said = (__version__, cv2.__version__, PIL.__version__, self.imgsz, self.reduced)
        digest = hashlib.sha256(repr((*said, str(self.index.root))).encode())
        digest.update("\0".join(self.index.file_names.tolist()).encode(errors="surrogatepass"))
        for column in (self.index.image_ids, self.index.sizes_wh):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def nbytes(self) -> int:
        """Returns how long the file will be, or a little more."""
        ratios = self.imgsz / self.index.sizes_wh.max(axis=1, keepdims=True)
        shorter = np.ceil(self.index.sizes_wh.min(axis=1, keepdims=True) * ratios)
        # The shorter side of a reduced image may be rounded to a pixel more.
        pixels = self.imgsz * (shorter + 1).sum()
        return int(3 * pixels) + _BYTES_OF_COLUMNS * len(self.index) + _BYTES_OF_HEADER

    def opened(self, file: Path, *, held: BinaryIO | None = None) -> PixelCache | None:
        """Returns the pixels of a file, or None where it has not those that are wanted."""
        try:
            pixels = PixelCache(file, held=held)
            wanted = pixels.about["key"] == self.key() and np.array_equal(
                pixels.stamps, self._sources.stamps
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none yet, or not written by this version
        return pixels if wanted else None

    def write(
        self, stream: BinaryIO, *, strict: bool, on_image: Callable[[int, int], None]
    ) -> None:
        """Decodes all images and writes the file.

        Args:
            stream: a new file.
            strict: raise at the first image that cannot be decoded.
            on_image: called with the number of images written and their total.

        Raises:
            DataError: an image cannot be decoded and `strict`.
            OSError: as of no space.
        """
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
            elif strict:
                raise read
            else:
                faults.append((position, self._told(position, read)))
            on_image(position + 1, count)
        at += stream.write(bytes(-at % ALIGNMENT))
        columns = {
            "image_ids": self.index.image_ids,
            "offsets": offsets,
            "sizes_hw": sizes_hw,
            "scales_yx": scales_yx,
            "stamps": self._sources.stamps,
        }
        write_columns(stream, columns, {"key": self.key(), "faults": faults})
        stream.write(at.to_bytes(_END_BYTES, "little"))

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
        except DataError as fault:
            return fault

    def _told(self, position: int, fault: DataError) -> str:
        # The problem that it becomes names the file itself.
        path = self.index.image_path(position)
        return str(fault).replace(f" at {path}", "").replace(f" in {path}", "").rstrip(".")
