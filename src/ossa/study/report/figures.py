"""The figures of the report, drawn by matplotlib: inline SVG on the page, SVG and PNG as files."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ossa.escaping import escape_figure
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.study.analysis import ParetoPoint, Relation
from ossa.study.comparisons import PairwiseComparison
from ossa.study.report.text import amount, compact, probability, signed
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults
from ossa.study.scaling import PowerLaw
from ossa.viz.plots import INK, LINE_COLOURS, MUTED, style_axes, write_in_the_middle

_MEMBER, _FIT, _STRIP = LINE_COLOURS[0], "#8a8a8a", "#f3f5f7"
_MOST_NAMED = 30
"""With more points, only those in the Pareto set are named."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _STRIP_HEIGHT = 0.55, 0.12, 0.42, 0.52, 0.36
"""Room in inches around the axes, and the height of the strip for models outside of them."""
HOVER = "hover:"
"""Begins the group id of an artist; the rest becomes the text shown under the pointer."""


def relation_figure(
    results: StudyResults,
    relation: Relation,
    *,
    size_inches: tuple[float, float] = (7.2, 4.6),
    with_fit: bool = True,
) -> Figure:
    """Returns quality against complexity, with intervals, the Pareto set and the power-law fit.

    Models that failed, or whose quality is 0, are in a strip below the axes. The bars are 95%
    intervals of each mean, not adjusted for the number of models; without resampled metrics, one
    standard deviation over seeds.
    """
    width, height = size_inches
    figure = Figure(figsize=size_inches, facecolor="white")
    outside = models_outside(results, relation)
    strip = _STRIP_HEIGHT if outside else 0.0
    # Fixed, as a layout engine takes longer than the drawing, and there are dozens of figures.
    left, across = _LEFT / width, (width - _LEFT - _RIGHT) / width
    bottom, high = (_BOTTOM + strip) / height, (height - _TOP - _BOTTOM - strip) / height
    axes = figure.add_axes((left, bottom, across, high))
    style_axes(axes, x_label="", y_label=QUALITIES[relation.quality])
    axes.set_xscale("log")
    bounds = _bounds(results, relation)
    if bounds.size:
        _draw_points(axes, relation, bounds, with_fit=with_fit)
    else:
        axes.set(yticks=[])
        write_in_the_middle(axes, f"no model with {QUALITIES[relation.quality]} above 0")
    _set_limits(axes, bounds, [cost for cost in outside.values() if cost > 0])
    if width < 5:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=100))
    lowest = axes
    if outside:
        lowest = figure.add_axes((left, _BOTTOM / height, across, strip / height))
        _draw_outside(lowest, axes, outside, QUALITIES[relation.quality])
    lowest.set_xlabel(f"{COMPLEXITIES[relation.complexity]}, logarithmic", color=MUTED, fontsize=10)
    if bounds.size:
        _name_points(axes, relation, bounds)
    return figure


def models_outside(results: StudyResults, relation: Relation) -> dict[str, float]:
    """Returns the models without a point, with their complexity (0 if it is unknown)."""
    found = {
        left.model: 0.0
        if results.number(left.model, relation.quality) > 0
        else float(np.nan_to_num(results.number(left.model, relation.complexity)))
        for left in relation.points.left_out
    }
    for state in results.states:
        model, cost = state.run.model, state.record.cost if state.record else {}
        if model not in results.names and not found.get(model):
            found[model] = float(cost.get(relation.complexity) or 0)
    return found


def _bounds(results: StudyResults, relation: Relation) -> NDArray[np.float64]:
    """Returns (M, 3) complexity and both ends of the interval of every point."""
    intervals = results.intervals(relation.quality)
    rows = []
    for point in relation.pareto:
        deviation = np.nan_to_num(results.number(point.model, f"{relation.quality}_std"))
        low, high = point.quality - deviation, point.quality + deviation
        if intervals is not None:
            low, high = intervals[point.model]
        rows.append((point.complexity, low, high))
    return np.array(rows)


