"""Images: what their files hold, and which of them are the same.

Dimensions: I images of a split.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image, read_header
from ossa.data.issues import (
    MAX_EXAMPLES,
    Box,
    ImageBoxes,
    Issue,
    IssueGroup,
    IssueKind,
    group_issues,
)
from ossa.errors import DataError
from ossa.files import open_regular, read_regular

_SMALLEST_IMAGE_DECODE: Final = 64
"""JPEGs are decoded as small as the decoder allows: it reads every byte anyway."""
_MOST_BYTES: Final = 2_000_000_000
_READ_AT_ONCE: Final = 2**20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_NO_END: Final = "the end of the file is missing"
_UPRIGHT: Final = 1
_ORIENTATIONS: Final = {
    2: "mirrored",
    3: "turned by 180°",
    4: "mirrored and turned by 180°",
    5: "mirrored and turned by 90°",
    6: "turned by 90° to the right",
    7: "mirrored and turned by 270°",
    8: "turned by 90° to the left",
}


@dataclass(frozen=True)
class ImageState:
    """What the file of an image holds."""

    kind: IssueKind | None
    """Of the issue that it cannot be used for; None where it can."""
    what: str
    orientation: int
    """As EXIF has it, 1..8; 1 is upright."""
    digest: bytes | None
    """sha256 of the file, where another file has the same length."""


def read_images(
    indexes: Iterable[DatasetIndex],
    *,
    threads: int,
    headers_only: bool = False,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, ImageState]:
    """Returns the state of every image file by its path, also where it is in two splits.

    Args:
        indexes: of the splits.
        threads: that decode at the same time.
        headers_only: look for what has another size than annotated, and no further.
        on_image: called with the number of images read and their total.
    """
    sizes_wh: dict[str, tuple[int, int]] = {}
    for index in indexes:
        paths = paths_of(index)
        sizes_wh.update(zip(paths, map(tuple, index.sizes_wh.tolist()), strict=True))
    lengths = {path: _length(path) for path in sizes_wh}
    shared = {length for length, files in Counter(lengths.values()).items() if files > 1}

    def read(path: str) -> ImageState:
        hashed = not headers_only and lengths[path] in shared
        return _read_image(path, sizes_wh[path], hashed=hashed, decoded=not headers_only)

    states = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for path, state in zip(sizes_wh, pool.map(read, sizes_wh), strict=True):
            states[path] = state
            if on_image is not None:
                on_image(len(states), len(sizes_wh))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for no other image
    return states


def find_broken_images(
    index: DatasetIndex, split: str, states: Mapping[str, ImageState]
) -> list[IssueGroup]:
    """Returns groups of images that cannot be used, and of those that EXIF turns."""
    issues = []
    for position, path in enumerate(paths_of(index)):
        state = states[path]
        kind, what, shown = state.kind, state.what, (ImageBoxes(path),)
        if kind is None and state.orientation != _UPRIGHT:
            kind, what = IssueKind.IMAGE_ROTATED, f"{_ORIENTATIONS[state.orientation]} by EXIF"
            shown = (with_boxes(index, position),)
        if kind is not None:
            issues.append(Issue(kind, Path(path), None, what, images=shown))
    return group_issues(issues, split)


def broken_images(index: DatasetIndex, states: Mapping[str, ImageState]) -> NDArray[np.bool_]:
    """Returns (I,) which images cannot be used, as far as they were read."""
    broken = {path for path, state in states.items() if state.kind is not None}
    return np.fromiter((path in broken for path in paths_of(index)), np.bool_, len(index))


def number_contents(
    indexes: Mapping[str, DatasetIndex], states: Mapping[str, ImageState]
) -> dict[str, NDArray[np.int64]]:
    """Returns a number for every image (I,) of each split: equal for the same bytes.

    Without states only images of the same path are known to be the same.
    """
    numbers: dict[str | bytes, int] = {}

    def number(path: str) -> int:
        state = states.get(path)
        content = path if state is None or state.digest is None else state.digest
        return numbers.setdefault(content, len(numbers))

    return {
        split: np.fromiter(map(number, paths_of(index)), np.int64, len(index))
        for split, index in indexes.items()
    }


def find_copies(
    indexes: Mapping[str, DatasetIndex], contents: Mapping[str, NDArray[np.int64]]
) -> list[IssueGroup]:
    """Returns groups of images that are in a split twice, or in two splits.

    Args:
        indexes: by split.
        contents: from `number_contents`.
    """
    groups = [
        group
        for split in indexes
        for group in _find_pairs(IssueKind.IMAGE_DUPLICATED, (split, split), indexes, contents)
    ]
    pairs = (
        (IssueKind.IMAGE_LEAKED, ("train", "val")),
        (IssueKind.IMAGE_LEAKED, ("train", "test")),
        (IssueKind.IMAGE_SHARED, ("val", "test")),
    )
    for kind, splits in pairs:
        if set(splits) <= set(indexes):
            groups += _find_pairs(kind, splits, indexes, contents)
    return groups


def superfluous_copies(
    index: DatasetIndex, contents: NDArray[np.int64], counts: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Returns (I,) which images are copies of one with more boxes, or as many and before them.

    Args:
        index: of the split.
        contents: (I,) from `number_contents`.
        counts: (I,) boxes of each image.
    """
    order = np.lexsort((-counts, contents))
    superfluous = np.zeros(len(index), np.bool_)
    superfluous[order[1:]] = np.diff(contents[order]) == 0
    return superfluous


