"""Names beside the points of a figure, where they cover neither points nor each other."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ossa.escaping import escape_figure
from ossa.study.report.text import compact
from ossa.study.report.view import Relation, StudyView, families_of
from ossa.study.results import COMPLEXITIES, QUALITIES
from ossa.study.scaling import Law
from ossa.viz.plots import INK, MUTED, style_axes, write_in_the_middle

_POINT_RADIUS = 5.0
"""Pixels around the middle of a point that no name may cover."""
_DISTANCES = (7, 12, 18, 26)
"""Points from the middle of a point to its name."""
_SIDES: Sequence[tuple[float, float, str, str]] = (
    (1, 0, "left", "center"),
    (0.7, 0.5, "left", "bottom"),
    (-0.7, 0.5, "right", "bottom"),
    (0.7, -0.5, "left", "top"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (-0.7, -0.5, "right", "top"),
)
"""Direction right and up, and how the name is then aligned; the best looking first."""
_BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}
"""Which part of a text lies left of, or below, the place that it is aligned to."""


class _Place(NamedTuple):
    """Of a name, relative to its point."""

    offset_xy: tuple[float, float]
    """In points of 1/72 inch."""
    horizontal: str
    vertical: str

    def box(
        self, point: NDArray[np.float64], size_wh: NDArray[np.float64], *, scale: float
    ) -> NDArray[np.float64]:
        """Returns xyxy in pixels, with `scale` pixels to a point."""
        before = np.array((_BEFORE[self.horizontal], _BEFORE[self.vertical]))
        corner = point + np.array(self.offset_xy) * scale - before * size_wh
        return np.concatenate((corner, corner + size_wh))


def label_points(
    axes: Axes,
    names: Sequence[str],
    *,
    x: Sequence[float],
    y: Sequence[float],
    named: Sequence[str],
    lines: ArrayLike,
    colour: str,
    font_points: float = 8.5,
) -> list[str]:
    """Writes names beside their points and returns those for which there was no room.

    The layout and limits of the axes must be final.

    Args:
        axes: with logarithmic or linear scales.
        names: of all points.
        x: of all points.
        y: of all points.
        named: those to write, the most important first.
        lines: (N, 4) x0 y0 x1 y1 of upright and level lines that names avoid.
        colour: of the text.
        font_points: its size.
    """
    points = axes.transData.transform(np.column_stack((x, y)))
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)
    around_points = np.column_stack((points - _POINT_RADIUS, points + _POINT_RADIUS))
    around_lines = np.column_stack((ends.min(axis=1) - 1, ends.max(axis=1) + 1))
    taken, without = around_points, list(named)
    frame = np.array(axes.get_window_extent().extents)
    scale = axes.get_figure(root=True).dpi / 72  # pyright: ignore[reportOptionalMemberAccess]
    sizes = {name: _size_wh(axes, name, font_points) for name in named}
    for lines_taken in (around_lines, np.empty((0, 4))):  # better across a line than not at all
        for name in tuple(without):
            number = names.index(name)
            obstacles = np.vstack((taken, lines_taken))
            for place in _places():
                box = place.box(points[number], sizes[name], scale=scale)
                if _inside(box, frame) and not _overlaps(box, obstacles):
                    _write(axes, name, (x[number], y[number]), place, colour, font_points)
                    taken = np.vstack((taken, box))
                    without.remove(name)
                    break
    return without


def _places() -> Iterator[_Place]:
    for distance, (right, up, horizontal, vertical) in product(_DISTANCES, _SIDES):
        yield _Place((right * distance, up * distance), horizontal, vertical)


def _size_wh(axes: Axes, name: str, font_points: float) -> NDArray[np.float64]:
    """Returns width and height of a name in pixels."""
    text = axes.text(0, 0, escape_figure(name), fontsize=font_points)
    extent = text.get_window_extent()
    text.remove()
    return np.array((extent.width, extent.height))


def _write(
    axes: Axes,
    name: str,
    point: tuple[float, float],
    place: _Place,
    colour: str,
    font_points: float,
) -> None:
    axes.annotate(
        escape_figure(name),
        point,
        xytext=place.offset_xy,
        textcoords="offset points",
        ha=place.horizontal,
        va=place.vertical,
        fontsize=font_points,
        color=colour,
    )


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Returns whether a box xyxy has a pixel in common with one of others (N, 4)."""
    apart = (
        (box[2] < others[:, 0])
        | (box[0] > others[:, 2])
        | (box[3] < others[:, 1])
        | (box[1] > others[:, 3])
    )
    return not bool(apart.all())