def _draw_points(
    axes: Axes, relation: Relation, bounds: NDArray[np.float64], *, with_fit: bool
) -> None:
    costs = relation.points.complexity
    if with_fit and isinstance(relation.fit, PowerLaw):
        grid = np.geomspace(costs.min() / 1.08, costs.max() * 1.08, 60)
        band = relation.fit.band(grid)
        axes.fill_between(grid, band.low, band.high, color=_FIT, alpha=0.14, linewidth=0)
        axes.plot(grid, band.expected, color=_FIT, linewidth=1.4)
    x, y = _pareto_steps(relation)
    axes.step(x, y, where="post", color=_MEMBER, linewidth=1.2, alpha=0.7, zorder=2.5)
    colours = [_MEMBER if point.is_member else MUTED for point in relation.pareto]
    axes.vlines(*bounds.T, color=colours, linewidth=1.3, alpha=0.55, zorder=2)
    for point, colour, (cost, low, high) in zip(relation.pareto, colours, bounds, strict=True):
        axes.plot(
            *([cost], [point.quality]),
            marker="o",
            markersize=6.5,
            markeredgewidth=1.5,
            markeredgecolor=colour,
            markerfacecolor=colour if point.is_member else "white",
            linestyle="none",
            zorder=3,
            gid=HOVER + escape_figure(_hover_text(relation, point, low, high), longest=300),
        )


def _hover_text(relation: Relation, point: ParetoPoint, low: float, high: float) -> str:
    span = f", {low:.3f} to {high:.3f}" if low < high else ""
    text = (
        f"{point.model} ({point.family}): {QUALITIES[relation.quality]} {point.quality:.3f}{span}; "
        f"{amount(relation.complexity, point.complexity)}"
    )
    if point.probability is not None:
        text += f"; in the Pareto set with probability {probability(point.probability)}"
    return text


def _pareto_steps(relation: Relation) -> tuple[list[float], list[float]]:
    """Returns x and y of the steps of the Pareto set, up to the largest of all models."""
    x = [member.complexity for member in relation.members]
    y = [member.quality for member in relation.members]
    return [*x, float(relation.points.complexity.max()) * 1.08], [*y, y[-1]]


def _set_limits(axes: Axes, bounds: NDArray[np.float64], outside: Sequence[float]) -> None:
    """Sets limits with a margin around all points, and a few ticks at round numbers."""
    x = np.array([*(bounds[:, 0] if bounds.size else ()), *outside] or [1.0])
    wide = max(x.max() / x.min(), 1.5)
    axes.set_xlim(x.min() / wide**0.08, x.max() * wide**0.1)
    if bounds.size:
        low, high = bounds[:, 1].min(), bounds[:, 2].max()
        room = 0.08 * max(high - low, 0.02)
        axes.set_ylim(max(low - room, 0.0), high + room)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ticks = tuple(range(1, 10)) if wide < 5 else (1, 2, 5) if wide < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks, numticks=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_outside(strip: Axes, axes: Axes, outside: Mapping[str, float], quality: str) -> None:
    """Draws the models without a point below the axes, each at its complexity if it is known."""
    style_axes(strip, x_label="", y_label="")
    strip.grid(visible=False)
    strip.set(xscale="log", xlim=axes.get_xlim(), ylim=(0, 1), facecolor=_STRIP)
    strip.set_yticks([0.5], [f"{quality} 0\nor failed"])
    strip.tick_params(axis="y", labelsize=6.5, pad=3)
    strip.xaxis.set_major_locator(axes.xaxis.get_major_locator())
    strip.xaxis.set_major_formatter(axes.xaxis.get_major_formatter())
    strip.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelbottom=False)
    known = {model: (cost, 0.5) for model, cost in outside.items() if cost > 0}
    for cost, y in known.values():
        strip.plot([cost], [y], marker="x", markersize=6, color=INK, linestyle="none")
    if known:
        label_points(strip, known, named=list(known), lines=[], bars=[], colour=MUTED)
    unknown = ", ".join(model for model in outside if model not in known)
    style = {"fontsize": 8.5, "color": MUTED, "va": "center", "transform": strip.transAxes}
    strip.text(0.99, 0.5, escape_figure(unknown), ha="right", **style)