def paths_of(index: DatasetIndex) -> list[str]:
    """Returns (I,) absolute paths, each written in one way."""
    return [os.path.normpath(os.path.join(index.root, name)) for name in index.file_names.tolist()]


def _find_pairs(
    kind: IssueKind,
    splits: tuple[str, str],
    indexes: Mapping[str, DatasetIndex],
    contents: Mapping[str, NDArray[np.int64]],
) -> list[IssueGroup]:
    """Returns a group of the images of the second split that are in the first, if there are any.

    Where both are one split these are the images that were there before.
    """
    first, second = splits
    known, place = np.unique(contents[first], return_index=True)
    if not len(known):
        return []
    nearest = np.minimum(np.searchsorted(known, contents[second]), len(known) - 1)
    originals = place[nearest]
    hit = known[nearest] == contents[second]
    if first == second:
        hit &= originals != np.arange(len(originals))
    positions = np.flatnonzero(hit)
    if not len(positions):
        return []
    examples = tuple(
        _pair(kind, (indexes[first], int(originals[position])), (indexes[second], position), first)
        for position in positions[:MAX_EXAMPLES].tolist()
    )
    return [IssueGroup(kind, second, len(positions), examples)]


def _pair(
    kind: IssueKind,
    original: tuple[DatasetIndex, int],
    copy: tuple[DatasetIndex, int],
    split: str,
) -> Issue:
    first, second = original[0].image_path(original[1]), copy[0].image_path(copy[1])
    same = "the same file as" if first == second else "the same bytes as"
    name = original[0].file_names[original[1]]
    shown = (with_boxes(*original), with_boxes(*copy))
    return Issue(kind, second, None, f"{same} {name} of {split}", images=shown)


def with_boxes(index: DatasetIndex, position: int) -> ImageBoxes:
    """Returns an image with all its boxes."""
    rows = index.gt_rows(position)
    boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in index.boxes_xyxy[rows].tolist()]
    return ImageBoxes(str(index.image_path(position)), tuple(boxes))


def _read_image(path: str, size_wh: tuple[int, int], *, hashed: bool, decoded: bool) -> ImageState:
    digest = None
    orientation = _UPRIGHT
    file = Path(path)
    try:
        if hashed:
            digest = _sha256(path)
        header = read_header(file)
        found_wh, orientation = header.size_wh, header.orientation
        if found_wh != tuple(size_wh):
            what = f"{found_wh[0]}x{found_wh[1]} pixels, annotated as {size_wh[0]}x{size_wh[1]}"
            return ImageState(IssueKind.IMAGE_OTHER_SIZE, what, orientation, digest)
        if not decoded:
            return ImageState(None, "", _UPRIGHT, None)
        decode_image(file, reduce_to=_SMALLEST_IMAGE_DECODE, size_wh=size_wh)
    except (DataError, OSError) as error:
        if not os.path.isfile(path):
            return ImageState(IssueKind.IMAGE_UNREADABLE, "no such file", orientation, digest)
        if is_cut_short(file):
            return ImageState(IssueKind.IMAGE_TRUNCATED, _NO_END, orientation, digest)
        reason = str(error).rpartition(", found ")[2].partition(";")[0].rstrip(".")
        return ImageState(IssueKind.IMAGE_UNREADABLE, reason, orientation, digest)
    return ImageState(None, "", orientation, digest)


def is_cut_short(path: Path) -> bool:
    """Returns whether a file begins as a JPEG, PNG, WebP or BMP and its end is missing."""
    try:
        data = read_regular(path, most_bytes=_MOST_BYTES)
    except OSError:
        return False
    if data.startswith(b"\xff\xd8\xff"):
        # Behind the last start of scan: a thumbnail in the header has an end of its own.
        scan = data.rfind(b"\xff\xda")
        return scan < 0 or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(_PNG):
        return b"IEND" not in data
    if data.startswith(b"RIFF"):
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _sha256(path: str) -> bytes:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.digest()


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
