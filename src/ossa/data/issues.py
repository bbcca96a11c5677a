"""Issues of a data set: what is wrong, how severe it is, where it is, and what to do about it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from ossa.data.paths import Roots
from ossa.errors import DataError, legible

MAX_EXAMPLES: Final = 20
"""Issues of a group that are kept; all are counted."""
_LEFT_OUTSIDE: Final = (
    "left out; to read it say --allow-outside, or name its folder under key 'outside' of the "
    "data.yaml"
)
_MAX_PATH_LENGTH: Final = 500
"""Characters of a path that a message shows."""
_MAX_WITHOUT_IMAGES: Final = 10_000
_MAX_PER_IMAGE: Final = 200
_MAX_ISSUES: Final = 500_000

Box = tuple[float, float, float, float]
"""xyxy in pixels of the original image."""


class Severity(Enum):
    """How severe an issue is."""

    ERROR = "error"
    """The data are wrong, or less of them is used than the files say."""
    WARNING = "warning"
    """Possibly a mistake, possibly intended."""
    INFO = "info"
    """Worth knowing; nothing has to be done."""


@dataclass(frozen=True)
class _Kind:
    severity: Severity
    value: str
    summary: str
    advice: str
    stops_training: bool = False


_error, _warning = partial(_Kind, Severity.ERROR), partial(_Kind, Severity.WARNING)
_info, _stop = partial(_Kind, Severity.INFO), partial(_Kind, Severity.ERROR, stops_training=True)
_REPLACE: Final = "replace or remove the files; training leaves the images out"
_DROPPED: Final = "correct them; training drops them"
_INTENDED: Final = "check that this is intended"


class IssueKind(StrEnum):
    """Every kind of issue, in the order of a report, with what all issues of the kind share."""

    severity: Severity
    summary: str
    """In the plural, such as 'unreadable images'."""
    advice: str
    stops_training: bool

    def __new__(cls, stated: _Kind) -> Self:
        kind = str.__new__(cls, stated.value)
        kind._value_ = stated.value
        kind.severity, kind.summary = stated.severity, stated.summary
        kind.advice, kind.stops_training = stated.advice, stated.stops_training
        return kind

    VAL_MISSING = _stop("val-missing", "no split to evaluate on while training", "name one as val")
    CLASSES_DIFFER = _stop(
        "classes-differ", "splits with other classes than train", "choose common ones by 'classes'"
    )
    TRAINING_WITHOUT_BOXES = _stop(
        "training-without-boxes",
        "no box that trains",
        "check that the labels lie where the data.yaml says, that iscrowd and difficult are 0 for "
        "single objects, and that --imgsz is large enough",
    )
    TRAINING_UNLABELLED = _stop(
        "training-unlabelled",
        "most training images have no label",
        "bring the labels there, or train with --allow-unlabeled",
    )
    IMAGES_UNUSABLE = _stop("images-unusable", "splits without a decodable image", _REPLACE)
    IMAGE_MISSING = _error("image-missing", "missing images", _REPLACE)
    IMAGE_UNREADABLE = _error("image-unreadable", "unreadable images", _REPLACE)
    IMAGE_TRUNCATED = _error("image-truncated", "truncated images", _REPLACE)
    IMAGE_OTHER_SIZE = _error(
        "image-other-size",
        "images of another size than their annotation states",
        "correct the size and check whether the boxes belong to the image",
    )
    IMAGE_LEAKED = _error(
        "image-leaked", "images of val or test that are also in train", "keep them in one split"
    )
    IMAGE_SHARED = _warning("image-shared", "images of test that are also in val", _INTENDED)
    IMAGE_DUPLICATED = _warning(
        "image-duplicated", "exact copies of another image of the split", "keep one of each"
    )
    IMAGES_DEPENDENT = _warning(
        "images-dependent",
        "images much like the one before by name",
        "if they are frames of one video or flight, name these by key 'groups': intervals are "
        "otherwise too narrow",
    )
    TRAIN_MISSING = _warning("train-missing", "no training split", _INTENDED, True)
    IMAGE_LISTED_TWICE = _info("image-listed-twice", "images listed twice", "they are read once")
    IMAGE_ROTATED = _warning(
        "image-rotated", "images rotated by EXIF", "check that boxes belong to the rotated image"
    )
    IMAGE_BACKGROUND = _warning(
        "image-background", "images without labels", "they train as background: is no label lost?"
    )
    IMAGE_WITHOUT_LABELS = _error(
        "image-without-labels", "images without an annotation file", "annotate or unlist them"
    )
    LABELS_UNREADABLE = _error(
        "labels-unreadable", "unreadable label files", "correct them; their images are left out"
    )
    LABELS_WITHOUT_IMAGE = _error(
        "labels-without-image", "labels without an image", "bring it back, or remove the labels"
    )
    LABELS_AT_TWO_PLACES = _error(
        "labels-at-two-places", "different labels in two places", "remove the wrong ones"
    )
    LABELS_SHARED = _error(
        "labels-shared", "images of one stem, which share their labels", "rename one of each"
    )
    ENTRY_UNUSABLE = _error(
        "entry-unusable", "unusable entries of lists or JSON files", "correct or remove them"
    )
    SPLIT_WITHOUT_BOXES = _error(
        "split-without-boxes",
        "evaluation splits without a box",
        "check that the labels lie where the data.yaml says",
    )
    BOX_EMPTY = _error("box-empty", "boxes of no area", _DROPPED)
    BOX_OUTSIDE = _error("box-outside", "boxes outside their image", _DROPPED)
    BOX_MALFORMED = _error("box-malformed", "boxes that are not numbers", _DROPPED)
    BOX_DUPLICATED = _error(
        "box-duplicated", "duplicate boxes", "remove one of each; training keeps the first"
    )
    BOX_OVERHANGING = _warning(
        "box-overhanging", "boxes more than a pixel out of their image", "training clips them"
    )
    BOX_TINY = _warning(
        "box-tiny", "tiny boxes", "train on larger images or tiles; check that they are objects"
    )
    BOX_COVERING = _warning("box-covering", "boxes that cover their whole image", _INTENDED)
    CLASS_UNKNOWN = _error(
        "class-unknown", "boxes of an unknown class", "add it to the names, or correct the boxes"
    )
    CLASS_UNTRAINED = _error(
        "class-untrained",
        "classes in val or test but not in train",
        "no detector learns them: split anew or leave them out by key 'classes'",
    )
    CLASS_UNEVALUATED = _warning(
        "class-unevaluated", "classes in train but not in val", "how well they do is not measured"
    )
    CLASS_UNUSED = _info(
        "class-unused", "classes without a box in any split", "leave them out by key 'classes'"
    )
    CLASS_IMBALANCE = _warning(
        "class-imbalance",
        "classes that are rare beside the most frequent one",
        "expect a low AP for them; more images of them help most",
    )
    ANCHORS_MISFIT = _warning(
        "anchors-misfit", "boxes that no anchor matches", "use --fit-anchors or another --imgsz"
    )


@dataclass(frozen=True)
class ImageBoxes:
    """An image with the boxes that an issue is about."""

    image: str
    """Absolute path."""
    boxes_xyxy: tuple[Box, ...] = ()
    """As stated, in pixels of the image; they may lie outside."""


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong with a data set, or remarkable."""

    kind: IssueKind
    path: Path
    """The file to correct, or the image."""
    line: int | None
    """Counted from 1; None for an image or a whole file."""
    detail: str
    action: str = ""
    """What the reader did about it: 'box dropped', 'image left out', ..."""
    images: tuple[ImageBoxes, ...] = ()
    """Images that show it, if any do."""

    @property
    def message(self) -> str:
        """Detail and action."""
        return f"{self.detail} ({self.action})" if self.action else self.detail

    def location(self, root: Path | None = None) -> str:
        """Returns path and line for a terminal, the path relative to `root` if it is inside."""
        shown = self.path
        if root is not None and shown.is_relative_to(root):
            shown = shown.relative_to(root)
        path = legible(str(shown), _MAX_PATH_LENGTH)
        return path if self.line is None else f"{path}:{self.line}"

    def __str__(self) -> str:
        return f"{self.location()}: {self.message}"


