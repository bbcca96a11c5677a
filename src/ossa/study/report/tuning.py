"""Whether the ranking of the models changes with a setting: equal recipes are not equal tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ossa.evaluate.values import Values
from ossa.study.report.comparisons import compare_named
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView
from ossa.study.report.words import counted, listed
from ossa.study.samples import values_of


@dataclass(frozen=True)
class Variation:
    """One combination of the varied settings."""

    name: str
    """Such as 'train.lr 0.03'."""
    values: Mapping[str, Values]
    """AP50-95 of the models with finished runs of it."""

    def mean(self, model: str) -> float:
        return float(self.values[model].plain.mean())


@dataclass(frozen=True)
class Tuning:
    """The models under every combination of what is varied, that of the recipe first."""

    variations: tuple[Variation, ...]

    @property
    def models(self) -> list[str]:
        """Those with finished runs of every combination."""
        return [
            model
            for model in self.variations[0].values
            if all(model in variation.values for variation in self.variations)
        ]


def read_tuning(view: StudyView) -> Tuning | None:
    """Returns the models under each combination, None where the study varies nothing."""
    study = view.results.study
    if not study.vary:
        return None
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for run in view.results.runs:
        models = runs.setdefault(_name(run.state.run.varied), {})
        models.setdefault(run.state.run.model, []).append(run.samples)
    images = len(view.results.index)
    variations = [
        Variation(
            name,
            {model: values_of(own, "ap", num_images=images) for model, own in models.items()},
        )
        for name, models in runs.items()
    ]
    base = _name(view.results.folder.plan.base)
    return Tuning(tuple(sorted(variations, key=lambda variation: variation.name != base)))


def _name(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in varied.items())


def tuning_sentences(tuning: Tuning) -> list[str]:
    """Returns whether the ranking of the models changes from each combination to the recipe's."""
    base, *others = tuning.variations
    if not others or len(tuning.models) < 2:
        return ["Whether the ranking changes cannot be told yet: too few runs are finished."]
    sentences = [_change(base, other, tuning.models) for other in others]
    best = {
        model: max(tuning.variations, key=lambda variation: variation.mean(model))
        for model in tuning.models
    }
    moved = [f"{model} ({own.name})" for model, own in best.items() if own is not base]
    if moved:
        sentences.append(
            f"Models that score higher with other values than with {base.name}: "
            f"{listed(moved, most=8)}."
        )
    ranked = sorted(tuning.models, key=lambda model: -best[model].mean(model))
    sentences.append(
        f"Each at its best value, {ranked[0]} leads with {best[ranked[0]].mean(ranked[0]):.3f} "
        f"AP50-95 ({best[ranked[0]].name}); a maximum over few runs flatters every model."
    )
    return sentences


def _change(base: Variation, other: Variation, models: list[str]) -> str:
    pairs = list(combinations(models, 2))
    swapped = [
        (a, b)
        for a, b in pairs
        if (base.mean(a) - base.mean(b)) * (other.mean(a) - other.mean(b)) < 0
    ]
    of = f"{len(swapped)} of {counted(len(pairs), 'pair')}"
    if not swapped:
        return f"With {other.name} in place of {base.name} the ranking of the models is the same."
    told = _told_apart(base, swapped) & _told_apart(other, swapped)
    verdict = (
        f"and {len(told)} of them can be told apart under both, so the ranking does change"
        if told
        else "none of which can be told apart under both"
    )
    return (
        f"With {other.name} in place of {base.name} the ranking changes: {of} change places, "
        f"{verdict}."
    )


def _told_apart(variation: Variation, pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    rows = compare_named(pairs, metrics=["ap"], values={"ap": variation.values})
    return {(row.model, row.reference) for row in rows if row.verdict != "not distinguishable"}


def tuning_table(tuning: Tuning) -> ReportTable:
    """Returns a row a model with its AP50-95 and its rank under every combination."""
    models = list(dict.fromkeys(model for own in tuning.variations for model in own.values))
    rows: dict[str, dict[str, Any]] = {model: {"model": model} for model in models}
    columns = [TableColumn("model", "model")]
    for variation in tuning.variations:
        means = pd.Series({model: variation.mean(model) for model in variation.values})
        ranks = means.rank(ascending=False, method="min")
        for model, values in variation.values.items():
            deviation = values.plain.std(ddof=1) if len(values.plain) > 1 else None
            rows[model] |= {
                variation.name: means[model],
                f"{variation.name}_std": deviation,
                f"{variation.name} rank": ranks[model],
            }
        columns.append(TableColumn(variation.name, variation.name, decimals=3, best="highest"))
        columns.append(TableColumn(f"{variation.name} rank", "rank", write=lambda x: f"{x:.0f}"))
    return ReportTable("tuning", columns, list(rows.values()), caption="AP50-95 by what is varied")
