"""Figures of an evaluation: curves, confusion matrix, bins, errors and calibration."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ossa.escaping import escape_figure
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.evaluate.error_analysis import Calibration, ErrorKind
from ossa.evaluate.metrics import Metrics, OperatingPoint
from ossa.evaluate.object_bins import BinScores
from ossa.files import write_text_atomically
from ossa.viz.plots import (
    INK,
    LINE_COLOURS,
    MUTED,
    Line,
    add_legend,
    fix_layout,
    head_axes,
    line_figure,
    line_style,
    new_figure,
    save_figure,
    write_in_the_middle,
)

_MOST_NAMED = 20
"""Classes; of more, curves have no names and cells no numbers."""
_SHADES = LinearSegmentedColormap.from_list("shades", ["#e0edf5", LINE_COLOURS[0]])
"""Begins off white, so that a rare confusion differs from none."""
_BAR = 0.62
"""Width of a bar; 1 is the distance to the next."""


def precision_recall_figure(metrics: Metrics) -> Figure:
    """Returns precision over recall at IoU 0.5, of every class with ground truth and their mean.

    The curves are COCO's, which never rise: the area below each is its AP50.
    """
    title = "Precision and recall, IoU 0.5"
    figure, axes = new_figure((7.4, 4.6), x_label="recall", y_label="precision", title=title)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    recalls = np.arange(101) / 100
    rows = [row for row in metrics.per_class if row.pr50 is not None]
    named = 1 < len(rows) <= _MOST_NAMED
    for number, row in enumerate(rows):
        look: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 0.8, "label": "_"}
        if named:
            label = f"{row.ap50:.3f}  {_short(row.name)}"
            look = {**line_style(number), "linewidth": 1.4, "label": label}
        axes.plot(recalls, row.pr50 or (), **look)
    mean = metrics.pr50()
    if mean is None:
        write_in_the_middle(axes, "no ground truth")
    else:
        name = _short(rows[0].name) if len(rows) == 1 else f"mean of {len(rows)} classes"
        axes.plot(recalls, mean, color=INK, linewidth=2.6, label=f"{metrics.ap50:.3f}  {name}")
        add_legend(axes, title="AP50")
    fix_layout(figure)
    return figure


def _short(name: str) -> str:
    return escape_figure(name, longest=18)


def confusion_figure(matrix: ConfusionMatrix) -> Figure:
    """Returns the matrix as shaded cells, darker for a larger share of the row.

    Up to 20 classes the cells hold the counts; beyond, the CSV file does.
    """
    side = len(matrix.names)
    grid_inches = max(side * min(0.62, 9.0 / side), 2.6)
    figure = Figure(figsize=(grid_inches + 2.8, grid_inches + 2.0), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    # A square for each cell with a count: at 80 classes nearly all have none.
    rows, columns = np.nonzero(matrix.counts)
    shares = matrix.normalized()[rows, columns]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    squares = np.stack((columns, rows), axis=1)[:, None] + corners
    cells = PolyCollection(list(squares), cmap=_SHADES, array=shares)
    cells.set_clim(0, 1)
    axes.add_collection(cells)
    _style_grid(axes, matrix, font_points=min(9.5, 62 * grid_inches / side))
    if side <= _MOST_NAMED + 1:
        look = {"ha": "center", "va": "center", "fontsize": 8.5}
        for row, column, share in zip(rows.tolist(), columns.tolist(), shares, strict=True):
            ink, text = "white" if share > 0.55 else INK, str(matrix.counts[row, column])
            axes.text(column + 0.5, row + 0.5, text, color=ink, **look)
    bar = figure.colorbar(cells, ax=axes, shrink=0.6, aspect=22, pad=0.03)
    bar.set_label("share of the row", color=MUTED, fontsize=9.5)
    bar.ax.tick_params(colors=MUTED, labelsize=9, length=0)
    bar.ax.spines[:].set_visible(False)
    # Square cells change the room that was laid out for them: it fits at the second try.
    figure.draw_without_rendering()
    fix_layout(figure)
    return figure


def save_confusion(matrix: ConfusionMatrix, path_without_suffix: Path) -> None:
    """Writes the figure as .png and .svg, the counts as .csv, and all of it as .json.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    path = Path(path_without_suffix)
    write_text_atomically(path.with_name(path.name + ".csv"), matrix.csv())
    write_text_atomically(path.with_name(path.name + ".json"), json.dumps(matrix.as_dict()))
    save_figure(confusion_figure(matrix), path)


