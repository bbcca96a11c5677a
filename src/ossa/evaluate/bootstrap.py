"""Metrics of one run under many weightings of the images, from stored matches.

The weightings are fixed by the number of images and a seed, so every model that was scored on a
split is resampled alike, today or from a file of last month.

Bins hold objects by COCO's limits of size (32 x 32 and 96 x 96 pixels of the original image) and by
crowding, as in `ossa.evaluate.object_bins`: a false detection counts in the bin of its own box.
COCO's own AP of small objects matches anew among the small ones and so may differ in the third
decimal.

Dimensions: W weightings, B resamples, G groups, I images, N truths, D detections.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError, suggestion
from ossa.evaluate.average_precision import average_precision
from ossa.evaluate.crowding import KINDS, surroundings_of_detections, surroundings_of_gt
from ossa.evaluate.matching import Matches

SIZES: Final = ("small", "medium", "large")
METRICS: Final = (
    *("ap", "ap50", "ap75", "ar_100"),
    *(f"ap_{name}" for name in (*SIZES, *KINDS)),
)
RESAMPLES = 2000
_COCO_LIMITS = (32.0**2, 96.0**2)
_GROUPS = 200


class Bin(NamedTuple):
    """Objects of one kind, and the detections that are of it by their own boxes."""

    truths: NDArray[np.bool_]
    """(N,)."""
    detections: NDArray[np.bool_]
    """(D,)."""


def check_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not among `METRICS`."""
    for name in names:
        if name not in METRICS:
            raise ConfigError(
                f"expected metrics of {', '.join(METRICS)}, found {name!r}."
                + suggestion(name, METRICS)
            )


def bins_of(index: DatasetIndex, matches: Matches) -> dict[str, Bin]:
    """Returns the bins by size and by crowding, by name."""
    sizes = _bins(SIZES, _size(index.areas), _size(matches.areas))
    truths, found = surroundings_of_gt(index), surroundings_of_detections(index, matches)
    return sizes | _bins(KINDS, truths.kinds, found.kinds)


def _size(areas: NDArray[np.floating]) -> NDArray[np.int64]:
    """Returns positions in `SIZES`; a limit itself belongs to the smaller size, as in COCO."""
    return np.searchsorted(_COCO_LIMITS, areas, side="left")


def _bins(
    names: Sequence[str], truths: NDArray[np.integer], detections: NDArray[np.integer]
) -> dict[str, Bin]:
    return {name: Bin(truths == number, detections == number) for number, name in enumerate(names)}


def image_weightings(num_images: int, *, resamples: int, seed: int) -> NDArray[np.uint8]:
    """Returns (W, I), W = 1 + B + G: each image once, then the draws, then each group left out."""
    once = np.ones((1, num_images), np.uint8)
    drawn = draw_images(num_images, resamples=resamples, seed=seed)
    return np.concatenate((once, drawn, _each_group_left_out(num_images)))


def draw_images(num_images: int, *, resamples: int, seed: int) -> NDArray[np.uint8]:
    """Returns (B, I) how often each image is drawn in so many draws with replacement."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num_images, size=num_images) for _ in range(resamples))
    # One byte each: nothing is drawn 256 times where every image is expected once.
    return np.stack([np.bincount(d, minlength=num_images).astype(np.uint8) for d in draws])


def _each_group_left_out(num_images: int) -> NDArray[np.uint8]:
    """Returns (G, I) 0 for the images of one group, 1 for all others."""
    groups = num_groups(num_images)
    group = np.arange(num_images) % groups
    return (group != np.arange(groups)[:, None]).astype(np.uint8)


def num_groups(num_images: int) -> int:
    """Returns G, into how many groups the images are divided."""
    return min(_GROUPS, num_images)


def resample(
    matches: Matches,
    metrics: Sequence[str],
    *,
    weights: NDArray[np.integer],
    bins: Mapping[str, Bin] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Returns (W,) of every metric; NaN under weightings in which there is nothing to find.

    Args:
        matches: what every detection found.
        metrics: names of `METRICS`.
        weights: (W, I) how often each image counts.
        bins: those that the metrics name; needed for these alone.
    """
    bins = bins or {}
    values: dict[str, NDArray[np.float64]] = {}
    if any(_bin_of(metric) is None for metric in metrics):
        values |= average_precision(matches, weights=weights).means()
    for metric in metrics:
        name = _bin_of(metric)
        if name is not None:
            values[metric] = average_precision(
                matches,
                weights=weights,
                gt_bin=bins[name].truths,
                detection_bin=bins[name].detections,
            ).means()["ap"]
    return {metric: values[metric] for metric in metrics}


def needs_bins(metrics: Sequence[str]) -> bool:
    """Returns whether any of the metrics is about objects of one kind."""
    return any(_bin_of(metric) is not None for metric in metrics)


def _bin_of(metric: str) -> str | None:
    name = metric.removeprefix("ap_")
    return name if metric != name and name in (*SIZES, *KINDS) else None
