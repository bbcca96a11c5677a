"""Matplotlib figures of curves, matrices and predictions, with their styles and legends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ossa.escaping import escape_figure
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.study.comparisons import PairwiseComparison
from ossa.study.prediction import Validation
from ossa.study.report.text import signed
from ossa.study.results import COMPLEXITIES, StudyResults
from ossa.study.scaling import InsufficientData
from ossa.viz.plots import INK, LINE_COLOURS, MUTED, fix_layout, style_axes, write_in_the_middle

_MARKERS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}
"""Matplotlib markers and their names in plotly."""
_MOST_IN_LEGEND = 16
"""Number of families in a legend."""
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)), (0, (9, 3)))


@dataclass(frozen=True)
class ModelStyle:
    """The style of a model: colour and marker by family, dashes by model."""

    family: str
    colour: str
    marker: str
    """Marker in matplotlib."""
    symbol: str
    """The same marker in plotly."""
    dashes: Any


def model_styles(families: Mapping[str, str]) -> dict[str, ModelStyle]:
    """Returns the style of every model from its family.

    Colours are assigned by the size of the family, so that the largest families differ most; from
    the ninth on, families share colours and differ in their markers.
    """
    order = [family for family, _ in Counter(families.values()).most_common()]
    styles: dict[str, ModelStyle] = {}
    num_with_colour: Counter[str] = Counter()
    for model, family in families.items():
        repeat, number = divmod(order.index(family), len(LINE_COLOURS))
        marker, symbol = list(_MARKERS.items())[repeat % len(_MARKERS)]
        colour = LINE_COLOURS[number]
        dashes = _DASHES[num_with_colour[colour] % len(_DASHES)]
        num_with_colour[colour] += 1
        styles[model] = ModelStyle(family, colour, marker, symbol, dashes)
    return styles


def styles_of(results: StudyResults) -> dict[str, ModelStyle]:
    """Returns the style of every model of a study."""
    models = results.models()
    return model_styles(dict(zip(models["model"], models["family"], strict=True)))


def family_entries(styles: Mapping[str, ModelStyle], **line: Any) -> list[Line2D]:
    """Returns legend entries, one per family; after 16 families, the others are counted.

    Args:
        styles: styles by model.
        line: properties of the entries; `marker=True` adds the marker of the family.
    """
    with_marker = line.pop("marker", False)
    families: dict[str, ModelStyle] = {}
    for style in styles.values():
        families.setdefault(style.family, style)
    entries = []
    for family, style in list(families.items())[:_MOST_IN_LEGEND]:
        marker = style.marker if with_marker else None
        label = escape_figure(family)
        entries.append(Line2D([], [], color=style.colour, marker=marker, label=label, **line))
    if len(families) > _MOST_IN_LEGEND:
        rest = f"{len(families) - _MOST_IN_LEGEND} more families"
        entries.append(Line2D([], [], linestyle="none", label=rest))
    return entries


_COLUMNS = 3
_MOST_CURVES = 30
"""Up to this many models, each has its own line style."""


def curves_figure(
    results: StudyResults,
    curves: Mapping[str, Mapping[str, NDArray[np.float64]]],
    titles: Mapping[str, str],
) -> Figure:
    """Returns a figure with one panel per curve, each with all models, and a common legend."""
    styles = styles_of(results)
    many = len(styles) > _MOST_CURVES
    rows = -(-len(curves) // _COLUMNS)
    entries = family_entries(styles)
    if not many:
        entries = [
            Line2D([], [], color=style.colour, linestyle=style.dashes, label=escape_figure(model))
            for model, style in styles.items()
        ]
    height = 2.75 * rows + 0.5 + 0.21 * -(-len(entries) // 5)
    figure = Figure(figsize=(4.1 * _COLUMNS, height), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
    for number, (key, models) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        style_axes(axes, x_label="", y_label="")
        _set_title(axes, titles[key], pad=8)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        for model, values in models.items():
            known = np.flatnonzero(np.isfinite(values))  # others were not evaluated
            axes.plot(
                known + 1,
                values[known],
                color=styles[model].colour,
                linestyle="-" if many else styles[model].dashes,
                linewidth=0.7 if many else 1.5,
                alpha=0.6 if many else 1.0,
                marker="o" if len(known) == 1 else None,
            )
    place = {"loc": "outside lower center", "ncols": min(5, len(entries)), "handlelength": 3.2}
    figure.legend(handles=entries, frameon=False, fontsize=9.5, labelcolor=INK, **place)
    fix_layout(figure)
    return figure


def _set_title(axes: Axes, title: str, *, pad: float) -> None:
    style = {"loc": "left", "color": INK, "fontsize": 10.5, "fontweight": "bold"}
    axes.set_title(escape_figure(title), pad=pad, **style)


_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#e0edf5", LINE_COLOURS[0]])
_SIGNS = LinearSegmentedColormap.from_list("signs", ["#e8b48f", "#f2f3f4", "#9cc6e2"])
_MOST_NUMBERED = 10
"""Up to this many rows, the cells of a confusion matrix have numbers."""
_MOST_DIFFERENCES = 14
_LONGEST_NAME = 14


def _square_axes(axes: Axes, rows: Sequence[str], columns: Sequence[str], *, font: float) -> None:
    """Formats axes as a matrix with named rows and columns."""
    side = len(columns)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    axes.set_xticks(np.arange(side) + 0.5, columns, rotation=90)
    axes.set_yticks((np.arange(side) + 0.5)[: len(rows)], rows)
    axes.tick_params(labelsize=font, length=0, pad=3)
    axes.spines[:].set_visible(False)


def _write_cell(axes: Axes, row: int, column: int, text: str, **style: Any) -> None:
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, **style)


def confusions_figure(matrices: Mapping[str, ConfusionMatrix]) -> Figure:
    """Returns the row-normalized confusion matrices, three per row."""
    side = len(next(iter(matrices.values())).names)
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    numbered = side <= _MOST_NUMBERED
    inches, font = (3.6, 8.5) if numbered else (4.2, max(2.5, 170 / side))
    figure = Figure(figsize=(columns * inches, rows * (inches + 0.15)), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    for number, (model, matrix) in enumerate(matrices.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        shares = matrix.normalized()
        axes.pcolormesh(shares, cmap=_SHARES, vmin=0, vmax=1, edgecolors="#e4e4e4", linewidth=0.4)
        names = [escape_figure(name, longest=_LONGEST_NAME) for name in matrix.names]
        _square_axes(axes, [] if number % columns else names, names, font=font)
        axes.tick_params(colors=MUTED)
        _set_title(axes, model, pad=6)
        for row, column in np.argwhere(matrix.counts).tolist() if numbered else ():
            share = shares[row, column]
            colour = "white" if share > 0.7 else INK
            _write_cell(axes, row, column, f"{share:.2f}", color=colour)
    figure.draw_without_rendering()  # the layout of square cells needs two passes
    fix_layout(figure)
    return figure


def pairs_figure(models: Sequence[str], comparisons: Sequence[PairwiseComparison]) -> Figure:
    """Returns the matrix of verdicts: blue if the row is better than the column, orange if worse.

    Args:
        models: the models, best first.
        comparisons: the comparison of every pair.
    """
    side = len(models)
    cell = min(0.62, max(8.5 / side, 0.105))
    figure = Figure(figsize=(side * cell + 2.9, side * cell + 2.0), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
    axes = figure.add_subplot()
    signs = np.ma.masked_where(np.eye(side, dtype=bool), np.zeros((side, side)))
    for comparison in comparisons:
        row, column = models.index(comparison.model), models.index(comparison.reference)
        sign = {"better": 1, "worse": -1}.get(comparison.verdict, 0)
        signs[row, column], signs[column, row] = sign, -sign
        if side <= _MOST_DIFFERENCES:
            style = {"fontweight": "bold", "color": INK} if sign else {"color": MUTED}
            _write_cell(axes, row, column, signed(comparison.difference), **style)
            _write_cell(axes, column, row, signed(-comparison.difference), **style)
    axes.pcolormesh(signs, cmap=_SIGNS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    _square_axes(axes, models, models, font=min(9.5, 62 * cell))
    axes.tick_params(colors=INK)
    figure.draw_without_rendering()
    fix_layout(figure)
    return figure


def validation_figure(
    results: StudyResults,
    validations: Mapping[str, Mapping[str, Validation | InsufficientData]],
) -> Figure:
    """Returns predicted against measured AP50-95: columns by measure, rows by unit left out.

    Args:
        results: the results of the study.
        validations: by measure of complexity and by the unit that is left out.
    """
    measures = list(validations)[:3]
    groups = list(validations[measures[0]])
    figure = Figure(figsize=(3.9 * len(measures), 7.4), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
    panels = product(groups, measures)
    for number, (group, measure) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(groups), len(measures), number)
        _draw_validation(axes, styles_of(results), validations[measure][group])
        _set_title(axes, f"{COMPLEXITIES[measure]}, one {group} left out", pad=24)
    fix_layout(figure)
    return figure


def _draw_validation(
    axes: Axes, styles: Mapping[str, ModelStyle], validation: Validation | InsufficientData
) -> None:
    if isinstance(validation, InsufficientData):
        style_axes(axes, x_label="", y_label="")
        axes.set(xticks=[], yticks=[])
        write_in_the_middle(axes, "no test")
        return
    style_axes(axes, x_label="measured AP50-95", y_label="predicted AP50-95 (80% interval)")
    rows = validation.predictions
    values = np.array([(row.measured, row.prediction.expected) for row in rows])
    low, high = values.min(), values.max()
    room = 0.12 * max(high - low, 0.02)
    limits = (low - room, high + room)
    axes.plot(limits, limits, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    many = len(rows) > 30
    for row in rows:
        style, x = styles[row.model], row.measured
        width, alpha = (0.8, 0.35) if many else (1.4, 0.5)
        if not isinstance(row.prediction.interval, InsufficientData):
            interval = row.prediction.interval
            axes.plot([x, x], interval, color=style.colour, linewidth=width, alpha=alpha)
        axes.plot(
            *([x], [row.prediction.expected]),
            marker=style.marker,
            markersize=4 if many else 6,
            color=style.colour,
            markerfacecolor=style.colour if row.covered else "white",
            linestyle="none",
        )
    axes.set(xlim=limits, ylim=limits)


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
    for distance, (right, up, horizontal, vertical) in product((7, 12, 18, 26), _SIDES)
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
    colour: str,
) -> list[str]:
    """Writes names beside their points and returns the names for which there was no room.

    Names cover neither points nor each other, and cover lines only if no other position is free.
    The layout and limits of the axes must be final.

    Args:
        axes: axes with logarithmic or linear scales.
        points: x and y of all points by name.
        named: the names to write, the most important first.
        lines: (N, 4) x0 y0 x1 y1 of vertical and horizontal lines.
        colour: colour of the text.
    """
    centres = axes.transData.transform(np.array(list(points.values())))
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)
    around_lines = np.column_stack((ends.min(axis=1) - 1, ends.max(axis=1) + 1))
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
        best = np.flatnonzero(free & ~_overlap(boxes, around_lines))
        chosen = best if len(best) else np.flatnonzero(free)
        if not len(chosen):
            without.append(name)
            continue
        right, up, horizontal, vertical = _PLACES[chosen[0]]
        place = {"ha": horizontal, "va": vertical, "textcoords": "offset points"}
        axes.annotate(escape_figure(name), points[name], xytext=(right, up), **place, **style)
        taken = np.vstack((taken, boxes[chosen[0]]))
    return without


def _overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns a mask (P,) of the boxes (P, 4) xyxy that overlap any of the others (N, 4)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.any(np.all(low <= high, axis=2), axis=1)
