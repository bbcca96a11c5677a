"""Issues of boxes, classes, label files and images that reading a split does not report.

Dimensions: I images of a split, N annotations.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.annotations import DatasetIndex, IndexReport, duplicate_boxes, paths_of
from ossa.data.decode import decode_image, read_header
from ossa.data.description import DataDescription
from ossa.data.formats.common import shown
from ossa.data.groups import gradients, much_alike
from ossa.data.issues import MAX_EXAMPLES, ImageBoxes, Issue, IssueGroup, IssueKind, group_issues
from ossa.data.paths import annotation_places, is_image, label_places, names_in
from ossa.data.reading import SMALLEST_DECODE, TINY_SIDE
from ossa.errors import CheckpointError, DataError
from ossa.files import read_regular, sha256_of

COVERING_FRACTION: Final = 0.99
"""Of the image's area."""
RARE: Final = 100
"""A class is rare if the most frequent one has more than this many times its boxes."""
_NO_LABELS: Final = frozenset({"classes.txt"})
"""Files that annotation tools leave beside the labels."""
_MAX_BYTES: Final = 2_000_000_000

ClassCounts = Mapping[str, Mapping[str, int]]
"""The boxes that train, neither crowd nor difficult, by class name and by split."""


# Boxes and classes.


def find_strange_boxes(
    index: DatasetIndex, split: str, *, imgsz: int, description: DataDescription
) -> list[IssueGroup]:
    """Returns groups of boxes that are duplicates, tiny, or cover their images; no crowds."""
    sizes_wh = sizes_at_input_wh(index, imgsz)
    sides = np.where(index.crowd, np.inf, sizes_wh.min(axis=1, initial=np.inf))
    images_wh = index.sizes_wh * (imgsz / index.sizes_wh.max(axis=1, keepdims=True))
    covered = sizes_wh.prod(axis=1) / images_wh.prod(axis=1)[index.gt_image_positions()]
    covered[index.crowd] = 0
    places = _places_of(description)

    def group(
        kind: IssueKind,
        rows: NDArray[np.intp],
        detail_of: Callable[[int], str],
        note: str = "",
    ) -> list[IssueGroup]:
        issues = []
        for row in rows[:MAX_EXAMPLES].tolist():
            position = int(np.searchsorted(index.gt_offsets, row, side="right")) - 1
            box, image = tuple(index.boxes_xyxy[row].tolist()), str(index.image_path(position))
            detail = f"box {shown(box)}, {index.names[index.labels[row]]}, {detail_of(row)}"
            if description.format == "coco":  # one JSON file, in which ids identify the box
                path = description.splits[split].sources[0]
                ids = f"annotation {index.annotation_ids[row]} of image {index.image_ids[position]}"
                detail = f"{ids}: {detail}"
            else:
                candidates = places(image)
                path = Path(next(filter(os.path.exists, candidates), candidates[0]))
            issues.append(Issue(kind, path, None, detail, images=(ImageBoxes(image, (box,)),)))
        return group_issues(issues, split, count=len(rows), note=note)

    by_side, by_cover = np.argsort(sides, kind="stable"), np.argsort(-covered, kind="stable")
    return [
        *group(
            IssueKind.BOX_DUPLICATED,
            np.flatnonzero(duplicate_boxes(index)),
            lambda _row: "stated twice",
        ),
        *group(
            IssueKind.BOX_TINY,
            by_side[sides[by_side] < TINY_SIDE],
            lambda row: f"{sides[row]:.2g} px at {imgsz}",
            f"a side under {TINY_SIDE:g} px at {imgsz}",
        ),
        *group(
            IssueKind.BOX_COVERING,
            by_cover[covered[by_cover] >= COVERING_FRACTION],
            lambda row: f"{covered[row]:.1%} of the image",
            f"{COVERING_FRACTION:.0%} or more",
        ),
    ]


def count_classes(indexes: Mapping[str, DatasetIndex]) -> ClassCounts:
    """Returns the boxes of every class in every split; 0 where a split lacks the class."""
    names = dict.fromkeys(name for index in indexes.values() for name in index.names)
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(indexes, 0) for name in names}
    for split, index in indexes.items():
        boxes = np.bincount(index.labels[index.trains], minlength=len(index.names)).tolist()
        for name, number in zip(index.names, boxes, strict=True):
            counts[name][split] = number
    return counts


