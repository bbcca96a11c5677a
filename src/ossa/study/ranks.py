"""Models ranked on several data sets, and on their mean.

- **Rank intervals** follow from the simultaneous intervals of `ossa.study.comparisons`: a model has
  at least as many others above it as are certainly better, and at most all that are not certainly
  worse. They hold for all models together with 95%; rank 1 is the best.
- **The mean over these data sets** is a quality like that of one: images and runs of different data
  sets are independent, so variances of the means add up, with Satterthwaite's degrees of freedom.
  What holds of it is about these data sets, not about others.
- **The interquartile mean** over data sets leaves out a quarter of them at either end, for each
  model its own. **The probability of improvement** is that a run of one model scores above a run of
  another on one of these data sets drawn at random (Agarwal et al., "Deep reinforcement learning at
  the edge of the statistical precipice", 2021), here the share of all pairs of runs. It has no
  interval: none that was tried held in simulation.
- **Other data sets** are spoken of from five on: these are then taken as a sample of such.

Coverage is simulated in `benchmarks/ranks.py`. Dimensions: M models, K data sets, D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ossa.errors import DataError
from ossa.evaluate.statistics import LEVEL, Interval, Values
from ossa.study.comparisons import MARGIN, Comparisons, compare_all, compare_estimates
from ossa.study.estimates import (
    Estimates,
    Floats,
    SeedVariances,
)

FEWEST_LEFT_OUT, FEWEST_NEW = 4, 5
"""Numbers of data sets from which one is predicted from the others, and new ones are spoken of."""
MEAN = "mean over these"
"""In place of the name of a data set, in `Ranking.rank_rows`."""
_FEWEST_CORRELATED = 6
"""Models, for an interval of a correlation at equal cost."""
_TRIMMED = 0.25
_TAIL = (1 - LEVEL) / 2


class RankInterval(NamedTuple):
    """The ranks that a model may have; 1 is the best."""

    low: int
    high: int

    @property
    def width(self) -> int:
        """How many ranks it may have."""
        return self.high - self.low + 1


def rank_intervals(compared: Comparisons) -> dict[str, RankInterval]:
    """Returns the simultaneous 95% interval of the rank of every model.

    Examples:
        >>> import ossa
        >>> values = ossa.load_study("study").values("ap")
        >>> rank_intervals(compare_all(values))["resnet10t"]
        RankInterval(low=1, high=2)
    """
    means = compared.estimates.means
    lead = means[:, None] - means[None, :]
    above = (lead + compared.half_widths < 0).sum(axis=1)
    below = (lead - compared.half_widths > 0).sum(axis=1)
    ends = zip(compared.models, (1 + above).tolist(), (len(means) - below).tolist(), strict=True)
    return {model: RankInterval(low, high) for model, low, high in ends}


def mean_estimates(each: Sequence[Estimates]) -> Estimates:
    """Returns the estimates of the mean quality over data sets, from those of each.

    Args:
        each: of the same models in the same order, on independent images.
    """
    count = len(each)
    over_seeds = all(one.over_seeds for one in each)
    least = np.sum([one.runs_over_images for one in each], axis=0) / count**2
    images = np.sum([one.images for one in each], axis=0) / count**2
    parts = np.stack([one.seeds.value / one.runs for one in each]) / count**2
    variance, dof = _added(parts, np.stack([one.seeds.dof for one in each]))
    variance = variance * over_seeds
    return Estimates(
        models=each[0].models,
        means=np.mean([one.means for one in each], axis=0),
        runs=np.ones_like(dof),
        over_seeds=over_seeds,
        variances=variance,
        dof=dof,
        seeds=SeedVariances(variance, dof, (0.0, 0.0)),
        images=images if over_seeds else least,
        runs_over_images=least,
        image_dof=_added(
            np.stack([_image_variances(one.images) for one in each]),
            np.stack([one.image_dof for one in each]),
        )[1],
    )


def _added(variances: Floats, dofs: Floats) -> tuple[Floats, Floats]:
    """Returns the sum (...) of variances (K, ...) and its degrees of freedom (Satterthwaite)."""
    total = variances.sum(axis=0)
    doubt = (variances**2 / np.maximum(dofs, 1e-9)).sum(axis=0)
    return total, np.divide(total**2, doubt, out=np.array(dofs.min(axis=0)), where=doubt > 0)


def _image_variances(covariance: Floats) -> Floats:
    """Returns (M, M) the variances of differences, and of the means on the diagonal."""
    own = np.diag(covariance)
    differences = own[:, None] + own[None, :] - 2 * covariance
    return np.maximum(np.where(np.eye(len(own), dtype=bool), own, differences), 0.0)


@dataclass(frozen=True)
class Ranking:
    """Models compared on K data sets, and on their mean; rows are ready for tables and JSON."""

    by_data: Mapping[str, Comparisons]
    """By data set."""
    mean: Comparisons
    """Of the mean over the data sets; of the models that all of them have."""
    values: Mapping[str, Mapping[str, Values]]
    """By data set and model."""
    costs: Mapping[str, float]
    """Parameters by model; missing if unknown."""

    @property
    def data(self) -> tuple[str, ...]:
        """The data sets."""
        return tuple(self.by_data)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that all data sets have, best mean first."""
        means = dict(zip(self.mean.models, self.mean.estimates.means, strict=True))
        return tuple(sorted(means, key=lambda model: -means[model]))

    @cached_property
    def qualities(self) -> Floats:
        """(K, M) means by data set, in the order of `models`."""
        rows = [
            dict(zip(one.models, one.estimates.means, strict=True)) for one in self.by_data.values()
        ]
        return np.array([[row[model] for model in self.models] for row in rows])

    def rank_rows(self) -> list[dict[str, Any]]:
        """Returns a row per data set and model: quality, rank, and the interval of the rank."""
        return [
            row
            for data, compared in {**self.by_data, MEAN: self.mean}.items()
            for row in _rank_rows(data, compared)
        ]

    def mean_rows(self) -> list[dict[str, Any]]:
        """Returns a row per model: interquartile mean, and improvement over the best mean."""
        rows = []
        for at, model in enumerate(self.models):
            middle, half = self._interquartile(at)
            rows.append(
                {
                    "model": model,
                    "mean": float(self.qualities[:, at].mean()),
                    "iqm": middle,
                    "iqm_low": max(middle - half, 0.0),
                    "iqm_high": min(middle + half, 1.0),
                    "improvement": self._improvement(model) if at else None,
                }
            )
        return rows

    def _improvement(self, model: str) -> float:
        """Returns the share of pairs of runs in which a model scores above the best mean."""
        shares = []
        for values in self.values.values():
            own, best = (values[name].plain for name in (model, self.models[0]))
            lead = own[:, None] - best
            shares.append(np.mean(np.where(lead == 0, 0.5, lead > 0)))
        return float(np.mean(shares))

    def _interquartile(self, at: int) -> tuple[float, float]:
        """Returns the interquartile mean of a model and half its 95% interval, by own variances."""
        order = np.argsort(self.qualities[:, at])
        cut = int(_TRIMMED * len(order))
        middle = order[cut : len(order) - cut]
        parts = []
        for compared in (list(self.by_data.values())[data] for data in middle):
            own, i = compared.estimates, compared.models.index(self.models[at])
            seeds = own.variances[i] / own.runs[i]
            if own.images[i, i] + seeds > own.runs_over_images[i, i]:
                parts += [(own.images[i, i], own.image_dof[i, i]), (seeds, own.runs[i] - 1)]
            else:  # by chance, the runs agree better than the images allow
                parts.append((own.runs_over_images[i, i], own.image_dof[i, i]))
        variance, dof = _added(*(np.array(part, float) for part in zip(*parts, strict=True)))
        half = stats.t.ppf(1 - _TAIL, max(dof, 1.0)) * variance**0.5 / len(middle)
        return float(self.qualities[middle, at].mean()), float(half)

    def best_rows(self) -> list[dict[str, Any]]:
        """Returns a row per model: on which data sets it may be the best, and certainly is."""
        may, certain = {}, {}
        for data, compared in self.by_data.items():
            may[data] = set(compared.possibly_best())
            certain[data] = may[data] if len(may[data]) == 1 else set()
        rows = []
        for at, model in enumerate(self.models):
            possible = [data for data in self.data if model in may[data]]
            rows.append(
                {
                    "model": model,
                    "may_be_best": ", ".join(possible),
                    "may_be_best_on": len(possible),
                    "measured_best_on": int((self.qualities.argmax(axis=1) == at).sum()),
                    "certainly_best_on": sum(model in certain[data] for data in self.data),
                    "verdict": _best_on(possible, len(self.data)),
                }
            )
        return rows

    def new_rows(self) -> list[dict[str, Any]]:
        """Returns a row per model against the best mean: the difference on other data sets.

        Simultaneous 95% intervals by paired t-tests over the data sets (Bonferroni); empty with
        fewer than five data sets, or one model.
        """
        count, others = self.qualities.shape[0], len(self.models) - 1
        if count < FEWEST_NEW or others < 1:
            return []
        critical = stats.t.ppf(1 - (1 - LEVEL) / (2 * others), count - 1)
        rows = []
        for at in range(1, len(self.models)):
            lead = self.qualities[:, 0] - self.qualities[:, at]
            half = float(critical * lead.std(ddof=1) / count**0.5)
            difference = float(lead.mean())
            rows.append(
                {
                    "model": self.models[0],
                    "reference": self.models[at],
                    "difference": difference,
                    "low": max(difference - half, -1.0),
                    "high": min(difference + half, 1.0),
                    "better_on": int((lead > 0).sum()),
                }
            )
        return rows

    def left_out_rows(self) -> list[dict[str, Any]]:
        """Returns a row per data set: its ranks, predicted by the mean ranks on all others.

        Empty with fewer than four data sets or three models.
        """
        count, models = self.qualities.shape
        if count < FEWEST_LEFT_OUT or models < 3:
            return []
        ranks = stats.rankdata(-self.qualities, axis=1)
        rows = []
        for at, data in enumerate(self.data):
            predicted = stats.rankdata(np.delete(ranks, at, axis=0).mean(axis=0))
            varies = min(np.ptp(predicted), np.ptp(ranks[at])) > 0
            rows.append(
                {
                    "data": data,
                    "spearman": _correlation(predicted, ranks[at]) if varies else None,
                    "mean_error": float(np.abs(predicted - ranks[at]).mean()),
                    "by_chance": (models**2 - 1) / (3 * models),
                    "best_predicted": self.models[int(predicted.argmin())],
                    "best_measured": self.models[int(ranks[at].argmin())],
                }
            )
        return rows

    def correlation_rows(self) -> list[dict[str, Any]]:
        """Returns a row per pair of data sets: the correlation of what is left at equal cost.

        What is left is ln AP without its line in ln parameters. The 95% interval is Fisher's, for
        the models as a sample; noise of the runs draws the correlation towards 0. Empty with fewer
        than six models of positive AP and known cost.
        """
        positive = np.asarray((self.qualities > 0).all(axis=0))
        chosen = [
            at
            for at, model in enumerate(self.models)
            if positive[at] and self.costs.get(model, 0) > 0
        ]
        if len(chosen) < _FEWEST_CORRELATED:
            return []
        costs = np.log([self.costs[self.models[at]] for at in chosen])
        design = np.column_stack((np.ones(len(chosen)), costs))
        logs = np.log(self.qualities[:, chosen])
        left = logs - (design @ np.linalg.lstsq(design, logs.T, rcond=None)[0]).T
        rows = []
        for (i, first), (j, second) in combinations(enumerate(self.data), 2):
            correlation = _correlation(left[i], left[j])
            # One degree of freedom less, for the cost.
            half = stats.norm.ppf((1 + LEVEL) / 2) / (len(chosen) - 4) ** 0.5
            score = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
            interval = Interval(float(np.tanh(score - half)), float(np.tanh(score + half)))
            rows.append(
                {
                    "data": first,
                    "other": second,
                    "correlation": correlation,
                    "low": interval.low,
                    "high": interval.high,
                    "models": len(chosen),
                }
            )
        return rows


