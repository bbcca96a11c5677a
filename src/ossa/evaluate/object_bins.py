"""AP within bins of objects: by size, by crowding, by whatever a box alone can tell.

A truth counts in its own bin, and with it the detection that found it; a false detection counts in
the bin of its own box. One rule places both: if all false detections counted in every bin, those of
everywhere would fall on the rarest. What found a truth of another bin is neither true nor false.

Detectors are compared within a bin, never bins with one another: precision, and so AP, falls with
the number of false detections for each truth, which differs between bins whatever the detector.

Dimensions: D detections, N truths, T IoU thresholds, K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.average_precision import average_precision
from ossa.evaluate.matching import Matches

_AT_50 = 0


@dataclass(frozen=True)
class BinScore:
    """How well the truths of one bin are found; None where it has none."""

    label: str
    ap: float | None
    """Mean over the IoU thresholds .50, .55, ..., .95 and the classes that have truths here."""
    ap50: float | None
    recall: float | None
    """At IoU 0.5, of all detections whatever their score; mean over the same classes."""
    num_truths: int
    """Neither crowd nor difficult."""
    num_detections: int
    """True and false ones at IoU 0.5 that count here."""
    ap_low: float | None = None
    """The 95 % interval of `ap` over resampled images; None without resamples."""
    ap_high: float | None = None


@dataclass(frozen=True)
class BinScores:
    """The scores of all bins of one quantity."""

    name: str
    """What the bins divide: 'crowding', 'size', ..."""
    bins: tuple[BinScore, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row a bin, ready for JSON."""
        return [asdict(one) for one in self.bins]


def score_bins(
    matches: Matches,
    *,
    name: str,
    labels: Sequence[str],
    gt_bins: NDArray[np.integer],
    detection_bins: NDArray[np.integer],
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns the scores of every bin, in the order of `labels`.

    Args:
        matches: what every detection found.
        name: what the bins divide.
        labels: of the bins.
        gt_bins: (N,) the bin of every truth.
        detection_bins: (D,) the bin of every detection by its own box.
        weights: (B, I) how often each image counts in each resample, for intervals.
    """
    bins = (
        _score(matches, label, gt_bins == number, detection_bins == number, weights)
        for number, label in enumerate(labels)
    )
    return BinScores(name, tuple(bins))


def _score(
    matches: Matches,
    label: str,
    gt_bin: NDArray[np.bool_],
    detection_bin: NDArray[np.bool_],
    weights: NDArray[np.integer] | None,
) -> BinScore:
    accuracy = average_precision(matches, gt_bin=gt_bin, detection_bin=detection_bin)
    means = {name: float(mean) for name, mean in accuracy.means().items()}
    sought = matches.gt_scored & gt_bin
    found = matches.truths[:, _AT_50]
    true = np.append(sought, False)[found]  # nobody, -1, is not sought
    false = (found < 0) & ~matches.ignored[:, _AT_50] & detection_bin
    recalls = accuracy.recall[_AT_50]
    has_gt = bool(sought.any())
    return BinScore(
        label,
        ap=means["ap"] if has_gt else None,
        ap50=means["ap50"] if has_gt else None,
        recall=float(np.nanmean(recalls)) if has_gt else None,
        num_truths=int(sought.sum()),
        num_detections=int((true | false).sum()),
        **_interval(matches, gt_bin, detection_bin, weights if has_gt else None),
    )


def _interval(
    matches: Matches,
    gt_bin: NDArray[np.bool_],
    detection_bin: NDArray[np.bool_],
    weights: NDArray[np.integer] | None,
) -> dict[str, float]:
    """Returns the bounds of the middle 95 % of AP over the resamples that have truths here."""
    if weights is None:
        return {}
    accuracy = average_precision(
        matches, weights=weights, gt_bin=gt_bin, detection_bin=detection_bin
    )
    low, high = np.nanpercentile(accuracy.means()["ap"], [2.5, 97.5])
    return {"ap_low": float(low), "ap_high": float(high)}


SIZE_EDGES = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Square roots of areas in pixels of the network's input: the strides of a detector of five levels,
each the size of one of its cells."""


def by_size(
    index: DatasetIndex,
    matches: Matches,
    *,
    imgsz: int,
    edges: tuple[float, ...] = SIZE_EDGES,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP by the size of objects at the network's input.

    Args:
        index: the truths.
        matches: of the same split.
        imgsz: side of the square network input in pixels.
        edges: ascending; a bin holds its lower edge and not its upper one.
        weights: of the images in resamples, as in `score_bins`.
    """
    scales = imgsz / index.sizes_wh.max(axis=1)
    truths = np.sqrt(index.boxes_xywh[:, 2:].prod(axis=1)) * scales[matches.gt_image_positions]
    found = np.sqrt(matches.areas) * scales[matches.images]
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return score_bins(
        matches,
        name="size",
        labels=(f"under {edges[0]:g}", *inner, f"{edges[-1]:g} and over"),
        gt_bins=np.searchsorted(edges, truths, side="right"),
        detection_bins=np.searchsorted(edges, found, side="right"),
        weights=weights,
    )
