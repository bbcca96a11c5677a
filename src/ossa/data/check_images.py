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

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image, read_header
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import MAX_EXAMPLES, Box, ImageBoxes, Issue, IssueGroup, group_issues
from ossa.errors import DataError, os_reason
from ossa.files import open_regular, read_regular

_MIN_DECODED_SIDE: Final = 64
"""JPEGs are decoded as small as the decoder allows: it reads every byte anyway."""
_MAX_BYTES: Final = 2_000_000_000
_CHUNK_BYTES: Final = 2**20
_ROTATIONS: Final = {
    2: "mirrored",
    3: "rotated by 180°",
    4: "mirrored and rotated by 180°",
    5: "mirrored and rotated by 90°",
    6: "rotated by 90° to the right",
    7: "mirrored and rotated by 270°",
    8: "rotated by 90° to the left",
}
"""By EXIF orientation; 1 is upright."""


@dataclass(frozen=True)
class ImageState:
    """What was found in the file of an image."""

    kind: IssueKind | None = None
    """Why it cannot be used; None if it can."""
    detail: str = ""
    orientation: int = 1
    """As EXIF has it, 1..8."""
    sha256: bytes | None = None
    """Of the file, if another file has the same length."""


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
    """Returns groups of images that cannot be used, and of those that EXIF rotates."""
    issues = []
    for position, path in enumerate(paths_of(index)):
        state = states[path]
        kind, detail, images = state.kind, state.detail, (ImageBoxes(path),)
        if kind is None and state.orientation in _ROTATIONS:
            kind, detail = IssueKind.IMAGE_ROTATED, f"{_ROTATIONS[state.orientation]} by EXIF"
            images = (with_boxes(index, position),)
        if kind is not None:
            issues.append(Issue(kind, Path(path), None, detail, images=images))
    return group_issues(issues, split)


def find_copies(
    indexes: Mapping[str, DatasetIndex], states: Mapping[str, ImageState]
) -> list[IssueGroup]:
    """Returns groups of images that are twice in a split, or in two splits.

    Images are the same if their files have the same bytes as far as `states` has the hashes, else
    if they have the same path.

    Args:
        indexes: by split.
        states: by path, from `read_images`; may be empty.
    """
    firsts: dict[str, dict[str | bytes, int]] = {}
    """By split and content: the position of its first image."""
    contents: dict[str, list[str | bytes]] = {}
    for split, index in indexes.items():
        contents[split] = [states.get(p, ImageState()).sha256 or p for p in paths_of(index)]
        first = firsts.setdefault(split, {})
        for position, content in enumerate(contents[split]):
            first.setdefault(content, position)
    pairs = [(IssueKind.IMAGE_DUPLICATED, split, split) for split in indexes]
    pairs += [
        (IssueKind.IMAGE_LEAKED, "train", "val"),
        (IssueKind.IMAGE_LEAKED, "train", "test"),
        (IssueKind.IMAGE_SHARED, "val", "test"),
    ]
    groups = []
    for kind, first, second in pairs:
        if first not in indexes or second not in indexes:
            continue
        copies = [
            (firsts[first][content], position)
            for position, content in enumerate(contents[second])
            if content in firsts[first] and (first, firsts[first][content]) != (second, position)
        ]
        issues = [
            _copy_issue(kind, first, indexes[first], original, indexes[second], copy)
            for original, copy in copies[:MAX_EXAMPLES]
        ]
        groups += group_issues(issues, second, count=len(copies))
    return groups


def _copy_issue(
    kind: IssueKind,
    split: str,
    index: DatasetIndex,
    original: int,
    copy_index: DatasetIndex,
    copy: int,
) -> Issue:
    path = copy_index.image_path(copy)
    same = "the same file as" if index.image_path(original) == path else "the same bytes as"
    detail = f"{same} {index.file_names[original]} of {split}"
    images = (with_boxes(index, original), with_boxes(copy_index, copy))
    return Issue(kind, path, None, detail, images=images)


def paths_of(index: DatasetIndex) -> list[str]:
    """Returns (I,) absolute paths without '..'."""
    return [os.path.normpath(os.path.join(index.root, name)) for name in index.file_names.tolist()]


def with_boxes(index: DatasetIndex, position: int) -> ImageBoxes:
    """Returns an image with all its boxes."""
    boxes: list[Box] = [
        (x0, y0, x1, y1) for x0, y0, x1, y1 in index.boxes_xyxy[index.gt_rows(position)].tolist()
    ]
    return ImageBoxes(str(index.image_path(position)), tuple(boxes))


def _read_image(path: str, size_wh: tuple[int, int], *, hashed: bool, decoded: bool) -> ImageState:
    sha256, orientation, file = None, 1, Path(path)
    try:
        if hashed:
            sha256 = _sha256(path)
        header = read_header(file)
        found_wh, orientation = header.size_wh, header.orientation
        if found_wh != tuple(size_wh):
            kind = IssueKind.IMAGE_OTHER_SIZE
            detail = f"{found_wh[0]}x{found_wh[1]} pixels, annotated as {size_wh[0]}x{size_wh[1]}"
            return ImageState(kind, detail, orientation, sha256)
        if not decoded:
            return ImageState()
        decode_image(file, reduce_to=_MIN_DECODED_SIDE, size_wh=size_wh)
    except (DataError, OSError) as error:
        kind = IssueKind.IMAGE_UNREADABLE
        if not os.path.isfile(path):
            detail = "no such file"
        elif is_truncated(file):
            kind, detail = IssueKind.IMAGE_TRUNCATED, "the end of the file is missing"
        elif isinstance(error, DataError):
            detail = error.found or error.reason
        else:
            detail = os_reason(error)
        return ImageState(kind, detail, orientation, sha256)
    return ImageState(None, "", orientation, sha256)


def is_truncated(path: Path) -> bool:
    """Returns whether a file begins as a JPEG, PNG, WebP or BMP and its end is missing."""
    try:
        data = read_regular(path, most_bytes=_MAX_BYTES)
    except OSError:
        return False
    if data.startswith(b"\xff\xd8\xff"):
        # Behind the last start of scan: a thumbnail in the header has an end of its own.
        scan = data.rfind(b"\xff\xda")
        return scan < 0 or data.find(b"\xff\xd9", scan) < 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data
    if data.startswith(b"RIFF"):
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _sha256(path: str) -> bytes:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.digest()


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
