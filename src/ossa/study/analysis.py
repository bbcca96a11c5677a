"""The frontier: the models that no other one beats, and how sure it is that each belongs to it.

A model is on the frontier if no other is at least as good and cheaper, or better and at most as
expensive (Pareto). It is a set of models that were trained, not a curve: the law is the middle of
the models, and half of them lie above it.

How sure: other images and other seeds could have been drawn. Each draw is a resample of the images,
the same one for all models, so what is hard for all of them changes nothing; and for each model its
own seeds, drawn with replacement and averaged (Owen, "The pigeonhole bootstrap", 2007: both factors
of a crossed design are resampled). The probability that a model belongs is the share of the draws
in which it does. Complexity is taken as it is.

Of few seeds a bootstrap knows little: the variance over S of them comes out (S - 1) / S of what it
is, two thirds of it with three, and none at all with one.

Dimensions: M models, D draws, S seeds of a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ossa.evaluate.statistics import LEVEL, Interval, Verdict
from ossa.study.scaling import InsufficientData, LeftOut, Points, leave_one_out


@dataclass(frozen=True)
class Draws:
    """A quality of M models under D joint draws of images and seeds."""

    models: tuple[str, ...]
    values: NDArray[np.float64]
    """(D, M)."""
    single_seed: tuple[str, ...]
    """The models with one run, of which other seeds are not in the draws."""


@dataclass(frozen=True)
class ParetoPoint:
    """Where a model stands."""

    model: str
    family: str
    complexity: float
    quality: float
    """The mean over seeds."""
    on_frontier: bool
    """By the qualities as they were measured."""
    probability: float | None
    """Share of the draws in which it is on the frontier; None without draws."""


@dataclass(frozen=True)
class Frontier:
    """Where all models stand; `members` are the frontier."""

    standings: tuple[ParetoPoint, ...]
    """The cheapest first, of equal ones the best first."""
    left_out: tuple[LeftOut, ...]
    single_seed: tuple[str, ...]
    """Those whose probability is over images alone."""

    @property
    def members(self) -> tuple[ParetoPoint, ...]:
        return tuple(standing for standing in self.standings if standing.on_frontier)

    @property
    def over(self) -> str:
        """What the probabilities are over, in words."""
        if any(standing.probability is None for standing in self.standings):
            return "no probabilities: nothing was drawn"
        if not self.single_seed:
            return "over seeds and images"
        if len(self.single_seed) == len(self.standings):
            return "over images alone: every model has a single seed"
        return f"over seeds and images; over images alone for {', '.join(self.single_seed)}"


def pareto_set(
    complexity: NDArray[np.floating], quality: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Returns (..., M) which models no other one beats.

    Equals in both numbers do not beat each other. A quality of 0 is never on the frontier: it is to
    be had for nothing. Nor is one that is NaN.

    Args:
        complexity: (M,).
        quality: (..., M), 0 and up.
    """
    belongs = quality > 0
    for model, cost in enumerate(complexity):
        own = quality[..., [model]]
        as_good_for_less = (quality[..., complexity < cost] >= own).any(axis=-1)
        better_for_no_more = (quality[..., complexity <= cost] > own).any(axis=-1)
        belongs[..., model] &= ~(as_good_for_less | better_for_no_more)
    return belongs