def _rank_rows(data: str, compared: Comparisons) -> list[dict[str, Any]]:
    means = compared.estimates.means
    ranks = stats.rankdata(-means, method="min")
    intervals = rank_intervals(compared)
    rows = [
        {
            "data": data,
            "model": model,
            "ap": float(means[at]),
            "rank": int(ranks[at]),
            "rank_low": intervals[model].low,
            "rank_high": intervals[model].high,
            "over": compared.over,
        }
        for at, model in enumerate(compared.models)
    ]
    return sorted(rows, key=lambda row: row["rank"])


def _best_on(possible: Sequence[str], count: int) -> str:
    if not possible:
        return "on none"
    if len(possible) == count:
        return "on all"
    if len(possible) > count / 2:
        return "on most"
    return f"only on {possible[0]}" if len(possible) == 1 else "on some"


def _correlation(first: Floats, second: Floats) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def rank_models(
    values: Mapping[str, Mapping[str, Values]],
    *,
    costs: Mapping[str, float] | None = None,
    margin: float = MARGIN,
    draws: int = 8000,
    seed: int = 0,
) -> Ranking:
    """Returns the ranks of models on several data sets and on their mean.

    Args:
        values: of one metric by data set and by model.
        costs: parameters by model, for the correlation at equal cost.
        margin: differences that are certainly smaller do not matter.
        draws: of the joint distribution of all pairs.
        seed: of these draws.

    Raises:
        DataError: fewer than two data sets, or no model that all of them have.
    """
    if len(values) < 2:
        raise DataError(expected="two data sets at least to rank models on", found=str(len(values)))
    first, *others = values.values()
    common = [model for model in first if all(model in other for other in others)]
    if not common:
        raise DataError(expected="a model with finished runs on every data set", found="none")
    options = {"margin": margin, "draws": draws, "seed": seed}
    by_data = {data: compare_all(own, **options) for data, own in values.items()}
    each = [
        by_data[data].estimates
        if list(own) == common
        else Estimates.of({model: own[model] for model in common})
        for data, own in values.items()
    ]
    mean = compare_estimates(mean_estimates(each), **options)
    return Ranking(by_data, mean, values, dict(costs or {}))
