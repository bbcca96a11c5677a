"""`ossa data check`: what is wrong, strange and notable in a data set, and what it is like.

Dimensions: I images, N annotations.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.anchors import best_possible_recall, sizes_at_input_wh
from ossa.data.annotations import DatasetIndex, IndexReport
from ossa.data.check_issues import (
    ClassCounts,
    ImageState,
    count_classes,
    find_broken_images,
    find_copies,
    find_dependent_images,
    find_orphaned_labels,
    find_strange_boxes,
    find_strange_classes,
    find_unlabelled,
    paths_of,
    read_images,
)
from ossa.data.description import DataDescription
from ossa.data.issues import Issue, IssueGroup, IssueKind, Severity, group_issues, merge_groups
from ossa.data.reading import drop_corrupt_images, read_index, training_faults
from ossa.errors import DataError

LOW_RECALL: Final = 0.98
"""Best possible recall below which anchors are reported; YOLOv5 fits its own below it."""
SIZE_LIMITS: Final = (32.0, 96.0)
"""Sides of squares in pixels: COCO's small ends at the first, its large begins at the second."""
SIZE_NAMES: Final = ("small", "medium", "large")
_QUANTILES: Final = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Statistics:
    """What the boxes of a split are like; crowd regions are counted in `num_crowd` alone."""

    num_images: int
    num_background: int
    """Images without an annotation."""
    num_boxes: int
    """Difficult ones included."""
    num_crowd: int
    num_difficult: int
    sizes: Mapping[str, int]
    """Boxes that COCO calls small, medium and large at the network's input: by their own area
    where they state one, as COCO counts it."""
    sizes_in_files: Mapping[str, int]
    """The same in pixels of the original images, which is how COCO's AP counts them."""
    boxes_per_image: Mapping[str, float]
    """Mean and quantiles, over all images."""
    crowding: Mapping[str, int]
    """Boxes by how they stand; empty where nobody counts them."""
    aspect_ratios: Mapping[str, float]
    """Quantiles of width over height."""
    best_possible_recall: float | None
    """Fraction 0..1 of the boxes that train that some anchor answers for; None without any."""


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
    num_images_read: int

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

    def as_dict(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return {
            "data": str(self.description.file),
            "format": self.description.format,
            "imgsz": self.imgsz,
            "images_read": self.num_images_read,
            "num_faults": self.num_errors,
            "num_stops": self.num_stops,
            "num_remarks": self.num_warnings,
            "findings": [group.as_dict() for group in self.issues],
            "splits": {split: asdict(one) for split, one in self.statistics.items()},
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
    crowding_of: Callable[[DatasetIndex], Mapping[str, int]] = lambda _: {},
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Check:
    """Returns what is wrong, strange and notable in a data set; nothing is written.

    Sizes count at the square network input of side `imgsz`, as the anchors (L, A, 2); a box belongs
    to an anchor within the factor `anchor_ratio`. With `images` every image is decoded, and those
    of equal length are compared by their sha256. `crowding_of` counts the boxes of a split by how
    close they are to others, and `on_image` gets the number of images read and their total.

    Raises:
        DataError: a split cannot be read at all, other than 'test', which no training needs.
    """
    reports, groups = _read_splits(description)
    indexes = {split: report.index for split, report in reports.items()}
    states: dict[str, ImageState] = {}
    if images or description.format == "coco":  # whose reader alone does not look at images
        states = read_images(
            indexes.values(), threads=threads, headers_only=not images, on_image=on_image
        )
    statistics = {
        split: _describe(
            index, imgsz, anchors_wh, anchor_ratio=anchor_ratio, crowding=crowding_of(index)
        )
        for split, index in indexes.items()
    }
    classes = count_classes(indexes)
    groups += [
        *_training_issues(description, reports, states, imgsz=imgsz),
        *find_orphaned_labels(description, reports),
        *find_strange_classes(classes, description.file),
        *find_copies(indexes, states),
    ]
    for split, report in reports.items():
        groups += [
            *group_issues(report.issues, split),
            *find_unlabelled(split, report, data_format=description.format),
            *find_strange_boxes(report.index, split, imgsz=imgsz, description=description),
            *(find_broken_images(report.index, split, states) if states else ()),
            *find_dependent_images(report.index, split, states),
        ]
    if "train" in statistics:
        groups += _anchor_issues(statistics["train"], description, imgsz=imgsz)
    return Check(
        description,
        imgsz,
        anchors_wh,
        anchor_ratio,
        reports,
        merge_groups(groups),
        statistics,
        classes,
        len(states) if images else 0,
    )


def _describe(
    index: DatasetIndex,
    imgsz: int,
    anchors_wh: NDArray[np.floating],
    *,
    anchor_ratio: float,
    crowding: Mapping[str, int],
) -> Statistics:
    objects = ~index.crowd
    per_image = boxes_per_image(index)
    recall = None
    if (index.trains & (sizes_at_input_wh(index, imgsz) > 0).all(axis=1)).any():
        recall = best_possible_recall(index, anchors_wh, imgsz=imgsz, ratio=anchor_ratio)
    return Statistics(
        num_images=len(index),
        num_background=int((np.diff(index.gt_offsets) == 0).sum()),
        num_boxes=int(objects.sum()),
        num_crowd=int(index.crowd.sum()),
        num_difficult=int(index.difficult.sum()),
        sizes=_sizes(box_sides(index, imgsz)[objects]),
        sizes_in_files=_sizes(np.sqrt(index.areas)[objects]),
        boxes_per_image={"mean": round(float(per_image.mean()), 4), **_quantiles(per_image)},
        crowding=crowding,
        aspect_ratios=_quantiles(aspect_ratios(index)),
        best_possible_recall=recall,
    )


def boxes_per_image(index: DatasetIndex) -> NDArray[np.int64]:
    """Returns (I,) the boxes of every image, crowd regions left out."""
    return np.bincount(index.gt_image_positions()[~index.crowd], minlength=len(index))


def box_sides(index: DatasetIndex, imgsz: int) -> NDArray[np.float64]:
    """Returns (N,) the square roots of the areas, in pixels of the network input."""
    scales = imgsz / index.sizes_wh.max(axis=1)[index.gt_image_positions()]
    return np.sqrt(index.areas) * scales


def aspect_ratios(index: DatasetIndex) -> NDArray[np.float64]:
    """Returns the width over the height of every box that is no crowd region."""
    sizes_wh = (index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2])[~index.crowd]
    return sizes_wh[:, 0] / sizes_wh[:, 1]


def _sizes(sides: NDArray[np.float64]) -> dict[str, int]:
    counts = np.bincount(np.searchsorted(SIZE_LIMITS, sides, side="right"), minlength=3)
    return dict(zip(SIZE_NAMES, counts.tolist(), strict=True))


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(_QUANTILES.values())).tolist()
    return {name: round(value, 4) for name, value in zip(_QUANTILES, found, strict=True)}