def find_strange_classes(counts: ClassCounts, data_yaml: Path) -> list[IssueGroup]:
    """Returns groups of classes that are unused, untrained, unevaluated or rare.

    A data set with one split has no untrained and no unevaluated classes. Rare are classes of
    train, or of the first split if there is no train.
    """
    splits = list(next(iter(counts.values()), {}))
    others = [split for split in splits if split != "train"]
    issues = []
    for name, boxes in counts.items():
        trained = boxes.get("train", 0)
        if not any(boxes.values()):
            issues.append(Issue(IssueKind.CLASS_UNUSED, data_yaml, None, name))
        elif "train" in splits and not trained:
            evaluated = ", ".join(f"in {split} {boxes[split]}" for split in others)
            detail = f"{name}: boxes in train 0, {evaluated}"
            issues.append(Issue(IssueKind.CLASS_UNTRAINED, data_yaml, None, detail))
        elif "val" in splits and trained and not boxes["val"]:
            detail = f"{name}: boxes in train {trained}, in val 0"
            issues.append(Issue(IssueKind.CLASS_UNEVALUATED, data_yaml, None, detail))
    split = "train" if "train" in splits else next(iter(splits), "")
    boxes = {name: of_split[split] for name, of_split in counts.items() if of_split.get(split)}
    frequent = max(boxes, key=lambda name: boxes[name], default="")
    rare = [
        Issue(
            IssueKind.CLASS_IMBALANCE,
            data_yaml,
            None,
            f"boxes of {name} {boxes[name]}, of {frequent} {boxes[frequent]}",
        )
        for name in sorted(boxes, key=lambda name: boxes[name])
        if boxes[frequent] > RARE * boxes[name]
    ]
    return [*group_issues(issues, None), *group_issues(rare, split, note=f"under 1 to {RARE}")]


# Label files.


def find_unlabelled(split: str, report: IndexReport, *, data_format: str) -> list[IssueGroup]:
    """Returns a group of the images that are background because they have no labels.

    These have no label file in YOLO (an empty one says that there is nothing), no annotation in
    COCO. VOC's reader leaves out an image without a file, and reports it.
    """
    if data_format == "voc":
        return []
    kind = IssueKind.IMAGE_BACKGROUND
    detail = "no label file" if data_format == "yolo" else "no annotation"
    issues = (
        Issue(kind, Path(image), None, detail, images=(ImageBoxes(image),))
        for image in report.labels.unlabelled
    )
    return group_issues(issues, split)


def find_orphaned_labels(
    description: DataDescription, reports: Mapping[str, IndexReport]
) -> list[IssueGroup]:
    """Returns a group of the label files whose image is missing, in the folders that have labels.

    The label file of an image that no split lists is not one of them. COCO has no label files: its
    reader reports annotations of unknown images.
    """
    if description.format == "coco":
        return []
    places, suffix = _places_of(description), ".txt" if description.format == "yolo" else ".xml"
    lists = {str(path) for source in description.splits.values() for path in source.sources}
    images = [path for report in reports.values() for path in paths_of(report.index)]
    expected: set[str] = set()
    images_of: dict[str, set[str]] = {}
    for folder in {os.path.dirname(image) for image in images}:
        names = ["_", *filter(is_image, names_in(folder))]
        found = {place for name in names for place in places(os.path.join(folder, name))}
        expected |= found
        for labels in set(map(os.path.dirname, found)):
            images_of.setdefault(labels, set()).add(folder)
    issues = []
    for folder in sorted({place for report in reports.values() for place in report.labels.places}):
        found = {os.path.join(folder, name) for name in names_in(folder) if name.endswith(suffix)}
        beside = images_of.get(folder, set())
        if folder in beside and not found & expected:
            continue  # these text files beside images are no labels
        for path in map(Path, sorted(found - expected - lists)):
            if path.name not in _NO_LABELS:
                detail = f"no image '{path.stem}' in {' and '.join(sorted(beside))}"
                issues.append(Issue(IssueKind.LABELS_WITHOUT_IMAGE, path, None, detail))
    return group_issues(issues, None)


def _places_of(description: DataDescription) -> Callable[[str], tuple[str, ...]]:
    return label_places if description.format == "yolo" else annotation_places


# Images: what their files hold, and which of them are the same.


@dataclass(frozen=True)
class ImageState:
    """What was found in the file of an image."""

    kind: IssueKind | None = None
    """Why it cannot be used; None if it can."""
    detail: str = ""
    orientation: int = 1
    """As EXIF has it, 1..8."""
    sha256: str | None = None
    """Of the file, if another file has the same length."""
    gradients: NDArray[np.bool_] | None = None
    """What `ossa.data.groups` compares images by; None if it was not decoded."""


def read_images(
    indexes: Iterable[DatasetIndex],
    *,
    threads: int,
    headers_only: bool,
    on_image: Callable[[int, int], None],
) -> dict[str, ImageState]:
    """Returns the state of every image file by its path, also where it is in two splits.

    With `headers_only` it looks for what has another size than annotated, and no further.
    """
    sizes_wh: dict[str, Sequence[int]] = {}
    for index in indexes:
        sizes_wh.update(zip(paths_of(index), index.sizes_wh.tolist(), strict=True))
    lengths = {path: os.stat(path).st_size if os.path.exists(path) else -1 for path in sizes_wh}
    counts = Counter(lengths.values())

    def read(path: str) -> ImageState:
        hashed = not headers_only and counts[lengths[path]] > 1
        return _read_image(path, sizes_wh[path], hashed=hashed, decoded=not headers_only)

    states: dict[str, ImageState] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for path, state in zip(sizes_wh, pool.map(read, sizes_wh), strict=True):
            states[path] = state
            on_image(len(states), len(sizes_wh))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for no other image
    return states


