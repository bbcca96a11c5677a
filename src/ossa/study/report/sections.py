"""Sections of the report: the table of models, pairs, training curves and detections."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.confusion import CONFIDENCE, ConfusionMatrix, confusion_matrix
from ossa.evaluate.report import open_gallery
from ossa.study.comparisons import ZERO
from ossa.study.report.answers import evidence, main_measure, timing_note, with_weights
from ossa.study.report.figures import confusion_figure, pairs_figure
from ossa.study.report.tables import (
    CURVE,
    Column,
    ReportFiles,
    ReportTable,
    interval_columns,
)
from ossa.study.report.text import (
    compact,
    counted,
    duration,
    extremes,
    listed,
    p_value,
    probability,
    signed,
)
from ossa.study.reported import detections_file
from ossa.study.results import StudyResults
from ossa.types import LOSSES, Detections
from ossa.viz.draw import encode_jpeg, picture_grid
from ossa.viz.page import Grid, PictureBlock, Section
from ossa.viz.plots import Line, line_figure

_AP: Any = {"write": lambda ap: f"{ap:.3f}"}
_COST: Any = {"best": "lowest", "bar": True}
_COLUMNS = (
    Column("model"),
    Column("ap", "AP50-95", best="highest", bar=True, **_AP),
    Column("interval", "95% CI", note="not adjusted for the number of models", minor=True),
    Column("ap50", "AP50", best="highest", minor=True, **_AP),
    Column("sizes", "S, M, L", note="AP of small, medium and large objects", minor=True),
    Column("ap_crowded", "crowded", note="IoU > 0.2 or three close ones", minor=True, **_AP),
    Column("epochs", decimals=3, note="AP50-95 on val by epoch", minor=True),
    Column("params", "parameters", write=compact, minor=True, **_COST),
    Column("flops", "FLOPs", write=compact, note="per image", minor=True, **_COST),
    Column("ms_per_image", "ms/image", write="{:.1f}".format, note="with NMS", **_COST),
    Column("train_seconds", "training", write=duration, minor=True, **_COST),
    Column("probability", "Pareto", write=probability, minor=True),
    *(Column("seeds", minor=True), Column("pretraining", minor=True)),
)
_IN_FILES = (
    *("family", "runs", "ap_std", "low", "high", "ap50_std"),
    *("ap_small", "ap_medium", "ap_large", "recall", "macs", "train_seconds_std"),
    *("peak_bytes", "weights", "licence"),
)
"""Columns of the CSV that the page has no room for."""


def models_table(results: StudyResults, name: str = "models") -> ReportTable:
    """Returns one row per model, the best first; what was not measured has no column."""
    intervals = results.intervals("ap") or {}
    curves = {model: frame["ap"].dropna() for model, frame in mean_curves(results).items()}
    relation = results.relation("ap", main_measure(results))
    members = {point.model: point for point in relation.pareto}
    highest = max(curve.max() for curve in curves.values()) or 1.0
    planned = Counter(run.model for run in results.folder.plan.base_runs())
    by_model, rows = results.models().set_index("model", drop=False), []
    for model in results.best_first:
        row, (low, high), curve = by_model.loc[model], intervals[model], curves[model]
        sizes = [row[f"ap_{size}"] for size in ("small", "medium", "large")]
        runs = f"{row['runs']} of {planned[model]}"
        rows.append(
            {str(key): value for key, value in row.items()}
            | {"low": low, "high": high, "interval": f"{low:.3f} to {high:.3f}"}
            | {"sizes": ", ".join("–" if np.isnan(s) else f"{s:.2f}" for s in sizes)}
            | {"epochs": row["ap"] if len(curve) > 1 else None}
            | {f"epochs{CURVE}": (curve / highest).tolist()}
            | {"seeds": runs if row["runs"] < planned[model] else str(row["runs"])}
        )
        if model in members:
            rows[-1]["probability"] = members[model].probability
    one_source = len(results.pretraining_sources) == 1
    columns = [
        column
        for column in _COLUMNS
        if any(pd.notna(row.get(column.key)) for row in rows)
        and not (one_source and column.key == "pretraining")
    ]
    weights = "the best epoch" if results.study.reported.weights == "best" else "the last weights"
    base = "".join(f", {key} {value}" for key, value in results.folder.plan.base.items())
    notes = [
        f"Means over seeds, with {weights}, on {results.study.reported.split}{base}.",
        "S, M and L are means over the classes with objects of that size in the split, so that all "
        "three may be below AP50-95.",
    ]
    if not one_source:
        notes.append(
            "The models start from weights pretrained on different data: a difference between "
            "them is not due to the backbones alone."
        )
    if unmeasured := [row["model"] for row in rows if pd.isna(row["ms_per_image"])]:
        notes.append(f"Latency was not measured for {listed(unmeasured, most=5)}.")
    if busy := timing_note(results):
        notes.append(busy)
    if any(run.config.train.windows for run in results.folder.plan.runs):
        notes.append(
            "With tiles, FLOPs and ms/image are of one window: an image takes as many as it has."
        )
    notes.append(results.independence)
    notes.append(
        f"Pareto: the probability{with_weights(results)}, in AP50-95 and "
        f"{results.complexities[relation.complexity]}."
    )
    return ReportTable(name, columns, rows, note=" ".join(notes), in_files=_IN_FILES)


_MOST_PAIRED = 120
"""Up to this many models, all pairs are in the matrix and the table."""


def pairs_section(results: StudyResults, files: ReportFiles) -> Section | None:
    """Returns the verdicts on AP50-95 for all pairs, None for one model, or if all are at 0."""
    models = results.best_first[:_MOST_PAIRED]
    if len(models) < 2 or results.number(models[0], "ap") < ZERO:
        return None
    compared = results.comparisons()
    # The better model of a pair comes first, so that differences are positive.
    pairs = [compared.pair(*pair) for pair in combinations(models, 2)]
    rows = [{**pair.flat(), "over": compared.over} for pair in pairs]
    columns = [
        *map(Column, ("model", "reference")),
        *(Column("difference", write=signed), *interval_columns(write=signed)),
        *(Column("p", "p, adjusted", write=p_value), Column("within", decimals=3)),
        *(Column("verdict", "verdict on the model"), Column("over", "interval covers")),
    ]
    table = files.table(ReportTable("pairs", columns, rows, caption="All pairs"), folded=True)
    largest, closest = max(pairs, key=lambda p: p.difference), min(pairs, key=lambda p: p.within)
    text = (
        f"The largest difference is {largest.model} − {largest.reference}, "
        f"{largest.difference:.3f} (simultaneous 95% CI {signed(largest.low)} to "
        f"{signed(largest.high)}); "
        f"the closest are {closest.model} and {closest.reference}, within {closest.within:.3f} "
        f"({evidence(results, results.names)}). Blue: the row is better; orange: worse."
    )
    return Section("Pairs", [files.figure("pairs", pairs_figure(models, pairs)), table], text, True)


_CURVES = {
    "ap": "AP50-95 on val",
    "recall": "recall on val",
    "train_total": "total loss in training",
    "val_total": "total loss on val",
}
"""Titles of the drawn curves; the total is the sum of the three losses."""
_MOST_MODELS, _MOST_DRAWN = 24, 12
"""Number of models with example images, and with curves and a confusion matrix."""


def curves_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the training curves."""
    curves = mean_curves(results)
    rows: list[dict[str, Any]] = [
        {"model": model, "epoch": int(epoch) + 1, **row}
        for model, frame in curves.items()
        for epoch, row in zip(frame.index, frame.to_dict("records"), strict=True)
    ]
    columns = [Column("model"), *(Column(key) for key in rows[0] if key != "model")]
    files.table(ReportTable("curves", columns, rows))
    figures = []
    for key, title in _CURVES.items():
        models = chosen_models(results, most=_MOST_DRAWN)
        evaluated = {model: curves[model][key].dropna() for model in models}
        lines = [Line(m, [e + 1 for e in c.index], c.tolist()) for m, c in evaluated.items()]
        figure = line_figure(lines, x_label="epoch", y_label=title, size_inches=(5.6, 3.4))
        figures.append(files.figure(f"curve-{key}".replace("_", "-"), figure))
    return Section("Training curves", [Grid(figures)], _gain_sentence(curves), folded=True)


