"""Everything that is logged an epoch, of all models together: the means of their seeds."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from plotly.offline import get_plotlyjs

from ossa.escaping import escape_figure, script_json
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.confusion import CONFIDENCE, ConfusionMatrix, confusion_matrix
from ossa.evaluate.report import open_gallery
from ossa.study.report.figures import grid_of, steps_of
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import amount, mean_and_deviation, signed
from ossa.study.report.view import Relation, StudyView, families_of
from ossa.study.reported import detections_file
from ossa.study.scaling import Law
from ossa.types import Detections
from ossa.viz.draw import encode_jpeg, picture_grid
from ossa.viz.page import LiveBlock, PictureBlock
from ossa.viz.plots import INK, MUTED, fix_layout, style_axes

CURVES: Mapping[str, str] = {
    "train_box": "Box loss, training",
    "train_objectness": "Objectness loss, training",
    "train_classes": "Class loss, training",
    "val_box": "Box loss, validation",
    "val_objectness": "Objectness loss, validation",
    "val_classes": "Class loss, validation",
    "ap": "AP50-95, validation",
    "ap50": "AP50, validation",
    "recall": "Recall, validation",
    "train_seconds": "Seconds of training",
    "train_total": "Total loss, training",
    "val_total": "Total loss, validation",
}
"""What is drawn, by its name in the log; the totals are sums of the three losses."""
_LOSSES = ("box", "objectness", "classes")
_COLUMNS = 3
_MOST_NAMED, _MOST_FAMILIES = 30, 24


def curves_of(view: StudyView) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Returns (epochs,) the mean over the seeds of a model, by curve and model.

    Where seeds stopped at different epochs the mean ends with the shortest.
    """
    curves: dict[str, dict[str, NDArray[np.float64]]] = {key: {} for key in CURVES}
    for model in view.names:
        logs = [run.log for run in view.runs_of(model)]
        epochs = min(len(log) for log in logs)
        for key in CURVES:
            seeds = [[_value(row, key) for row in log[:epochs]] for log in logs]
            curves[key][model] = np.array(seeds, float).mean(axis=0)
    return curves


def _value(row: Mapping[str, Any], key: str) -> float:
    split, _, name = key.partition("_")
    parts = [f"{split}_{loss}" for loss in _LOSSES] if name == "total" else [key]
    return sum(float("nan") if row.get(part) is None else row[part] for part in parts)


