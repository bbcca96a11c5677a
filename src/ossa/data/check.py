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
from ossa.data.findings import MOST_CASES, Case, Finding, Severity, Shown, in_order
from ossa.data.issues import Issue, IssueKind
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


def find_strange_classes(counts: ClassCounts, data_yaml: Path) -> list[Finding]:
    """Returns findings of classes that are unused, untrained, unevaluated or rare.

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
        "class-untrained": untrained,
        "class-unevaluated": unevaluated,
        "class-unused": unused,
    }
    findings = [
        Finding(kind, None, len(whats), _cases(data_yaml, whats))
        for kind, whats in found.items()
        if whats
    ]
    return findings + _find_rare(counts, data_yaml)


def _find_rare(counts: ClassCounts, data_yaml: Path) -> list[Finding]:
    """Returns a finding of the rare classes of train, or of the first split where there is none."""
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
    if not rare:
        return []
    whats = [f"boxes of {name} {boxes[name]}, of {frequent} {boxes[frequent]}" for name in rare]
    note = f"under 1 to {RARE}"
    return [Finding("class-imbalance", split, len(rare), _cases(data_yaml, whats), note=note)]


def _cases(data_yaml: Path, whats: list[str]) -> tuple[Case, ...]:
    return tuple(Case(data_yaml, what) for what in whats[:MOST_CASES])


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
    findings: tuple[Finding, ...]
    """Faults first."""
    statistics: Mapping[str, Statistics]
    """By split."""
    classes: ClassCounts
    images: Mapping[str, ImageState] = field(default_factory=lambda: MappingProxyType({}))
    """By path; empty where no image was read."""

    @property
    def num_faults(self) -> int:
        return self._count(Severity.FAULT)

    @property
    def num_remarks(self) -> int:
        return self._count(Severity.REMARK)

    @property
    def num_stops(self) -> int:
        """Faults for which `ossa train` stops."""
        return sum(
            one.count
            for one in self.findings
            if one.sort.stops_training and one.sort.severity is Severity.FAULT
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
            "num_faults": self.num_faults,
            "num_stops": self.num_stops,
            "num_remarks": self.num_remarks,
            "findings": [finding.as_dict() for finding in self.findings],
            "splits": {split: one.as_dict() for split, one in self.statistics.items()},
            "classes": [{"name": name, **counts} for name, counts in self.classes.items()],
        }

    def _count(self, severity: Severity) -> int:
        return sum(one.count for one in self.findings if one.sort.severity is severity)


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
    findings = [
        *unread,
        *_of_training(description, reports, states, imgsz=imgsz),
        *find_lost_labels(description, indexes),
        *find_strange_classes(classes, description.file),
        *find_copies(indexes, number_contents(indexes, states)),
    ]
    for split, report in reports.items():
        findings += _of_reading(report, split)
        findings += find_unlabelled(split, report, data_format=description.format)
        findings += find_strange_boxes(report.index, split, imgsz=imgsz, description=description)
        findings += _of_anchors(statistics[split], split, description.file, imgsz=imgsz)
        if states:
            findings += find_broken_images(report.index, split, states)
    return Check(
        description,
        imgsz,
        anchors_wh,
        anchor_ratio,
        reports,
        in_order(findings),
        statistics,
        classes,
        images=states if images else {},
    )


def _read_splits(
    description: DataDescription,
) -> tuple[dict[str, IndexReport], list[Finding]]:
    """Returns the splits that can be read, and a finding where 'test' cannot."""
    reports: dict[str, IndexReport] = {}
    unread = dict(description.missing)
    for split in description.splits:
        try:
            reports[split] = read_index(description, split)
        except DataError as error:
            if split != "test" or not reports:
                raise
            unread[split] = str(error)
    kind, findings = IssueKind.SPLIT_WITHOUT_BOXES, []
    for split, why in unread.items():
        issue = Issue(description.file, None, why.rstrip("."), "nothing is scored", kind)
        findings.append(Finding(kind, split, 1, (_case(issue),)))
    return reports, findings


def _of_training(
    description: DataDescription,
    reports: Mapping[str, IndexReport],
    states: Mapping[str, ImageState],
    *,
    imgsz: int,
) -> list[Finding]:
    """Returns findings of why `ossa train` would stop, leaving broken images out as it does."""
    problems, usable = [], {}
    for split, report in reports.items():
        found = [states.get(path) for path in paths_of(report.index)]
        known = [None if one is None or one.kind is None else one.what for one in found]
        try:
            usable[split] = drop_corrupt_images(report, known=known)
        except DataError as error:
            what, kind = str(error).rstrip("."), IssueKind.IMAGES_UNUSABLE
            problems.append(Issue(description.file, None, what, "training stops", kind))
    problems += training_faults(description, usable, imgsz=imgsz)
    return [Finding(problem.kind, None, 1, (_case(problem),)) for problem in problems]


def _of_reading(report: IndexReport, split: str) -> list[Finding]:
    """Returns findings of what reading reported."""
    by_kind: dict[str, list[Issue]] = {}
    for problem in report.problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    overhanging = by_kind.get(IssueKind.BOX_OVERHANGING)
    if overhanging is not None:
        sizes_wh = dict(zip(paths_of(report.index), report.index.sizes_wh.tolist(), strict=True))
        overhanging.sort(key=lambda problem: -_pixels_beyond(problem, sizes_wh))
    return [
        Finding(kind, split, len(found), tuple(map(_case, found[:MOST_CASES])))
        for kind, found in by_kind.items()
    ]


def _pixels_beyond(problem: Issue, sizes_wh: Mapping[str, Sequence[int]]) -> float:
    """Returns how far the box of a problem reaches out of its image."""
    size_wh = sizes_wh.get(os.path.normpath(problem.image or ""))
    if problem.box_xyxy is None or size_wh is None:
        return 0.0
    x0, y0, x1, y1 = problem.box_xyxy
    return max(-x0, -y0, x1 - size_wh[0], y1 - size_wh[1])


def _case(problem: Issue) -> Case:
    shown: tuple[Shown, ...] = ()
    if problem.image is not None and problem.box_xyxy is not None:
        shown = (Shown(problem.image, (problem.box_xyxy,)),)
    return Case(problem.file, f"{problem.what} ({problem.action})", problem.line, shown)


def _of_anchors(
    statistics: Statistics, split: str, data_yaml: Path, *, imgsz: int
) -> list[Finding]:
    recall = statistics.best_possible_recall
    if split != "train" or recall is None or recall >= LOW_RECALL:
        return []
    boxes = statistics.num_boxes - statistics.num_difficult
    what = f"best possible recall {recall:.4f} at {imgsz} px, under {LOW_RECALL}"
    return [Finding("anchors-misfit", split, round(boxes * (1 - recall)), (Case(data_yaml, what),))]
