"""Classes that no box has, that are not trained or not evaluated, and that are rare.

Dimensions: K classes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, IndexReport
from ossa.data.check_boxes import find_strange_boxes
from ossa.data.check_images import (
    ImageState,
    find_broken_images,
    find_copies,
    number_contents,
    paths_of,
    read_images,
)
from ossa.data.check_labels import find_lost_labels, find_unlabelled
from ossa.data.description import DataDescription
from ossa.data.issues import (
    Issue,
    IssueGroup,
    IssueKind,
    Severity,
    group_issues,
    merge_groups,
)
from ossa.data.reading import drop_corrupt_images, read_index, training_faults
from ossa.data.statistics import Statistics, describe
from ossa.errors import DataError

RARE: Final = 100
"""A class is rare where the most frequent one has more than so many times its boxes."""

ClassCounts = Mapping[str, Mapping[str, int]]
"""The boxes that train, neither crowd nor difficult, by class name and by split."""


def count_classes(indexes: Mapping[str, DatasetIndex]) -> ClassCounts:
    """Returns the boxes of every class in every split; a name that a split has not counts 0."""
    names = dict.fromkeys(name for index in indexes.values() for name in index.names)
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(indexes, 0) for name in names}
    for split, index in indexes.items():
        labels = index.labels[~(index.crowd | index.difficult)]
        boxes = np.bincount(labels, minlength=len(index.names)).tolist()
        for name, number in zip(index.names, boxes, strict=True):
            counts[name][split] = number
    return counts


def find_strange_classes(counts: ClassCounts, data_yaml: Path) -> list[IssueGroup]:
    """Returns groups of classes that are unused, untrained, unevaluated or rare.

    What needs two splits is not said of a data set that has one alone.

    Args:
        counts: from `count_classes`.
        data_yaml: where classes are named.
    """
    splits = next(iter(counts.values()), {}).keys()
    unused, untrained, unevaluated = [], [], []
    for name, of_split in counts.items():
        evaluated = [f"in {split} {of_split[split]}" for split in splits if split != "train"]
        scored = any(number for split, number in of_split.items() if split != "train")
        trained = of_split.get("train", 0)
        if not any(of_split.values()):
            unused.append(name)
        elif "train" in splits and scored and not trained:
            untrained.append(f"{name}: boxes in train 0, {', '.join(evaluated)}")
        elif "val" in splits and trained and not of_split["val"]:
            unevaluated.append(f"{name}: boxes in train {trained}, in val 0")
    found = {
        IssueKind.CLASS_UNTRAINED: untrained,
        IssueKind.CLASS_UNEVALUATED: unevaluated,
        IssueKind.CLASS_UNUSED: unused,
    }
    issues = [
        Issue(kind, data_yaml, None, detail)
        for kind, details in found.items()
        for detail in details
    ]
    return group_issues(issues, None) + _find_rare(counts, data_yaml)


def _find_rare(counts: ClassCounts, data_yaml: Path) -> list[IssueGroup]:
    """Returns a group of the rare classes of train, or of the first split where there is none."""
    splits = list(next(iter(counts.values()), {}))
    if not splits:
        return []
    split = "train" if "train" in splits else splits[0]
    boxes = {name: of_split[split] for name, of_split in counts.items() if of_split[split]}
    if not boxes:
        return []
    frequent = max(boxes, key=lambda name: boxes[name])
    rare = sorted(
        (name for name in boxes if boxes[frequent] > RARE * boxes[name]),
        key=lambda name: boxes[name],
    )
    details = [f"boxes of {name} {boxes[name]}, of {frequent} {boxes[frequent]}" for name in rare]
    issues = [Issue(IssueKind.CLASS_IMBALANCE, data_yaml, None, detail) for detail in details]
    return group_issues(issues, split, note=f"under 1 to {RARE}")


LOW_RECALL: Final = 0.98
"""Best possible recall below which the anchors are remarked upon; YOLOv5 fits its own below it."""


@dataclass(frozen=True)
class Check:
    """A data set and what was found in it."""

    description: DataDescription
    imgsz: int
    anchors_wh: NDArray[np.floating]
    """(L, A, 2) in pixels of the network input."""
    anchor_ratio: float
    reports: Mapping[str, IndexReport]
    """By split."""
    issues: tuple[IssueGroup, ...]
    """Errors first."""
    statistics: Mapping[str, Statistics]
    """By split."""
    classes: ClassCounts
    images: Mapping[str, ImageState] = field(default_factory=lambda: MappingProxyType({}))
    """By path; empty where no image was read."""

    @property
    def num_errors(self) -> int:
        return sum(one.count for one in self.issues if one.kind.severity is Severity.ERROR)

    @property
    def num_warnings(self) -> int:
        """Of severity WARNING or INFO."""
        return sum(one.count for one in self.issues) - self.num_errors

    @property
    def num_stops(self) -> int:
        """Errors for which `ossa train` stops."""
        return sum(
            one.count
            for one in self.issues
            if one.kind.stops_training and one.kind.severity is Severity.ERROR
        )

    @property
    def indexes(self) -> dict[str, DatasetIndex]:
        return {split: report.index for split, report in self.reports.items()}

    def contents(self) -> dict[str, NDArray[np.int64]]:
        """Returns by split a number for every image, equal where the image is known to be."""
        return number_contents(self.indexes, self.images)

    def as_dict(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return {
            "data": str(self.description.file),
            "format": self.description.format,
            "imgsz": self.imgsz,
            "images_read": len(self.images),
            "num_faults": self.num_errors,
            "num_stops": self.num_stops,
            "num_remarks": self.num_warnings,
            "findings": [group.as_dict() for group in self.issues],
            "splits": {split: one.as_dict() for split, one in self.statistics.items()},
            "classes": [{"name": name, **counts} for name, counts in self.classes.items()],
        }


def check_data(
    description: DataDescription,
    *,
    imgsz: int,
    anchors_wh: NDArray[np.floating],
    anchor_ratio: float = 4.0,
    images: bool = False,
    threads: int = 2,
    crowding_of: Callable[[DatasetIndex], Mapping[str, int]] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Check:
    """Returns what is wrong, strange and notable in a data set; nothing is written.

    Args:
        description: from `read_description`.
        imgsz: side of the square network input at which sizes count.
        anchors_wh: (L, A, 2) in pixels of the network input.
        anchor_ratio: factor within which a box belongs to an anchor.
        images: decode every image, and compare those of equal length by their sha256.
        threads: that decode at the same time.
        crowding_of: counts the boxes of a split by how they stand.
        on_image: called with the number of images read and their total.

    Raises:
        DataError: a split cannot be read at all, other than 'test', which no training needs.
    """
    reports, unread = _read_splits(description)
    indexes = {split: report.index for split, report in reports.items()}
    states = {}
    if images or description.format == "coco":  # which alone is read without looking at images
        states = read_images(
            indexes.values(), threads=threads, headers_only=not images, on_image=on_image
        )
    statistics = {
        split: describe(
            index,
            imgsz=imgsz,
            anchors_wh=anchors_wh,
            anchor_ratio=anchor_ratio,
            crowding={} if crowding_of is None else crowding_of(index),
        )
        for split, index in indexes.items()
    }
    classes = count_classes(indexes)
    groups = [
        *unread,
        *_of_training(description, reports, states, imgsz=imgsz),
        *find_lost_labels(description, indexes),
        *find_strange_classes(classes, description.file),
        *find_copies(indexes, number_contents(indexes, states)),
    ]
    for split, report in reports.items():
        groups += _of_reading(report, split)
        groups += find_unlabelled(split, report, data_format=description.format)
        groups += find_strange_boxes(report.index, split, imgsz=imgsz, description=description)
        groups += _of_anchors(statistics[split], split, description.file, imgsz=imgsz)
        if states:
            groups += find_broken_images(report.index, split, states)
    return Check(
        description,
        imgsz,
        anchors_wh,
        anchor_ratio,
        reports,
        merge_groups(groups),
        statistics,
        classes,
        images=states if images else {},
    )


def _read_splits(
    description: DataDescription,
) -> tuple[dict[str, IndexReport], list[IssueGroup]]:
    """Returns the splits that can be read, and a group where 'test' cannot."""
    reports: dict[str, IndexReport] = {}
    unread = dict(description.missing)
    for split in description.splits:
        try:
            reports[split] = read_index(description, split)
        except DataError as error:
            if split != "test" or not reports:
                raise
            unread[split] = str(error)
    groups = []
    for split, why in unread.items():
        detail, kind = why.rstrip("."), IssueKind.SPLIT_WITHOUT_BOXES
        issue = Issue(kind, description.file, None, detail, "nothing is scored")
        groups += group_issues([issue], split)
    return reports, groups


def _of_training(
    description: DataDescription,
    reports: Mapping[str, IndexReport],
    states: Mapping[str, ImageState],
    *,
    imgsz: int,
) -> list[IssueGroup]:
    """Returns groups of why `ossa train` would stop, leaving broken images out as it does."""
    issues, usable = [], {}
    for split, report in reports.items():
        found = [states.get(path) for path in paths_of(report.index)]
        known = [None if one is None or one.kind is None else one.what for one in found]
        try:
            usable[split] = drop_corrupt_images(report, known=known)
        except DataError as error:
            what, kind = str(error).rstrip("."), IssueKind.IMAGES_UNUSABLE
            issues.append(Issue(kind, description.file, None, what, "training stops"))
    issues += training_faults(description, usable, imgsz=imgsz)
    return group_issues(issues, None)


def _of_reading(report: IndexReport, split: str) -> list[IssueGroup]:
    """Returns groups of what reading reported, the boxes that overhang most first."""
    sizes_wh = dict(zip(paths_of(report.index), report.index.sizes_wh.tolist(), strict=True))
    issues = sorted(report.issues, key=lambda issue: -_pixels_beyond(issue, sizes_wh))
    return group_issues(issues, split)


def _pixels_beyond(issue: Issue, sizes_wh: Mapping[str, Sequence[int]]) -> float:
    """Returns how far the box of an overhanging one reaches out of its image, else 0."""
    if issue.kind is not IssueKind.BOX_OVERHANGING or not issue.images:
        return 0.0
    shown = issue.images[0]
    size_wh = sizes_wh.get(os.path.normpath(shown.image))
    if size_wh is None:
        return 0.0
    x0, y0, x1, y1 = shown.boxes_xyxy[0]
    return max(-x0, -y0, x1 - size_wh[0], y1 - size_wh[1])


def _of_anchors(
    statistics: Statistics, split: str, data_yaml: Path, *, imgsz: int
) -> list[IssueGroup]:
    recall = statistics.best_possible_recall
    if split != "train" or recall is None or recall >= LOW_RECALL:
        return []
    boxes = statistics.num_boxes - statistics.num_difficult
    what = f"best possible recall {recall:.4f} at {imgsz} px, under {LOW_RECALL}"
    issue = Issue(IssueKind.ANCHORS_MISFIT, data_yaml, None, what)
    return group_issues([issue], split, count=round(boxes * (1 - recall)))
