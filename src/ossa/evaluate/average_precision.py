"""COCO's average precision from stored matches, for many weightings of the images at once.

A bootstrap draws images with replacement; an image that is drawn twice counts twice. Nothing is
copied for that: truths and detections are counted with the weight of their image. With the weights
TP(h) and FP(h) of the true and false detections up to and with a hit h, in the order of the scores,
and T that of the truths, COCO's precision at a recall r of 0.00, 0.01, ..., 1.00 is

    P(r) = max over the hits h with TP(h) / T >= r of TP(h) / (TP(h) + FP(h)), 0 without such a hit,

and AP is the mean of the 101. Only hits are looked at: behind a false detection precision is lower
and recall the same.

Dimensions: B weightings, D detections, N truths, T IoU thresholds, K classes, I images, H hits of a
class at a threshold.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from ossa.evaluate.matching import IOU_THRESHOLDS, Matches

_RECALLS = np.linspace(0.0, 1.0, 101)
_VALUES_AT_ONCE = 2**18
"""Hits times weightings that are worked on together: arrays of 2 MiB, which a cache holds."""
_WEIGHTINGS_AT_ONCE = 128
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True)
class Accuracy:
    """AP and recall of every class at every IoU threshold; NaN where there is nothing to find."""

    ap: NDArray[np.float64]
    """(..., T, K), fractions."""
    recall: NDArray[np.float64]
    """(..., T, K) of the best 100 detections of each image and class."""

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Returns ap, ap50, ap75 and ar_100 (...), means over the classes with truths."""
        return {
            "ap": _mean(self.ap.mean(axis=-2)),
            "ap50": _mean(self.ap[..., _AT_50, :]),
            "ap75": _mean(self.ap[..., _AT_75, :]),
            "ar_100": _mean(self.recall.mean(axis=-2)),
        }


def average_precision(
    matches: Matches,
    *,
    weights: NDArray[np.integer] | None = None,
    gt_bin: NDArray[np.bool_] | None = None,
    detection_bin: NDArray[np.bool_] | None = None,
) -> Accuracy:
    """Returns AP and recall by threshold and class; (T, K) each, or (B, T, K) for B weightings.

    Args:
        matches: what every detection found.
        weights: (I,) or (B, I) how often each image counts, 0 and up; once each if not given.
        gt_bin: (N,) the truths that are to be found; all that count if not given. What found
            another one is ignored.
        detection_bin: (D,) the detections that count as false if they found nothing; all if not
            given. Of a detection that found a truth, the truth alone decides.
    """
    each = np.ones((1, matches.num_images), np.int32) if weights is None else np.atleast_2d(weights)
    sought = matches.gt_scored if gt_bin is None else matches.gt_scored & gt_bin
    can_be_false = np.ones(len(matches.scores), bool) if detection_bin is None else detection_bin
    truths = _gt_by_image(matches, sought)
    shape = (len(each), len(IOU_THRESHOLDS), matches.num_classes)
    ap, recall = np.zeros(shape), np.zeros(shape)
    curves = list(_curves(matches, sought, can_be_false))
    most_hits = max((len(curve.images) for curve in curves), default=1)
    at_once = int(np.clip(_VALUES_AT_ONCE // most_hits, 1, _WEIGHTINGS_AT_ONCE))
    for start in range(0, len(each), at_once):
        rows = slice(start, start + at_once)
        by_image = np.ascontiguousarray(each[rows].T, np.int32)
        totals = truths.T @ by_image  # (K, B)
        for curve in curves:
            place = (rows, curve.threshold, curve.label)
            ap[place], recall[place] = curve.score(by_image, totals[curve.label])
        nothing = np.broadcast_to((totals.T == 0)[:, None], ap[rows].shape)
        ap[rows][nothing] = recall[rows][nothing] = np.nan
    if weights is None or weights.ndim == 1:
        return Accuracy(ap[0], recall[0])
    return Accuracy(ap, recall)


@dataclass(frozen=True)
class _Curve:
    """The hits of one class at one IoU threshold, the best score first."""

    threshold: int
    label: int
    images: NDArray[np.int64]
    """(H,) position of the image of each hit."""
    false_before: csr_array
    """int32 (H, I): false detections of each image between the hit before and each hit."""

    def score(
        self, by_image: NDArray[np.int32], totals: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns AP and recall (B,) from weights (I, B) and those of all truths (B,)."""
        true = np.cumsum(by_image[self.images], axis=0, dtype=np.int32)
        counted = np.cumsum(self.false_before @ by_image, axis=0, dtype=np.int32)
        counted += true
        precision = true / np.maximum(counted, 1)
        best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = true / np.maximum(totals, 1)
        reached = _recalls_reached(recall)
        newly_reached = np.diff(reached, axis=0, prepend=0)
        ap = np.einsum("hb,hb->b", newly_reached, best_from_here) / len(_RECALLS)
        return ap, recall[-1]


def _recalls_reached(recall: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns how many of the 101 recalls are at most each of `recall`, to the last bit.

    Some of COCO's 101 numbers lie a rounding error above the fraction that they stand for, and it
    compares as floats: 35 truths of 100 do not reach the recall 0.35. So the last one that could be
    reached is told first and then compared.
    """
    last = (recall * 100 + 1e-9).astype(np.intp)
    return last + (_RECALLS[last] <= recall)


def _gt_by_image(matches: Matches, sought: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns (I, K) how many truths are sought, as floats, which matrix products are fast with."""
    shape = (matches.num_images, matches.num_classes)
    cells = matches.gt_image_positions * matches.num_classes + matches.gt_labels
    counts = np.bincount(cells[sought], minlength=shape[0] * shape[1])
    return counts.reshape(shape).astype(np.float64)


def _curves(
    matches: Matches, sought: NDArray[np.bool_], can_be_false: NDArray[np.bool_]
) -> Iterator[_Curve]:
    """Yields all that have a hit."""
    bounds = np.searchsorted(matches.labels, np.arange(matches.num_classes + 1))
    found = np.append(sought, False)[matches.truths]  # nobody, -1, is not sought
    false = (matches.truths < 0) & ~matches.ignored & can_be_false[:, None]
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


def _mean(by_class: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean over the last axis of what is defined, NaN where nothing is."""
    defined = ~np.isnan(by_class)
    count = defined.sum(axis=-1)
    total = np.where(defined, by_class, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
