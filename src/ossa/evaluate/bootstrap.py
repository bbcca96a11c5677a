"""COCO's average precision from stored matches under many weightings of the images: the bootstrap.

A bootstrap draws images with replacement; an image that is drawn twice counts twice. Nothing is
copied for that: ground truth and detections count with the weight of their image. With the weights
TP(h) and FP(h) of the true and false detections up to and including a hit h, in the order of the
scores, and T of the ground truth, COCO's precision at a recall r of 0.00, 0.01, ..., 1.00 is

    P(r) = max over the hits h with TP(h) / T >= r of TP(h) / (TP(h) + FP(h)), 0 without such a hit,

and AP is the mean of the 101. Only hits matter: after a false detection precision is lower and
recall the same. The weightings are fixed by the number of images and a seed, so every model that
was scored on a split is resampled alike, today or from a file of last month.

Dimensions: W weightings, B resamples, G parts, D detections, N ground-truth boxes, T IoU
thresholds, K classes, I images, H hits of a class at a threshold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from ossa.errors import ConfigError, suggestion
from ossa.evaluate.matching import AT_50, AT_75, IOU_THRESHOLDS, Matches
from ossa.evaluate.metrics import KINDS, SIZES

_BIN_OF: Final = {f"ap_{name}": name for name in (*SIZES, *KINDS)}
RESAMPLED_METRICS: Final = ("ap", "ap50", "ap75", "ar_100", *_BIN_OF)
"""What can be resampled; `ossa.evaluate.metrics.METRIC_TITLES` has their titles.

Where a name is added, what studies have stored is computed anew.
"""
RESAMPLES = 2000
_PARTS = 200
_RECALLS = np.linspace(0.0, 1.0, 101)
_VALUES_AT_ONCE = 2**18
"""Hits times weightings that are worked on together: arrays of 2 MiB, which a cache holds."""
_WEIGHTINGS_AT_ONCE = 128


@dataclass(frozen=True)
class Accuracy:
    """AP and recall of every class at every IoU threshold; NaN where there is no ground truth."""

    ap: NDArray[np.float64]
    """(..., T, K), fractions."""
    recall: NDArray[np.float64]
    """(..., T, K) of the best 100 detections of each image and class."""

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Returns ap, ap50, ap75 and ar_100 (...), means over the classes with ground truth."""
        return {
            "ap": _mean(self.ap.mean(axis=-2)),
            "ap50": _mean(self.ap[..., AT_50, :]),
            "ap75": _mean(self.ap[..., AT_75, :]),
            "ar_100": _mean(self.recall.mean(axis=-2)),
        }


