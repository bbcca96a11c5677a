"""The words for what a check finds: how grave it is, what it is called and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ossa.data.formats.common import Box
from ossa.data.issues import IssueKind

MOST_CASES: Final = 20
"""Cases of a finding that are kept; how many there are in all is counted."""


class Severity(StrEnum):
    FAULT = "fault"
    """The data are wrong, or less of them is used than the files say."""
    REMARK = "remark"
    """May be meant so."""


@dataclass(frozen=True)
class Sort:
    """What all findings of a kind have in common."""

    severity: Severity
    title: str
    advice: str
    stops_training: bool = False


def _fault(title: str, advice: str) -> Sort:
    return Sort(Severity.FAULT, title, advice)


def _stop(title: str, advice: str) -> Sort:
    return Sort(Severity.FAULT, title, advice, stops_training=True)


def _remark(title: str, advice: str) -> Sort:
    return Sort(Severity.REMARK, title, advice)


_REPLACE: Final = "replace or remove the files; training leaves the images out"
_DROPPED: Final = "correct them; training drops them"

SORTS: Final[Mapping[str, Sort]] = MappingProxyType(
    {
        IssueKind.VAL_MISSING: _stop("no split to score on while training", "name one as val"),
        IssueKind.CLASSES_DIFFER: _stop(
            "splits of other classes than train",
            "give both the same categories, or choose those in common by key 'classes'",
        ),
        IssueKind.TRAINING_WITHOUT_BOXES: _stop(
            "no box that trains",
            "see that labels lie where the data.yaml says, that iscrowd and difficult are 0 for "
            "single objects, and that --imgsz is large enough",
        ),
        IssueKind.TRAINING_UNLABELLED: _stop(
            "most training images have no label",
            "bring the labels there, or train with --allow-unlabeled",
        ),
        IssueKind.IMAGES_UNUSABLE: _stop("splits without an image that decodes", _REPLACE),
        IssueKind.IMAGE_MISSING: _fault("images that are not there", _REPLACE),
        IssueKind.IMAGE_UNREADABLE: _fault("unreadable images", _REPLACE),
        "image-truncated": _fault("images that are cut short", _REPLACE),
        IssueKind.IMAGE_OTHER_SIZE: _fault(
            "images of another size than their annotation says",
            "correct the size and see whether the boxes belong to it",
        ),
        "image-leaked": _fault(
            "images of val or test that are in train, too",
            "take them out of one of the two",
        ),
        "image-shared": _remark("images of test that are in val, too", "see that it is meant"),
        "image-duplicated": _remark(
            "exact copies of another image of the split",
            "keep one of each",
        ),
        IssueKind.TRAIN_MISSING: Sort(
            Severity.REMARK, "no training split", "see that it is meant", stops_training=True
        ),
        IssueKind.IMAGE_LISTED_TWICE: _remark("images listed twice", "they are read once"),
        "image-rotated": _remark(
            "images turned by EXIF",
            "boxes must belong to the turned image: look at the pictures",
        ),
        "image-background": _remark(
            "images without labels", "they train as background: see that no label is lost"
        ),
        IssueKind.IMAGE_WITHOUT_LABELS: _fault(
            "images without an annotation file", "annotate them or take them from the list"
        ),
        IssueKind.LABELS_UNREADABLE: _fault(
            "label files that cannot be read", "correct them; their images are left out"
        ),
        IssueKind.LABELS_WITHOUT_IMAGE: _fault(
            "labels without an image", "bring the images back or remove the labels"
        ),
        IssueKind.LABELS_AT_TWO_PLACES: _fault(
            "images with other labels at two places", "remove those that are not meant"
        ),
        IssueKind.LABELS_SHARED: _fault(
            "images of one stem, which share their labels", "rename one of each"
        ),
        IssueKind.ENTRY_UNUSABLE: _fault("entries that cannot be used", "correct or remove them"),
        IssueKind.SPLIT_WITHOUT_BOXES: _fault(
            "splits without a box that is scored",
            "see that the labels lie where the data.yaml says",
        ),
        IssueKind.BOX_EMPTY: _fault("boxes of no area", _DROPPED),
        IssueKind.BOX_OUTSIDE: _fault("boxes outside their image", _DROPPED),
        IssueKind.BOX_MALFORMED: _fault("boxes that are not numbers", _DROPPED),
        IssueKind.BOX_DUPLICATED: _fault(
            "boxes stated twice", "remove one of each; training keeps the first"
        ),
        IssueKind.BOX_OVERHANGING: _remark(
            "boxes that reach out of their image by more than a pixel",
            "training clips them",
        ),
        "box-tiny": _remark(
            "tiny boxes", "train on larger images or tiles, or see that they are objects"
        ),
        "box-covering": _remark(
            "boxes that cover their whole image", "see that they are meant and not a default"
        ),
        IssueKind.CLASS_UNKNOWN: _fault(
            "boxes of an unknown class", "add the class to the names or correct the boxes"
        ),
        "class-untrained": _fault(
            "classes in val or test and not in train",
            "no detector learns them: split anew or leave them out by key 'classes'",
        ),
        "class-unevaluated": _remark(
            "classes in train and not in val", "nothing is said of how well they are learned"
        ),
        "class-unused": _remark(
            "classes without a box in any split", "leave them out by key 'classes'"
        ),
        "class-imbalance": _remark(
            "classes that are rare beside the most frequent one",
            "expect little of them; more images of them help most",
        ),
        "anchors-misfit": _remark(
            "boxes that no anchor answers for", "train with --fit-anchors, or at another --imgsz"
        ),
    }
)
"""By kind, in the order in which they are told."""


@dataclass(frozen=True)
class Shown:
    """An image with the boxes that a case is about."""

    image: str
    """Absolute path."""
    boxes_xyxy: tuple[Box, ...] = ()
    """In pixels of the image; may lie outside."""


@dataclass(frozen=True)
class Case:
    """One thing that was found."""

    file: Path
    """Where to correct it."""
    what: str
    line: int | None = None
    shown: tuple[Shown, ...] = ()
    """Images that show it; none where no image does."""

    def place(self, root: Path) -> str:
        """Returns file and line, the file relative to `root` where it lies in it."""
        file = self.file.relative_to(root) if self.file.is_relative_to(root) else self.file
        return str(file) if self.line is None else f"{file}:{self.line}"


@dataclass(frozen=True)
class Finding:
    """All cases of a kind in one split."""

    kind: str
    """A key of `SORTS`."""
    split: str | None
    """None: of the data set as a whole."""
    count: int
    cases: tuple[Case, ...]
    """The worst, at most `MOST_CASES`."""
    note: str = ""
    """Where the limit lies, if the title needs one: 'under 2 px at 640'."""

    @property
    def sort(self) -> Sort:
        return SORTS[self.kind]

    @property
    def title(self) -> str:
        return f"{self.sort.title} ({self.note})" if self.note else self.sort.title

    def as_dict(self) -> dict[str, Any]:
        """Returns what `--json` says of it."""
        return {
            "kind": str(self.kind),
            "severity": str(self.sort.severity),
            "stops_training": self.sort.stops_training,
            "title": self.title,
            "split": self.split,
            "count": self.count,
            "advice": self.sort.advice,
            "cases": [
                {"file": str(case.file), "line": case.line, "what": case.what}
                for case in self.cases
            ],
        }


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Returns the findings, faults first, then by kind; within a kind in the given order.

    Those of one kind in one split become one.
    """
    merged: dict[tuple[str, str | None], Finding] = {}
    for finding in findings:
        key = str(finding.kind), finding.split
        before = merged.get(key)
        if before is not None:
            cases = (*before.cases, *finding.cases)[:MOST_CASES]
            finding = replace(before, count=before.count + finding.count, cases=cases)
        merged[key] = finding
    kinds = list(SORTS)
    grave = [Severity.FAULT, Severity.REMARK]
    return tuple(
        sorted(
            merged.values(),
            key=lambda one: (grave.index(one.sort.severity), kinds.index(one.kind)),
        )
    )
