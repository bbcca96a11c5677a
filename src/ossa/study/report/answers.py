"""The best model per budget, pairwise comparisons, and the ranking under varied settings."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ossa.evaluate.statistics import FEWEST_RUNS, Values
from ossa.study.comparisons import Comparisons, PairwiseComparison, compare_all, rank_change
from ossa.study.report.figures import pairs_figure
from ossa.study.report.tables import (
    DIFFERENCE_COLUMNS,
    Column,
    ReportFiles,
    ReportTable,
    bullets,
)
from ossa.study.report.text import (
    OBJECTS,
    amount,
    budget_sentence,
    comparison_sentence,
    counted,
    rank_change_sentence,
)
from ossa.study.results import StudyResults
from ossa.viz.page import Block, Section

_BUDGETS_IN = ("params", "flops", "ms_per_image", "train_seconds")
_MOST_BUDGETS = 5
"""Number of budgets per measure of complexity."""
_MINUTE, _HOUR = 60.0, 3600.0
_ROUND_TIMES = (
    *(1, 2, 5, 10, 30),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 20, 30)),
    *(hours * _HOUR for hours in (1, 2, 5, 10, 24, 48, 120, 240)),
)
_ALL_PAIRS = 4
"""Up to this many models, all pairs are in the answers."""
_MOST_RIVALS = 5
"""With more models, the number of models that the best one is compared with."""
_MOST_PAIRED = 120
"""Up to this many models, compare all pairs."""
_INTERVALS = (
    "Intervals are simultaneous 95% intervals over all pairs of models, and they decide: a model "
    "is better where its interval excludes 0, and two are practically the same where it lies "
    "within the margin of {margin:g}."
)


def answers_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the main results as sentences, with the tables from which they are derived."""
    budgets = budgets_table(results)
    blocks: list[Block] = [
        bullets("Best model per budget", map(budget_sentence, budgets.rows)),
        files.table(budgets, folded=True),
    ]
    rivals = rivals_table(results)
    if rivals.rows:
        overall = [row for row in rivals.rows if row["objects"] == "all"]
        blocks += [
            bullets("Pairwise comparisons", map(comparison_sentence, overall)),
            files.table(rivals, folded=True),
        ]
    if results.study.vary:
        variations = results.variations()
        (base, values), *others = variations.items()
        changes = [
            rank_change_sentence(base, name, rank_change(compare_all(values), compare_all(varied)))
            for name, varied in others
        ]
        blocks += [
            bullets("Does the ranking change with the recipe?", changes),
            files.table(tuning_table(variations)),
        ]
    fewest = min(len(runs) for runs in results.runs_by_model.values())
    covers = "The intervals cover other images and other seeds."
    if fewest < FEWEST_RUNS:
        covers = (
            f"If a model has fewer than {FEWEST_RUNS} finished runs (the fewest: {fewest}), the "
            "intervals cover these weights on other images, not other trainings."
        )
    intervals = _INTERVALS.format(margin=results.study.margin)
    return Section("Answers", blocks, text=f"{intervals} {covers} {results.independence}")


def budgets_table(results: StudyResults) -> ReportTable:
    """Returns the best model under round budgets of every measure, smallest budgets first."""
    comparisons = results.comparisons()
    rows: list[Mapping[str, Any]] = []
    for measure in (name for name in _BUDGETS_IN if name in results.complexities):
        costs = {model: results.number(model, measure) for model in results.best_first}
        for limit in round_limits(measure, [cost for cost in costs.values() if cost > 0]):
            best, *others = [model for model, cost in costs.items() if 0 < cost <= limit]
            compared = [comparisons.pair(other, best) for other in others]
            equals = [row for row in compared if not row.differs]
            rows.append(
                {
                    "budget": amount(measure, limit),
                    "measure": measure,
                    "limit": limit,
                    "best": best,
                    "ap": results.number(best, "ap"),
                    "ap_std": results.number(best, "ap_std"),
                    "models": len(others) + 1,
                    "alternatives": ", ".join(row.model for row in equals) or "none",
                }
            )
    columns = [
        Column("budget", "up to"),
        Column("best"),
        Column("ap", "AP50-95", decimals=3),
        Column("models", "models compared", write=str),
        Column("alternatives", "no difference found"),
    ]
    return ReportTable("budgets", columns, rows, caption="The best model under each budget")