def curves_figure(
    view: StudyView, curves: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> Figure:
    """Returns a panel a curve, one legend below them all."""
    rows = -(-len(curves) // _COLUMNS)
    entries = _legend(view)
    legend_inches = 0.5 + 0.21 * -(-len(entries) // 5)
    size = (4.1 * _COLUMNS, 2.75 * rows + legend_inches)
    figure = Figure(figsize=size, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
    for number, (key, models) in enumerate(curves.items(), start=1):
        _draw(figure.add_subplot(rows, _COLUMNS, number), view, CURVES[key], models)
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=min(5, len(entries)),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=3.2,
    )
    fix_layout(figure)
    return figure


def _draw(
    axes: Axes, view: StudyView, title: str, models: Mapping[str, NDArray[np.float64]]
) -> None:
    style_axes(axes, x_label="", y_label="", title="")
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    many = len(models) > _MOST_NAMED
    for model, values in models.items():
        look = view.looks[model]
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=look.colour,
            linestyle="-" if many else look.dashes,
            linewidth=0.8 if many else 1.4,
            alpha=0.65 if many else 1.0,
            marker="o" if len(values) == 1 else None,
        )


def _legend(view: StudyView) -> list[Line2D]:
    """Returns an entry a model, or of many models one a family."""
    if len(view.names) <= _MOST_NAMED:
        return [
            Line2D(
                [],
                [],
                color=look.colour,
                linestyle=look.dashes,
                linewidth=1.6,
                label=escape_figure(model),
            )
            for model, look in view.looks.items()
        ]
    families = families_of(view.looks)
    entries = [
        Line2D([], [], color=look.colour, linewidth=1.6, label=escape_figure(family))
        for family, look in list(families.items())[:_MOST_FAMILIES]
    ]
    if len(families) > _MOST_FAMILIES:
        rest = f"{len(families) - _MOST_FAMILIES} more families"
        entries.append(Line2D([], [], linestyle="none", color=MUTED, label=rest))
    return entries


def curves_table(curves: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> ReportTable:
    """Returns the curves as a row a model and epoch."""
    models: Sequence[str] = list(next(iter(curves.values())))
    rows = [
        {"model": model, "epoch": epoch + 1}
        | {key: float(of[model][epoch]) for key, of in curves.items()}
        for model in models
        for epoch in range(len(curves["ap"][model]))
    ]
    columns = [
        TableColumn("model", "model"),
        TableColumn("epoch", "epoch", write=str),
        *(
            TableColumn(key, CURVES[key], decimals=1 if key.endswith("seconds") else 4)
            for key in curves
        ),
    ]
    return ReportTable("curves", columns, rows, caption="Every epoch, means over seeds")


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


_MOST_MODELS = 24
_IMAGES, _SIDE = 4, 420
"""Pictures in a row, and pixels of the longer side of each."""
_IN_A_GRID = 6
"""Models above one row of truths."""


def shown_models(view: StudyView, *, most: int = _MOST_MODELS) -> list[str]:
    """Returns the models of which pictures are shown, by their parameters.

    All, or of more than `most` the Pareto set of AP50-95 and parameters and then the best others.
    """
    names = view.names
    if len(names) > most:
        members = [row.model for row in view.relation("ap", "params").frontier.members]
        names = list(dict.fromkeys([*members[::-1], *view.best_first]))[:most]
    return sorted(names, key=lambda model: view.number(model, "params"))


def read_detections(view: StudyView, models: Sequence[str]) -> dict[str, dict[int, Detections]]:
    """Returns what the first finished run of each model found, by model and image id.

    Raises:
        DataError: a file that is gone or does not fit the split.
    """
    name = detections_file(view.results.study.reported)
    index = view.results.index
    return {
        model: read_coco_results(view.runs_of(model)[0].state.folder / name, index)
        for model in models
    }


def confusions_of(
    view: StudyView, detections: Mapping[str, Mapping[int, Detections]]
) -> dict[str, ConfusionMatrix]:
    """Returns the confusion matrix of each model."""
    index = view.results.index
    return {model: confusion_matrix(index, found) for model, found in detections.items()}


def picture_blocks(
    view: StudyView, detections: Mapping[str, Mapping[int, Detections]]
) -> list[PictureBlock]:
    """Returns the same images through every model, above the truth: six models a picture.

    Raises:
        DataError: an image that cannot be decoded.
    """
    gallery = open_gallery(view.results.index, most=_IMAGES, side=_SIDE)
    truths, models = gallery.with_gt(), list(detections)
    blocks = []
    for start in range(0, len(models), _IN_A_GRID):
        chosen = models[start : start + _IN_A_GRID]
        rows = [gallery.with_detections(detections[model]) for model in chosen]
        titles = [f"{model}, AP50-95 {view.number(model, 'ap'):.3f}" for model in chosen]
        picture = picture_grid([*rows, truths], row_titles=[*titles, "truth"])
        alt = f"Detections of {', '.join(chosen)} above the truth of the same images"
        blocks.append(PictureBlock(encode_jpeg(picture), alt=alt))
    return blocks


def seed_told(view: StudyView) -> str:
    """Returns of which runs the pictures and matrices are, in a sentence."""
    most = max(len(view.runs_of(model)) for model in view.names)
    which = "Of the first finished run of each model; d" if most > 1 else "D"
    return f"{which}etections with a confidence of {CONFIDENCE:g} or more."
