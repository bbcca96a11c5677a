"""The images of several splits as one table: their boxes, copies, and what belongs together.

Dimensions: I images of all splits that were read, L classes whose boxes are counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, IndexReport, paths_of
from ossa.data.check_issues import ImageState
from ossa.data.description import DataDescription
from ossa.data.groups import groups_of, join_groups, near_duplicates
from ossa.errors import DataError

NEAR_DUPLICATES, GROUPS, IMAGES = "near-duplicates", "groups", "images"
_RANK = ("test", "val", "train")
"""Of copies in two of these the one in the first stays."""
_MOST_COUNTS = 1 << 25
"""Numbers of boxes by image and class: 320 classes of 100,000 images."""


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


def _counted_labels(indexes: Sequence[DatasetIndex]) -> NDArray[np.int64]:
    """Returns the labels that have boxes; of very many images and classes the rarest of them."""
    num_classes = max(len(index.names) for index in indexes)
    counts = sum(
        np.bincount(index.labels[index.trains], minlength=num_classes) for index in indexes
    )
    present = np.flatnonzero(counts)
    rarest = present[np.argsort(np.asarray(counts)[present], kind="stable")]
    return np.sort(rarest[: max(1, _MOST_COUNTS // sum(map(len, indexes)))])


def _boxes_of_images(index: DatasetIndex, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (I, L) the number of boxes of each label that train."""
    column = np.full(len(index.names), -1)
    column[labels] = np.arange(len(labels))
    columns = column[index.labels[index.trains]]
    cells = index.gt_image_positions()[index.trains] * len(labels) + columns
    counts = np.bincount(cells[columns >= 0], minlength=len(index) * len(labels))
    return counts.reshape(len(index), len(labels))


class ImagePool:
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
        labels = _counted_labels(self._indexes)
        names = self._indexes[0].names
        self.class_names = [names[label] for label in labels.tolist()]
        """L classes whose boxes are counted."""
        boxes = [_boxes_of_images(index, labels) for index in self._indexes]
        self.boxes = np.concatenate(boxes)[starts[self.origins] + self._positions]
        """(I, L) boxes that train."""

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
