"""Figures of a check: classes, sizes, boxes per image, shapes, and the anchors beside the boxes."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.check import (
    SIZE_LIMITS,
    SIZE_NAMES,
    Check,
    aspect_ratios,
    box_sides,
    boxes_per_image,
)
from ossa.escaping import escape_figure
from ossa.viz.plots import (
    LINE_COLOURS,
    MUTED,
    add_legend,
    fix_layout,
    line_style,
    style_axes,
    write_in_the_middle,
)

_MAX_CLASSES: Final = 30
_MAX_POINTS: Final = 4000
_BINS: Final = 40
_PLAIN: Final = FuncFormatter(lambda value, _: f"{value:g}")


def check_figures(check: Check) -> dict[str, Figure]:
    """Returns figures by name: classes, sizes, boxes-per-image, aspect-ratios, anchors."""
    splits = check.indexes.items()
    counts = {split: boxes_per_image(index) for split, index in splits}
    most = max(int(one.max(initial=0)) for one in counts.values())
    step = max(1, -(-most // _BINS))
    per_image = _histogram(
        counts,
        edges=np.arange(-0.5, most + step + 0.5, step),
        x_label="boxes in an image",
        y_label="fraction of the images",
        title="Boxes per image",
    )
    per_image.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    sides = {split: box_sides(index, check.imgsz)[~index.crowd] for split, index in splits}
    sizes = _histogram(
        sides,
        x_label=f"side in pixels of the network input, {check.imgsz} px (square root of the area)",
        y_label="fraction of the boxes",
        title="Sizes",
    )
    if sum(map(len, sides.values())):
        _mark_sizes(sizes.axes[0])
    figures = {
        "classes": _class_figure(check),
        "sizes": sizes,
        "boxes-per-image": per_image,
        "aspect-ratios": _histogram(
            {split: aspect_ratios(index) for split, index in splits},
            x_label="width over height",
            y_label="fraction of the boxes",
            title="Aspect ratios",
        ),
        "anchors": _anchor_figure(check),
    }
    for figure in figures.values():
        fix_layout(figure)
    return figures


def _new(height: float, **labels: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, height), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    style_axes(axes, **labels)
    return figure, axes


def _histogram(
    values: Mapping[str, NDArray[Any]], *, edges: NDArray[np.float64] | None = None, **labels: str
) -> Figure:
    """Returns a histogram of each split as steps; logarithmic where no edges are given."""
    figure, axes = _new(3.6, **labels)
    joined = np.concatenate([one if edges is not None else one[one > 0] for one in values.values()])
    if not len(joined):
        write_in_the_middle(axes, "no boxes")
        return figure
    bins = edges
    if bins is None:
        bins = np.geomspace(joined.min() * 0.99, joined.max() * 1.01, _BINS + 1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_PLAIN)
    for number, (split, one) in enumerate(values.items()):
        counts, found = np.histogram(one, bins=bins)
        fractions = counts / max(counts.sum(), 1)
        axes.stairs(fractions, found, label=split, linewidth=1.6, baseline=0, **line_style(number))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    if len(values) > 1:
        add_legend(axes)
    return figure


def _mark_sizes(axes: Axes) -> None:
    """Draws COCO's limits of small, medium and large into a histogram of sides."""
    low, high = axes.get_xlim()
    top = 1.1 * axes.get_ylim()[1]  # room for the names
    axes.set_ylim(top=top)
    edges = [low, *SIZE_LIMITS, high]
    for limit in SIZE_LIMITS:
        axes.axvline(limit, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for name, start, end in zip(SIZE_NAMES, edges[:-1], edges[1:], strict=True):
        if low <= np.sqrt(start * end) <= high:
            axes.text(np.sqrt(start * end), top, name, ha="center", va="top", color=MUTED)


def _class_figure(check: Check) -> Figure:
    """Returns bars of the boxes of the most frequent classes, on a logarithmic scale."""
    splits = list(check.statistics)
    rows = sorted(check.classes.items(), key=lambda row: -sum(row[1].values()))[:_MAX_CLASSES]
    left_out = len(check.classes) - len(rows)
    title = "Boxes by class" + (f", {left_out} rarer classes left out" if left_out else "")
    height = 1.5 + 0.2 * len(rows) * max(1.0, 0.5 * len(splits))
    figure, axes = _new(height, x_label="boxes that train", y_label="", title=title)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    thickness = 0.8 / len(splits)
    for number, split in enumerate(splits):
        offsets = np.arange(len(rows)) + (number - (len(splits) - 1) / 2) * thickness
        counts = [row[1][split] for row in rows]
        colour = LINE_COLOURS[number]
        axes.barh(offsets, np.maximum(counts, 0.7), thickness * 0.9, 0.7, color=colour, label=split)
    axes.set_xscale("log")
    axes.set_xlim(left=0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_yticks(range(len(rows)), [escape_figure(name, longest=24) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if len(splits) > 1:
        add_legend(axes)
    return figure


def _anchor_figure(check: Check) -> Figure:
    """Returns widths and heights of the boxes of train, or of the first split, and the anchors."""
    split = "train" if "train" in check.reports else next(iter(check.reports))
    index = check.reports[split].index
    sizes_wh = sizes_at_input_wh(index, check.imgsz)[index.trains]
    sizes_wh = sizes_wh[(sizes_wh > 0).all(axis=1)]
    x_label, title = "width in pixels of the network input", f"Boxes of {split} and anchors"
    figure, axes = _new(5.2, x_label=x_label, y_label="height", title=title)
    if not len(sizes_wh):
        write_in_the_middle(axes, "no boxes")
        return figure
    if len(sizes_wh) > _MAX_POINTS:
        sizes_wh = np.random.default_rng(0).choice(sizes_wh, _MAX_POINTS, replace=False)
    axes.scatter(*sizes_wh.T, s=5, color=LINE_COLOURS[0], alpha=0.25, linewidths=0, label="box")
    style = {"s": 60, "marker": "s", "edgecolor": "white", "color": LINE_COLOURS[1]}
    axes.scatter(*check.anchors_wh.reshape(-1, 2).T, label="anchor", **style)
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        set_scale("log", base=2)
        axis.set_major_formatter(_PLAIN)
    add_legend(axes)
    return figure
