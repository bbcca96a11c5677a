"""The main table: what each model buys and costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ossa.escaping import escape_figure
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.evaluate.statistics import Values
from ossa.study.report.comparisons import Pairwise, compare_named
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import compact, counted, duration, listed, signed
from ossa.study.report.view import StudyView, is_known
from ossa.study.results import values_of
from ossa.viz.plots import INK, LINE_COLOURS, MUTED, fix_layout

_COLUMNS = (
    TableColumn("model", "model"),
    TableColumn("family", "family"),
    TableColumn("runs", "seeds", write=str),
    TableColumn("ap", "AP50-95", decimals=3, best="highest"),
    TableColumn("ap50", "AP50", decimals=3, best="highest"),
    TableColumn("ap_small", "AP small", decimals=3, best="highest"),
    TableColumn("ap_medium", "AP medium", decimals=3, best="highest"),
    TableColumn("ap_large", "AP large", decimals=3, best="highest"),
    TableColumn(
        *("ap_crowded", "AP crowded"),
        decimals=3,
        best="highest",
        note="of objects that a neighbour of any class overlaps much",
    ),
    TableColumn(
        *("recall", "recall"),
        decimals=3,
        best="highest",
        note="at the confidence of the best mean F1, IoU 0.5",
    ),
    TableColumn("params", "parameters", write=compact, best="lowest"),
    TableColumn("flops", "FLOPs", write=compact, best="lowest", note="of one image"),
    TableColumn("macs", "MACs", write=compact, best="lowest", note="multiply-adds of one image"),
    TableColumn(
        *("ms_per_image", "ms an image"),
        write=lambda milliseconds: f"{milliseconds:.1f}",
        best="lowest",
        note="batch 1, with decoding of the predictions and NMS",
    ),
    TableColumn(
        *("train_seconds", "training"),
        write=duration,
        best="lowest",
        note="of one run, without evaluation",
    ),
    TableColumn("policy", "starts from"),
    TableColumn("weights", "initial weights"),
    TableColumn("licence", "their licence"),
)
_ALWAYS = ("model", "family", "runs", "policy", "weights", "licence")


def policy_columns(view: StudyView) -> list[TableColumn]:
    """Returns the column that declares initial weights where the models' differ, else none."""
    return [TableColumn("policy", "starts from")] if len(view.policies) > 1 else []


def main_table(view: StudyView) -> ReportTable:
    """Returns a row a model; columns of what was not measured are left out."""
    models = view.models
    columns = [
        column for column in _COLUMNS if column.key in _ALWAYS or is_known(models, column.key)
    ]
    rows = [{str(key): value for key, value in row.items()} for row in models.to_dict("records")]
    most = max(models["runs"].tolist())
    deviation = "± is the standard deviation over seeds. " if most > 1 else ""
    return ReportTable(
        "models",
        columns,
        rows,
        note=f"{deviation}{_of_what(view)} A click on a heading sorts; in bold the best.",
    )


def _of_what(view: StudyView) -> str:
    reported = view.results.study.reported
    weights = "the last weights (their running average)"
    if reported.weights == "best":
        weights = "the weights of the epoch that was best on val"
    return f"Metrics are those of {weights} on the {reported.split} split."


def absent_sentences(view: StudyView) -> list[str]:
    """Returns what the table lacks, and why."""
    sentences = []
    if "ap_crowded" not in view.values:
        sentences.append("The split has no crowded objects, so there is no AP of them.")
    for size in ("small", "medium", "large"):
        if f"ap_{size}" not in view.values:
            sentences.append(f"The split has no {size} objects, so there is no AP of them.")
    if "ms_per_image" not in view.complexities:
        sentences.append("Milliseconds and memory of an image were not measured.")
    else:
        unmeasured = view.models[view.models["ms_per_image"].isna()]["model"].tolist()
        if unmeasured:
            sentences.append(f"Milliseconds were not measured of {', '.join(unmeasured)}.")
    if len(view.policies) > 1:
        sentences.append(
            "The models start from weights of different data: a difference between them is not "
            "that of the backbones alone."
        )
    return sentences