def average_precision(
    matches: Matches,
    *,
    weights: NDArray[np.integer] | None = None,
    gt_bin: NDArray[np.bool_] | None = None,
    detection_bin: NDArray[np.bool_] | None = None,
) -> Accuracy:
    """Returns AP and recall by threshold and class; (T, K) each, or (W, T, K) for W weightings.

    Args:
        matches: what every detection matches.
        weights: (I,) or (W, I) how often each image counts, 0 and up; once each if not given.
        gt_bin: (N,) the ground truth to be found; all that is scored if not given. What matches
            another box is ignored.
        detection_bin: (D,) the detections that count as false if they match nothing; all if not
            given. Of a detection that matches, the ground truth alone decides.
    """
    num_images, num_classes = matches.num_images, matches.num_classes
    each = np.ones((1, num_images), np.int32) if weights is None else np.atleast_2d(weights)
    wanted = matches.gt_scored if gt_bin is None else matches.gt_scored & gt_bin
    can_be_false = np.ones(len(matches.scores), bool) if detection_bin is None else detection_bin
    cells = matches.gt_image_positions * num_classes + matches.gt_labels
    gt_counts = np.bincount(cells[wanted], minlength=num_images * num_classes)
    # As floats, which matrix products are fast with.
    gt_counts = gt_counts.reshape(num_images, num_classes).astype(np.float64)
    shape = (len(each), len(IOU_THRESHOLDS), num_classes)
    ap, recall = np.zeros(shape), np.zeros(shape)
    curves = list(_curves(matches, wanted, can_be_false))
    most_hits = max((len(curve.images) for curve in curves), default=1)
    at_once = int(np.clip(_VALUES_AT_ONCE // most_hits, 1, _WEIGHTINGS_AT_ONCE))
    for start in range(0, len(each), at_once):
        rows = slice(start, start + at_once)
        by_image = np.ascontiguousarray(each[rows].T, np.int32)
        totals = gt_counts.T @ by_image  # (K, W)
        for curve in curves:
            place = (rows, curve.threshold, curve.label)
            ap[place], recall[place] = _score(curve, by_image, totals[curve.label])
        nothing = np.broadcast_to((totals.T == 0)[:, None], ap[rows].shape)
        ap[rows][nothing] = recall[rows][nothing] = np.nan
    if weights is None or weights.ndim == 1:
        return Accuracy(ap[0], recall[0])
    return Accuracy(ap, recall)


class _Curve(NamedTuple):
    """The hits of one class at one IoU threshold, best score first."""

    threshold: int
    label: int
    images: NDArray[np.int64]
    """(H,) position of the image of each hit."""
    false_before: csr_array
    """int32 (H, I): false detections of each image between the hit before and each hit."""


def _curves(
    matches: Matches, wanted: NDArray[np.bool_], can_be_false: NDArray[np.bool_]
) -> Iterator[_Curve]:
    """Yields all that have a hit."""
    bounds = np.searchsorted(matches.labels, np.arange(matches.num_classes + 1))
    found = np.append(wanted, False)[matches.matched_gt]  # -1, no match, is not wanted
    false = (matches.matched_gt < 0) & ~matches.ignored & can_be_false[:, None]
    for label in range(matches.num_classes):
        rows = slice(bounds[label], bounds[label + 1])
        images = matches.images[rows]
        for threshold in range(len(IOU_THRESHOLDS)):
            hits = np.flatnonzero(found[rows, threshold])
            if not len(hits):
                continue
            misses = np.flatnonzero(false[rows, threshold])
            misses = misses[misses < hits[-1]]
            place = (np.searchsorted(hits, misses), images[misses])
            ones = np.ones(len(misses), np.int32)
            shape = (len(hits), matches.num_images)
            false_before = coo_array((ones, place), shape=shape).tocsr()
            yield _Curve(threshold, label, images[hits], false_before)


def _score(
    curve: _Curve, by_image: NDArray[np.int32], totals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns AP and recall (W,) from weights (I, W) and the weights of all ground truth (W,)."""
    true = np.cumsum(by_image[curve.images], axis=0, dtype=np.int32)
    counted = np.cumsum(curve.false_before @ by_image, axis=0, dtype=np.int32)
    counted += true
    precision = true / np.maximum(counted, 1)
    best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = true / np.maximum(totals, 1)
    # Some of COCO's 101 numbers lie a rounding error above the fraction that they stand for, and it
    # compares as floats: 35 boxes of 100 do not reach the recall 0.35.
    last = (recall * 100 + 1e-9).astype(np.intp)
    newly_reached = np.diff(last + (_RECALLS[last] <= recall), axis=0, prepend=0)
    ap = np.einsum("hb,hb->b", newly_reached, best_from_here) / len(_RECALLS)
    return ap, recall[-1]


def _mean(by_class: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean over the last axis of what is defined, NaN where nothing is."""
    # np.nanmean would warn where nothing is.
    defined = ~np.isnan(by_class)
    count = defined.sum(axis=-1)
    total = np.where(defined, by_class, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


class Bin(NamedTuple):
    """Objects of one kind, and the detections that are of that kind by their own boxes."""

    gt: NDArray[np.bool_]
    """(N,)."""
    detections: NDArray[np.bool_]
    """(D,)."""


def resample(
    matches: Matches,
    metrics: Sequence[str],
    *,
    weights: NDArray[np.integer],
    bins: Mapping[str, Bin] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Returns (W,) of every metric; NaN under weightings in which there is no ground truth.

    Args:
        matches: what every detection matches.
        metrics: names of `RESAMPLED_METRICS`.
        weights: (W, I) how often each image counts.
        bins: those that the metrics name (`ossa.evaluate.object_bins.bins_of`).
    """
    values: dict[str, NDArray[np.float64]] = {}
    if not all(map(_BIN_OF.get, metrics)):
        values |= average_precision(matches, weights=weights).means()
    for metric in filter(_BIN_OF.get, metrics):
        gt, found = (bins or {})[_BIN_OF[metric]]
        accuracy = average_precision(matches, weights=weights, gt_bin=gt, detection_bin=found)
        values[metric] = accuracy.means()["ap"]
    return {metric: values[metric] for metric in metrics}


def is_varied(
    matches: Matches, weights: NDArray[np.integer], gt_bin: NDArray[np.bool_] | None = None
) -> bool:
    """Returns whether ground truth lies in two images that weightings (W, I) tell apart.

    In one image, or one group of images that are drawn together, every draw gives the same AP or
    none, and an interval would have no width. `gt_bin`: as in `average_precision`.
    """
    wanted = matches.gt_scored if gt_bin is None else matches.gt_scored & gt_bin
    images = np.unique(matches.gt_image_positions[wanted])
    return bool((weights[:, images] != weights[:, images[:1]]).any())


def needs_bins(metrics: Sequence[str]) -> bool:
    """Returns whether any of the metrics is about objects of one kind."""
    return any(map(_BIN_OF.get, metrics))


def check_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not among `RESAMPLED_METRICS`."""
    for name in names:
        if name not in RESAMPLED_METRICS:
            raise ConfigError(
                expected=f"metrics of {', '.join(RESAMPLED_METRICS)}",
                found=repr(name),
                advice=suggestion(name, RESAMPLED_METRICS).strip(),
            )


def image_weightings(
    num_images: int, *, resamples: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Returns (W, I), W = 1 + B + G: each image once, then the draws, then each part left out.

    Args:
        num_images: I.
        resamples: B.
        seed: of the draws.
        groups: (I,) of images that are drawn and left out together, in 0..; each image alone if
            None.
    """
    if groups is not None:
        num_groups = int(groups.max()) + 1
        return image_weightings(num_groups, resamples=resamples, seed=seed)[:, groups]
    once = np.ones((1, num_images), np.uint8)
    drawn = draw_images(num_images, resamples=resamples, seed=seed)
    parts = num_parts(num_images)
    left_out = np.arange(num_images) % parts != np.arange(parts)[:, None]
    return np.concatenate((once, drawn, left_out.astype(np.uint8)))


def draw_images(num_images: int, *, resamples: int, seed: int) -> NDArray[np.uint8]:
    """Returns (B, I) how often each image is drawn in so many draws with replacement."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num_images, size=num_images) for _ in range(resamples))
    # One byte each: nothing is drawn 256 times where every image is expected once.
    return np.stack([np.bincount(d, minlength=num_images).astype(np.uint8) for d in draws])


def num_parts(num_images: int) -> int:
    """Returns G, into how many parts the images are divided for the jackknife."""
    return min(_PARTS, num_images)
