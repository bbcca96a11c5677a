"""Pareto sets, and the ranking of cost measures as predictors of quality.

A model is in the Pareto set if no other is at least as good and cheaper, or better and at most as
expensive. It is a set of trained models, not a curve; a power-law fit is the fitted mean trend in
log-log.

The probability of membership is the share of draws of the true qualities, which other images and
other seeds would show (`ossa.study.estimates.draw_qualities`), in which a model is a member.
Complexity is taken as exact.

Dimensions: M models, D draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ossa.evaluate.statistics import LEVEL, Interval, Verdict, adjust_by_holm
from ossa.study.scaling import InsufficientData, Points, PowerLaw, leave_one_out


@dataclass(frozen=True)
class ParetoPoint:
    """A model with one quality and one complexity, and whether it is in the Pareto set."""

    model: str
    family: str
    complexity: float
    quality: float
    """Mean over seeds."""
    is_member: bool
    """Whether the measured qualities put it in the Pareto set."""
    probability: float | None
    """Share of the draws in which the model is a member; None without draws."""


@dataclass(frozen=True)
class Relation:
    """One measure of quality against one of complexity, over all models of a study."""

    quality: str
    complexity: str
    points: Points
    fit: PowerLaw | InsufficientData
    pareto: tuple[ParetoPoint, ...]
    """All models in order of complexity."""

    @property
    def members(self) -> list[ParetoPoint]:
        """The Pareto set in order of complexity."""
        return [point for point in self.pareto if point.is_member]


def pareto_set(
    complexity: NDArray[np.floating], quality: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Returns a mask (..., M) of the models that no other model dominates.

    Models equal in both numbers do not dominate each other. A model with a quality of 0 or NaN is
    never a member: a trivial detector reaches it.

    Args:
        complexity: (M,).
        quality: (..., M), 0 and up.

    Examples:
        >>> pareto_set(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.4])).tolist()
        [True, False, True]
    """
    is_member = quality > 0
    for model, cost in enumerate(complexity):
        reached = quality[..., [model]]
        dominated_by_cheaper = (quality[..., complexity < cost] >= reached).any(axis=-1)
        dominated_by_better = (quality[..., complexity <= cost] > reached).any(axis=-1)
        is_member[..., model] &= ~(dominated_by_cheaper | dominated_by_better)
    return is_member


def pareto_membership(
    points: Points, draws: Mapping[str, NDArray[np.float64]] | None = None
) -> tuple[ParetoPoint, ...]:
    """Returns every model with its membership, ordered by cost and then by quality, best first.

    Args:
        points: the models.
        draws: by model, (D,) draws of the same quality; models without a point are ignored.

    Examples:
        >>> points = Points.of("abc", families="xxy", complexity=[1, 2, 3], quality=[0.3, 0.2, 0.4])
        >>> [point.model for point in pareto_membership(points) if point.is_member]
        ['a', 'c']
    """
    members = pareto_set(points.complexity, points.quality).tolist()
    probabilities: list[float | None] = [None] * len(points)
    if draws is not None and len(points):
        drawn = np.stack([draws[model] for model in points.models], axis=1)
        probabilities = pareto_set(points.complexity, drawn).mean(axis=0).tolist()
    costs, qualities = points.complexity.tolist(), points.quality.tolist()
    rows = zip(
        points.models, points.families, costs, qualities, members, probabilities, strict=True
    )
    pareto_points = (ParetoPoint(*row) for row in rows)
    return tuple(sorted(pareto_points, key=lambda point: (point.complexity, -point.quality)))


_NO_DIFFERENCE = 1e-9
"""Differences below this are rounding, as between FLOPs and MACs, which are half of them."""


@dataclass(frozen=True)
class MeasurePair:
    """How well two measures of complexity predict quality, by a paired t-test over the models."""

    first: str
    second: str
    difference: float
    """Mean error of the first minus the second, in log quality: negative if the first is better."""
    interval: Interval
    """95% confidence interval of the difference."""
    p: float
    p_adjusted: float
    """Holm-adjusted over all pairs."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on the first measure, significant if `p_adjusted` is below 0.05."""
        if self.p_adjusted >= 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class MeasureRanking:
    """Measures of complexity, ordered by how well each predicts a quality."""

    errors: Mapping[str, float]
    """Mean |ln measured - ln predicted| of the models left out, smallest first."""
    pairs: tuple[MeasurePair, ...]
    """Each pair once; `first` is the measure with the smaller error."""
    models: tuple[str, ...]
    """The models on which all measures were compared."""
    models_left_out: Mapping[str, str]
    """The reason for each."""
    measures_left_out: Mapping[str, str]
    """The reason for each."""

    @property
    def best(self) -> tuple[str, ...]:
        """The measure with the smallest error, and those that are not distinguishable from it."""
        smallest = next(iter(self.errors))
        equals = [
            pair.second
            for pair in self.pairs
            if pair.first == smallest and pair.verdict == "not distinguishable"
        ]
        return (smallest, *equals)


def rank_measures(points: Mapping[str, Points]) -> MeasureRanking | InsufficientData:
    """Returns the ranking of the measures on the models for which all of them are known.

    A measure that is known for fewer than eight models is left out; otherwise the other measures
    would be compared on those few models only.

    Args:
        points: by the name of the measure; all have the same quality and the same models in the
            same order.

    Examples:
        >>> flops, params = [1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 2, 5, 4, 8, 6, 7]
        >>> quality = [0.1 * cost**0.3 for cost in flops]
        >>> points = {
        ...     name: Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        ...     for name, cost in {"flops": flops, "params": params}.items()
        ... }
        >>> list(rank_measures(points).errors)
        ['flops', 'params']
    """
    unusable = {name: known.insufficient() for name, known in points.items()}
    usable = {name: known for name, known in points.items() if unusable[name] is None}
    models_left_out = {
        model.model: f"{name}: {model.reason}"
        for name, known in usable.items()
        for model in known.left_out
    }
    common = {
        name: known.where([model not in models_left_out for model in known.models])
        for name, known in usable.items()
    }
    unusable |= {name: known.insufficient() for name, known in common.items()}
    reasons = {name: lack.reason for name, lack in unusable.items() if lack is not None}
    errors = {
        name: np.abs(leave_one_out(known).residuals)
        for name, known in common.items()
        if name not in reasons
    }
    if not errors:
        return InsufficientData("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    errors = dict(sorted(errors.items(), key=lambda item: item[1].mean()))
    return MeasureRanking(
        errors={name: float(values.mean()) for name, values in errors.items()},
        pairs=_measure_pairs(errors),
        models=common[next(iter(errors))].models,
        models_left_out=models_left_out,
        measures_left_out=reasons,
    )


def _measure_pairs(errors: Mapping[str, NDArray[np.float64]]) -> tuple[MeasurePair, ...]:
    """Returns the comparisons of all pairs of measures from the errors (M,) of each."""
    pairs = list(combinations(errors, 2))
    tests = [_paired_t_test(errors[first] - errors[second]) for first, second in pairs]
    adjusted = adjust_by_holm([p for _, _, p in tests])
    rows = zip(pairs, tests, adjusted, strict=True)
    return tuple(MeasurePair(*names, *test, p) for names, test, p in rows)


def _paired_t_test(differences: NDArray[np.float64]) -> tuple[float, Interval, float]:
    """Returns the mean, its 95% confidence interval and the two-sided p-value for a mean of 0."""
    if np.abs(differences).max() < _NO_DIFFERENCE:
        return 0.0, Interval(0.0, 0.0), 1.0
    test: Any = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return float(differences.mean()), Interval(float(low), float(high)), float(test.pvalue)