@dataclass(frozen=True)
class IssueGroup:
    """All issues of a kind in one split."""

    kind: IssueKind
    split: str | None
    """None: of the data set as a whole."""
    count: int
    examples: tuple[Issue, ...]
    """The worst, at most `MAX_EXAMPLES`."""
    note: str = ""
    """Where the limit lies, if the title needs one: 'under 2 px at 640'."""

    @property
    def title(self) -> str:
        return f"{self.kind.summary} ({self.note})" if self.note else self.kind.summary

    def as_dict(self) -> dict[str, Any]:
        """Returns what `ossa data check --json` prints."""
        return {
            "kind": str(self.kind),
            "severity": "fault" if self.kind.severity is Severity.ERROR else "remark",
            "stops_training": self.kind.stops_training,
            "title": self.title,
            "split": self.split,
            "count": self.count,
            "advice": self.kind.advice,
            "cases": [
                {"file": str(issue.path), "line": issue.line, "what": issue.message}
                for issue in self.examples
            ],
        }


def group_issues(
    issues: Iterable[Issue], split: str | None, *, count: int | None = None, note: str = ""
) -> list[IssueGroup]:
    """Returns one group per kind of issues, which stand worst first.

    `count` is that of all issues, where `issues` are of one kind and not all of them.
    """
    by_kind: dict[IssueKind, list[Issue]] = {}
    for issue in issues:
        by_kind.setdefault(issue.kind, []).append(issue)
    return [
        IssueGroup(
            kind, split, len(found) if count is None else count, tuple(found[:MAX_EXAMPLES]), note
        )
        for kind, found in by_kind.items()
    ]