def _gain_sentence(curves: Mapping[str, pd.DataFrame]) -> str:
    """Returns by how much AP50-95 still rose in the last quarter of the training."""
    gains = {}
    for model, frame in curves.items():
        late: Any = frame.loc[int(0.75 * frame.index[-1]) :, "ap"].dropna()
        if len(late) > 1:
            gains[model] = float(late.iloc[-1] - late.iloc[0])
    if not gains:
        return (
            "AP50-95 on val was evaluated only once in the last quarter of the epochs, which does "
            "not show whether it still rose."
        )
    return (
        f"In the last quarter of the epochs, AP50-95 on val changed by "
        f"{signed(float(np.median([*gains.values()])))} in the median of the models"
        f"{extremes(gains, signed)}."
    )


def mean_curves(results: StudyResults) -> dict[str, pd.DataFrame]:
    """Returns the logs by model, means over seeds: one row per epoch.

    If the runs of a model have different lengths, the mean ends with the shortest.
    """
    curves: dict[str, Any] = {}
    for model, runs in results.runs_by_model.items():
        shortest = min(len(run.log) for run in runs)
        logs = pd.concat([pd.DataFrame(run.log[:shortest]) for run in runs])
        for split in ("train", "val"):
            parts = [key for loss in LOSSES if (key := f"{split}_{loss}") in logs]
            logs[f"{split}_total"] = logs[parts].astype(float).sum(axis=1, min_count=len(parts))
        curves[model] = logs.astype(float).groupby("epoch").mean()
    return curves


