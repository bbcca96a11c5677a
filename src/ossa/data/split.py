"""`ossa data split`: which images train, which evaluate, and which are left out as copies.

Nothing is written here (see `ossa.data.split_files`), and no image is changed or moved.

Dimensions: I images of all splits that were read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, IndexReport, select_images
from ossa.data.check_issues import ImageState, count_classes, paths_of, read_images
from ossa.data.description import DataDescription
from ossa.data.groups import groups_of, join_groups, near_duplicates
from ossa.data.reading import read_index
from ossa.data.stratify import stratify
from ossa.errors import ConfigError, DataError, legible

NEAR_DUPLICATES, GROUPS, IMAGES = "near-duplicates", "groups", "images"
_RANK = ("test", "val", "train")
"""Of copies in two of these the one in the first stays."""
_OFF = 0.05
"""Of the images, by which a split may differ from what was asked for without a note."""


@dataclass(frozen=True)
class Copies:
    """Which images stay, and how many were left out because the same image stays elsewhere."""

    kept: NDArray[np.int64]
    duplicates: int
    """Of images in the same split, or also to be divided."""
    leaks: int
    """Of images in another split that stays as it is."""
    relabelled: int
    """Of both, those with other boxes than the image that stays."""


@dataclass(frozen=True)
class DataSplit:
    """Which images of a data set are in which split."""

    description: DataDescription
    reports: Mapping[str, IndexReport]
    """By the splits that were read."""
    chosen: Mapping[str, Mapping[str, NDArray[np.int64]]]
    """By new split and split that was read: positions of its images, sorted by file name."""
    seed: int
    by: tuple[str, ...]
    """What stays together."""
    num_groups: Mapping[str, int]
    """By new split; those that were only read for copies have none."""
    largest_group: int
    """Images."""
    pattern: str | None
    """By which the images were grouped, where the data.yaml names no groups."""
    copies: Copies
    notes: tuple[str, ...]

    def index(self, split: str, source: str) -> DatasetIndex:
        """Returns the images of a new split that come from a split that was read."""
        index = self.reports[source].index
        mask = np.zeros(len(index), np.bool_)
        mask[self.chosen[split][source]] = True
        return select_images(index, mask)

    @property
    def classes(self) -> dict[str, dict[str, int]]:
        """Boxes that train and are scored, by class and new split."""
        counts = {
            split: [count_classes({"": self.index(split, one)}) for one in sources]
            for split, sources in self.chosen.items()
        }
        names = next(iter(self.reports.values())).index.names
        return {
            name: {split: sum(one[name][""] for one in found) for split, found in counts.items()}
            for name in names
        }

    @property
    def num_images(self) -> dict[str, int]:
        """By new split."""
        return {name: sum(map(len, one.values())) for name, one in self.chosen.items()}

    def as_dict(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return {
            "data": str(self.description.file),
            "format": self.description.format,
            "seed": self.seed,
            "by": list(self.by),
            "splits": {
                split: {"images": images, "groups": self.num_groups.get(split)}
                for split, images in self.num_images.items()
            },
            "largest_group": self.largest_group,
            "classes": [{"name": name, **counts} for name, counts in self.classes.items()],
            "removed": {
                "duplicates": self.copies.duplicates,
                "leaks": self.copies.leaks,
                "with_other_boxes": self.copies.relabelled,
            },
            "notes": list(self.notes),
        }


def split_data(
    description: DataDescription,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    by: Sequence[str] = (),
    sources: Sequence[str] = ("train",),
    remove_duplicates: bool = False,
    threads: int = 2,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> DataSplit:
    """Divides the images of a data set, so that every split has its share of every class.

    Images that belong together are never in two of the new splits. The order of the files plays no
    part: the same images, labels and seed give the same splits.

    Args:
        description: of the data set.
        shares: of 'val', 'test' or both, 0..1; the rest is 'train'. Where empty, nothing is divided
            and only copies are removed.
        seed: which of the possible divisions.
        by: what stays together: 'near-duplicates' (exact copies included), 'groups' (those that the
            data.yaml names), patterns as under its key `groups`, or 'images' alone for nothing;
            where empty near-duplicates, and groups if there are any.
        sources: splits whose images are divided; all others stay as they are.
        remove_duplicates: leave out exact copies; of a copy in train that in val or test stays.
        threads: that read images.
        on_image: called with the number of images read and their total.

    Raises:
        ConfigError: shares, splits or groups that make no sense.
        DataError: the data set cannot be read, or has too few groups to divide.
    """
    sources = tuple(sources) if shares else ()
    by = tuple(by) or (NEAR_DUPLICATES, *([GROUPS] if description.groups is not None else []))
    _check(description, shares, sources, by)
    others = [one for one in description.splits if one not in sources]
    read = [*sources, *(others if remove_duplicates else [])]
    reports = {split: read_index(description, split) for split in read}
    _check_classes(description, {split: report.index for split, report in reports.items()})
    states: dict[str, ImageState] = {}
    if remove_duplicates or NEAR_DUPLICATES in by:
        indexes = [report.index for report in reports.values()]
        states = read_images(indexes, threads=threads, headers_only=False, on_image=on_image)
    pool = _Pool(reports, sources, states)
    copies = pool.find_copies(everywhere=remove_duplicates)
    parts = ("train", *shares) if shares else ()
    places = copies.kept[pool.divided[copies.kept]]
    groups = pool.groups(places, by, description)
    patterns = [one for one in by if one not in (NEAR_DUPLICATES, GROUPS, IMAGES)]
    part_of, notes = np.zeros(0, np.int64), []
    if shares:
        named, boxes = bool(patterns) or GROUPS in by, pool.boxes[places]
        part_of = _assign(boxes, groups, shares, seed=seed, named=named, by=by)
        notes = _notes(boxes, part_of, shares, next(iter(reports.values())).index.names)
    chosen = {part: pool.members(places[part_of == number]) for number, part in enumerate(parts)}
    if remove_duplicates:
        chosen |= pool.members_of_others(copies.kept, description)
    return DataSplit(
        description,
        reports,
        chosen,
        seed,
        by,
        {part: len(np.unique(groups[part_of == number])) for number, part in enumerate(parts)},
        int(np.bincount(groups).max()) if len(groups) else 0,
        patterns[0] if patterns and description.groups is None else None,
        copies,
        tuple(notes),
    )


def _check(
    description: DataDescription,
    shares: Mapping[str, float],
    sources: Sequence[str],
    by: Sequence[str],
) -> None:
    if GROUPS in by and description.groups is None:
        raise ConfigError(
            expected="a key 'groups' for --by groups",
            path=description.file,
            advice="--by '(*)_*' groups by a pattern on file names",
        )
    total = sum(shares.values())
    if not all(0 < share < 1 for share in shares.values()) or total >= 1:
        found = " and ".join(f"{share:g}" for share in shares.values())
        raise ConfigError(
            expected="shares of the images between 0 and 1, less than 1 together, for val and test",
            found=found,
            advice="0.2 is a fifth",
        )
    for split in sources:
        if split not in description.splits:
            found = ", ".join(description.splits)
            advice = "--from says which splits are divided"
            raise ConfigError(
                expected=f"a key '{split}'", found=found, path=description.file, advice=advice
            )
    for split in ("train", *shares) if shares else ():
        if split in description.splits and split not in sources:
            pooled = " ".join(f"--from {one}" for one in dict.fromkeys((*sources, split)))
            raise ConfigError(
                expected=f"a data set without a split '{split}'",
                found="one",
                path=description.file,
                advice=f"{pooled} divides its images anew as well",
            )


def _check_classes(description: DataDescription, indexes: Mapping[str, DatasetIndex]) -> None:
    (first, known), *others = indexes.items()
    for split, index in others:
        same_ids = np.array_equal(index.category_ids, known.category_ids)
        if index.names != known.names or not same_ids:
            raise DataError(
                expected=f"the same classes in '{split}' as in '{first}'",
                found="others",
                path=description.file,
            )


def _assign(
    boxes: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: Mapping[str, float],
    *,
    seed: int,
    named: bool,
    by: Sequence[str],
) -> NDArray[np.int64]:
    """Returns the part of each image: 0 is train."""
    images = np.bincount(groups)
    if len(images) <= len(shares):
        alike = NEAR_DUPLICATES in by and len(groups) > len(images)
        raise DataError(
            expected=f"{len(shares) + 1} groups of images or more to divide",
            found=f"{len(images)} of {len(groups):,} image{'s' * (len(groups) != 1)}",
            advice="--by images divides images that are much alike, too" if alike else None,
        )
    of_groups = np.zeros((len(images), boxes.shape[1]), np.int64)
    np.add.at(of_groups, groups, boxes)
    # Of one group there is no interval by groups.
    each = 2 if named and len(images) > 2 * len(shares) else 1
    fewest = [1] + [each] * len(shares)
    parts = (1 - sum(shares.values()), *shares.values())
    return stratify(of_groups, images, parts, seed=seed, fewest=fewest)[groups]


def _notes(
    boxes: NDArray[np.int64],
    part_of: NDArray[np.int64],
    shares: Mapping[str, float],
    names: Sequence[str],
) -> list[str]:
    """Returns sentences on shares that were not reached and classes that a split lacks."""
    notes = []
    for number, (part, share) in enumerate(shares.items(), start=1):
        got = float((part_of == number).mean())
        if abs(got - share) > _OFF:
            notes.append(f"{part} has {got:.0%} of the images, not {share:.0%}: groups are not cut")
        lacks = boxes.any(axis=0) & ~boxes[part_of == number].any(axis=0)
        if lacks.any():
            listed = legible(", ".join(names[label] for label in np.flatnonzero(lacks).tolist()))
            notes.append(f"{part} has no box of {listed}: too few groups have any")
    return notes


def _boxes_of_images(index: DatasetIndex) -> NDArray[np.int64]:
    """Returns (I, K) the number of boxes of each class that train."""
    num_classes = len(index.names)
    cells = (index.gt_image_positions() * num_classes + index.labels)[index.trains]
    return np.bincount(cells, minlength=len(index) * num_classes).reshape(-1, num_classes)


class _Pool:
    """The images of all splits that were read, sorted by file name."""

    def __init__(
        self,
        reports: Mapping[str, IndexReport],
        sources: Sequence[str],
        states: Mapping[str, ImageState],
    ) -> None:
        self._splits, self._states = list(reports), states
        self._indexes = [report.index for report in reports.values()]
        rows = sorted(
            (name, origin, position, path)
            for origin, index in enumerate(self._indexes)
            for position, (name, path) in enumerate(
                zip(index.file_names.tolist(), paths_of(index), strict=True)
            )
        )
        self._names, origins, positions, self._paths = zip(*rows, strict=True)
        self.origins, self._positions = np.array(origins), np.array(positions)
        self.divided = np.array([split in sources for split in self._splits])[self.origins]
        """(I,) the others stay in their split."""
        starts = np.cumsum([0, *map(len, self._indexes)])
        boxes = np.concatenate([_boxes_of_images(index) for index in self._indexes])
        self.boxes = boxes[starts[self.origins] + self._positions]
        """(I, K) of each class."""

    def find_copies(self, *, everywhere: bool) -> Copies:
        """Returns the images that stay, all but copies of others.

        If not `everywhere`, only a file that is twice among those to divide stays once.
        """
        ranks = [_RANK.index(split) for split in self._splits]
        rank = np.where(self.divided, len(_RANK), np.array(ranks)[self.origins])
        first: dict[str, int] = {}
        kept, duplicates, leaks, relabelled = [], 0, 0, 0
        for place in np.argsort(rank, kind="stable").tolist():
            if not everywhere and not self.divided[place]:
                kept.append(place)
                continue
            content = self._content(place) if everywhere else self._paths[place]
            original = first.setdefault(content, place)
            if original == place:
                kept.append(place)
            else:
                leaked = rank[original] != rank[place]
                leaks, duplicates = leaks + leaked, duplicates + (not leaked)
                relabelled += self._boxes(original) != self._boxes(place)
        return Copies(np.sort(np.array(kept, np.int64)), duplicates, int(leaks), relabelled)

    def _content(self, place: int) -> str:
        path = self._paths[place]
        return self._states.get(path, ImageState()).sha256 or path

    def _boxes(self, place: int) -> list[list[float]]:
        index = self._indexes[self.origins[place]]
        rows = index.gt_rows(int(self._positions[place]))
        return sorted(np.column_stack((index.labels[rows], index.boxes_xyxy[rows])).tolist())

    def groups(
        self, places: NDArray[np.int64], by: Sequence[str], description: DataDescription
    ) -> NDArray[np.int64]:
        """Returns the group of each of some images, numbered in their order."""
        names, paths = ([texts[p] for p in places.tolist()] for texts in (self._names, self._paths))
        together = [np.arange(len(places))]
        for one in by if len(places) else ():
            if one == NEAR_DUPLICATES:
                contents = [self._content(place) for place in places.tolist()]
                looks = {path: self._states[path].gradients for path in paths}
                known = {path: look for path, look in looks.items() if look is not None}
                together += [_numbered(contents), near_duplicates(paths, known)]
            elif one != IMAGES:
                named = description if one == GROUPS else replace(description, groups=one)
                together.append(_numbered(groups_of(names, named, "the data set")))
        return join_groups(*together)

    def members(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Returns the positions of some images by split that was read."""
        origins = self.origins[places]
        return {
            self._splits[origin]: self._positions[places[origins == origin]]
            for origin in np.unique(origins).tolist()
        }

    def members_of_others(
        self, kept: NDArray[np.int64], description: DataDescription
    ) -> dict[str, dict[str, NDArray[np.int64]]]:
        """Returns the images of the splits that are not divided, by split, as `members` does."""
        found = self.members(kept[~self.divided[kept]])
        others = {self._splits[origin] for origin in self.origins[~self.divided].tolist()}
        for split in sorted(others - found.keys()):
            raise DataError(
                expected=f"images for split '{split}'",
                found="none of which no copy is in another split",
                path=description.file,
            )
        return {split: {split: positions} for split, positions in found.items()}


def _numbered(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.array(texts), return_inverse=True)[1]
