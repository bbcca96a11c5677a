"""Dividing groups of images so that every part has its share of every class.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over groups instead of images: the
class that the fewest groups have comes first, and of these the large groups. Each group goes to the
part that has least of what it should have of the group's classes and of images, counted with half
of the group (as Webster's method divides seats).

Dimensions: U groups, K classes, P parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_MOST_OVER = 1.5
"""Times its share of images that a part has at most after it was given a rare class."""


def stratify(
    boxes: NDArray[np.int64],
    images: NDArray[np.int64],
    shares: Sequence[float],
    *,
    seed: int = 0,
    fewest: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """Returns (U,) the part, in 0..P-1, that each group goes to.

    A class that as many groups have as there are parts is in each of them, and of fewer groups in
    the first parts, unless a group so large would be needed that the part became too large.

    Args:
        boxes: (U, K) number of boxes in each group.
        images: (U,) number of images in each group.
        shares: (P,) of the images and boxes; their sum is 1.
        seed: of the order of groups of equal size.
        fewest: (P,) number of groups that each part has at least, as far as there are any; one
            each where None.

    Examples:
        >>> boxes = np.array([[3, 0], [3, 0], [3, 0], [3, 1], [3, 1]])
        >>> stratify(boxes, np.ones(5, int), (0.6, 0.4), seed=1).tolist()
        [0, 0, 1, 0, 1]
    """
    background = np.where(boxes.any(axis=1), 0, images)
    amounts = np.column_stack((boxes, background, images)).astype(np.float64)
    parts = _Parts(
        amounts / np.maximum(amounts.sum(axis=0), 1),
        np.array(shares, np.float64),
        np.array(fewest or [1] * len(shares)),
    )
    order = np.random.default_rng(seed).permutation(len(images))
    while parts.left:
        has = (amounts[:, :-1] > 0) & (parts.part_of < 0)[:, None]
        groups_with = has.sum(axis=0)
        rarest = int(np.where(groups_with > 0, groups_with, len(images) + 1).argmin())
        units = np.flatnonzero(has[:, rarest])
        # Of sizes within a factor of two the seed chooses.
        magnitude = np.frexp(amounts[units, rarest] + images[units])[1]
        for place, unit in enumerate(units[np.lexsort((order[units], -magnitude))].tolist()):
            parts.place(unit, rarest, left_of_class=len(units) - place)
    return parts.part_of


@dataclass
class _Parts:
    """What each part has so far."""

    units: NDArray[np.float64]
    """(U, K + 2) shares of all boxes of a class, of images without boxes, and of all images."""
    shares: NDArray[np.float64]
    fewest: NDArray[np.int64]
    part_of: NDArray[np.int64] = field(init=False)
    """(U,) -1 for groups that are still to be placed."""

    def __post_init__(self) -> None:
        self.part_of = np.full(len(self.units), -1)
        self.left = len(self.units)
        self._has = np.zeros((len(self.shares), self.units.shape[1]))

    def place(self, unit: int, column: int, *, left_of_class: int) -> None:
        """Places a group of a class, of which so many groups are left, this one included."""
        part = self._needed(unit, column, left_of_class)
        if part is None:
            concerned = self.units[unit] > 0
            after_half = (self._has + self.units[unit] / 2)[:, concerned].sum(axis=1)
            # Rounded, since the last bit of a sum depends on the machine.
            part = int(np.round(after_half / self.shares, 9).argmin())
        self.part_of[unit] = part
        self._has[part] += self.units[unit]
        self.fewest[part] -= 1
        self.left -= 1

    def _needed(self, unit: int, column: int, left_of_class: int) -> int | None:
        """Returns the part that must have the group, so that it has any, or any of the class."""
        short = np.maximum(self.fewest, 0)
        if self.left <= short.sum():
            return int(np.flatnonzero(short)[0])
        lacking = np.flatnonzero(self._has[:, column] == 0)
        if left_of_class > len(lacking):
            return None
        images = self._has[lacking, -1] + self.units[unit, -1]
        fits = (images <= _MOST_OVER * self.shares[lacking]) | (lacking == 0)
        return int(lacking[fits][0]) if fits.any() else None
