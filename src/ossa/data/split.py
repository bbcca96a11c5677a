"""`ossa data split`: which images train, which evaluate, and which are left out as copies.

Nothing is written here (see `ossa.data.split_files`), and no image is changed or moved.

Dimensions: I images of all splits that were read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, IndexReport, select_images
from ossa.data.check_issues import ImageState, count_classes, read_images
from ossa.data.description import DataDescription
from ossa.data.image_pool import GROUPS, IMAGES, NEAR_DUPLICATES, Copies, ImagePool
from ossa.data.reading import read_index
from ossa.data.stratify import stratify
from ossa.errors import ConfigError, DataError, legible

_OFF = 0.05
"""Of the images, by which a split may differ from what was asked for without a note."""


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
    pool = ImagePool(reports, sources, states)
    copies = pool.find_copies(everywhere=remove_duplicates)
    parts = ("train", *shares) if shares else ()
    places = copies.kept[pool.divided[copies.kept]]
    groups = pool.groups(places, by, description)
    patterns = [one for one in by if one not in (NEAR_DUPLICATES, GROUPS, IMAGES)]
    part_of, notes = np.zeros(0, np.int64), _unusable(states)
    if shares:
        named, boxes = bool(patterns) or GROUPS in by, pool.boxes[places]
        part_of = _assign(boxes, groups, shares, seed=seed, named=named, by=by)
        notes += _notes(boxes, part_of, shares, pool.class_names)
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


def _unusable(states: Mapping[str, ImageState]) -> list[str]:
    """Returns a sentence on the images that cannot be decoded as annotated, if there are any."""
    faults = {path: state.detail for path, state in states.items() if state.kind is not None}
    if not faults:
        return []
    path, detail = next(iter(faults.items()))
    count = "1 image cannot be used and is left out by training:"
    if len(faults) > 1:
        count = f"{len(faults):,} images cannot be used and are left out by training, such as"
    return [f"{count} {legible(path, 500)}: {detail}"]


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
