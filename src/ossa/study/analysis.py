"""Analyses of a study: Pareto sets, which cost predicts quality best, and differences of pairs.

A model is in the Pareto set if no other is at least as good and cheaper, or better and at most as
expensive. It is a set of models that were trained, not a curve: a power-law fit is the middle of
the models, and half of them lie above it.

How sure membership is: other images and other seeds could have been drawn. Each draw is a resample
of the images, the same one for all models, so what is hard for all of them changes nothing; and for
each model its own seeds, drawn with replacement and averaged (Owen, "The pigeonhole bootstrap",
2007: both factors of a crossed design are resampled). The probability is the share of the draws in
which a model is a member. Complexity is taken as exact. The bootstrap variance over S seeds is
(S - 1) / S of what it should be: two thirds of it with three, none with one.

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
    """By the qualities as measured."""
    probability: float | None
    """Share of the draws in which it is a member; None without draws."""


@dataclass(frozen=True)
class Relation:
    """One quality against one complexity, over all models of a study."""

    quality: str
    complexity: str
    points: Points
    fit: PowerLaw | InsufficientData
    pareto: tuple[ParetoPoint, ...]
    """All models, by complexity."""

    @property
    def members(self) -> list[ParetoPoint]:
        """The Pareto set, by complexity."""
        return [point for point in self.pareto if point.is_member]


def pareto_set(
    complexity: NDArray[np.floating], quality: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Returns (..., M) which models no other one dominates.

    Models equal in both numbers do not dominate each other. A quality of 0 or NaN is never a
    member: it can be had for nothing.

    Args:
        complexity: (M,).
        quality: (..., M), 0 and up.

    Example:
        >>> pareto_set(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.4])).tolist()
        [True, False, True]
    """
    belongs = quality > 0
    for model, cost in enumerate(complexity):
        own = quality[..., [model]]
        as_good_for_less = (quality[..., complexity < cost] >= own).any(axis=-1)
        better_for_no_more = (quality[..., complexity <= cost] > own).any(axis=-1)
        belongs[..., model] &= ~(as_good_for_less | better_for_no_more)
    return belongs


