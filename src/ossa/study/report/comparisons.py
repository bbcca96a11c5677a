"""Every model against every other, and some pairs, with verdicts by Holm.

Dimensions: M models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.statistics import (
    Comparison,
    Estimate,
    Interval,
    Values,
    Verdict,
    compare_values,
    with_verdicts,
)
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import listed, p_value, signed, signed_interval
from ossa.study.report.view import StudyView


@dataclass(frozen=True)
class Difference:
    """A metric of one model less that of another."""

    metric: str
    model: str
    reference: str
    estimate: Estimate
    p_adjusted: float
    verdict: Verdict

    @property
    def interval(self) -> Interval:
        """Of 95 %: over seeds, too, where both models have three runs; else over images."""
        return self.estimate.seeds or self.estimate.images

    @property
    def over_seeds(self) -> bool:
        return self.estimate.seeds is not None


_PAIR_COLUMNS = (
    TableColumn("model", "model"),
    TableColumn("reference", "less"),
    TableColumn("difference", "difference", write=signed),
    TableColumn("low", "95 % from", write=signed),
    TableColumn("high", "to", write=signed),
    TableColumn("over", "over"),
    TableColumn("p_adjusted", "p, Holm", write=lambda p: f"{p:.3f}"),
    TableColumn("verdict", "verdict of the model"),
)


@dataclass(frozen=True)
class Pairwise:
    """All M (M - 1) / 2 differences of one metric."""

    metric: str
    models: tuple[str, ...]
    """Best first."""
    differences: Mapping[tuple[str, str], Difference]
    """By model and reference, of which the model stands before the reference in `models`."""

    def verdict(self, model: str, reference: str) -> Verdict | None:
        """Returns that of a model against another, None against itself."""
        if (model, reference) in self.differences:
            return self.differences[model, reference].verdict
        if model == reference:
            return None
        other = self.differences[reference, model].verdict
        return {"better": "worse", "worse": "better"}.get(other, other)  # pyright: ignore[reportReturnType]

    def value(self, model: str, reference: str) -> float:
        """Returns the difference of a model to another."""
        if model == reference:
            return 0.0
        if (model, reference) in self.differences:
            return self.differences[model, reference].estimate.value
        return -self.differences[reference, model].estimate.value

    def as_table(self) -> ReportTable:
        """Returns a row a pair."""
        rows = [
            {
                "model": row.model,
                "reference": row.reference,
                "difference": row.estimate.value,
                "low": row.interval.low,
                "high": row.interval.high,
                "over": "seeds and images" if row.over_seeds else "images alone",
                "p_adjusted": row.p_adjusted,
                "verdict": row.verdict,
            }
            for row in self.differences.values()
        ]
        return ReportTable("pairs", _PAIR_COLUMNS, rows, caption="All pairs of models")

    def signs(self) -> NDArray[np.int64]:
        """Returns (M, M): 1 where the row is better than the column, -1 where worse, else 0."""
        words = {"better": 1, "worse": -1}
        return np.array(
            [[words.get(self.verdict(a, b) or "", 0) for b in self.models] for a in self.models]
        )


def compare_pairs(metric: str, values: Mapping[str, Values]) -> Pairwise:
    """Returns the differences of all pairs, corrected by Holm for all of them.

    Args:
        metric: their name.
        values: of each model.
    """
    models = sorted(values, key=lambda model: -values[model].plain.mean())
    found: list[Comparison] = []
    pairs: list[tuple[str, str]] = []
    for position, reference in enumerate(models):
        # The better one is the model, so that what is read first is a gain.
        better = models[:position]
        rows = compare_values(metric, [values[reference], *(values[model] for model in better)])
        found += rows[1:]
        pairs += [(model, reference) for model in better]
    differences = _named(with_verdicts(found), pairs)
    return Pairwise(metric, tuple(models), dict(zip(pairs, differences, strict=True)))


def compare_named(
    pairs: Sequence[tuple[str, str]],
    *,
    metrics: Sequence[str],
    values: Mapping[str, Mapping[str, Values]],
) -> list[Difference]:
    """Returns the differences of some pairs, corrected by Holm for all that are returned.

    Args:
        pairs: model and reference.
        metrics: names of `values`; the differences are ordered by them first.
        values: by metric and model.
    """
    found = [
        compare_values(metric, [values[metric][reference], values[metric][model]])[1]
        for metric in metrics
        for model, reference in pairs
    ]
    return _named(with_verdicts(found), [*pairs] * len(metrics))


def _named(comparisons: Sequence[Comparison], pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    differences = []
    for row, (model, reference) in zip(comparisons, pairs, strict=True):
        assert row.difference is not None
        assert row.p_adjusted is not None
        assert row.verdict is not None
        differences.append(
            Difference(row.metric, model, reference, row.difference, row.p_adjusted, row.verdict)
        )
    return differences


OBJECTS: Mapping[str, str] = {
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
    "ap_isolated": "isolated",
    "ap_touching": "touching",
    "ap_crowded": "crowded",
}
"""Kinds of objects by the metric that is about them."""
_ALL_PAIRS = 4
"""Models, of which every pair is told."""
_MOST_RIVALS = 5
"""Of the best model, where there are more."""


@dataclass(frozen=True)
class PairwiseComparison:
    """Two models, over all objects and by kind."""

    overall: Difference
    """AP50-95 of the better one less that of the other."""
    kinds: tuple[Difference, ...]
    """The same of objects of one kind, where the split has any."""
    num_overall: int
    """Comparisons over which Holm corrects the first."""
    num_kinds: int
    """And the others."""

    @property
    def sentence(self) -> str:
        one, row = self.overall, self.overall.estimate
        told = f"{signed_interval(one.interval)}, {p_value(one.p_adjusted)}"
        if one.verdict == "better":
            text = f"{one.model} beats {one.reference} by {row.value:.3f} AP50-95 ({told})."
        else:
            text = f"{one.model} and {one.reference} are not distinguishable in AP50-95 "
            text += f"({signed(row.value)}, {told})."
        better = self._told("better")
        worse = self._told("worse")
        open_ = [OBJECTS[kind.metric] for kind in self.kinds if kind.verdict[0] == "n"]
        if better:
            text += f" It is better on {listed(better)} objects" + _also(worse, open_) + "."
        elif worse:
            text += f" It is worse on {listed(worse)} objects" + _also([], open_) + "."
        elif self.kinds:
            text += " There is no kind of objects on which they can be told apart."
        return text

    def _told(self, verdict: str) -> list[str]:
        return [
            f"{OBJECTS[kind.metric]} ({signed(kind.estimate.value)})"
            for kind in self.kinds
            if kind.verdict == verdict
        ]


def _also(worse: Sequence[str], open_: Sequence[str]) -> str:
    text = f", worse on {listed(worse)}" if worse else ""
    return text + (f"; not distinguishable on {listed(open_)}" if open_ else "")


def compare_models(view: StudyView) -> list[PairwiseComparison]:
    """Returns all pairs of few models; of many, the best one against the next ones."""
    ranking = view.best_first
    if len(ranking) <= _ALL_PAIRS:
        pairs = list(combinations(ranking, 2))
    else:
        pairs = [(ranking[0], rival) for rival in ranking[1 : 1 + _MOST_RIVALS]]
    kinds = [metric for metric in OBJECTS if metric in view.values]
    overall = compare_named(pairs, metrics=["ap"], values=view.values)
    by_kind = compare_named(pairs, metrics=kinds, values=view.values)
    return [
        PairwiseComparison(
            overall=row,
            kinds=tuple(by_kind[number :: len(pairs)]),
            num_overall=len(overall),
            num_kinds=len(by_kind),
        )
        for number, row in enumerate(overall)
    ]


def contests_table(contests: Sequence[PairwiseComparison]) -> ReportTable:
    """Returns a row a pair and kind of objects."""
    rows: list[Mapping[str, Any]] = []
    for contest in contests:
        for row in (contest.overall, *contest.kinds):
            interval = row.interval
            rows.append(
                {
                    "model": row.model,
                    "reference": row.reference,
                    "objects": OBJECTS.get(row.metric, "all"),
                    "difference": row.estimate.value,
                    "low": interval.low,
                    "high": interval.high,
                    "over": "seeds and images" if row.over_seeds else "images alone",
                    "p_adjusted": row.p_adjusted,
                    "verdict": row.verdict,
                }
            )
    columns = [
        TableColumn("model", "model"),
        TableColumn("reference", "less"),
        TableColumn("objects", "objects"),
        TableColumn("difference", "difference of AP50-95", write=signed),
        TableColumn("low", "95 % from", write=signed),
        TableColumn("high", "to", write=signed),
        TableColumn("over", "over"),
        TableColumn("p_adjusted", "p, Holm", write=lambda p: p_value(p).removeprefix("p = ")),
        TableColumn("verdict", "verdict of the model"),
    ]
    return ReportTable("contests", columns, rows, caption="Pairs of models, by kind of objects")
