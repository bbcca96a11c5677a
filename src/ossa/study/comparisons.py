"""Which models of a study differ, by how much at most, and which may be the best.

The variances of the means are those of `ossa.study.estimates`.

- **Simultaneous intervals.** One critical value for all pairs (single-step max-t) over their joint
  distribution. Pairs have different degrees of freedom: their t-statistics are compared after the
  transformation to normal scores of Wallace (1959). The distribution is drawn, with the
  variances over seeds from their posterior and estimated anew in every draw.
- **The best.** Comparisons of each model with the best of the others (Edwards and Hsu, "Multiple
  comparisons with the best treatment", 1983) are one-sided and M - 1 instead of M (M - 1) / 2.

The error rates are simulated in `benchmarks/verdicts.py`.

Dimensions: M models, R runs of a model, B resamples, G groups of images, P pairs, D draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ossa.evaluate.statistics import LEVEL, Interval, Values
from ossa.study.estimates import (
    ROUNDING,
    Estimates,
    Floats,
    SeedVariances,
    draw_seed_variances,
    square_root,
)

Verdict: TypeAlias = Literal["better", "worse", "practically the same", "not decided"]
MARGIN = 0.02
"""Models whose difference is certainly smaller are practically the same."""
_MARGIN_OF_BEST = 0.2
"""The margin is at most this share of the highest mean: at 0.03, 0.02 is no small difference."""
ZERO = 0.0005
"""An AP below this is written as 0.000."""
_DRAWS = 8000
_FEWEST_DRAWS, _MOST_DRAWN = 1000, 10_000_000
"""With many pairs there are fewer draws, so that draws times pairs are at most `_MOST_DRAWN`."""
_VALUES_AT_ONCE = 2**21
"""Draws times pairs that are in memory together."""


def _scores(t: Floats, dof: Floats) -> Floats:
    """Returns normal scores of t-statistics, with their signs (Wallace, 1959)."""
    factor = (8 * dof + 1) / (8 * dof + 3)
    return np.sign(t) * factor * np.sqrt(dof * np.log1p(t**2 / dof))


def critical_t(score: Floats | float, dof: Floats) -> Floats:
    """Returns the t-statistics of normal scores; the inverse of `_scores`."""
    factor = (8 * dof + 1) / (8 * dof + 3)
    return np.sqrt(dof * np.expm1((score / factor) ** 2 / dof))


def _total_variance(
    images: Floats, least: Floats, seeds: Floats, seed_dof: Floats, image_dof: Floats
) -> tuple[Floats, Floats]:
    """Returns the variance over images and seeds and its degrees of freedom (Satterthwaite).

    Args:
        images: (P,) over images.
        least: (P,) over images of these runs: by chance, runs agree better than images allow.
        seeds: (N, ..., P) of the N means over seeds: two of a difference.
        seed_dof: (N, ..., P).
        image_dof: (P,).
    """
    total = images + seeds.sum(axis=0)
    doubt = images**2 / image_dof + (seeds**2 / np.maximum(seed_dof, 1e-9)).sum(axis=0)
    dof = np.divide(total**2, doubt, out=np.ones_like(total), where=doubt > 0)
    below = total < least
    return np.where(below, least, total), np.where(below, image_dof, dof)


@dataclass(frozen=True)
class PairwiseComparison:
    """The difference of two models: the model minus the reference."""

    model: str
    reference: str
    difference: float
    low: float
    high: float
    """Ends of the simultaneous 95% interval, which decides."""
    p: float
    """Adjusted for all pairs of the study."""
    margin: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def within(self) -> float:
        """The smallest margin at which the two are equivalent."""
        return max(-self.low, self.high)

    @property
    def at_most_lower(self) -> float:
        """By how much the model is lower at most; 0 where it is certainly higher."""
        return max(-self.low, 0.0)

    @property
    def is_equivalent(self) -> bool:
        """Whether the difference is certainly below the margin, in either direction."""
        return self.within < self.margin

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model."""
        if self.differs:
            return "better" if self.difference > 0 else "worse"
        return "practically the same" if self.is_equivalent else "not decided"

    def flat(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        names = ("model", "reference", "difference", "low", "high", "p", "within", "verdict")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparisons:
    """All pairs of models of a study in one metric, with simultaneous intervals.

    Examples:
        >>> import ossa
        >>> compared = compare_all(ossa.load_study("study").values("ap"))
        >>> compared.pair("resnet10t", "mobilenetv2_100").verdict
        'not decided'
    """

    estimates: Estimates
    standard_errors: Floats
    """(M, M) of the differences."""
    dof: Floats
    """(M, M) degrees of freedom."""
    largest: Floats
    """(D,) drawn largest absolute normal scores over all pairs, sorted."""
    largest_below: Floats
    """(D, M) drawn largest normal scores of other models minus this one, sorted."""
    alpha: float
    margin: float

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of the values."""
        return self.estimates.models

    @property
    def over(self) -> str:
        """What the intervals cover: 'seeds and images', 'images alone' or 'seeds alone'."""
        if not self.estimates.over_seeds:
            return "images alone"
        over_images = self.estimates.images.diagonal().max() > ROUNDING
        return "seeds and images" if over_images else "seeds alone"

    @cached_property
    def half_widths(self) -> Floats:
        """(M, M) half the width of the simultaneous interval of every difference."""
        critical = float(np.quantile(self.largest, 1 - self.alpha))
        return critical_t(critical, self.dof) * self.standard_errors

    def interval(
        self, model: str, *, level: float = LEVEL, within: tuple[float, float] = (0.0, 1.0)
    ) -> Interval:
        """Returns the interval of the mean of one model, unadjusted, by its own variance.

        Args:
            model: one of the models.
            level: of confidence.
            within: the lowest and the highest possible mean.
        """
        i, estimates = self.models.index(model), self.estimates
        variance, dof = _total_variance(
            np.diag(estimates.images),
            np.diag(estimates.runs_over_images),
            (estimates.variances / estimates.runs)[None],
            estimates.dof[None],
            np.diag(estimates.image_dof),
        )
        half = float(stats.t.ppf((1 + level) / 2, dof[i]) * variance[i] ** 0.5)
        mean = float(estimates.means[i])
        return Interval(max(mean - half, within[0]), min(mean + half, within[1]))

    def pair(self, model: str, reference: str) -> PairwiseComparison:
        """Returns the comparison of two models."""
        i, j = self.models.index(model), self.models.index(reference)
        difference = float(self.estimates.means[i] - self.estimates.means[j])
        half, error = float(self.half_widths[i, j]), float(self.standard_errors[i, j])
        p = 1.0 if difference == 0 else 0.0
        if error > 0:
            score = float(_scores(np.array(difference / error), self.dof[i, j]))
            above = len(self.largest) - np.searchsorted(self.largest, abs(score) - 1e-12)
            p = (1 + float(above)) / (1 + len(self.largest))
        low, high = max(difference - half, -1.0), min(difference + half, 1.0)
        return PairwiseComparison(model, reference, difference, low, high, p, self.margin)

    def half_width_with(self, model: str, reference: str, *, runs: int) -> float:
        """Returns half the width that the interval of two models would have with so many runs."""
        i, j = self.models.index(model), self.models.index(reference)
        images, seeds = self.estimates.images, self.estimates.seeds.value
        variance = max(images[i, i] + images[j, j] - 2 * images[i, j], 0.0)
        variance += (seeds[i] + seeds[j]) / runs
        dof = self.dof[i, j] * (runs - 1) / (self.estimates.runs[[i, j]].mean() - 1)
        critical = float(np.quantile(self.largest, 1 - self.alpha))
        return float(critical_t(critical, dof) * variance**0.5)

    def pairs(self) -> list[PairwiseComparison]:
        """Returns every pair once, best models first, the better one as the model."""
        best_first = sorted(zip(-self.estimates.means, self.models, strict=True))
        return [self.pair(a, b) for a, b in combinations([name for _, name in best_first], 2)]

    def with_best(self) -> dict[str, Interval]:
        """Returns the simultaneous 95% interval of each model minus the best of the others.

        A model whose interval ends at 0 is certainly not the best; one that begins at 0 is.
        """
        means, count = self.estimates.means, len(self.models)
        critical = np.quantile(self.largest_below, 1 - self.alpha, axis=0)
        # [i, j]: the least by which j is better than i, were j compared as the best.
        lead = means[None, :] - means[:, None]
        upper = -lead + critical_t(critical[:, None], self.dof) * self.standard_errors
        lower = -lead - critical_t(critical[None, :], self.dof) * self.standard_errors
        others = ~np.eye(count, dtype=bool)
        high = np.where(others, upper, np.inf).min(axis=1).clip(min=0)
        candidates = high > 0
        intervals = {}
        for i, model in enumerate(self.models):
            rivals = others[i] & candidates
            low = min(float(lower[i, rivals].min()), 0.0) if rivals.any() else 0.0
            intervals[model] = Interval(low, float(high[i]) if count > 1 else 0.0)
        return intervals

    def possibly_best(self) -> list[str]:
        """Returns the models that may be the best, the highest mean first."""
        intervals = self.with_best()
        means = dict(zip(self.models, self.estimates.means, strict=True))
        candidates = [model for model in self.models if intervals[model].high > 0]
        highest = [model for model in self.models if means[model] == max(means.values())]
        return sorted(candidates or highest, key=lambda model: -means[model])


def compare_all(
    values: Mapping[str, Values],
    *,
    margin: float = MARGIN,
    alpha: float = 1 - LEVEL,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Comparisons:
    """Returns the comparisons of all pairs of models.

    Args:
        values: of one metric by model, on the same images.
        margin: differences that are certainly smaller do not matter.
        alpha: family-wise error rate.
        draws: number of draws of the joint distribution.
        seed: of these draws.
    """
    estimates = Estimates.of(values)
    return compare_estimates(estimates, margin=margin, alpha=alpha, draws=draws, seed=seed)


def compare_estimates(
    estimates: Estimates,
    *,
    margin: float = MARGIN,
    alpha: float = 1 - LEVEL,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Comparisons:
    """Returns the comparisons of all pairs of models from their estimates."""
    count = len(estimates.models)
    first, second = np.triu_indices(count, 1)
    errors, dofs = np.zeros((count, count)), np.ones((count, count))
    variance, dof = difference_variances(estimates, estimates.seeds, first, second)
    errors[first, second] = errors[second, first] = np.sqrt(variance)
    dofs[first, second] = dofs[second, first] = dof
    draws = min(draws, max(_FEWEST_DRAWS, _MOST_DRAWN // max(len(first), 1)))
    rng = np.random.default_rng(seed)
    at_once = max(1, _VALUES_AT_ONCE // max(len(first), 1))
    chunks = [
        _draw_largest(estimates, min(at_once, draws - start), first, second, rng)
        for start in range(0, draws, at_once)
    ]
    return Comparisons(
        estimates=estimates,
        standard_errors=errors,
        dof=dofs,
        largest=np.sort(np.concatenate([largest for largest, _ in chunks])),
        largest_below=np.sort(np.concatenate([below for _, below in chunks]), axis=0),
        alpha=alpha,
        margin=min(margin, _MARGIN_OF_BEST * float(estimates.means.max())),
    )


def difference_variances(
    estimates: Estimates,
    seeds: SeedVariances,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    image_factor: Floats | float = 1.0,
) -> tuple[Floats, Floats]:
    """Returns variance and degrees of freedom (..., P) of the differences of pairs."""

    def of_pairs(covariance: Floats) -> Floats:
        diagonal = np.diag(covariance)
        return np.maximum(diagonal[first] + diagonal[second] - 2 * covariance[first, second], 0.0)

    mean_variance = seeds.value / estimates.runs
    pairs = (first, second)
    return _total_variance(
        of_pairs(estimates.images) * image_factor,
        of_pairs(estimates.runs_over_images) * image_factor,
        np.stack([mean_variance[..., side] for side in pairs]),
        np.stack([seeds.dof[..., side] for side in pairs]),
        estimates.image_dof[first, second],
    )


def _draw_largest(
    estimates: Estimates,
    draws: int,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Returns drawn largest scores where no models differ: (D,) of all pairs, (D, M) below each."""
    count = len(estimates.models)
    deviations = rng.standard_normal((draws, count)) @ square_root(estimates.images)
    true, redrawn = draw_seed_variances(estimates, draws, rng)
    deviations += rng.standard_normal((draws, count)) * np.sqrt(true / estimates.runs)
    dof = float(np.median(estimates.image_dof[first, second])) if len(first) else 1.0
    factor = rng.chisquare(dof, size=(draws, 1)) / dof
    variance, dofs = difference_variances(estimates, redrawn, first, second, factor)
    difference = deviations[:, first] - deviations[:, second]
    t = np.divide(difference, variance**0.5, out=np.zeros_like(difference), where=variance > 0)
    scores = _scores(t, dofs)
    below = np.full((count, draws), -np.inf)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        np.maximum(below[j], scores[:, pair], out=below[j])
        np.maximum(below[i], -scores[:, pair], out=below[i])
    return np.abs(scores).max(axis=1, initial=0.0), np.where(np.isfinite(below), below, 0.0).T
