"""The order in which a training goes through the images, a function of seed and epoch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """Which image in which epoch: with the seed, all that decides an augmented sample."""

    epoch: int
    position: int
    """Of the image in the index."""


class _Epoch(NamedTuple):
    order: NDArray[np.int64]
    """(I,) positions in the index, in the order of the epoch."""
    places: NDArray[np.int64]
    """(I,) where in that order each position comes."""


class ShuffledOrder:
    """Every epoch a permutation of I images, drawn from (seed, epoch)."""

    def __init__(self, num_images: int, *, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self._epochs: dict[int, _Epoch] = {}

    def of(self, epoch: int) -> NDArray[np.int64]:
        """Returns the positions of all images (I,) in the order of an epoch."""
        return self._epoch(epoch).order

    def before(self, draw: Draw, count: int) -> NDArray[np.int64]:
        """Returns the positions of the images that come before a draw, the nearest last.

        Epochs follow each other: what is missing at the start of one is the end of the one before
        it; the first follows on itself.

        Args:
            draw: whose image they come before.
            count: how many; no more than I are there.
        """
        count = min(count, self.num_images)
        order, places = self._epoch(draw.epoch)
        place = int(places[draw.position])
        earlier = order[max(place - count, 0) : place]
        missing = count - len(earlier)
        if not missing:
            return earlier
        return np.concatenate((self.of(max(draw.epoch - 1, 0))[-missing:], earlier))

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
            # Neighbours are all that an iteration asks for.
            kept = {known: e for known, e in self._epochs.items() if abs(known - epoch) == 1}
            self._epochs = {**kept, epoch: _Epoch(order, np.argsort(order))}
        return self._epochs[epoch]
