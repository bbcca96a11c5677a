"""Figures of an analysis: F1 by confidence, AP by bins, errors by kind, calibration."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ossa.evaluate.bins import BinScores
from ossa.evaluate.calibration import Calibration
from ossa.evaluate.errors import Errors
from ossa.evaluate.metrics import OperatingPoint
from ossa.report.figures import (
    INK,
    LINE_COLOURS,
    MUTED,
    Line,
    fix_layout,
    line_figure,
    style_axes,
    write_in_the_middle,
)

_BAR = 0.62
"""Width of a bar; 1 is the distance to the next."""


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
    """Returns AP50-95 of every bin as bars with their 95 % intervals, and the truths below."""
    figure, axes = _bars(
        [f"{one.label}\n{one.num_truths:,} truths" for one in bins.bins],
        [one.ap for one in bins.bins],
        title=title,
        y_label="AP50-95; lines: 95 % interval over images",
        highest=[one.ap_high for one in bins.bins if one.ap_high is not None],
    )
    for place, one in enumerate(bins.bins):
        if one.ap_low is not None and one.ap_high is not None:
            # To the right of the value that stands above the bar.
            axes.plot([place + 0.2] * 2, [one.ap_low, one.ap_high], color=INK, linewidth=1.6)
    fix_layout(figure)
    return figure


def errors_figure(errors: Errors) -> Figure:
    """Returns what AP each kind of error costs, as bars."""
    figure, _ = _bars(
        [f"{kind.kind}\n{kind.count:,}" for kind in errors.kinds],
        [kind.cost for kind in errors.kinds],
        title="Errors by kind",
        y_label=f"AP{100 * errors.iou:.0f} that a repair would gain; below: how many",
    )
    fix_layout(figure)
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """Returns precision against the mean score of each bin of scores: good scores lie on a line."""
    figure = Figure(figsize=(7.4, 4.4), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    style_axes(
        axes,
        x_label="mean score of the detections",
        y_label="part of them that is true, IoU 0.5; size: how many",
        title="Calibration",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    filled = [one for one in calibration.bins if one.count]
    if filled:
        x = np.array([one.mean_score for one in filled], dtype=float)
        y = np.array([one.precision for one in filled], dtype=float)
        counts = np.array([one.count for one in filled], dtype=float)
        sizes = 20 + 180 * np.sqrt(counts / counts.max())
        axes.plot(x, y, color=LINE_COLOURS[0], linewidth=1.6)
        axes.scatter(x, y, s=sizes, color=LINE_COLOURS[0], zorder=3, clip_on=False)
    else:
        write_in_the_middle(axes, "no detections")
    fix_layout(figure)
    return figure


def _bars(
    labels: Sequence[str],
    values: Sequence[float | None],
    *,
    title: str,
    y_label: str,
    highest: Sequence[float] = (),
) -> tuple[Figure, Axes]:
    """Returns a figure of one bar a label, its value written above; None leaves a dash.

    `highest`: what else is to find room above the bars.
    """
    figure = Figure(figsize=(7.4, 3.4), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    style_axes(axes, x_label="", y_label=y_label, title=title)
    heights = [value or 0.0 for value in values]
    axes.bar(range(len(labels)), heights, width=_BAR, color=LINE_COLOURS[0])
    top = max([*heights, *highest, 1e-9])
    for place, value in enumerate(values):
        text = "–" if value is None else f"{value:.3f}"
        axes.annotate(
            text,
            (place - _BAR / 2, heights[place]),
            xytext=(0, 3),
            textcoords="offset points",
            color=INK,
            fontsize=9.5,
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylim(0, top * 1.12)
    return figure, axes
