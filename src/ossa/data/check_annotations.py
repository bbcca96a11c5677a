"""Issues of boxes, classes and label files that reading a split does not report.

Dimensions: I images, N annotations.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.annotations import DatasetIndex, IndexReport
from ossa.data.description import DataDescription
from ossa.data.formats.common import shown
from ossa.data.formats.paths import (
    annotation_places,
    folders_under,
    is_image,
    label_places,
    names_in,
)
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import MAX_EXAMPLES, ImageBoxes, Issue, IssueGroup, group_issues
from ossa.data.statistics import duplicate_boxes

TINY_SIDE: Final = 2.0
"""Pixels of the network input: a detector of stride 8 sees nothing of a shorter side below it."""
COVERING_FRACTION: Final = 0.99
"""Of the image's area."""
RARE: Final = 100
"""A class is rare if the most frequent one has more than this many times its boxes."""
_NO_LABELS: Final = frozenset({"classes.txt"})
"""Files that annotation tools leave beside the labels."""

ClassCounts = Mapping[str, Mapping[str, int]]
"""The boxes that train, neither crowd nor difficult, by class name and by split."""


def find_strange_boxes(
    index: DatasetIndex, split: str, *, imgsz: int, description: DataDescription
) -> list[IssueGroup]:
    """Returns groups of boxes that are duplicates, tiny, or cover their images; no crowd regions.

    Args:
        index: of the split.
        split: its name.
        imgsz: side of the square network input.
        description: of the data set.
    """
    sizes_wh = sizes_at_input_wh(index, imgsz)
    sides = np.where(index.crowd, np.inf, sizes_wh.min(axis=1, initial=np.inf))
    images_wh = index.sizes_wh * (imgsz / index.sizes_wh.max(axis=1, keepdims=True))
    covered = sizes_wh.prod(axis=1) / images_wh.prod(axis=1)[index.gt_image_positions()]
    covered[index.crowd] = 0
    tiny = np.flatnonzero(sides < TINY_SIDE)
    tiny = tiny[np.argsort(sides[tiny], kind="stable")]
    covering = np.flatnonzero(covered >= COVERING_FRACTION)
    covering = covering[np.argsort(-covered[covering], kind="stable")]
    duplicates = np.flatnonzero(duplicate_boxes(index))

    def group(
        kind: IssueKind, rows: NDArray[np.intp], details: list[str], note: str = ""
    ) -> list[IssueGroup]:
        examples = zip(rows[:MAX_EXAMPLES].tolist(), details, strict=False)
        issues = [_box_issue(kind, index, row, what, description, split) for row, what in examples]
        return group_issues(issues, split, count=len(rows), note=note)

    return [
        *group(IssueKind.BOX_DUPLICATED, duplicates, ["stated twice"] * MAX_EXAMPLES),
        *group(
            IssueKind.BOX_TINY,
            tiny,
            [f"{side:.2g} px at {imgsz}" for side in sides[tiny[:MAX_EXAMPLES]]],
            f"a side under {TINY_SIDE:g} px at {imgsz}",
        ),
        *group(
            IssueKind.BOX_COVERING,
            covering,
            [f"{part:.1%} of the image" for part in covered[covering[:MAX_EXAMPLES]]],
            f"{COVERING_FRACTION:.0%} or more",
        ),
    ]