def _name_points(axes: Axes, relation: Relation, bounds: NDArray[np.float64]) -> None:
    members = [member.model for member in relation.members]
    others = [point.model for point in relation.pareto if not point.is_member]
    named = members + (others if len(relation.pareto) <= _MOST_NAMED else [])
    x, y = _pareto_steps(relation)
    level = [(x[i], y[i], x[i + 1], y[i]) for i in range(len(x) - 1)]
    upright = [(x[i + 1], y[i], x[i + 1], y[i + 1]) for i in range(len(x) - 1)]
    bars = [(cost, low, cost, high) for cost, low, high in bounds]
    points = {point.model: (point.complexity, point.quality) for point in relation.pareto}
    label_points(axes, points, named=named, lines=[*level, *upright], bars=bars, colour=INK)


_POINT_RADIUS = 5.0
"""Radius in pixels around the centre of a point that no name may cover."""
_SIDES = (
    (1, 0, "left", "center"),
    (0.7, 0.5, "left", "bottom"),
    (-0.7, 0.5, "right", "bottom"),
    (0.7, -0.5, "left", "top"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (-0.7, -0.5, "right", "top"),
)
"""Direction (right, up) and alignment of a name; preferred positions first."""
_PLACES = [
    (distance * right, distance * up, horizontal, vertical)
    for distance, (right, up, horizontal, vertical) in product((7, 12, 18, 26, 38), _SIDES)
]
"""Offsets in points of 1/72 inch."""
_BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}
"""Fraction of a text that lies left of, or below, the position that it is aligned to."""


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    named: Sequence[str],
    lines: ArrayLike,
    bars: ArrayLike,
    colour: str,
) -> list[str]:
    """Writes names beside their points and returns the names for which there was no room.

    Names cover neither points nor each other. They cover bars only if no other position is free,
    and lines only if neither is one over bars. The layout and limits of the axes must be final.

    Args:
        axes: axes with logarithmic or linear scales.
        points: x and y of all points by name.
        named: the names to write, the most important first.
        lines: (N, 4) x0 y0 x1 y1 of vertical and horizontal lines.
        bars: (N, 4) of others.
        colour: colour of the text.
    """
    centres = axes.transData.transform(np.array(list(points.values())))
    around_lines, around_bars = (_around(axes, one) for one in (lines, bars))
    taken = np.column_stack((centres - _POINT_RADIUS, centres + _POINT_RADIUS))
    frame = np.array(axes.get_window_extent().extents)
    scale = axes.get_figure(root=True).dpi / 72  # pyright: ignore[reportOptionalMemberAccess]
    offsets = np.array([place[:2] for place in _PLACES]) * scale
    before = np.array([(_BEFORE[place[2]], _BEFORE[place[3]]) for place in _PLACES])
    style: dict[str, Any] = {"fontsize": 8.5 if len(named) <= 20 else 7.5, "color": colour}
    without = []
    for name in named:
        centre = centres[list(points).index(name)]
        text = axes.text(0, 0, escape_figure(name), **style)
        size_wh = text.get_window_extent().size
        text.remove()
        corners = centre + offsets - before * size_wh
        boxes = np.hstack((corners, corners + size_wh))
        inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
        free = inside & ~_overlap(boxes, taken)
        cost = 2 * _overlap(boxes, around_lines) + _overlap(boxes, around_bars)
        chosen = np.flatnonzero(free)[np.argsort(cost[free], kind="stable")]
        if not len(chosen):
            without.append(name)
            continue
        right, up, horizontal, vertical = _PLACES[chosen[0]]
        place: dict[str, Any] = {"ha": horizontal, "va": vertical, "textcoords": "offset points"}
        if chosen[0] >= len(_SIDES):  # not beside its point: a line leads there
            place["arrowprops"] = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6}
        axes.annotate(escape_figure(name), points[name], xytext=(right, up), **place, **style)
        taken = np.vstack((taken, boxes[chosen[0]]))
    return without