def round_limits(measure: str, costs: Sequence[float]) -> list[float]:
    """Returns up to five round limits, each of which admits more models than the previous one."""
    series: Sequence[float] = _ROUND_TIMES
    if measure != "train_seconds":
        series = [float(f"{digit}e{power}") for power in range(-3, 15) for digit in (1, 2, 5)]
    kept: dict[int, float] = {}
    for limit in series:
        number = sum(cost <= limit for cost in costs)
        if number:
            kept.setdefault(number, limit)
    limits = list(kept.values())
    if len(limits) <= _MOST_BUDGETS:
        return limits
    return [limits[round(at)] for at in np.linspace(0, len(limits) - 1, _MOST_BUDGETS)]


def rivals_table(results: StudyResults) -> ReportTable:
    """Returns pairwise comparisons of AP50-95, over all objects and by kind of object.

    All pairs if at most 4 models, else the best against the next five.
    """
    ranking = results.best_first
    pairs = list(combinations(ranking, 2))
    if len(ranking) > _ALL_PAIRS:
        pairs = pairs[:_MOST_RIVALS]
    rows = [
        {**_difference_row(comparisons.pair(*pair), comparisons), "objects": objects}
        for pair in pairs
        for objects, comparisons in known_comparisons(results).items()
    ]
    columns = [
        *(Column("model"), Column("reference"), Column("objects")),
        *DIFFERENCE_COLUMNS,
    ]
    return ReportTable("contests", columns, rows, caption="Pairwise comparisons by kind of object")


def known_comparisons(results: StudyResults) -> dict[str, Comparisons]:
    """Returns the comparisons by kind of object, for the kinds that the split has; `all` first."""
    resampled = results.runs[0].resampled_metrics
    kinds = {"ap": "all", **OBJECTS}
    return {
        name: results.comparisons(metric)
        for metric, name in kinds.items()
        if np.isfinite(resampled[metric][0])
    }


def _difference_row(row: PairwiseComparison, comparisons: Comparisons) -> dict[str, Any]:
    return {**row.flat(), "over": comparisons.over}


def tuning_table(variations: Mapping[str, Mapping[str, Values]]) -> ReportTable:
    """Returns AP50-95 and rank of every model for every combination of the varied settings."""
    models = list(dict.fromkeys(model for by_model in variations.values() for model in by_model))
    rows: dict[str, dict[str, Any]] = {model: {"model": model} for model in models}
    columns = [Column("model")]
    for name, by_model in variations.items():
        means = pd.Series({model: float(values.plain.mean()) for model, values in by_model.items()})
        ranks = means.rank(ascending=False, method="min")
        for model, values in by_model.items():
            deviation = values.plain.std(ddof=1) if len(values.plain) > 1 else None
            rows[model] |= {
                name: means[model],
                f"{name}_std": deviation,
                f"{name} rank": ranks[model],
            }
        columns.append(Column(name, decimals=3, best="highest"))
        columns.append(Column(f"{name} rank", "rank", write=lambda rank: f"{rank:.0f}"))
    return ReportTable("tuning", columns, list(rows.values()), caption="AP50-95 by varied settings")


def pairs_section(results: StudyResults, files: ReportFiles) -> Section | None:
    """Returns the verdicts on AP50-95 for all pairs, None for a single model."""
    models = results.best_first[:_MOST_PAIRED]
    if len(models) < 2:
        return None
    # The better model of a pair comes first, so that differences are positive.
    pairs = [(model, models[at]) for at in range(len(models)) for model in models[:at]]
    compared = results.comparisons()
    comparisons = [compared.pair(*pair) for pair in pairs]
    rows = [_difference_row(row, compared) for row in comparisons]
    columns = [Column("model"), Column("reference"), *DIFFERENCE_COLUMNS]
    files.table(ReportTable("pairs", columns, rows, caption="All pairs of models"))
    limit = (
        f" Only the {_MOST_PAIRED} best models are shown."
        if len(results.names) > _MOST_PAIRED
        else ""
    )
    return Section(
        "All-pairs matrix",
        [files.figure("pairs", pairs_figure(models, comparisons))],
        text="Blue: the model of the row has the higher AP50-95; orange: the lower; grey: "
        f"not decided, by simultaneous intervals over {counted(len(rows), 'pair')}.{limit}",
    )
