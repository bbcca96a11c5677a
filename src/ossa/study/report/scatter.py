"""Quality against complexity, for papers: law, band, Pareto set, every model with its deviation."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ossa.escaping import escape_figure
from ossa.report.figures import INK, MUTED, style_axes, write_in_the_middle
from ossa.study.law import Law
from ossa.study.report.labels import label_points
from ossa.study.report.looks import families_of
from ossa.study.report.view import Relation, StudyView
from ossa.study.report.words import compact
from ossa.study.results import COMPLEXITIES, QUALITIES

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
