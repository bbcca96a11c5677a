"""Figures of a data set: classes, sizes, crowding, shapes and anchors."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.check import Check
from ossa.data.statistics import SIZE_LIMITS, SIZE_NAMES, aspect_ratios, boxes_per_image
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

_MOST_CLASSES: Final = 30
_MOST_POINTS: Final = 4000
_BINS: Final = 40
_PLAIN: Final = FuncFormatter(lambda value, _: f"{value:g}")


def figures_of(check: Check) -> dict[str, Figure]:
    """Returns figures by file name."""
    indexes = check.indexes
    sides = {
        split: np.sqrt(index.areas * (check.imgsz / index.sizes_wh.max(axis=1))[images] ** 2)[
            ~index.crowd
        ]
        for split, index in indexes.items()
        for images in [index.gt_image_positions()]
    }
    return {
        "classes": _class_figure(check),
        "sizes": _size_figure(sides, check.imgsz),
        "boxes-per-image": _count_figure(
            {split: boxes_per_image(index) for split, index in indexes.items()}
        ),
        "aspect-ratios": _ratio_figure(
            {split: aspect_ratios(index) for split, index in indexes.items()}
        ),
        "anchors": _anchor_figure(check),
    }


def _class_figure(check: Check) -> Figure:
    """Returns bars of the boxes of the most frequent classes, on a scale of powers of ten."""
    splits = list(check.statistics)
    rows = sorted(check.classes.items(), key=lambda row: -sum(row[1].values()))[:_MOST_CLASSES]
    figure, axes = _new(height=1.5 + 0.2 * len(rows) * max(1.0, 0.5 * len(splits)))
    left_out = len(check.classes) - len(rows)
    title = "Boxes by class" + (f", {left_out} rarer classes left out" if left_out else "")
    style_axes(axes, x_label="boxes that train, powers of ten", y_label="", title=title)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    thickness = 0.8 / len(splits)
    for number, split in enumerate(splits):
        places = np.arange(len(rows)) + (number - (len(splits) - 1) / 2) * thickness
        counts = [row[1][split] for row in rows]
        colour = LINE_COLOURS[number]
        axes.barh(places, np.maximum(counts, 0.7), thickness * 0.9, 0.7, color=colour, label=split)
    axes.set_xscale("log")
    axes.set_xlim(left=0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_yticks(range(len(rows)), [escape_figure(name, longest=24) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if len(splits) > 1:
        add_legend(axes)
    fix_layout(figure)
    return figure


def _size_figure(sides: Mapping[str, NDArray[np.float64]], imgsz: int) -> Figure:
    figure, axes = _new()
    style_axes(
        axes,
        x_label=f"side in pixels of the network input, {imgsz} px (square root of the area)",
        y_label="part of the boxes",
        title="Sizes",
    )
    if _histograms(axes, sides, logarithmic=True):
        low, high = axes.get_xlim()
        top = 1.1 * axes.get_ylim()[1]  # room for the names
        axes.set_ylim(top=top)
        edges = [low, *SIZE_LIMITS, high]
        for limit in SIZE_LIMITS:
            axes.axvline(limit, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        for name, start, end in zip(SIZE_NAMES, edges[:-1], edges[1:], strict=True):
            if low <= np.sqrt(start * end) <= high:
                axes.text(np.sqrt(start * end), top, name, ha="center", va="top", color=MUTED)
    fix_layout(figure)
    return figure


def _count_figure(counts: Mapping[str, NDArray[np.int64]]) -> Figure:
    figure, axes = _new()
    style_axes(
        axes, x_label="boxes in an image", y_label="part of the images", title="Boxes per image"
    )
    most = max(int(one.max(initial=0)) for one in counts.values())
    step = max(1, -(-most // _BINS))
    edges = np.arange(-0.5, most + step + 0.5, step)
    _histograms(axes, counts, edges=edges)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    fix_layout(figure)
    return figure


def _ratio_figure(ratios: Mapping[str, NDArray[np.float64]]) -> Figure:
    figure, axes = _new()
    style_axes(
        axes, x_label="width over height", y_label="part of the boxes", title="Aspect ratios"
    )
    _histograms(axes, ratios, logarithmic=True)
    fix_layout(figure)
    return figure


def _anchor_figure(check: Check) -> Figure:
    """Returns widths and heights of the boxes of train, or of the first split, and the anchors."""
    split = "train" if "train" in check.reports else next(iter(check.reports))
    index = check.reports[split].index
    sizes_wh = sizes_at_input_wh(index, check.imgsz)[~(index.crowd | index.difficult)]
    sizes_wh = sizes_wh[(sizes_wh > 0).all(axis=1)]
    figure, axes = _new(height=5.2)
    style_axes(
        axes,
        x_label="width in pixels of the network input",
        y_label="height",
        title=f"Boxes of {split} and anchors",
    )
    if len(sizes_wh):
        if len(sizes_wh) > _MOST_POINTS:
            drawn = np.random.default_rng(0).choice(len(sizes_wh), _MOST_POINTS, replace=False)
            sizes_wh = sizes_wh[drawn]
        axes.scatter(*sizes_wh.T, s=5, color=LINE_COLOURS[0], alpha=0.25, linewidths=0, label="box")
        anchors_wh = check.anchors_wh.reshape(-1, 2)
        axes.scatter(
            *anchors_wh.T,
            s=60,
            marker="s",
            color=LINE_COLOURS[1],
            edgecolor="white",
            label="anchor",
        )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_PLAIN)
        add_legend(axes)
    else:
        write_in_the_middle(axes, "no boxes")
    fix_layout(figure)
    return figure


def _new(*, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, height), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    return figure, figure.add_subplot()


def _histograms(
    axes: Axes,
    values: Mapping[str, NDArray[np.floating] | NDArray[np.integer]],
    *,
    edges: NDArray[np.float64] | None = None,
    logarithmic: bool = False,
) -> bool:
    """Draws a line of steps for every split; returns whether there was anything to draw."""
    joined = np.concatenate([one[one > 0] if logarithmic else one for one in values.values()])
    if not len(joined):
        write_in_the_middle(axes, "no boxes")
        return False
    if logarithmic:
        edges = np.geomspace(joined.min() * 0.99, joined.max() * 1.01, _BINS + 1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_PLAIN)
    for number, (split, one) in enumerate(values.items()):
        counts, found = np.histogram(one, bins=_BINS if edges is None else edges)
        shares = counts / max(counts.sum(), 1)
        style = line_style(number)
        axes.stairs(shares, found, label=split, linewidth=1.6, baseline=0, **style)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    if len(values) > 1:
        add_legend(axes)
    return True
