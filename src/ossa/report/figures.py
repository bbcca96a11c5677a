"""Figures from plain numbers: matplotlib's object interface only, no global state.

The colours are told apart with any colour vision and are dark enough to be read on white.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

LINE_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#7A5195",
    "#B8860B",
    "#56B4E9",
    "#555555",
)
"""After Okabe and Ito, without their yellow; lines beyond the eighth are dashed, then dotted."""

_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_INK, _MUTED, _RULE = "#222222", "#6b6b6b", "#e4e4e4"
_MOST_DIRECT_LABELS = 6
_LABEL_SEPARATION = 0.062  # of the axes' height


@dataclass(frozen=True)
class Line:
    """One line of a figure; None or NaN in `y` leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    """Lower bounds of `y`, drawn with `high` as a shaded band."""
    high: Sequence[float | None] | None = None


def line_figure(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    size_inches: tuple[float, float] = (7.0, 3.8),
) -> Figure:
    """Returns a figure of lines, each named at its right end, or in a legend if there are many.

    Args:
        lines: drawn in this order, each in a colour of its own.
        x_label: with the unit.
        y_label: with the unit; stands above the axis, so that it is read without turning.
        title: above the figure; none for figures that a caption explains.
        size_inches: width and height.
    """
    figure = Figure(figsize=size_inches, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    axes.margins(x=0.015)
    _style(axes, x_label, y_label, title)
    for i, line in enumerate(lines):
        x, y = np.asarray(line.x, dtype=float), _with_gaps(line.y)
        style = {
            "color": LINE_COLOURS[i % len(LINE_COLOURS)],
            "linestyle": _DASHES[i // len(LINE_COLOURS) % len(_DASHES)],
        }
        if line.low is not None and line.high is not None:
            low, high = _with_gaps(line.low), _with_gaps(line.high)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        marker = "o" if len(x) <= 25 else None
        axes.plot(x, y, label=line.name, linewidth=1.8, marker=marker, markersize=3.5, **style)
    _keep_whole_steps(axes, lines)
    if len(lines) <= _MOST_DIRECT_LABELS:
        _label_ends(axes, lines)
    else:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        for text in legend.get_texts():
            text.set(color=_INK, fontsize=9.5)
    # Laid out once and for all: every further drawing would move things by a fraction of a pixel.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


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


def save_figure(figure: Figure, path_without_suffix: Path) -> None:
    """Writes the figure as .svg and, with 200 dots per inch, as .png."""
    path = Path(path_without_suffix)
    # Appended, since a name such as `yolov5n-0.5` has no suffix to be replaced.
    path.with_name(path.name + ".svg").write_text(figure_svg(figure), encoding="utf-8")
    png = path.with_name(path.name + ".png")
    figure.savefig(png, dpi=200, metadata={"Software": None})


def _with_gaps(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _style(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9a9a9a")
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=9.5, length=0, pad=6)
    axes.tick_params(axis="x", length=3, color="#9a9a9a", pad=4)
    axes.set_xlabel(x_label, color=_MUTED, fontsize=10, labelpad=6)
    heading = {"loc": "left", "x": 0.0}
    if title:
        axes.set_title(title, color=_INK, fontsize=12.5, fontweight="bold", pad=28, **heading)
    axes.annotate(
        y_label,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 10),
        textcoords="offset points",
        color=_MUTED,
        fontsize=10,
    )


def _keep_whole_steps(axes: Axes, lines: Sequence[Line]) -> None:
    """Puts ticks at whole numbers where every x is one: there is no epoch 2.5."""
    if all(float(x).is_integer() for line in lines for x in line.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Writes each line's name to the right of its end, apart from the other names."""
    ends = []
    for i, line in enumerate(lines):
        y = _with_gaps(line.y)
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):
            ends.append((y[finite[-1]], line.x[finite[-1]], i))
    ends.sort()
    low, high = axes.get_ylim()
    heights = _spread(np.array([(y - low) / (high - low) for y, _, _ in ends]))
    for height, (_, _, i) in zip(heights, ends, strict=True):
        axes.annotate(
            lines[i].name,
            (1, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=LINE_COLOURS[i],
            fontsize=10,
        )


def _spread(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns ascending heights moved as little as needed to stand a label's height apart."""
    spread = heights.copy()
    for _ in range(200):
        gaps = np.diff(spread)
        short = np.maximum(_LABEL_SEPARATION - gaps, 0) / 2
        if short.max(initial=0) < 1e-4:
            break
        spread[:-1] -= short
        spread[1:] += short
    return spread
