"""What is wrong with the files of a data set, with file and line, and what was done about it."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ossa.data.roots import LEFT_OUTSIDE, Roots
from ossa.errors import DataError, legible

_LONGEST_PATH: Final = 500
"""Characters of a path that a message shows."""
_MOST_WITHOUT_AN_IMAGE: Final = 10_000
_MOST_OF_AN_IMAGE: Final = 200
_MOST_PROBLEMS: Final = 500_000


class IssueKind(StrEnum):
    """What sort of fault it is, for those who count."""

    IMAGE_MISSING = "image-missing"
    IMAGE_UNREADABLE = "image-unreadable"
    IMAGE_OTHER_SIZE = "image-other-size"
    IMAGE_LISTED_TWICE = "image-listed-twice"
    IMAGE_WITHOUT_LABELS = "image-without-labels"
    LABELS_UNREADABLE = "labels-unreadable"
    LABELS_WITHOUT_IMAGE = "labels-without-image"
    LABELS_AT_TWO_PLACES = "labels-at-two-places"
    LABELS_SHARED = "labels-shared"
    """By images of one stem and different suffixes."""
    ENTRY_UNUSABLE = "entry-unusable"
    """Of a list or of a JSON file: it is no image, or has the id of another."""
    BOX_MALFORMED = "box-malformed"
    BOX_EMPTY = "box-empty"
    BOX_OUTSIDE = "box-outside"
    BOX_OVERHANGING = "box-overhanging"
    BOX_DUPLICATED = "box-duplicated"
    CLASS_UNKNOWN = "class-unknown"
    SPLIT_WITHOUT_BOXES = "split-without-boxes"
    """Of val or test: nothing is scored. The rest is why a data set cannot be trained on."""
    TRAIN_MISSING = "train-missing"
    VAL_MISSING = "val-missing"
    CLASSES_DIFFER = "classes-differ"
    TRAINING_WITHOUT_BOXES = "training-without-boxes"
    TRAINING_UNLABELLED = "training-unlabelled"
    IMAGES_UNUSABLE = "images-unusable"


@dataclass(frozen=True)
class Issue:
    """One fault of a data set that reading went past."""

    file: Path
    line: int | None
    """Counted from 1; None where the fault has no line (an image, a whole file)."""
    what: str
    action: str
    """What reading did about it: 'box dropped', 'image left out', ..."""
    kind: IssueKind
    image: str | None = None
    """Absolute path of the image that a box belongs to."""
    box_xyxy: tuple[float, float, float, float] | None = None
    """As it is stated, in pixels of that image; None where it is not numbers."""

    @property
    def place(self) -> str:
        """File and line, as a terminal can show them."""
        file = legible(str(self.file), _LONGEST_PATH)
        return file if self.line is None else f"{file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.what} ({self.action})"


class IssueLog:
    """Collects problems in the order they are met; a strict log raises at the first."""

    def __init__(self, *, strict: bool = False, roots: Roots | None = None) -> None:
        """`roots` bounds where the files lie that the data set may name; None: anywhere."""
        self.roots = roots or Roots(None)
        self.num_images = 0
        """Images found usable so far: of few there cannot be many faults."""
        self._strict = strict
        self._problems: list[Issue] = []

    def report(
        self,
        file: Path,
        line: int | None,
        what: str,
        *,
        action: str,
        kind: IssueKind,
        image: str | None = None,
        box_xyxy: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Appends a problem of these fields; `what` may quote the file as it is.

        A box that is not finite numbers is left out.

        Raises:
            DataError: the log is strict.
        """
        if box_xyxy is not None and not all(map(math.isfinite, box_xyxy)):
            box_xyxy = None
        self.add(Issue(file, line, legible(what), action, kind, image, box_xyxy))

    def may_be_read(
        self, path: str, *, listed: tuple[Path, int] | None = None, name: str | None = None
    ) -> bool:
        """Returns whether a file or folder lies within the roots; reports one that does not.

        Args:
            path: absolute.
            listed: file and line that name it.
            name: by which they do.

        Raises:
            DataError: the log is strict.
        """
        why = self.roots.why_not(path)
        if why is not None:
            place = (Path(path), None) if listed is None else listed
            what = f"'{legible(path if name is None else name, 80)}' {why}"
            kind = IssueKind.ENTRY_UNUSABLE
            self.report(*place, what, action=LEFT_OUTSIDE, kind=kind)
        return why is None

    def add(self, problem: Issue) -> None:
        """Appends a problem.

        Raises:
            DataError: the log is strict, or there are so many that a file must be another than it
                is taken for.
        """
        if self._strict:
            raise DataError(f"{problem.place}: {problem.what}; mend it, or read without strict.")
        self._problems.append(problem)
        most = _MOST_WITHOUT_AN_IMAGE + _MOST_OF_AN_IMAGE * self.num_images
        if len(self._problems) >= min(most, _MOST_PROBLEMS):
            raise DataError(
                f"Expected a data set, found {len(self._problems):,} faults beside "
                f"{self.num_images:,} usable images; the first: {self._problems[0]}."
            )

    @property
    def problems(self) -> tuple[Issue, ...]:
        return tuple(self._problems)