def _box_issue(
    kind: IssueKind,
    index: DatasetIndex,
    row: int,
    what: str,
    description: DataDescription,
    split: str,
) -> Issue:
    position = int(np.searchsorted(index.gt_offsets, row, side="right")) - 1
    x0, y0, x1, y1 = index.boxes_xyxy[row].tolist()
    name, image = index.names[index.labels[row]], str(index.image_path(position))
    detail = f"box {shown((x0, y0, x1, y1))}, {name}, {what}"
    if description.format == "coco":  # one JSON file, in which ids identify the box
        path = description.splits[split].sources[0]
        ids = f"annotation {index.annotation_ids[row]} of image {index.image_ids[position]}"
        detail = f"{ids}: {detail}"
    else:
        places = _label_places(description)(image)
        path = Path(next((place for place in places if os.path.exists(place)), places[0]))
    return Issue(kind, path, None, detail, images=(ImageBoxes(image, ((x0, y0, x1, y1),)),))


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

    A data set with one split has no untrained and no unevaluated classes.

    Args:
        counts: from `count_classes`.
        data_yaml: where classes are named.
    """
    splits = list(next(iter(counts.values()), {}))
    others = [split for split in splits if split != "train"]
    issues = []
    for name, boxes in counts.items():
        trained = boxes.get("train", 0)
        kind, detail = None, name
        if not any(boxes.values()):
            kind = IssueKind.CLASS_UNUSED
        elif "train" in splits and not trained:
            kind = IssueKind.CLASS_UNTRAINED
            evaluated = ", ".join(f"in {split} {boxes[split]}" for split in others)
            detail = f"{name}: boxes in train 0, {evaluated}"
        elif "val" in splits and trained and not boxes["val"]:
            kind = IssueKind.CLASS_UNEVALUATED
            detail = f"{name}: boxes in train {trained}, in val 0"
        if kind is not None:
            issues.append(Issue(kind, data_yaml, None, detail))
    return group_issues(issues, None) + _find_rare(counts, splits, data_yaml)


def _find_rare(counts: ClassCounts, splits: list[str], data_yaml: Path) -> list[IssueGroup]:
    """Returns the rare classes of train, or of the first split if there is no train."""
    split = "train" if "train" in splits else next(iter(splits), "")
    boxes = {name: of_split[split] for name, of_split in counts.items() if of_split.get(split)}
    frequent = max(boxes, key=lambda name: boxes[name], default="")
    rare = [name for name in boxes if boxes[frequent] > RARE * boxes[name]]
    issues = [
        Issue(
            IssueKind.CLASS_IMBALANCE,
            data_yaml,
            None,
            f"boxes of {name} {boxes[name]}, of {frequent} {boxes[frequent]}",
        )
        for name in sorted(rare, key=lambda name: boxes[name])
    ]
    return group_issues(issues, split, note=f"under 1 to {RARE}")


def find_unlabelled(split: str, report: IndexReport, *, data_format: str) -> list[IssueGroup]:
    """Returns a group of the images that are background because they have no labels.

    These have no label file in YOLO (an empty one says that there is nothing), no annotation in
    COCO. VOC's reader leaves out an image without a file, and reports it.
    """
    if data_format == "voc":
        return []
    detail = "no label file" if data_format == "yolo" else "no annotation"
    kind = IssueKind.IMAGE_BACKGROUND
    return group_issues(
        (
            Issue(kind, Path(image), None, detail, images=(ImageBoxes(image),))
            for image in report.labels.unlabelled
        ),
        split,
    )


def find_orphaned_labels(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> list[IssueGroup]:
    """Returns a group of the label files of all splits whose image is missing.

    The label file of an image that no split lists is not one of them. COCO has no label files: its
    reader reports annotations of unknown images.

    Args:
        description: of the data set.
        indexes: of its splits.
    """
    if description.format == "coco":
        return []
    lists = {str(path) for source in description.splits.values() for path in source.sources}
    suffix = ".txt" if description.format == "yolo" else ".xml"
    image_folders: dict[str, set[str]] = {}
    for labels, images in _label_folders(description, indexes):
        image_folders.setdefault(labels, set()).add(images)
    issues = []
    for labels, folders in sorted(image_folders.items()):
        names = [name for folder in folders for name in _names(folder)]
        names.sort(key=is_image)  # an image comes last and replaces other files of its stem
        files = {os.path.splitext(name)[0]: name for name in names if not name.endswith(suffix)}
        images = " and ".join(sorted(folders))
        if labels == images and not any(f"{stem}{suffix}" in names for stem in files):
            continue  # these text files beside images are no labels
        for name in sorted(_names(labels)):
            stem, found = os.path.splitext(name)
            path = os.path.join(labels, name)
            is_label = found == suffix and name not in _NO_LABELS and path not in lists
            beside = files.get(stem)
            if is_label and (beside is None or not is_image(beside)):
                other = "" if beside is None else f", and {beside} is not read"
                detail = f"no image '{stem}' in {images}{other}"
                issues.append(Issue(IssueKind.LABELS_WITHOUT_IMAGE, Path(path), None, detail))
    return group_issues(issues, None)


def _label_folders(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> Iterator[tuple[str, str]]:
    """Yields folders of labels and of their images; a folder may be both."""
    places = _label_places(description)
    for source in description.splits.values():
        for folder in source.sources:
            for place in places(str(folder / "_")) if folder.is_dir() else ():
                top = os.path.dirname(place)
                for parent, _ in folders_under(top) if os.path.isdir(top) else ():
                    yield parent, os.path.normpath(folder / os.path.relpath(parent, top))
    for index in indexes.values():
        for folder in {os.path.dirname(name) for name in index.file_names.tolist()}:
            images = os.path.normpath(os.path.join(index.root, folder))
            for place in places(os.path.join(images, "_")):
                yield os.path.dirname(place), images


def _label_places(description: DataDescription) -> Callable[[str], tuple[str, ...]]:
    return label_places if description.format == "yolo" else annotation_places


def _names(folder: str) -> list[str]:
    return names_in(folder) if os.path.isdir(folder) else []