def _inside(box: NDArray[np.float64], frame: NDArray[np.float64]) -> bool:
    return bool((box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all())


_MOST_NAMED = 40
"""Points; of more, only the frontier has names."""
_MOST_IN_LEGEND = 16
"""Families."""


def relation_figure(view: StudyView, relation: Relation) -> Figure:
    """Returns the models of a relation on logarithmic axes."""
    figure = Figure(figsize=(8.2, 5.0), facecolor="white")
    # By hand: a layout engine takes longer than the drawing, and there are dozens of these.
    axes = figure.add_axes((0.075, 0.125, 0.655, 0.70))
    quality, complexity = QUALITIES[relation.quality], COMPLEXITIES[relation.complexity]
    style_axes(
        axes,
        x_label=f"{complexity}, logarithmic",
        y_label=f"{quality}, logarithmic",
        title=f"{quality} and {complexity}",
    )
    if not len(relation.points):
        axes.set(xticks=[], yticks=[])
        write_in_the_middle(axes, "no models with both numbers")
        return figure
    axes.set(xscale="log", yscale="log")
    _draw_law(axes, relation)
    _draw_steps(axes, relation)
    _draw_models(axes, view, relation)
    _set_limits(axes, view, relation)
    _add_legend(axes, view, relation)
    _name_points(axes, view, relation)
    return figure


def _draw_law(axes: Axes, relation: Relation) -> None:
    if not isinstance(relation.law, Law):
        return
    band = relation.law.band(grid_of(relation))
    axes.fill_between(
        band.complexity, band.low, band.high, color="#8a8a8a", alpha=0.16, linewidth=0
    )
    axes.plot(band.complexity, band.expected, color="#8a8a8a", linewidth=1.6)


def grid_of(relation: Relation, *, count: int = 60) -> np.ndarray:
    """Returns complexities (count,) from the least of the models to the largest, and beyond."""
    complexity = relation.points.complexity
    return np.geomspace(complexity.min() / 1.08, complexity.max() * 1.08, count)


def steps_of(relation: Relation) -> tuple[list[float], list[float]]:
    """Returns x and y of the stairs of the Pareto set, up to the largest of all models."""
    members = relation.frontier.members
    if not members:
        return [], []
    x = [member.complexity for member in members]
    y = [member.quality for member in members]
    return [*x, float(relation.points.complexity.max()) * 1.08], [*y, y[-1]]


def _draw_steps(axes: Axes, relation: Relation) -> None:
    axes.step(*steps_of(relation), where="post", color=INK, linewidth=1.1, zorder=2.5)


def _draw_models(axes: Axes, view: StudyView, relation: Relation) -> None:
    members = {member.model for member in relation.frontier.members}
    points = relation.points
    lines = _deviation_lines(view, relation)
    for model, y, (x, low, _, high) in zip(
        points.models, points.quality.tolist(), lines, strict=True
    ):
        look = view.looks[model]
        axes.plot([x, x], [low, high], color=look.colour, linewidth=1.2, alpha=0.6)
        axes.plot(
            *([x], [y]),
            marker=look.marker,
            markersize=7.5,
            markeredgewidth=1.6,
            markeredgecolor=look.colour,
            markerfacecolor=look.colour if model in members else "white",
            linestyle="none",
            zorder=3,
        )


def _deviation_lines(view: StudyView, relation: Relation) -> list[tuple[float, ...]]:
    """Returns x0 y0 x1 y1 of the line of every point from one deviation below to one above."""
    points, lines = relation.points, []
    rows = zip(points.models, points.complexity.tolist(), points.quality.tolist(), strict=True)
    for model, x, y in rows:
        deviation = np.nan_to_num(view.number(model, f"{relation.quality}_std"))
        # The logarithm of nothing has no place on the axis.
        lines.append((x, max(y - deviation, y / 2), x, y + deviation))
    return lines


def _set_limits(axes: Axes, view: StudyView, relation: Relation) -> None:
    x = relation.points.complexity
    y = np.array(_deviation_lines(view, relation))[:, [1, 3]]
    wide, high = max(x.max() / x.min(), 1.5), max(y.max() / y.min(), 1.1)
    axes.set_xlim(x.min() / wide**0.06, x.max() * wide**0.1)
    axes.set_ylim(y.min() / high**0.12, y.max() * high**0.12)
    _plain_ticks(axes, span=high, decade=wide)


def _plain_ticks(axes: Axes, *, span: float, decade: float) -> None:
    """Writes round numbers, in full and with units, at ticks that are few enough to be read."""
    every = {True: (1, 2, 5), False: (1,)}[decade < 300]
    axes.xaxis.set_major_locator(LogLocator(subs=every if decade >= 5 else tuple(range(1, 10))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    fine = tuple(np.arange(1, 10, 0.5 if span < 2.5 else 1.0)) if span < 8 else (1, 2, 5)
    if span < 1.3:
        fine = tuple(np.arange(1, 10, 0.1))
    axes.yaxis.set_major_locator(LogLocator(subs=fine, numticks=100))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())


def _add_legend(axes: Axes, view: StudyView, relation: Relation) -> None:
    families = families_of({model: view.looks[model] for model in relation.points.models})
    plain = {"linestyle": "none", "markersize": 7}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=escape_figure(family), **plain)
        for family, look in list(families.items())[:_MOST_IN_LEGEND]
    ]
    if len(families) > _MOST_IN_LEGEND:
        rest = f"{len(families) - _MOST_IN_LEGEND} more families"
        handles.append(Line2D([], [], linestyle="none", label=rest))
    handles.append(Line2D([], [], color=INK, linewidth=1.1, label="Pareto set (filled)"))
    if isinstance(relation.law, Law):
        label = f"law: slope {relation.law.slope:.3f}, 95 %"
        handles.append(Line2D([], [], color="#8a8a8a", linewidth=5, alpha=0.5, label=label))
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def _name_points(axes: Axes, view: StudyView, relation: Relation) -> None:
    points = relation.points
    members = [member.model for member in relation.frontier.members]
    others = [model for model in points.models if model not in members]
    named = members + (others if len(points) <= _MOST_NAMED else [])
    x, y = steps_of(relation)
    level = [(x[i], y[i], x[i + 1], y[i]) for i in range(len(x) - 1)]
    upright = [(x[i + 1], y[i], x[i + 1], y[i + 1]) for i in range(len(x) - 1)]
    label_points(
        axes,
        points.models,
        x=points.complexity.tolist(),
        y=points.quality.tolist(),
        named=named,
        lines=[*level, *upright, *_deviation_lines(view, relation)],
        colour=MUTED if len(named) > 12 else INK,
        font_points=8.5 if len(named) <= 20 else 7.5,
    )