def _around(axes: Axes, lines: ArrayLike) -> NDArray[np.float64]:
    """Returns (N, 4) xyxy in pixels, a little larger than each of the lines."""
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)
    return np.column_stack((ends.min(axis=1) - 2, ends.max(axis=1) + 2))


def _overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns a mask (P,) of the boxes (P, 4) xyxy that overlap any of the others (N, 4)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.any(np.all(low <= high, axis=2), axis=1)


_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#e0edf5", LINE_COLOURS[0]])
_SIGNS = LinearSegmentedColormap.from_list("signs", ["#e8b48f", "#f2f3f4", "#9cc6e2"])
_MOST_NUMBERED = 10
"""Up to this many rows, the cells of a matrix have numbers."""


def confusion_figure(model: str, matrix: ConfusionMatrix) -> Figure:
    """Returns a confusion matrix that is normalized by row."""
    names = [escape_figure(name, longest=14) for name in matrix.names]
    shares = matrix.normalized()
    figure, axes = _matrix_figure(names, shares, colours=_SHARES, limits=(0, 1), edge="#e4e4e4")
    title = {"loc": "left", "color": INK, "fontsize": 10.5, "fontweight": "bold"}
    axes.set_title(escape_figure(model), pad=8, **title)
    for row, column in np.argwhere(matrix.counts).tolist():
        if len(names) <= _MOST_NUMBERED:
            colour = "white" if shares[row, column] > 0.7 else INK
            _write_cell(axes, row, column, f"{shares[row, column]:.2f}", color=colour)
    return figure


def pairs_figure(models: Sequence[str], comparisons: Sequence[PairwiseComparison]) -> Figure:
    """Returns the matrix of verdicts: blue if the row is better than the column, orange if worse.

    Args:
        models: the models, best first.
        comparisons: the comparison of every pair.
    """
    side = len(models)
    signs = np.ma.masked_where(np.eye(side, dtype=bool), np.zeros((side, side)))
    for comparison in comparisons:
        row, column = models.index(comparison.model), models.index(comparison.reference)
        sign = {"better": 1, "worse": -1}.get(comparison.verdict, 0)
        signs[row, column], signs[column, row] = sign, -sign
    names = [escape_figure(name) for name in models]
    figure, axes = _matrix_figure(names, signs, colours=_SIGNS, limits=(-1, 1), edge="white")
    for comparison in comparisons if side <= _MOST_NUMBERED else ():
        row, column = models.index(comparison.model), models.index(comparison.reference)
        style: dict[str, Any] = {"color": MUTED}
        if comparison.differs:
            style = {"color": INK, "fontweight": "bold"}
        elif comparison.is_equivalent:
            style = {"color": INK, "fontstyle": "italic"}
        _write_cell(axes, row, column, signed(comparison.difference), **style)
        _write_cell(axes, column, row, signed(-comparison.difference), **style)
    return figure


def _matrix_figure(
    names: Sequence[str],
    values: NDArray[np.float64],
    *,
    colours: LinearSegmentedColormap,
    limits: tuple[float, float],
    edge: str,
) -> tuple[Figure, Axes]:
    side = len(names)
    cell = min(0.46, max(7.0 / side, 0.09))
    room = 0.4 + 0.075 * max(map(len, names))
    figure = Figure(figsize=(side * cell + room, side * cell + room), facecolor="white")
    share = side * cell / (side * cell + room)
    axes = figure.add_axes((0.97 - share, 0.97 - share - 0.2 / (side * cell + room), share, share))
    axes.pcolormesh(
        values, cmap=colours, vmin=limits[0], vmax=limits[1], edgecolors=edge, linewidth=0.5
    )
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.set_xticks(np.arange(side) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(side) + 0.5, names)
    axes.tick_params(labelsize=min(8.5, 70 * cell), length=0, pad=3, colors=INK)
    axes.spines[:].set_visible(False)
    return figure, axes


def _write_cell(axes: Axes, row: int, column: int, text: str, **style: Any) -> None:
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, **style)