def _read_splits(
    description: DataDescription,
) -> tuple[dict[str, IndexReport], list[IssueGroup]]:
    """Returns the splits that can be read, and a group if 'test' cannot."""
    reports: dict[str, IndexReport] = {}
    unread = dict(description.missing)
    for split in description.splits:
        try:
            reports[split] = read_index(description, split)
        except DataError as error:
            if split != "test" or not reports:
                raise
            unread[split] = error
    groups = []
    for split, error in unread.items():
        kind, action = IssueKind.SPLIT_WITHOUT_BOXES, "nothing is scored"
        issue = Issue(kind, description.file, None, f"{error.reason} ({error.place})", action)
        groups += group_issues([issue], split)
    return reports, groups


def _training_issues(
    description: DataDescription,
    reports: Mapping[str, IndexReport],
    states: Mapping[str, ImageState],
    *,
    imgsz: int,
) -> list[IssueGroup]:
    """Returns why `ossa train` would stop, which leaves out images that it cannot decode."""
    issues, usable = [], {}
    for split, report in reports.items():
        found = [states.get(path, ImageState()) for path in paths_of(report.index)]
        reasons = [None if one.kind is None else one.detail for one in found]
        try:
            usable[split] = drop_corrupt_images(report, known=reasons)
        except DataError as error:
            kind, action = IssueKind.IMAGES_UNUSABLE, "training stops"
            issues.append(
                Issue(kind, description.file, None, f"{error.reason} ({error.place})", action)
            )
    issues += training_faults(description, usable, imgsz=imgsz)
    return group_issues(issues, None)


def _anchor_issues(
    statistics: Statistics, description: DataDescription, *, imgsz: int
) -> list[IssueGroup]:
    recall = statistics.best_possible_recall
    if recall is None or recall >= LOW_RECALL:
        return []
    count = round((statistics.num_boxes - statistics.num_difficult) * (1 - recall))
    detail = f"best possible recall {recall:.4f} at {imgsz} px, under {LOW_RECALL}"
    issue = Issue(IssueKind.ANCHORS_MISFIT, description.file, None, detail)
    return group_issues([issue], "train", count=count)
