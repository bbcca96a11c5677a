"""Whether scores mean what they say: of the detections with a score of 0.7, are 70 % true?

A detection is true where it found a truth at IoU 0.5 by COCO's matching, second detections of a
truth being false; what found a crowd or a difficult truth does not count. The expected calibration
error (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning") is the
mean over detections of |precision - mean score| of their bin of scores.

Nearly all detections of an evaluation have scores near 0, and nearly all of these are false, as
they should be: they make the error small. So say from which confidence it is, and compare errors
only from the same.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ossa.errors import ConfigError
from ossa.evaluate.matching import Matches

_AT_50 = 0


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with scores from `lower` to below `upper` (the last bin holds 1 as well)."""

    lower: float
    upper: float
    count: int
    mean_score: float | None
    """None in an empty bin."""
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """Precision by score, and how far both are apart."""

    confidence: float
    """Lowest score of the detections that count."""
    error: float | None
    """The expected calibration error, 0..1; None without detections."""
    bins: tuple[CalibrationBin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: confidence, error, bins."""
        return asdict(self)


def calibration(matches: Matches, *, bins: int = 10, confidence: float = 0.0) -> Calibration:
    """Returns how well scores tell the chance of being true.

    Args:
        matches: what every detection found.
        bins: number of bins of equal width.
        confidence: lowest score of the detections that count.

    Raises:
        ConfigError: fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"expected at least one bin of scores, found {bins}")
    # In float32, as Detections.above compares, lest a score of 0.7 fall below 0.7.
    scores = matches.scores.astype(np.float32)
    counts = ~matches.ignored[:, _AT_50] & (scores >= np.float32(confidence))
    edges = np.arange(bins + 1) / bins
    scores, hits = scores[counts].astype(np.float64), matches.hits[counts, _AT_50]
    place = np.searchsorted(edges[1:-1].astype(np.float32), scores.astype(np.float32), "right")
    totals, score_sums, true = (
        np.bincount(place, weights=weights, minlength=bins) for weights in (None, scores, hits)
    )
    gaps = np.abs(true - score_sums)  # of each bin, times its number
    return Calibration(
        confidence,
        float(gaps.sum() / len(scores)) if len(scores) else None,
        tuple(
            CalibrationBin(
                lower=float(edges[number]),
                upper=float(edges[number + 1]),
                count=int(total),
                mean_score=float(score_sums[number] / total) if total else None,
                precision=float(true[number] / total) if total else None,
            )
            for number, total in enumerate(totals)
        ),
    )
