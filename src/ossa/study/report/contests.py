"""Whether one model beats another, by how much, and on which objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ossa.study.report.comparisons import Difference, compare_named
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView
from ossa.study.report.words import listed, p_value, signed, signed_interval

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
class Contest:
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


def hold_contests(view: StudyView) -> list[Contest]:
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
        Contest(
            overall=row,
            kinds=tuple(by_kind[number :: len(pairs)]),
            num_overall=len(overall),
            num_kinds=len(by_kind),
        )
        for number, row in enumerate(overall)
    ]


def contests_table(contests: Sequence[Contest]) -> ReportTable:
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
