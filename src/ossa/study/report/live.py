"""The figures of the page that answer to a pointer: their numbers, drawn by `live.js` with plotly.

Everything is computed here; the script chooses and draws. Numbers have the digits that a screen
can show, since a page of a hundred models holds all its pairs of axes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from plotly.offline import get_plotlyjs

from ossa.escaping import script_json
from ossa.report.page import LiveBlock
from ossa.study.law import Law
from ossa.study.report.curves import CURVES
from ossa.study.report.scatter import grid_of, steps_of
from ossa.study.report.view import Relation, StudyView
from ossa.study.report.words import amount, mean_and_deviation, signed

_GRID = 40


def scripts() -> tuple[str, ...]:
    """Returns what the page runs: plotly, then the drawing of the figures."""
    source = files("ossa.study.report").joinpath("live.js").read_text(encoding="utf-8")
    return get_plotlyjs(), source


def relations_block(view: StudyView) -> LiveBlock:
    """Returns quality against complexity, both to be chosen."""
    content = {
        "models": [
            {
                "name": escape(model),  # plotly takes some tags in its texts
                "family": escape(look.family),
                "colour": look.colour,
                "symbol": look.symbol,
            }
            for model, look in view.looks.items()
        ],
        "relations": {
            f"{quality}/{complexity}": _relation(view, view.relation(quality, complexity))
            for quality in view.qualities
            for complexity in view.complexities
        },
        "titles": {**view.qualities, **view.complexities},
    }
    choices = {"quality": view.qualities, "complexity": view.complexities}
    return LiveBlock(
        _markup("relations", content, choices),
        caption="Both axes are logarithmic. Filled: on the Pareto set, which the steps join; grey: "
        "the law with its 95 % band; lines through the points: one deviation over seeds. A click "
        "on a family hides it, a double click shows it alone.",
    )


def curves_block(
    view: StudyView, curves: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> LiveBlock:
    """Returns one curve of all models at a time, to be chosen."""
    content = {
        "models": [
            {"name": escape(model), "colour": look.colour, "dash": look.dash}
            for model, look in view.looks.items()
        ],
        "curves": {
            key: [_digits(models[model]) for model in view.looks] for key, models in curves.items()
        },
        "titles": {key: CURVES[key] for key in curves},
    }
    chosen = {key: CURVES[key] for key in sorted(curves, key=lambda key: key != "ap")}
    return LiveBlock(
        _markup("curves", content, {"curve": chosen}),
        caption="A click on a name hides its curve, a double click shows it alone.",
    )


def _relation(view: StudyView, relation: Relation) -> dict[str, Any]:
    """Returns the numbers of one pair of axes; all pairs have their models in the same order."""
    standings = {row.model: row for row in relation.frontier.standings}
    residuals = (
        {row.model: row for row in relation.law.residuals()}
        if isinstance(relation.law, Law)
        else {}
    )
    points: list[dict[str, Any] | None] = []
    for model in view.looks:
        standing = standings.get(model)
        if standing is None:
            points.append(None)
            continue
        deviation = view.number(model, f"{relation.quality}_std")
        measured = mean_and_deviation(standing.quality, deviation)
        told = [f"{view.qualities[relation.quality]} {measured}"]
        told.append(amount(relation.complexity, standing.complexity))
        if model in residuals:
            told.append(f"{signed(residuals[model].percent, decimals=1)} % from the law")
        if standing.probability is not None:
            told.append(f"on the Pareto set with probability {standing.probability:.2f}")
        points.append(
            {
                "x": _digit(standing.complexity),
                "y": _digit(standing.quality),
                "deviation": _digit(deviation),
                "member": standing.on_frontier,
                "told": "<br>".join([f"<b>{escape(model)}</b>", *told]),
            }
        )
    x, y = steps_of(relation)
    return {
        "points": points,
        "steps": {"x": _digits(x), "y": _digits(y)},
        "law": _law(relation),
    }


def _law(relation: Relation) -> dict[str, Any]:
    if not isinstance(relation.law, Law):
        return {"reason": f"No law: {escape(relation.law.reason)}."}
    band = relation.law.band(grid_of(relation, count=_GRID))
    names = ("complexity", "low", "expected", "high")
    return {name: _digits(getattr(band, name)) for name in names}


def _digit(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _digits(values: ArrayLike) -> list[float | None]:
    return [_digit(value) for value in np.asarray(values, float).tolist()]


def _markup(name: str, content: Mapping[str, Any], choices: Mapping[str, Mapping[str, str]]) -> str:
    """Returns drop-downs, the place of the figure and its numbers."""
    controls = "".join(
        f'<label>{what} <select name="{what}">{_options(titles)}</select></label>'
        for what, titles in choices.items()
    )
    return (
        f'<div class="controls" id="{name}-controls">{controls}</div>'
        f'<div class="sheet"><div class="plot" id="{name}-plot"></div></div>'
        f'<script type="application/json" id="{name}-data">{script_json(content)}</script>'
    )


def _options(titles: Mapping[str, str]) -> str:
    entries: Sequence[str] = [
        f'<option value="{escape(key)}">{escape(title)}</option>' for key, title in titles.items()
    ]
    return "".join(entries)