def _style_grid(axes: Axes, matrix: ConfusionMatrix, *, font_points: float) -> None:
    side = len(matrix.names)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    names = [_short(name) for name in matrix.names]
    axes.set_xticks(np.arange(side) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(side) + 0.5, names)
    axes.tick_params(colors=INK, labelsize=font_points, length=0, pad=4)
    axes.spines[:].set_visible(False)
    for line in range(side + 1):
        # What concerns the background stands apart from what one class is taken for.
        look = {"color": MUTED, "lw": 1.0} if line == side - 1 else {"color": "#e4e4e4", "lw": 0.5}
        axes.axhline(line, **look)
        axes.axvline(line, **look)
    axes.set_xlabel("predicted", color=MUTED, fontsize=10, labelpad=8)
    axes.set_ylabel("ground truth", color=MUTED, fontsize=10, labelpad=8)
    conditions = f"confidence {matrix.confidence:g}, IoU {matrix.iou:g}"
    head_axes(axes, title="Confusion matrix", below=conditions)


def f1_figure(curve: Sequence[OperatingPoint], *, best: float | None) -> Figure:
    """Returns F1, precision and recall, means over the classes, against the confidence."""
    means = [point.means() for point in curve]
    x = [point.confidence for point in curve]
    title = "F1 and confidence" + ("" if best is None else f": best at {best:.3f}")
    return line_figure(
        [Line(name.replace("f1", "F1"), x, [mean[name] for mean in means]) for name in means[0]],
        x_label="confidence",
        y_label="mean over classes, IoU 0.5",
        title=title,
    )


def bins_figure(bins: BinScores, *, title: str) -> Figure:
    """Returns AP50-95 of every bin as bars with their 95% intervals, and the objects below."""
    highs = [one.ap_high for one in bins.bins if one.ap_high is not None]
    figure, axes = _bars(
        {f"{one.label}\n{one.num_truths:,} objects": one.ap for one in bins.bins},
        title=title,
        y_label="AP50-95; lines: 95% interval over images",
        highest=max(highs, default=0.0),
    )
    for place, one in enumerate(bins.bins):
        if one.ap_low is not None and one.ap_high is not None:
            # To the right of the value that stands above the bar.
            axes.plot([place + 0.2] * 2, [one.ap_low, one.ap_high], color=INK, linewidth=1.6)
    fix_layout(figure)
    return figure


def errors_figure(errors: Sequence[ErrorKind]) -> Figure:
    """Returns the cost in AP of each type of error, as bars."""
    figure, _ = _bars(
        {f"{kind.kind}\n{kind.count:,}": kind.cost for kind in errors},
        title="Errors by kind",
        y_label="AP50 that a repair would gain; below: how many",
    )
    fix_layout(figure)
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """Returns precision against the mean score of each bin; good scores lie on the diagonal."""
    figure, axes = new_figure(
        (7.4, 4.4),
        x_label="mean score of the detections",
        y_label="fraction of them that is true, IoU 0.5; size: how many",
        title="Calibration",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    filled = [asdict(one) for one in calibration.bins if one.count]
    if filled:
        keys = ("mean_score", "precision", "count")
        x, y, counts = (np.array([one[key] for one in filled], dtype=float) for key in keys)
        sizes = 20 + 180 * np.sqrt(counts / counts.max())
        axes.plot(x, y, color=LINE_COLOURS[0], linewidth=1.6)
        axes.scatter(x, y, s=sizes, color=LINE_COLOURS[0], zorder=3, clip_on=False)
    else:
        write_in_the_middle(axes, "no detections")
    fix_layout(figure)
    return figure


def _bars(
    values: dict[str, float | None], *, title: str, y_label: str, highest: float = 0.0
) -> tuple[Figure, Axes]:
    """Returns a figure of one bar per label, its value above it, a dash for None.

    There is room above the bars up to `highest`.
    """
    figure, axes = new_figure((7.4, 3.4), x_label="", y_label=y_label, title=title)
    heights = [value or 0.0 for value in values.values()]
    axes.bar(range(len(values)), heights, width=_BAR, color=LINE_COLOURS[0])
    for place, value in enumerate(values.values()):
        axes.annotate(
            "–" if value is None else f"{value:.3f}",
            (place - _BAR / 2, heights[place]),
            xytext=(0, 3),
            textcoords="offset points",
            color=INK,
            fontsize=9.5,
        )
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_ylim(0, max([*heights, highest, 1e-9]) * 1.12)
    return figure, axes
