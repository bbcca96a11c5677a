"""Issues of a data set: what is wrong, how severe it is, where it is, and what to do about it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ossa.data.issue_kinds import IssueKind, Severity
from ossa.data.roots import LEFT_OUTSIDE, Roots
from ossa.errors import DataError, legible

MAX_EXAMPLES: Final = 20
"""Issues of a group that are kept; all are counted."""
_MAX_PATH_LENGTH: Final = 500
"""Characters of a path that a message shows."""
_MAX_WITHOUT_IMAGES: Final = 10_000
_MAX_PER_IMAGE: Final = 200
_MAX_ISSUES: Final = 500_000

Box = tuple[float, float, float, float]
"""xyxy in pixels of the original image."""


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
    def severity(self) -> Severity:
        return self.kind.severity

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
    """Returns one group per kind, in the order of the first issue of each.

    Args:
        issues: worst first.
        split: that they belong to.
        count: of the issues there are, where `issues` are of one kind and not all of them.
        note: of the groups.
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
        before = merged.get(key)
        if before is not None:
            examples = (*before.examples, *group.examples)[:MAX_EXAMPLES]
            group = replace(before, count=before.count + group.count, examples=examples)
        merged[key] = group
    kinds = list(IssueKind)
    return tuple(
        sorted(
            merged.values(),
            key=lambda group: (group.kind.severity is not Severity.ERROR, kinds.index(group.kind)),
        )
    )


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
        """Appends an issue; `detail` may quote the file as it is.

        Args:
            path: the file to correct, or the image.
            line: counted from 1.
            detail: what is wrong.
            action: what the reader does about it.
            kind: of the issue.
            image: absolute path of the image that it is about.
            box_xyxy: the box, as stated; not kept if it is not finite.

        Raises:
            DataError: the log is strict, or there are so many issues that the file must be
                something else than it is taken for.
        """
        images: tuple[ImageBoxes, ...] = ()
        if image is not None and box_xyxy is not None and all(map(math.isfinite, box_xyxy)):
            images = (ImageBoxes(image, (box_xyxy,)),)
        self.add(Issue(kind, path, line, legible(detail), action, images))

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
            detail = f"'{legible(path if name is None else name, 80)}' {why}"
            self.report(*place, detail, action=LEFT_OUTSIDE, kind=IssueKind.ENTRY_UNUSABLE)
        return why is None

    def add(self, issue: Issue) -> None:
        """Appends an issue; raises as `report` does."""
        if self._strict:
            raise DataError(f"{issue.location()}: {issue.detail}; mend it, or read without strict.")
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