def joint_draws(runs: Mapping[str, NDArray[np.floating]], *, seed: int = 0) -> Draws:
    """Returns a draw of seeds and images for every resample of the images.

    Args:
        runs: (S, D) by model: a quality of its S runs on D resamples of the images, which are the
            same for all models. Of a quality that images have no part in, each run's value D times.
        seed: of the draws of seeds.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for values in runs.values():
        picked = rng.integers(len(values), size=values.shape)  # (S, D): S seeds for every resample
        columns.append(np.take_along_axis(values, picked, axis=0).mean(axis=0))
    return Draws(
        models=tuple(runs),
        values=np.stack(columns, axis=1),
        single_seed=tuple(model for model, values in runs.items() if len(values) == 1),
    )


def find_frontier(points: Points, draws: Draws | None = None) -> Frontier:
    """Returns where every model stands.

    Args:
        points: the models.
        draws: of the same quality, of all these models; any others are not used.
    """
    measured = pareto_set(points.complexity, points.quality).tolist()
    probabilities: list[float | None] = [None] * len(points)
    if draws is not None:
        columns = [draws.models.index(model) for model in points.models]
        drawn = pareto_set(points.complexity, draws.values[:, columns])
        probabilities = drawn.mean(axis=0).tolist()
    rows = zip(
        points.models,
        points.families,
        points.complexity.tolist(),
        points.quality.tolist(),
        measured,
        probabilities,
        strict=True,
    )
    standings = sorted(
        (ParetoPoint(*row) for row in rows), key=lambda row: (row.complexity, -row.quality)
    )
    single = () if draws is None else draws.single_seed
    return Frontier(
        standings=tuple(standings),
        left_out=points.left_out,
        single_seed=tuple(model for model in points.models if model in single),
    )


_NO_DIFFERENCE = 1e-9
"""Of two errors, in log quality: FLOPs that are twice the MACs predict the same up to rounding."""


class MeanDifference(NamedTuple):
    """Of the errors of two measures over the models, in log quality."""

    value: float
    interval: Interval
    """Of 95 %."""
    p: float
    """Two-sided, of a mean of 0."""


@dataclass(frozen=True)
class MeasurePair:
    """How two measures of complexity differ."""

    first: str
    second: str
    difference: MeanDifference
    """The error of the first less that of the second: under 0, the first predicts better."""
    p_adjusted: float
    """By Holm over all pairs."""

    @property
    def verdict(self) -> Verdict:
        """Of the first: whether `p_adjusted` is under 0.05, and on which side."""
        if self.p_adjusted >= 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.difference.value < 0 else "worse"


@dataclass(frozen=True)
class MeasureRanking:
    """Measures of complexity by how well each predicts a quality."""

    errors: Mapping[str, float]
    """Mean |ln measured - ln predicted| of a model left out, the least first."""
    pairs: tuple[MeasurePair, ...]
    """Each pair once, the one with the lesser error first."""
    models: tuple[str, ...]
    """Those on which all measures were compared."""
    models_left_out: Mapping[str, str]
    """Why each of the others has no part."""
    measures_left_out: Mapping[str, str]
    """Why each of these has no part."""

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

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if len(self.errors) == 1:
            return f"only {self.best[0]} could be fitted: there is nothing to compare it with"
        if len(self.best) == 1:
            return f"{self.best[0]} predicts best"
        return "not distinguishable: " + ", ".join(self.best)


def rank_measures(points: Mapping[str, Points]) -> MeasureRanking | InsufficientData:
    """Returns the measures compared on the models that have all of them.

    A measure that fewer than eight models have has no part, so that it does not cost the others
    their models.

    Args:
        points: by the name of the measure, of the same quality of the same models in one order.
    """
    reasons = {name: own.why_no_line() for name, own in points.items()}
    having = {name: own for name, own in points.items() if reasons[name] is None}
    lacking = {
        model.model: f"{name}: {model.reason}"
        for name, own in having.items()
        for model in own.left_out
    }
    common = {
        name: own.where([model not in lacking for model in own.models])
        for name, own in having.items()
    }
    reasons |= {name: own.why_no_line() for name, own in common.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    lines = {name: leave_one_out(own) for name, own in common.items() if name not in left_out}
    if not lines:
        return InsufficientData("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
    errors = {name: np.abs(own.residuals) for name, own in lines.items()}
    errors = dict(sorted(errors.items(), key=lambda item: item[1].mean()))
    return MeasureRanking(
        errors={name: float(own.mean()) for name, own in errors.items()},
        pairs=_pairs(errors),
        models=common[next(iter(errors))].models,
        models_left_out=lacking,
        measures_left_out=left_out,
    )


def _pairs(errors: Mapping[str, NDArray[np.float64]]) -> tuple[MeasurePair, ...]:
    """Returns all pairs from the errors (M,) of each measure."""
    pairs = list(combinations(errors, 2))
    if not pairs:
        return ()
    differences = [_mean(errors[first] - errors[second]) for first, second in pairs]
    adjusted = multipletests([found.p for found in differences], method="holm")[1]
    rows = zip(pairs, differences, np.asarray(adjusted).tolist(), strict=True)
    return tuple(MeasurePair(*names, found, p) for names, found, p in rows)


def _mean(differences: NDArray[np.float64]) -> MeanDifference:
    if np.abs(differences).max() < _NO_DIFFERENCE:
        return MeanDifference(0.0, Interval(0.0, 0.0), 1.0)
    value, freedom = float(differences.mean()), len(differences) - 1
    error = float(stats.sem(differences))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom))
    return MeanDifference(value, Interval(value - half, value + half), p)