def joint_draws(
    runs: Mapping[str, NDArray[np.floating]], *, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Returns (D,) by model: its quality with seeds drawn anew for every resample of the images.

    Args:
        runs: (S, D) by model: a quality of its S runs on D resamples of the images, which are the
            same for all models. Of a quality that images have no part in, each run's value D times.
        seed: of the draws of seeds.
    """
    rng = np.random.default_rng(seed)
    draws = {}
    for model, values in runs.items():
        picked = rng.integers(len(values), size=values.shape)  # (S, D): S seeds for every resample
        draws[model] = np.take_along_axis(values, picked, axis=0).mean(axis=0)
    return draws


def find_pareto_points(
    points: Points, draws: Mapping[str, NDArray[np.float64]] | None = None
) -> tuple[ParetoPoint, ...]:
    """Returns every model with its membership, cheapest first and of equal cost the best first.

    Args:
        points: the models.
        draws: (D,) of the same quality by model, at least of those of the points.

    Example:
        >>> points = Points.of("abc", families="xxy", complexity=[1, 2, 3], quality=[0.3, 0.2, 0.4])
        >>> [point.model for point in find_pareto_points(points) if point.is_member]
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
    found = (ParetoPoint(*row) for row in rows)
    return tuple(sorted(found, key=lambda point: (point.complexity, -point.quality)))


_NO_DIFFERENCE = 1e-9
"""Of two errors, in log quality: FLOPs that are twice the MACs predict the same up to rounding."""


@dataclass(frozen=True)
class MeasurePair:
    """How well two measures of complexity predict quality, by a paired t-test over the models."""

    first: str
    second: str
    difference: float
    """Mean error of the first less that of the second, in log quality: under 0, it is better."""
    interval: Interval
    """95% confidence interval of the difference."""
    p: float
    p_adjusted: float
    """By Holm over all pairs."""

    @property
    def verdict(self) -> Verdict:
        """Of the first: whether `p_adjusted` is under 0.05, and on which side."""
        if self.p_adjusted >= 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class MeasureRanking:
    """Measures of complexity by how well each predicts a quality."""

    errors: Mapping[str, float]
    """Mean |ln measured - ln predicted| of models left out, the least first."""
    pairs: tuple[MeasurePair, ...]
    """Each pair once, the one with the lesser error first."""
    models: tuple[str, ...]
    """Those on which all measures were compared."""
    models_left_out: Mapping[str, str]
    """The reason for each."""
    measures_left_out: Mapping[str, str]
    """The reason for each."""

    @property
    def best(self) -> tuple[str, ...]:
        """The measure with the least error, and those that are not distinguishable from it."""
        least = next(iter(self.errors))
        equals = [
            pair.second
            for pair in self.pairs
            if pair.first == least and pair.verdict == "not distinguishable"
        ]
        return (least, *equals)


def rank_measures(points: Mapping[str, Points]) -> MeasureRanking | InsufficientData:
    """Returns the measures compared on the models that have all of them.

    A measure that fewer than eight models have is left out, so that it does not cost the others
    their models.

    Args:
        points: by the name of the measure, of the same quality of the same models in one order.

    Example:
        >>> flops, params = [1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 2, 5, 4, 8, 6, 7]
        >>> quality = [0.1 * cost**0.3 for cost in flops]
        >>> points = {
        ...     name: Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        ...     for name, cost in {"flops": flops, "params": params}.items()
        ... }
        >>> list(rank_measures(points).errors)
        ['flops', 'params']
    """
    left_out = {name: own.insufficient() for name, own in points.items()}
    usable = {name: own for name, own in points.items() if left_out[name] is None}
    lacking = {
        model.model: f"{name}: {model.reason}"
        for name, own in usable.items()
        for model in own.left_out
    }
    common = {
        name: own.where([model not in lacking for model in own.models])
        for name, own in usable.items()
    }
    left_out |= {name: own.insufficient() for name, own in common.items()}
    reasons = {name: found.reason for name, found in left_out.items() if found is not None}
    errors = {
        name: np.abs(leave_one_out(own).residuals)
        for name, own in common.items()
        if name not in reasons
    }
    if not errors:
        return InsufficientData("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    errors = dict(sorted(errors.items(), key=lambda item: item[1].mean()))
    return MeasureRanking(
        errors={name: float(own.mean()) for name, own in errors.items()},
        pairs=_measure_pairs(errors),
        models=common[next(iter(errors))].models,
        models_left_out=lacking,
        measures_left_out=reasons,
    )


def _measure_pairs(errors: Mapping[str, NDArray[np.float64]]) -> tuple[MeasurePair, ...]:
    """Returns all pairs from the errors (M,) of each measure."""
    pairs = list(combinations(errors, 2))
    tests = [_paired_t_test(errors[first] - errors[second]) for first, second in pairs]
    adjusted = multipletests([p for _, _, p in tests], method="holm")[1] if tests else []
    rows = zip(pairs, tests, np.asarray(adjusted).tolist(), strict=True)
    return tuple(MeasurePair(*names, *test, p) for names, test, p in rows)


def _paired_t_test(differences: NDArray[np.float64]) -> tuple[float, Interval, float]:
    """Returns mean, 95% confidence interval and two-sided p of a mean of 0."""
    if np.abs(differences).max() < _NO_DIFFERENCE:
        return 0.0, Interval(0.0, 0.0), 1.0
    found: Any = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(LEVEL)
    return float(differences.mean()), Interval(float(low), float(high)), float(found.pvalue)


@dataclass(frozen=True)
class PairwiseComparison:
    """The difference of a metric between two models: the model less the reference."""

    metric: str
    model: str
    reference: str
    estimate: Estimate
    p_adjusted: float
    """By Holm over all comparisons of the call."""
    verdict: Verdict
    """Of the model."""

    @property
    def interval(self) -> Interval:
        """95% confidence interval: over seeds, too, if both models have three runs; else images."""
        return self.estimate.seeds or self.estimate.images

    @property
    def over(self) -> str:
        """What the interval is about: 'seeds and images' or 'images alone'."""
        return "images alone" if self.estimate.seeds is None else "seeds and images"


def compare_pairs(
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Mapping[str, Values]],
    *,
    metrics: Sequence[str] = ("ap",),
) -> list[PairwiseComparison]:
    """Returns the differences of pairs of models, corrected by Holm for all that are returned.

    Args:
        pairs: model and reference.
        values: by metric and model.
        metrics: names of `values`; the result is ordered by them first, then by the pairs.
    """
    rows = []
    for metric in metrics:
        own = values[metric]
        for reference, group in groupby(pairs, key=itemgetter(1)):
            models = [own[reference], *(own[model] for model, _ in group)]
            rows += compare_values(metric, models)[1:]
    found = []
    for row, (model, reference) in zip(with_verdicts(rows), [*pairs] * len(metrics), strict=True):
        assert row.difference is not None
        assert row.p_adjusted is not None
        assert row.verdict is not None
        found.append(
            PairwiseComparison(
                row.metric, model, reference, row.difference, row.p_adjusted, row.verdict
            )
        )
    return found


class RankChange(NamedTuple):
    """How the order of models differs between two settings."""

    num_pairs: int
    swapped: int
    """Pairs of models in another order."""
    distinguishable: int
    """Swapped pairs that are distinguishable under both settings."""


def rank_change(first: Mapping[str, Values], second: Mapping[str, Values]) -> RankChange:
    """Returns how the order of the models that both have differs, by AP50-95.

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