_IMAGES, _SIDE = 4, 420
"""Images per row, and the longer side of each in pixels."""
_IN_A_GRID = 6
"""Models per grid, above one row of ground truth."""


def detection_sections(results: StudyResults, files: ReportFiles) -> list[Section]:
    """Returns the confusion matrices, and the detections of every model on the same images.

    Raises:
        DataError: detections are missing, or an image cannot be decoded.
    """
    reported, index = results.study.reported, results.index
    models = chosen_models(results, most=_MOST_MODELS)
    detections = {
        model: read_coco_results(
            detections_file(results.runs_by_model[model][0].state.folder, reported), index
        )
        for model in models
    }
    matrices = {model: confusion_matrix(index, boxes) for model, boxes in detections.items()}
    files.table(confusions_table(matrices))
    figures = [
        files.figure(f"confusion-{model}", confusion_figure(model, matrices[model]))
        for model in chosen_models(results, most=_MOST_DRAWN)
    ]
    rows = {model: matrix.counts[:-1] for model, matrix in matrices.items()}
    missed = {m: float(c[:, -1].sum() / max(c.sum(), 1)) for m, c in rows.items()}
    which = f"first finished run of each of {counted(len(models), 'model')}"
    middle = np.median([*missed.values()])
    text = (
        f"At a confidence of {CONFIDENCE:g}, {middle:.0%} of {len(index.labels):,} objects are not "
        f"detected in the median{extremes(missed, '{:.0%}'.format)}; {which}."
    )
    pictures = (
        f"Detections with a confidence of at least {CONFIDENCE:g} on {_IMAGES} images; {which}."
    )
    blocks = _picture_blocks(results, detections)
    return [
        Section("Confusion matrices", [Grid(figures)], text, folded=True),
        Section("Example detections", blocks, pictures, folded=True),
    ]


def chosen_models(results: StudyResults, *, most: int) -> list[str]:
    """Returns all models, or, if there are too many, the Pareto set and the best others."""
    names = results.names
    if len(names) > most:
        members = [p.model for p in results.relation("ap", main_measure(results)).members]
        names = list(dict.fromkeys([*members[::-1], *results.best_first]))[:most]
    return sorted(names, key=lambda model: results.number(model, "params"))


def confusions_table(matrices: Mapping[str, ConfusionMatrix]) -> ReportTable:
    """Returns one row per model and nonzero cell of its confusion matrix."""
    rows = [
        {
            "model": model,
            "ground truth": matrix.names[row],
            "predicted": matrix.names[column],
            "count": int(matrix.counts[row, column]),
            "share": float(matrix.normalized()[row, column]),
        }
        for model, matrix in matrices.items()
        for row, column in np.argwhere(matrix.counts).tolist()
    ]
    columns = [*map(Column, ("model", "ground truth", "predicted", "count"))]
    share = Column("share", "share of the row", decimals=3)
    return ReportTable("confusions", [*columns, share], rows, caption="Confusion matrices")


def _picture_blocks(
    results: StudyResults, detections: Mapping[str, Mapping[int, Detections]]
) -> list[PictureBlock]:
    gallery = open_gallery(results.index, most=_IMAGES, side=_SIDE)
    ground_truth, models = gallery.with_gt(), list(detections)
    blocks = []
    for start in range(0, len(models), _IN_A_GRID):
        chosen = models[start : start + _IN_A_GRID]
        rows = [gallery.with_detections(detections[model]) for model in chosen]
        titles = [f"{model}, AP50-95 {results.number(model, 'ap'):.3f}" for model in chosen]
        picture = picture_grid([*rows, ground_truth], row_titles=[*titles, "ground truth"])
        alt = f"Detections of {', '.join(chosen)} above the ground truth of the same images"
        blocks.append(PictureBlock(encode_jpeg(picture), alt=alt))
    return blocks
