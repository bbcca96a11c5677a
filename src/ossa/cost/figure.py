"""Parameters, FLOPs and milliseconds of several detectors side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ossa.cost.model_cost import ModelCost
from ossa.escaping import escape_figure
from ossa.models.complexity import PARTS
from ossa.viz.plots import LINE_COLOURS

_COLOURS = {**dict(zip(PARTS, LINE_COLOURS, strict=False)), "time": "#777777"}
_INK, _MUTED, _RULE = "#222222", "#6b6b6b", "#9a9a9a"


def cost_figure(
    costs: Sequence[ModelCost], milliseconds: Sequence[float], *, timed_on: str
) -> Figure:
    """Returns a figure of three panels of bars, one bar a detector, of the deployed form.

    Args:
        costs: from top to bottom; parameters and FLOPs are split by part.
        milliseconds: for an image, of each detector.
        timed_on: the hardware.
    """
    figure = Figure(figsize=(10.0, 2.0 + 0.36 * len(costs)), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    panels = figure.subplots(1, 3, sharey=True)
    _draw_bars(panels[0], _by_part(costs, "params", unit=1e6), title="parameters, millions")
    _draw_bars(panels[1], _by_part(costs, "flops", unit=1e9), title="FLOPs, billions")
    _draw_bars(panels[2], {"time": np.array(milliseconds)}, title="milliseconds an image")
    panels[2].set_xlabel(timed_on, color=_MUTED, fontsize=9, loc="right")
    figure.suptitle(
        f"Detectors in deployed form, {costs[0].imgsz} x {costs[0].imgsz} px",
        x=0.01,
        ha="left",
        color=_INK,
        fontsize=11.5,
    )
    panels[0].set_yticks(
        range(len(costs)), [escape_figure(cost.model) for cost in costs], color=_INK
    )
    panels[0].invert_yaxis()
    bars, parts = panels[0].get_legend_handles_labels()
    figure.legend(bars, parts, loc="outside lower left", ncols=len(parts), frameon=False)
    return figure


def _by_part(
    costs: Sequence[ModelCost], figure: str, *, unit: float
) -> dict[str, NDArray[np.float64]]:
    """Returns for each part one number a detector."""
    return {
        part: np.array([getattr(cost.deployed.parts[part], figure) / unit for cost in costs])
        for part in PARTS
    }


def _draw_bars(panel: Axes, parts: Mapping[str, NDArray[np.float64]], *, title: str) -> None:
    """Draws one bar a detector, its parts end to end, and their sum in numbers behind it."""
    ends = np.zeros_like(next(iter(parts.values())))
    for name, values in parts.items():
        rows = range(len(values))
        panel.barh(rows, values, left=ends, height=0.62, color=_COLOURS[name], label=name)
        ends = ends + values
    for row, end in enumerate(ends):
        panel.annotate(
            f"{end:.3g}" if end < 1000 else f"{end:.0f}",
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_MUTED,
            fontsize=9,
        )
    panel.set_xlim(0, 1.16 * ends.max())
    panel.set_xticks([])
    panel.tick_params(labelsize=9.5, length=0)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color(_RULE)
    panel.set_title(title, color=_INK, fontsize=10.5, loc="left")
