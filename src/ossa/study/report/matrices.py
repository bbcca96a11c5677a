"""Matrices side by side: what each model takes for what, and which model beats which."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ossa.escaping import escape_figure
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.report.figures import INK, LINE_COLOURS, MUTED, fix_layout
from ossa.study.report.comparisons import Pairwise
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.words import signed

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
        _draw_confusions(axes, model, matrix, names_truths=number % columns == 0)
    figure.draw_without_rendering()  # square cells fit at the second try
    fix_layout(figure)
    return figure


def _draw_confusions(
    axes: Axes, model: str, matrix: ConfusionMatrix, *, names_truths: bool
) -> None:
    shares, side = matrix.normalized(), len(matrix.names)
    axes.pcolormesh(shares, cmap=_SHARES, vmin=0, vmax=1, edgecolors="#e4e4e4", linewidth=0.4)
    names = [escape_figure(name, longest=_LONGEST_NAME) for name in matrix.names]
    font = 8.5 if side <= _MOST_NUMBERED else max(2.5, 170 / side)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.set_xticks(np.arange(side) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(side) + 0.5, names if names_truths else [])
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
