"""The first screen: a recommendation under each budget, what is the same and cheaper, what is open.

Each sentence has a model, a number with its interval, and the seeds and images behind it.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ossa.study.comparisons import ZERO
from ossa.study.report.factors import head_and_neck_sentences
from ossa.study.report.tables import Column, ReportTable
from ossa.study.report.text import MEASURES, amount, counted, listed, signed
from ossa.study.results import StudyResults

_MOST_BUDGETS = 3
"""In sentences; the table has all."""
_MOST_NAMED = 4


def main_measure(results: StudyResults) -> str:
    """Returns the measure of the first budget; else latency if all models have it, or FLOPs."""
    for measure in results.study.budgets:
        if results.is_known(measure):
            return measure
    measured = [results.number(model, "ms_per_image") for model in results.names]
    return "ms_per_image" if np.isfinite(measured).all() else "flops"


def timing_note(results: StudyResults) -> str:
    """Returns a sentence if other programs were busy while the models were timed, else ''."""
    if not results.measurements.get("others_busy"):
        return ""
    return (
        "Other programs were busy while the models were timed: the milliseconds per image are not "
        "the machine's speed."
    )


def evidence(results: StudyResults, models: Sequence[str]) -> str:
    """Returns how many seeds and images are behind a statement on these models."""
    runs = sorted({len(results.runs_by_model[model]) for model in models})
    seeds = counted(runs[0], "seed") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} seeds"
    over = results.comparisons().over
    covers = "" if over == "seeds and images" else f", interval over {over}"
    return f"{seeds}, {counted(len(results.index), 'image')}{covers}"


def with_weights(results: StudyResults) -> str:
    """Returns what limits a comparison over images alone: it is about the trained weights."""
    return " with these weights" if results.comparisons().over == "images alone" else ""


def sentences(results: StudyResults) -> list[str]:
    """Returns at most five sentences, and one each for a varied head and a varied neck."""
    best = results.best_first[0]
    if results.number(best, "ap") < ZERO:
        high = max(high for _, high in (results.intervals("ap") or {}).values())
        return [
            f"No model reached an AP50-95 above 0 (95% CI 0 to {high:.3f} at most; "
            f"{counted(len(results.names), 'model')}, {evidence(results, results.names)})."
        ]
    rows = budgets_table(results).rows[:_MOST_BUDGETS]
    budgets = [budget_sentence(results, row) for row in rows]
    if len(results.names) == 1:
        return budgets
    if best not in [row.get("best") for row in rows[:1]]:
        highest = f"Highest of all {len(results.names)}: {best}, {_ap(results, best)}."
        budgets[:1] = [" ".join([highest, *budgets[:1]])]
    pairs = pairs_sentence(results)
    return [*budgets, same_sentence(results, best), pairs, *head_and_neck_sentences(results)]


def budgets_table(results: StudyResults, name: str = "budgets") -> ReportTable:
    """Returns the best model under each budget of the study, the largest budgets first.

    By default the budgets are the costs of the costliest, the median and the cheapest model in the
    Pareto set of the main measure.
    """
    given = results.study.budgets.items()
    budgets: dict[str, Sequence[float]] = {key: limits for key, limits in given if limits}
    if not budgets:
        measure = main_measure(results)
        costs = [member.complexity for member in results.relation("ap", measure).members]
        chosen = {costs[-1]: None, costs[len(costs) // 2]: None, costs[0]: None} if costs else ()
        budgets = {measure: tuple(chosen)}
    intervals = results.intervals("ap") or {}
    rows: list[Mapping[str, Any]] = []
    for measure, limits in budgets.items():
        costs = {model: results.number(model, measure) for model in results.best_first}
        for limit in sorted(limits, reverse=True):
            within = [model for model, cost in costs.items() if 0 < cost <= limit]
            row = {"budget": amount(measure, limit), "measure": measure, "limit": limit}
            if within:
                low, high = intervals[within[0]]
                ap = results.number(within[0], "ap")
                row |= {"best": within[0], "ap": ap, "low": low, "high": high}
            rows.append({**row, "models": len(within), "within": within})
    columns = [
        *(Column("budget", "up to"), Column("best"), Column("ap", "AP50-95", decimals=3)),
        *(Column("low", "95% CI low", decimals=3), Column("high", "95% CI high", decimals=3)),
        Column("models", "models compared", write=str),
    ]
    return ReportTable(name, columns, rows, caption="The best model under each budget")


def budget_sentence(results: StudyResults, row: Mapping[str, Any]) -> str:
    """Returns the recommendation under a budget, from a row of the budgets table."""
    if not row["models"]:
        least = min(results.number(model, row["measure"]) for model in results.names)
        return f"Up to {row['budget']}: no model; the cheapest has {amount(row['measure'], least)}."
    best, others, weights = row["best"], row["within"][1:], with_weights(results)
    start = f"Up to {row['budget']}: {best}, {_ap(results, best)}"
    count = len(results.names)
    if best == results.best_first[0] and count > 1:
        which = "higher of the two" if count == 2 else f"highest of all {count}"
        alone = "" if others else ", and the only one within this budget"
        return f"{start}, the {which}{alone}; {_with_best(results, best)}."
    if not others:
        return f"{start}, the only model of the study within it."
    pairs = [results.comparisons().pair(model, best) for model in others]
    open_pairs = [pair for pair in pairs if not pair.differs]
    if not open_pairs:
        return f"{start}, certainly the highest of {len(others) + 1}{weights}."
    names = listed([pair.model for pair in open_pairs], most=_MOST_NAMED)
    ahead = max(pair.high for pair in open_pairs)
    return (
        f"{start}, the highest of {len(others) + 1}; not decided{weights} against {names}, which "
        f"may be better by up to {ahead:.3f}."
    )


def _ap(results: StudyResults, model: str) -> str:
    low, high = (results.intervals("ap") or {})[model]
    return (
        f"AP50-95 {results.number(model, 'ap'):.3f} (95% CI {low:.3f} to {high:.3f}; "
        f"{evidence(results, [model])})"
    )


def _with_best(results: StudyResults, best: str) -> str:
    """Returns which others may be the best, by comparisons with the best."""
    intervals, weights = results.comparisons().with_best(), with_weights(results)
    rivals = [model for model in results.comparisons().possibly_best() if model != best]
    if not rivals:
        return f"it is certainly the best of them{weights}"
    ahead = max(intervals[model].high for model in rivals)
    names = listed(rivals, most=_MOST_NAMED)
    return f"{names} may be better{weights}, by up to {ahead:.3f} (95% confidence)"


def same_sentence(results: StudyResults, best: str) -> str:
    """Returns which cheaper model is practically the same as the best, or comes closest."""
    measure, margin = main_measure(results), results.comparisons().margin
    costs = {model: results.number(model, measure) for model in results.best_first}
    cheaper = [
        results.comparisons().pair(model, best)
        for model, cost in costs.items()
        if 0 < cost < costs[best] and results.number(model, "ap") > 0
    ]
    if not cheaper:
        return f"No model is cheaper than {best} ({amount(measure, costs[best])})."
    same = [pair for pair in cheaper if pair.is_equivalent]
    chosen = min(same or cheaper, key=lambda p: costs[p.model] if same else p.at_most_lower)
    share = f"{costs[chosen.model] / costs[best]:.0%} of its {MEASURES[measure]}"
    found = (
        f"at most {chosen.at_most_lower:.3f} lower ({signed(chosen.difference)}, simultaneous 95% "
        f"CI {signed(chosen.low)} to {signed(chosen.high)}; "
        f"{evidence(results, [chosen.model, best])})"
    )
    weights = with_weights(results)
    if same:
        return (
            f"{chosen.model} is practically the same as {best}{weights}, within the margin of "
            f"{margin:.2g}, at {share}: {found}."
        )
    return (
        f"No cheaper model is certainly within {margin:.2g} of {best}{weights}; the closest, at "
        f"{share}, is {chosen.model}: {found}."
    )


def pairs_sentence(results: StudyResults) -> str:
    """Returns how many pairs are decided, and what the data cannot tell."""
    pairs = results.comparisons().pairs()
    differ = sum(pair.differs for pair in pairs)
    same = sum(pair.verdict == "practically the same" for pair in pairs)
    halves = [(pair.high - pair.low) / 2 for pair in pairs]
    weights = with_weights(results)
    behind = f"(simultaneous 95% CIs; {evidence(results, results.names)})"
    if len(pairs) == 1:
        verdict = "differ" if differ else "are practically the same" if same else "are not decided"
        known = f"their difference is known to ±{halves[0]:.3f} {behind}"
        return f"The two models {verdict}{weights}: {known}."
    return (
        f"Of {counted(len(pairs), 'pair')} of models{weights}, {differ:,} differ, {same:,} are "
        f"practically the same (less than {results.comparisons().margin:.2g} apart) and "
        f"{len(pairs) - differ - same:,} are not decided. A difference is known to "
        f"±{median(halves):.3f} in the median, from ±{min(halves):.3f} to ±{max(halves):.3f} "
        f"{behind}."
    )