def merge_groups(groups: Iterable[IssueGroup]) -> tuple[IssueGroup, ...]:
    """Returns one group per kind and split, errors first, then in the order of the kinds."""
    merged: dict[tuple[IssueKind, str | None], IssueGroup] = {}
    for group in groups:
        key = group.kind, group.split
        if key in merged:
            before = merged[key]
            examples = (*before.examples, *group.examples)[:MAX_EXAMPLES]
            group = replace(before, count=before.count + group.count, examples=examples)
        merged[key] = group
    order = {kind: (kind.severity is not Severity.ERROR, n) for n, kind in enumerate(IssueKind)}
    return tuple(sorted(merged.values(), key=lambda group: order[group.kind]))


class IssueLog:
    """Collects issues in the order they are met; a strict log raises at the first."""

    def __init__(self, *, strict: bool = False, roots: Roots | None = None) -> None:
        """`roots` bounds where the files lie that the data set may name; None: anywhere."""
        self.roots = roots or Roots(None)
        self.num_images = 0
        """Usable images found so far, which bounds the number of issues."""
        self._strict = strict
        self._issues: list[Issue] = []

    def report(
        self,
        path: Path,
        line: int | None,
        detail: str,
        *,
        action: str,
        kind: IssueKind,
        image: str | None = None,
        box_xyxy: Box | None = None,
    ) -> None:
        """Appends an issue, as `add`; `detail` may quote the file as it is.

        Of the `image` that it is about the path is absolute; a box that is not finite is not kept.
        """
        images: tuple[ImageBoxes, ...] = ()
        if image is not None and box_xyxy is not None and all(map(math.isfinite, box_xyxy)):
            images = (ImageBoxes(image, (box_xyxy,)),)
        self.add(Issue(kind, path, line, legible(detail), action, images))

    def may_be_read(
        self, path: str, *, listed: tuple[Path, int] | None = None, name: str | None = None
    ) -> bool:
        """Returns whether an absolute path lies within the roots; reports one that does not.

        `listed` are file and line that name it, and `name` how they do. Raises as `add`.
        """
        why = self.roots.why_not(path)
        if why is not None:
            place = (Path(path), None) if listed is None else listed
            detail = f"'{legible(path if name is None else name, 80)}' {why}"
            self.report(*place, detail, action=_LEFT_OUTSIDE, kind=IssueKind.ENTRY_UNUSABLE)
        return why is None

    def add(self, issue: Issue) -> None:
        """Appends an issue.

        Raises:
            DataError: the log is strict, or there are so many issues that the file must be
                something else than it is taken for.
        """
        if self._strict:
            raise DataError(f"{issue.location()}: {issue.detail}; mend it, or do without strict.")
        self._issues.append(issue)
        most = _MAX_WITHOUT_IMAGES + _MAX_PER_IMAGE * self.num_images
        if len(self._issues) >= min(most, _MAX_ISSUES):
            raise DataError(
                f"Expected a data set, found {len(self._issues):,} issues beside "
                f"{self.num_images:,} usable images; the first: {self._issues[0]}."
            )

    @property
    def issues(self) -> tuple[Issue, ...]:
        return tuple(self._issues)
