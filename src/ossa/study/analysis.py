"""Pareto sets, the ranking of cost measures as predictors of quality, and pairwise comparisons.

A model is in the Pareto set if no other is at least as good and cheaper, or better and at most as
expensive. It is a set of trained models, not a curve; a power-law fit is the fitted mean trend in
log-log.

Probability of membership: other images and other seeds could have been drawn. Each draw resamples
the images, in the same way for all models, so that images that are hard for all models cancel out,
and resamples the seeds of each model with replacement and averages them (Owen, "The pigeonhole
bootstrap", 2007: both factors of a crossed design are resampled). The probability is the share of
the draws in which a model is a member. Complexity is taken as exact. The bootstrap variance over S
seeds is too small by the factor (S - 1) / S: two thirds with three seeds, zero with one.

Dimensions: M models, D draws, S seeds of a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ossa.evaluate.statistics import (
    LEVEL,
    Estimate,
    Interval,
    Values,
    Verdict,
    compare_values,
    with_verdicts,
)
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


def joint_draws(
    runs: Mapping[str, NDArray[np.floating]], *, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Returns the quality (D,) of each model, with seeds drawn for every resample of the images.

    Args:
        runs: by model, the quality (S, D) of its S runs on D resamples of the images, which are
            the same for all models. For metrics not computed per image, repeat each run's value D
            times.
        seed: the seed of the random numbers that select the runs.
    """
    rng = np.random.default_rng(seed)
    draws = {}
    for model, values in runs.items():
        picked = rng.integers(len(values), size=values.shape)  # (S, D): S seeds for every resample
        draws[model] = np.take_along_axis(values, picked, axis=0).mean(axis=0)
    return draws


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
    adjusted = multipletests([p for _, _, p in tests], method="holm")[1] if tests else []
    rows = zip(pairs, tests, np.asarray(adjusted).tolist(), strict=True)
    return tuple(MeasurePair(*names, *test, p) for names, test, p in rows)


def _paired_t_test(differences: NDArray[np.float64]) -> tuple[float, Interval, float]:
    """Returns the mean, its 95% confidence interval and the two-sided p-value for a mean of 0."""
    if np.abs(differences).max() < _NO_DIFFERENCE:
        return 0.0, Interval(0.0, 0.0), 1.0
    test: Any = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return float(differences.mean()), Interval(float(low), float(high)), float(test.pvalue)


@dataclass(frozen=True)
class PairwiseComparison:
    """The difference in a metric between two models: the model minus the reference."""

    metric: str
    model: str
    reference: str
    estimate: Estimate
    p_adjusted: float
    """Holm-adjusted over all comparisons of the call."""
    verdict: Verdict
    """The verdict on the model."""

    @property
    def interval(self) -> Interval:
        """95% confidence interval over images, and over seeds if both models have three runs."""
        return self.estimate.seeds or self.estimate.images

    @property
    def over(self) -> str:
        """What the interval covers: 'seeds and images' or 'images alone'."""
        return "images alone" if self.estimate.seeds is None else "seeds and images"


def compare_pairs(
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Mapping[str, Values]],
    *,
    metrics: Sequence[str] = ("ap",),
) -> list[PairwiseComparison]:
    """Returns the differences of pairs of models, Holm-adjusted over all that are returned.

    Args:
        pairs: model and reference of each pair.
        values: the values by metric and model.
        metrics: keys of `values`; the result is ordered by metric, then by pair.
    """
    rows = []
    for metric in metrics:
        by_model = values[metric]
        for reference, group in groupby(pairs, key=itemgetter(1)):
            models = [by_model[reference], *(by_model[model] for model, _ in group)]
            rows += compare_values(metric, models)[1:]
    comparisons = []
    for row, (model, reference) in zip(with_verdicts(rows), [*pairs] * len(metrics), strict=True):
        assert row.difference is not None
        assert row.p_adjusted is not None
        assert row.verdict is not None
        comparisons.append(
            PairwiseComparison(
                row.metric, model, reference, row.difference, row.p_adjusted, row.verdict
            )
        )
    return comparisons


class RankChange(NamedTuple):
    """How the order of models differs between two settings."""

    num_pairs: int
    swapped: int
    """Pairs of models whose order is reversed."""
    distinguishable: int
    """Swapped pairs that are distinguishable under both settings."""


def rank_change(first: Mapping[str, Values], second: Mapping[str, Values]) -> RankChange:
    """Returns how the AP50-95 order of the models differs between two settings.

    Only models with values under both settings are compared.

    Args:
        first: values by model under one setting.
        second: values by model under another setting.
    """
    pairs = list(combinations([model for model in first if model in second], 2))

    def difference(values: Mapping[str, Values], pair: tuple[str, str]) -> float:
        return float(values[pair[0]].plain.mean() - values[pair[1]].plain.mean())

    swapped = [pair for pair in pairs if difference(first, pair) * difference(second, pair) < 0]
    rows = [compare_pairs(swapped, {"ap": values}) for values in (first, second)]
    both = sum(
        "not distinguishable" not in (row.verdict, other.verdict)
        for row, other in zip(*rows, strict=True)
    )
    return RankChange(len(pairs), len(swapped), both)
