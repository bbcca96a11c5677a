"""Figures from plain numbers: matplotlib's object interface only, no global state.

The colours are told apart with any colour vision and are dark enough to be read on white.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ossa.escaping import escape_figure
from ossa.files import write_atomically, write_text_atomically

LINE_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#7A5195", "#B8860B", "#56B4E9", "#555555"),
)
"""After Okabe and Ito, without their yellow; lines beyond the eighth are dashed, then dotted."""

_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
INK, MUTED, RULE = "#222222", "#6b6b6b", "#e4e4e4"
"""Of what is read first, of what explains it, and of lines between them."""


@dataclass(frozen=True)
class Line:
    """One line of a figure; None or NaN in `y` leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    """Lower bounds of `y`, drawn with `high` as a shaded band."""
    high: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes."""

    lines: Sequence[Line]
    """Drawn in this order, each in a colour of its own."""
    x_label: str
    """With the unit."""
    y_label: str
    """With the unit; stands above the axis, so that it is read without turning."""
    title: str = ""
    """Above the panel; none for figures that a caption explains."""
    y_low: float | None = None
    """Where the y axis begins; a little below the lowest value if not given."""


def line_figure(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    size_inches: tuple[float, float] = (7.0, 3.8),
) -> Figure:
    """Returns a figure of lines, named in a legend; see `Panel`. Its size is width and height."""
    panel = Panel(lines, x_label, y_label, title)
    return panel_figure([panel], columns=1, panel_inches=size_inches)


def panel_figure(
    panels: Sequence[Panel], *, columns: int, panel_inches: tuple[float, float] = (4.6, 3.2)
) -> Figure:
    """Returns a figure of panels of lines, each with its own scales, row by row.

    Args:
        panels: to draw.
        columns: panels in a row.
        panel_inches: width and height of each.
    """
    rows = -(-len(panels) // columns)
    figure = _white_figure((columns * panel_inches[0], rows * panel_inches[1]))
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel)
    fix_layout(figure)
    return figure


def new_figure(
    size_inches: tuple[float, float], *, x_label: str, y_label: str, title: str = ""
) -> tuple[Figure, Axes]:
    """Returns a white figure with one pair of axes in the style of all our figures."""
    figure = _white_figure(size_inches)
    axes = figure.add_subplot()
    style_axes(axes, x_label=x_label, y_label=y_label, title=title)
    return figure, axes


def _white_figure(size_inches: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size_inches, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    return figure


def fix_layout(figure: Figure) -> None:
    """Lays the figure out once and for all: every drawing would move things by part of a pixel."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def figure_svg(figure: Figure) -> str:
    """Returns the figure as an <svg> element; equal figures give equal text.

    Text stays text: it can be selected, and takes the fonts of the page.
    """
    # The renderer reads these from the settings only; the context restores them.
    with mpl.rc_context({"svg.hashsalt": "ossa", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def figure_png(figure: Figure, *, dpi: int = 200) -> bytes:
    """Returns the figure as the bytes of a PNG file of `dpi` pixels an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path_without_suffix: Path, *, dpi: int = 200) -> str:
    """Writes the figure as .svg and, with `dpi` pixels an inch, as .png; returns the <svg> element.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    path = Path(path_without_suffix)
    # Appended, since a name such as `yolov5n-0.5` has no suffix to be replaced.
    svg = figure_svg(figure)
    write_text_atomically(path.with_name(path.name + ".svg"), svg)
    write_atomically(path.with_name(path.name + ".png"), figure_png(figure, dpi=dpi))
    return svg


def style_axes(axes: Axes, *, x_label: str, y_label: str, title: str = "") -> None:
    """Gives axes the look of all our figures; both labels stand along the x axis' direction."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9a9a9a")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=0, pad=6)
    axes.tick_params(axis="x", length=3, color="#9a9a9a", pad=4)
    axes.set_xlabel(x_label, color=MUTED, fontsize=10, labelpad=6)
    head_axes(axes, title=title, below=y_label)


def head_axes(axes: Axes, *, title: str, below: str) -> None:
    """Writes a title, unless it is '', and a smaller line below it over the left end of axes."""
    if title:
        # x is given, lest the title make way for tick labels.
        heading = {"loc": "left", "x": 0.0, "pad": 28}
        axes.set_title(escape_figure(title), color=INK, fontsize=12.5, fontweight="bold", **heading)
    place = {"xycoords": "axes fraction", "xytext": (0, 10), "textcoords": "offset points"}
    axes.annotate(below, (0, 1), color=MUTED, fontsize=10, **place)


def write_in_the_middle(axes: Axes, sentence: str) -> None:
    """Says why there is nothing to see."""
    axes.text(0.5, 0.5, sentence, ha="center", transform=axes.transAxes, color=MUTED, fontsize=11)


def add_legend(axes: Axes, *, title: str | None = None) -> None:
    """Names the labelled lines to the right of the axes."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "labelcolor": INK}
    legend = axes.legend(title=title, alignment="left", **place, **style)
    legend.get_title().set(color=MUTED, fontsize=9.5)


def line_style(number: int) -> dict[str, Any]:
    """Returns colour and dashes of line `number` 0, 1, ...; the first 24 differ."""
    return {
        "color": LINE_COLOURS[number % len(LINE_COLOURS)],
        "linestyle": _DASHES[number // len(LINE_COLOURS) % len(_DASHES)],
    }


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.margins(x=0.015)
    style_axes(axes, x_label=panel.x_label, y_label=panel.y_label, title=panel.title)
    for i, line in enumerate(panel.lines):
        low, high = (
            None if values is None else np.array(values, dtype=float)
            for values in (line.low, line.high)
        )
        style: dict[str, Any] = {"linewidth": 1.8, "markersize": 3.5, **line_style(i)}
        if low is not None and high is not None:
            axes.fill_between(line.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        marker = "o" if len(line.x) <= 25 else None
        y = np.array(line.y, dtype=float)
        axes.plot(line.x, y, label=escape_figure(line.name), marker=marker, **style)
    if panel.y_low is not None:
        axes.set_ylim(bottom=panel.y_low)
    if all(float(x).is_integer() for line in panel.lines for x in line.x):  # no epoch 2.5
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.set(xticks=[], yticks=[])
        write_in_the_middle(axes, "no values")
    if any(line.name for line in panel.lines):  # a single line need not have one
        add_legend(axes)
