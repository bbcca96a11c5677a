"""Scatter plots of quality against complexity: plotly on the page, matplotlib in files."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray
from plotly.offline import get_plotlyjs

from ossa.escaping import script_json
from ossa.study.analysis import ParetoPoint, Relation
from ossa.study.report.figures import ModelStyle, family_entries, label_points, styles_of
from ossa.study.report.text import amount, compact, mean_and_deviation, signed
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults
from ossa.study.scaling import PowerLaw
from ossa.viz.page import LiveBlock
from ossa.viz.plots import INK, MUTED, style_axes, write_in_the_middle

_FIT, _RULE = "#8a8a8a", "#e4e4e4"
_MOST_NAMED = 40
"""With more points, only those in the Pareto set are labelled."""


def relation_figure(results: StudyResults, relation: Relation) -> Figure:
    """Returns a figure of quality against complexity in log-log, with fit and Pareto set."""
    figure = Figure(figsize=(8.2, 5.0), facecolor="white")
    # Fixed, as a layout engine takes longer than the drawing, and there are dozens of figures.
    axes = figure.add_axes((0.075, 0.125, 0.655, 0.70))
    quality, complexity = QUALITIES[relation.quality], COMPLEXITIES[relation.complexity]
    labels = {"x_label": f"{complexity}, logarithmic", "y_label": f"{quality}, logarithmic"}
    style_axes(axes, title=f"{quality} and {complexity}", **labels)
    if not len(relation.points):
        axes.set(xticks=[], yticks=[])
        write_in_the_middle(axes, "no model has both values")
        return figure
    styles = styles_of(results)
    axes.set(xscale="log", yscale="log")
    if isinstance(relation.fit, PowerLaw):
        grid = fit_grid(relation)
        band = relation.fit.band(grid)
        axes.fill_between(grid, band.low, band.high, color=_FIT, alpha=0.16, linewidth=0)
        axes.plot(grid, band.expected, color=_FIT, linewidth=1.6)
    axes.step(*pareto_steps(relation), where="post", color=INK, linewidth=1.1, zorder=2.5)
    deviations = _deviation_lines(results, relation)
    for point, (x, low, _, high) in zip(relation.pareto, deviations, strict=True):
        style = styles[point.model]
        axes.plot([x, x], [low, high], color=style.colour, linewidth=1.2, alpha=0.6)
        axes.plot(
            *([x], [point.quality]),
            marker=style.marker,
            markersize=7.5,
            markeredgewidth=1.6,
            markeredgecolor=style.colour,
            markerfacecolor=style.colour if point.is_member else "white",
            linestyle="none",
            zorder=3,
        )
    _set_limits(axes, deviations)
    _add_legend(axes, relation, styles)
    _name_points(axes, relation, deviations)
    return figure


def fit_grid(relation: Relation, *, count: int = 60) -> NDArray[np.float64]:
    """Returns complexities (count,) from just below the smallest to just above the largest."""
    complexity = relation.points.complexity
    return np.geomspace(complexity.min() / 1.08, complexity.max() * 1.08, count)


def pareto_steps(relation: Relation) -> tuple[list[float], list[float]]:
    """Returns x and y of the steps of the Pareto set, up to the largest of all models."""
    x = [member.complexity for member in relation.members]
    y = [member.quality for member in relation.members]
    if x:
        x.append(float(relation.points.complexity.max()) * 1.08)
        y.append(y[-1])
    return x, y


def _deviation_lines(results: StudyResults, relation: Relation) -> NDArray[np.float64]:
    """Returns lines (M, 4) x0 y0 x1 y1 of ± one standard deviation through every point."""
    lines = []
    for point in relation.pareto:
        x, y = point.complexity, point.quality
        deviation = np.nan_to_num(results.number(point.model, f"{relation.quality}_std"))
        # Keep the lower end positive on the log axis.
        lines.append((x, max(y - deviation, y / 2), x, y + deviation))
    return np.array(lines)


def _set_limits(axes: Axes, deviations: NDArray[np.float64]) -> None:
    """Sets limits with a margin around all points, and a few ticks at round numbers."""
    x, y = deviations[:, 0], deviations[:, [1, 3]]
    wide, high = max(x.max() / x.min(), 1.5), max(y.max() / y.min(), 1.1)
    axes.set_xlim(x.min() / wide**0.06, x.max() * wide**0.1)
    axes.set_ylim(y.min() / high**0.12, y.max() * high**0.12)
    x_ticks = tuple(range(1, 10)) if wide < 5 else (1, 2, 5) if wide < 300 else (1,)
    step = 0.1 if high < 1.3 else 0.5 if high < 2.5 else 1.0
    y_ticks = tuple(np.arange(1, 10, step)) if high < 8 else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=x_ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.yaxis.set_major_locator(LogLocator(subs=y_ticks, numticks=100))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())


def _add_legend(axes: Axes, relation: Relation, styles: Mapping[str, ModelStyle]) -> None:
    shown = {model: styles[model] for model in relation.points.models}
    handles = family_entries(shown, marker=True, linestyle="none", markersize=7)
    handles.append(Line2D([], [], color=INK, linewidth=1.1, label="Pareto set (filled)"))
    if isinstance(relation.fit, PowerLaw):
        label = f"fit (slope {relation.fit.slope:.3f}), 95% CI"
        handles.append(Line2D([], [], color=_FIT, linewidth=5, alpha=0.5, label=label))
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, **place)


def _name_points(axes: Axes, relation: Relation, deviations: NDArray[np.float64]) -> None:
    members = [member.model for member in relation.members]
    others = [point.model for point in relation.pareto if not point.is_member]
    named = members + (others if len(relation.pareto) <= _MOST_NAMED else [])
    x, y = pareto_steps(relation)
    level = [(x[i], y[i], x[i + 1], y[i]) for i in range(len(x) - 1)]
    upright = [(x[i + 1], y[i], x[i + 1], y[i + 1]) for i in range(len(x) - 1)]
    label_points(
        axes,
        {point.model: (point.complexity, point.quality) for point in relation.pareto},
        named=named,
        lines=[*level, *upright, *deviations],
        colour=MUTED if len(named) > 12 else INK,
    )


_MOST_NAMED_LIVE, _LIVE_GRID = 25, 40
_SCRIPT = """
(() => {
  const figures = JSON.parse(document.getElementById("relations-data").textContent);
  const selects = [...document.querySelectorAll("#relations-controls select")];
  const config = {responsive: true, displaylogo: false, toImageButtonOptions: {format: "svg"},
                  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
  const draw = () => {
    const {data, layout} = figures[selects.map(select => select.value).join("/")];
    layout.font.family = getComputedStyle(document.body).fontFamily;
    Plotly.react("relations-plot", data, layout, config);
  };
  for (const select of selects) select.addEventListener("change", draw);
  draw();
})();
"""
"""Draws the chosen figure from the data on the page."""


def scripts() -> tuple[str, ...]:
    """Returns the scripts of the page: plotly, and the code that draws the figure."""
    return get_plotlyjs(), _SCRIPT


def relations_block(results: StudyResults) -> LiveBlock:
    """Returns the interactive figure, in which both axes can be chosen."""
    choices = {"quality": results.qualities, "complexity": results.complexities}
    charts = {
        f"{quality}/{complexity}": _chart(results, results.relation(quality, complexity))
        for quality in results.qualities
        for complexity in results.complexities
    }
    controls = ""
    for axis, titles in choices.items():
        options = "".join(
            f'<option value="{key}">{title}</option>' for key, title in titles.items()
        )
        controls += f'<label>{axis} <select name="{axis}">{options}</select></label>'
    return LiveBlock(
        f'<div class="controls" id="relations-controls">{controls}</div>'
        '<div class="sheet"><div class="plot" id="relations-plot"></div></div>'
        f'<script type="application/json" id="relations-data">{script_json(charts)}</script>',
        caption="Both axes are logarithmic. Filled points and the steps: the Pareto set; grey: the "
        "power-law fit with its 95% band; error bars: one standard deviation over seeds. Click a "
        "family to hide it, double-click to show it alone.",
    )


def _chart(results: StudyResults, relation: Relation) -> dict[str, Any]:
    """Returns traces and layout for plotly; texts are escaped, as plotly renders some tags."""
    fit = relation.fit
    traces = _fit_traces(relation, fit) if isinstance(fit, PowerLaw) else []
    x, y = pareto_steps(relation)
    line = {"shape": "hv", "color": INK, "width": 1.3}
    traces.append(_lines(x, y, line=line, name="Pareto set", legendrank=2001))
    traces += _family_traces(results, relation)
    if len(relation.pareto) <= _MOST_NAMED_LIVE:
        traces.append(_names_trace(relation))
    layout: dict[str, Any] = {
        "font": {"size": 13, "color": INK},
        "height": 560,
        "hovermode": "closest",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 55},
        "xaxis": _axis(COMPLEXITIES[relation.complexity])
        | {"dtick": "D2", "tickformat": "~s", "range": _range_with_names(relation)},
        "yaxis": _axis(QUALITIES[relation.quality]) | {"tickformat": "~g"},
        "legend": {"font": {"size": 12}, "tracegroupgap": 0, "itemsizing": "constant"},
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": _RULE, "align": "left"},
    }
    if not isinstance(fit, PowerLaw):
        reason = f"No power-law fit: {fit.reason}"
        place = {"xref": "paper", "yref": "paper", "x": 0, "y": 1.02, "xanchor": "left"}
        style = {"yanchor": "bottom", "showarrow": False, "font": {"color": MUTED}}
        text = escape(reason if len(reason) <= 120 else reason[:119] + "…")
        layout["annotations"] = [{"text": text, **place, **style}]
    return {"data": traces, "layout": layout}


def _range_with_names(relation: Relation) -> list[float] | None:
    """Returns the log10 range of the x axis, with room for the names on the left."""
    if not len(relation.points):
        return None
    logs = np.log10(relation.points.complexity)
    span = max(float(np.ptp(logs)), 0.1)
    return [float(logs.min() - 0.16 * span), float(logs.max() + 0.06 * span)]


def _axis(title: str) -> dict[str, Any]:
    style = {"gridcolor": _RULE, "zeroline": False, "linecolor": "#9a9a9a", "automargin": True}
    text = {"text": f"{title}, logarithmic", "font": {"color": MUTED, "size": 13}}
    return {"title": text, "type": "log", "tickfont": {"color": MUTED}, **style}


def _lines(x: ArrayLike, y: ArrayLike, **style: Any) -> dict[str, Any]:
    return {"x": _digits(x), "y": _digits(y), "mode": "lines", "hoverinfo": "skip", **style}


def _fit_traces(relation: Relation, fit: PowerLaw) -> list[dict[str, Any]]:
    grid = fit_grid(relation, count=_LIVE_GRID)
    band = fit.band(grid)
    around = np.concatenate((grid, grid[::-1])), np.concatenate((band.high, band.low[::-1]))
    fill = {"fill": "toself", "fillcolor": "rgba(138,138,138,0.16)", "line": {"width": 0}}
    group = {"legendgroup": "fit", "legendrank": 2000}
    return [
        _lines(*around, name="power-law fit, 95% band", **fill, **group),
        _lines(grid, band.expected, line={"color": _FIT, "width": 2}, showlegend=False, **group),
    ]


def _family_traces(results: StudyResults, relation: Relation) -> list[dict[str, Any]]:
    """Returns the points and the legend entry, with a filled marker, of every family."""
    ratios = {}
    if isinstance(relation.fit, PowerLaw):
        ratios = dict(zip(relation.points.models, relation.fit.ratios().tolist(), strict=True))
    families: dict[str, list[ParetoPoint]] = {}
    for point in relation.pareto:
        families.setdefault(point.family, []).append(point)
    styles, traces = styles_of(results), []
    for family, points in families.items():
        style, name = styles[points[0].model], escape(family)
        deviations = [results.number(p.model, f"{relation.quality}_std") for p in points]
        texts = [
            _hover_text(relation, point, deviation, ratios.get(point.model))
            for point, deviation in zip(points, deviations, strict=True)
        ]
        bars = {"type": "data", "array": _digits(np.nan_to_num(deviations)), "width": 0}
        entry = {"symbol": style.symbol, "size": 10, "color": style.colour}
        marker = {
            "symbol": style.symbol,
            "size": 11,
            "color": [style.colour if point.is_member else "#ffffff" for point in points],
            "line": {"color": style.colour, "width": 2},
        }
        shared = {"mode": "markers", "name": name, "legendgroup": name}
        traces.append({"x": [None], "y": [None], "marker": entry, **shared})
        traces.append(
            {
                "x": _digits([point.complexity for point in points]),
                "y": _digits([point.quality for point in points]),
                "error_y": bars | {"color": style.colour, "thickness": 1.3},
                "marker": marker,
                "text": texts,
                "hovertemplate": "%{text}<extra></extra>",
                "showlegend": False,
                **shared,
            }
        )
    return traces


def _hover_text(
    relation: Relation, point: ParetoPoint, deviation: float, ratio: float | None
) -> str:
    lines = [
        f"<b>{escape(point.model)}</b>",
        f"{QUALITIES[relation.quality]} {mean_and_deviation(point.quality, deviation)}",
        amount(relation.complexity, point.complexity),
    ]
    if ratio is not None:
        lines.append(f"{signed(100 * (ratio - 1), decimals=1)}% relative to the fit")
    if point.probability is not None:
        lines.append(f"in the Pareto set with probability {point.probability:.2f}")
    return "<br>".join(lines)


def _names_trace(relation: Relation) -> dict[str, Any]:
    return {
        "x": _digits([point.complexity for point in relation.pareto]),
        "y": _digits([point.quality for point in relation.pareto]),
        "text": [escape(point.model) for point in relation.pareto],
        "mode": "markers+text",
        "marker": {
            "size": 12,
            "color": "rgba(0,0,0,0)",
        },  # invisible; keeps the names off the points
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
        "textposition": "top left",
        "textfont": {"size": 11, "color": MUTED},
    }


def _digits(values: ArrayLike) -> list[float | None]:
    """Returns numbers rounded to five significant digits, to keep the page small."""
    numbers = np.asarray(values, float).tolist()
    return [float(f"{number:.5g}") if np.isfinite(number) else None for number in numbers]