def _read_image(path: str, size_wh: Sequence[int], *, hashed: bool, decoded: bool) -> ImageState:
    sha256, orientation, file = None, 1, Path(path)
    width, height = size_wh
    try:
        if hashed:
            sha256 = sha256_of(file)
        header = read_header(file)
        orientation = header.orientation
        if header.size_wh != (width, height):
            found = "{}x{} pixels, annotated as {}x{}".format(*header.size_wh, width, height)
            return ImageState(IssueKind.IMAGE_OTHER_SIZE, found, orientation, sha256)
        if not decoded:
            return ImageState()
        image = decode_image(file, reduce_to=SMALLEST_DECODE, size_wh=(width, height))
    except (DataError, CheckpointError) as error:
        kind, detail = IssueKind.IMAGE_UNREADABLE, error.found or error.reason
        if not file.is_file():
            detail = "no such file"
        elif is_truncated(file):
            kind, detail = IssueKind.IMAGE_TRUNCATED, "the end of the file is missing"
        return ImageState(kind, detail, orientation, sha256)
    return ImageState(None, "", orientation, sha256, gradients(image))


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
    return data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little")


def find_broken_images(
    index: DatasetIndex, split: str, states: Mapping[str, ImageState]
) -> list[IssueGroup]:
    """Returns groups of images that cannot be used, and of those that EXIF rotates."""
    issues = []
    for position, path in enumerate(paths_of(index)):
        state = states[path]
        kind, detail, image = state.kind, state.detail, ImageBoxes(path)
        if kind is None and state.orientation > 1:
            kind, detail = IssueKind.IMAGE_ROTATED, f"EXIF orientation {state.orientation}"
            image = with_boxes(index, position)
        if kind is not None:
            issues.append(Issue(kind, Path(path), None, detail, images=(image,)))
    return group_issues(issues, split)


def find_copies(
    indexes: Mapping[str, DatasetIndex], states: Mapping[str, ImageState]
) -> list[IssueGroup]:
    """Returns groups of images that are twice in a split, or in two splits.

    Images are the same if their files have the same bytes as far as `states` has the hashes, else
    if they have the same path.
    """
    contents = {
        split: [states.get(path, ImageState()).sha256 or path for path in paths_of(index)]
        for split, index in indexes.items()
    }
    firsts = {
        split: {content: position for position, content in reversed([*enumerate(found)])}
        for split, found in contents.items()
    }
    pairs = [(IssueKind.IMAGE_DUPLICATED, split, split) for split in indexes]
    pairs += [
        (IssueKind.IMAGE_LEAKED, "train", "val"),
        (IssueKind.IMAGE_LEAKED, "train", "test"),
        (IssueKind.IMAGE_SHARED, "val", "test"),
    ]
    groups = []
    for kind, first, second in pairs:
        copies = [
            (firsts[first][content], position)
            for position, content in enumerate(contents.get(second, ()))
            if content in firsts.get(first, ())
            and (first, firsts[first][content]) != (second, position)
        ]
        issues = []
        for original, copy in copies[:MAX_EXAMPLES]:
            images = with_boxes(indexes[first], original), with_boxes(indexes[second], copy)
            same = "file" if images[0].image == images[1].image else "bytes"
            detail = f"the same {same} as {indexes[first].file_names[original]} of {first}"
            issues.append(Issue(kind, Path(images[1].image), None, detail, images=images))
        groups += group_issues(issues, second, count=len(copies))
    return groups


def find_dependent_images(
    index: DatasetIndex, split: str, states: Mapping[str, ImageState]
) -> list[IssueGroup]:
    """Returns a group of images much like their neighbour by name, if they are not rare.

    None if the data.yaml names groups, and for train, whose images need not be independent.
    """
    if split == "train" or index.groups is not None:
        return []
    looks = {path: s.gradients for path, s in states.items() if s.gradients is not None}
    pairs = much_alike(paths_of(index), looks)
    kind = IssueKind.IMAGES_DEPENDENT
    issues = [
        Issue(kind, Path(b), None, f"much like {a}", images=(ImageBoxes(a), ImageBoxes(b)))
        for a, b in pairs[:MAX_EXAMPLES]
    ]
    return group_issues(issues, split, count=len(pairs))


def with_boxes(index: DatasetIndex, position: int) -> ImageBoxes:
    """Returns an image with all its boxes."""
    boxes = tuple(map(tuple, index.boxes_xyxy[index.gt_rows(position)].tolist()))
    return ImageBoxes(str(index.image_path(position)), boxes)