_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#e0edf5", LINE_COLOURS[0]])
_SIGNS = LinearSegmentedColormap.from_list("signs", ["#e8b48f", "#f2f3f4", "#9cc6e2"])
_MOST_NUMBERED = 10
"""Rows of a matrix whose cells hold numbers."""
_MOST_DIFFERENCES = 14
_LONGEST_NAME = 14


def confusions_figure(matrices: Mapping[str, ConfusionMatrix]) -> Figure:
    """Returns the matrices as shares of their rows, three in a line."""
    side = len(next(iter(matrices.values())).names)
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    inches = 3.6 if side <= _MOST_NUMBERED else 4.2
    figure = Figure(figsize=(columns * inches, rows * (inches + 0.15)), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    for number, (model, matrix) in enumerate(matrices.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_confusions(axes, model, matrix, names_gt=number % columns == 0)
    figure.draw_without_rendering()  # square cells fit at the second try
    fix_layout(figure)
    return figure


def _draw_confusions(axes: Axes, model: str, matrix: ConfusionMatrix, *, names_gt: bool) -> None:
    shares, side = matrix.normalized(), len(matrix.names)
    axes.pcolormesh(shares, cmap=_SHARES, vmin=0, vmax=1, edgecolors="#e4e4e4", linewidth=0.4)
    names = [escape_figure(name, longest=_LONGEST_NAME) for name in matrix.names]
    font = 8.5 if side <= _MOST_NUMBERED else max(2.5, 170 / side)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.set_xticks(np.arange(side) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(side) + 0.5, names if names_gt else [])
    axes.tick_params(colors=MUTED, labelsize=font, length=0, pad=3)
    axes.spines[:].set_visible(False)
    axes.set_title(model, loc="left", color=INK, fontsize=10, fontweight="bold", pad=6)
    if side > _MOST_NUMBERED:
        return
    for row, column in np.argwhere(matrix.counts).tolist():
        share = shares[row, column]
        ink = "white" if share > 0.7 else INK
        place = (column + 0.5, row + 0.5)
        axes.text(*place, f"{share:.2f}", ha="center", va="center", fontsize=8, color=ink)


def confusions_table(matrices: Mapping[str, ConfusionMatrix]) -> ReportTable:
    """Returns a row a model, truth and prediction that was counted."""
    rows = [
        {
            "model": model,
            "truth": matrix.names[row],
            "predicted": matrix.names[column],
            "count": int(matrix.counts[row, column]),
            "share": float(matrix.normalized()[row, column]),
        }
        for model, matrix in matrices.items()
        for row, column in np.argwhere(matrix.counts).tolist()
    ]
    columns = [
        *(TableColumn(name, name) for name in ("model", "truth", "predicted")),
        TableColumn("count", "count", write=lambda count: f"{count:,d}"),
        TableColumn("share", "share of the truth's row", decimals=3),
    ]
    return ReportTable("confusions", columns, rows, caption="Confusions")


def pairwise_figure(pairwise: Pairwise) -> Figure:
    """Returns who beats whom: blue where the row is better than the column, orange where worse."""
    side = len(pairwise.models)
    cell = min(0.62, max(8.5 / side, 0.105))
    grid = side * cell
    figure = Figure(figsize=(grid + 2.9, grid + 2.0), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    axes = figure.add_subplot()
    signs = np.ma.masked_where(np.eye(side, dtype=bool), pairwise.signs())
    axes.pcolormesh(signs, cmap=_SIGNS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.set_xticks(np.arange(side) + 0.5, pairwise.models, rotation=90)
    axes.set_yticks(np.arange(side) + 0.5, pairwise.models)
    axes.tick_params(colors=INK, labelsize=min(9.5, 62 * cell), length=0, pad=4)
    axes.spines[:].set_visible(False)
    if side <= _MOST_DIFFERENCES:
        _write_differences(axes, pairwise)
    figure.draw_without_rendering()
    fix_layout(figure)
    return figure


def _write_differences(axes: Axes, pairwise: Pairwise) -> None:
    for row, model in enumerate(pairwise.models):
        for column, reference in enumerate(pairwise.models):
            if model == reference:
                continue
            text = signed(pairwise.value(model, reference))
            told = pairwise.verdict(model, reference) != "not distinguishable"
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=7.5,
                fontweight="bold" if told else "normal",
                color=INK if told else MUTED,
            )


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
