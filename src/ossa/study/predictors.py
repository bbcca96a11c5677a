"""Which measure of complexity predicts quality best: parameters, FLOPs, milliseconds, ...

Every model is predicted by the law fitted without it, once by each measure. A measure's error is
the mean over the models of |ln measured - ln predicted|. Two measures are compared on the same
models, in pairs: the mean difference of a model's two errors, with Student's interval. The models
are taken for a sample of those that could have been trained; that their lines share the other
models is neglected, which makes it a little too sure: two measures that are equally good are told
apart in 8, 7 and 6 of 100 studies of 8, 12 and 30 models instead of 5 (simulated). Over all pairs
the p are adjusted by Holm.

R² of the measures would tell less: it has no interval here, and it rewards what a line only fits.
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
from ossa.study.law import leave_one_out
from ossa.study.points import NoLaw, Points

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


def rank_measures(points: Mapping[str, Points]) -> MeasureRanking | NoLaw:
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
        return NoLaw("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
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
