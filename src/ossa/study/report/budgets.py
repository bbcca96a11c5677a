"""The best model under each budget, and those that are not distinguishable from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossa.study.report.comparisons import Difference, compare_named
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import (
    amount,
    counted,
    listed,
    mean_and_deviation,
    signed,
    signed_interval,
)
from ossa.study.report.view import StudyView

MEASURES = ("params", "flops", "ms_per_image", "train_seconds")
"""That budgets are set in."""
_MOST_BUDGETS = 5
"""Of a measure."""
_MINUTE, _HOUR = 60.0, 3600.0
_ROUND_TIMES = (
    *(1, 2, 5, 10, 30),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 20, 30)),
    *(hours * _HOUR for hours in (1, 2, 5, 10, 24, 48, 120, 240)),
)


@dataclass(frozen=True)
class BudgetAnswer:
    """Which model to take where only so much may be spent."""

    measure: str
    limit: float
    best: str
    ap: float
    deviation: float
    """Over seeds; NaN of one run."""
    alternatives: tuple[Difference, ...]
    """Models under the budget that are not distinguishable from the best, less the best."""
    num_compared: int
    """Models under the budget, the best left out."""

    @property
    def sentence(self) -> str:
        under = f"Under {amount(self.measure, self.limit)}"
        value = mean_and_deviation(self.ap, self.deviation)
        if not self.num_compared:
            return f"{under} there is {self.best} alone, with an AP50-95 of {value}."
        holm = f"Holm over {counted(self.num_compared, 'comparison')}"
        start = f"{under} {self.best} has the highest AP50-95, {value}"
        if not self.alternatives:
            others = (
                "the other model is worse"
                if self.num_compared == 1
                else f"each of the other {self.num_compared} models is worse"
            )
            return f"{start}; {others} ({holm})."
        told = [
            f"{one.model} ({signed(one.estimate.value)}, {signed_interval(one.interval)})"
            for one in sorted(self.alternatives, key=lambda one: -one.estimate.value)
        ]
        return f"{start}; not distinguishable from it ({holm}): {listed(told, most=4)}."


def answer_budgets(view: StudyView) -> list[BudgetAnswer]:
    """Returns the answers to round budgets in every measure, the smallest first."""
    answers = []
    for measure in (name for name in MEASURES if name in view.complexities):
        costs = {
            model: cost
            for model in view.names
            if (cost := view.number(model, measure)) > 0 and view.number(model, "ap") >= 0
        }
        answers += [
            _answer(view, measure, limit, [model for model in costs if costs[model] <= limit])
            for limit in round_limits(measure, list(costs.values()))
        ]
    return answers


def _answer(view: StudyView, measure: str, limit: float, models: Sequence[str]) -> BudgetAnswer:
    best = next(model for model in view.best_first if model in models)
    others = [model for model in models if model != best]
    rows = compare_named([(other, best) for other in others], metrics=["ap"], values=view.values)
    return BudgetAnswer(
        measure=measure,
        limit=limit,
        best=best,
        ap=view.number(best, "ap"),
        deviation=view.number(best, "ap_std"),
        alternatives=tuple(row for row in rows if row.verdict == "not distinguishable"),
        num_compared=len(others),
    )


def round_limits(measure: str, costs: Sequence[float]) -> list[float]:
    """Returns up to five round limits, each of which lets more models in than the one before."""
    if measure == "train_seconds":
        series: Sequence[float] = _ROUND_TIMES
    else:
        series = [float(f"{digit}e{power}") for power in range(-3, 15) for digit in (1, 2, 5)]
    kept: dict[int, float] = {}
    for limit in series:
        number = sum(cost <= limit for cost in costs)
        if number:
            kept.setdefault(number, limit)
    limits = list(kept.values())
    if len(limits) <= _MOST_BUDGETS:
        return limits
    step = (len(limits) - 1) / (_MOST_BUDGETS - 1)
    return [limits[round(number * step)] for number in range(_MOST_BUDGETS)]


def budgets_table(answers: Sequence[BudgetAnswer]) -> ReportTable:
    """Returns a row a budget."""
    rows: list[Mapping[str, Any]] = [
        {
            "budget": amount(answer.measure, answer.limit),
            "measure": answer.measure,
            "limit": answer.limit,
            "best": answer.best,
            "ap": answer.ap,
            "ap_std": answer.deviation,
            "models": answer.num_compared + 1,
            "alternatives": ", ".join(one.model for one in answer.alternatives) or "none",
        }
        for answer in answers
    ]
    columns = [
        TableColumn("budget", "up to"),
        TableColumn("best", "best"),
        TableColumn("ap", "AP50-95", decimals=3),
        TableColumn("models", "models", write=str),
        TableColumn("alternatives", "not distinguishable from it"),
    ]
    return ReportTable("budgets", columns, rows, caption="The best model under each budget")
