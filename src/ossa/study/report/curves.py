"""Everything that is logged an epoch, of all models together: the means of their seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ossa.escaping import escape_figure
from ossa.report.figures import INK, MUTED, fix_layout, style_axes
from ossa.study.report.looks import families_of
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView

CURVES: Mapping[str, str] = {
    "train_box": "Box loss, training",
    "train_objectness": "Objectness loss, training",
    "train_classes": "Class loss, training",
    "val_box": "Box loss, validation",
    "val_objectness": "Objectness loss, validation",
    "val_classes": "Class loss, validation",
    "ap": "AP50-95, validation",
    "ap50": "AP50, validation",
    "recall": "Recall, validation",
    "train_seconds": "Seconds of training",
    "train_total": "Total loss, training",
    "val_total": "Total loss, validation",
}
"""What is drawn, by its name in the log; the totals are sums of the three losses."""
_LOSSES = ("box", "objectness", "classes")
_COLUMNS = 3
_MOST_NAMED, _MOST_FAMILIES = 30, 24


def curves_of(view: StudyView) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Returns (epochs,) the mean over the seeds of a model, by curve and model.

    Where seeds stopped at different epochs the mean ends with the shortest.
    """
    curves: dict[str, dict[str, NDArray[np.float64]]] = {key: {} for key in CURVES}
    for model in view.names:
        logs = [run.log for run in view.runs_of(model)]
        epochs = min(len(log) for log in logs)
        for key in CURVES:
            seeds = [[_value(row, key) for row in log[:epochs]] for log in logs]
            curves[key][model] = np.array(seeds, float).mean(axis=0)
    return curves


def _value(row: Mapping[str, Any], key: str) -> float:
    split, _, name = key.partition("_")
    parts = [f"{split}_{loss}" for loss in _LOSSES] if name == "total" else [key]
    return sum(float("nan") if row.get(part) is None else row[part] for part in parts)


def curves_figure(
    view: StudyView, curves: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> Figure:
    """Returns a panel a curve, one legend below them all."""
    rows = -(-len(curves) // _COLUMNS)
    entries = _legend(view)
    legend_inches = 0.5 + 0.21 * -(-len(entries) // 5)
    size = (4.1 * _COLUMNS, 2.75 * rows + legend_inches)
    figure = Figure(figsize=size, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
    for number, (key, models) in enumerate(curves.items(), start=1):
        _draw(figure.add_subplot(rows, _COLUMNS, number), view, CURVES[key], models)
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=min(5, len(entries)),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=3.2,
    )
    fix_layout(figure)
    return figure


def _draw(
    axes: Axes, view: StudyView, title: str, models: Mapping[str, NDArray[np.float64]]
) -> None:
    style_axes(axes, x_label="", y_label="", title="")
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    many = len(models) > _MOST_NAMED
    for model, values in models.items():
        look = view.looks[model]
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=look.colour,
            linestyle="-" if many else look.dashes,
            linewidth=0.8 if many else 1.4,
            alpha=0.65 if many else 1.0,
            marker="o" if len(values) == 1 else None,
        )


def _legend(view: StudyView) -> list[Line2D]:
    """Returns an entry a model, or of many models one a family."""
    if len(view.names) <= _MOST_NAMED:
        return [
            Line2D(
                [],
                [],
                color=look.colour,
                linestyle=look.dashes,
                linewidth=1.6,
                label=escape_figure(model),
            )
            for model, look in view.looks.items()
        ]
    families = families_of(view.looks)
    entries = [
        Line2D([], [], color=look.colour, linewidth=1.6, label=escape_figure(family))
        for family, look in list(families.items())[:_MOST_FAMILIES]
    ]
    if len(families) > _MOST_FAMILIES:
        rest = f"{len(families) - _MOST_FAMILIES} more families"
        entries.append(Line2D([], [], linestyle="none", color=MUTED, label=rest))
    return entries


def curves_table(curves: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> ReportTable:
    """Returns the curves as a row a model and epoch."""
    models: Sequence[str] = list(next(iter(curves.values())))
    rows = [
        {"model": model, "epoch": epoch + 1}
        | {key: float(of[model][epoch]) for key, of in curves.items()}
        for model in models
        for epoch in range(len(curves["ap"][model]))
    ]
    columns = [
        TableColumn("model", "model"),
        TableColumn("epoch", "epoch", write=str),
        *(
            TableColumn(key, CURVES[key], decimals=1 if key.endswith("seconds") else 4)
            for key in curves
        ),
    ]
    return ReportTable("curves", columns, rows, caption="Every epoch, means over seeds")
