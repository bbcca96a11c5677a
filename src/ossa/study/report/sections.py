"""Sections of the report: models, training curves, detections and conditions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.confusion import CONFIDENCE, ConfusionMatrix, confusion_matrix
from ossa.evaluate.report import open_gallery
from ossa.study.environments import (
    MAY_DIFFER,
    MUST_AGREE,
    environments_of,
    find_differences,
    shorten_hash,
)
from ossa.study.report.figures import confusions_figure, curves_figure
from ossa.study.report.tables import Column, ReportFiles, ReportTable
from ossa.study.report.text import compact, counted, duration, listed
from ossa.study.reported import detections_file
from ossa.study.results import StudyResults
from ossa.types import Detections
from ossa.viz.draw import encode_jpeg, picture_grid
from ossa.viz.page import Block, KeyValues, PictureBlock, Section

_QUALITY = {"decimals": 3, "best": "highest"}
_COLUMNS = (
    *(Column("model"), Column("family"), Column("runs", write=str)),
    Column("ap", "AP50-95", **_QUALITY),
    Column("ap50", "AP50", **_QUALITY),
    Column("ap_small", "AP small", **_QUALITY),
    Column("ap_medium", "AP medium", **_QUALITY),
    Column("ap_large", "AP large", **_QUALITY),
    Column(
        *("ap_crowded", "AP crowded"),
        note="AP of objects with IoU > 0.2, or three close neighbours, of any class",
        **_QUALITY,
    ),
    Column("recall", note="at IoU 0.5 and the confidence with the best mean F1", **_QUALITY),
    Column("params", "parameters", write=compact, best="lowest"),
    Column("flops", "FLOPs", write=compact, best="lowest", note="per image"),
    Column("macs", "MACs", write=compact, best="lowest", note="multiply-adds per image"),
    Column(
        *("ms_per_image", "ms per image"),
        write=lambda milliseconds: f"{milliseconds:.1f}",
        best="lowest",
        note="batch 1, including decoding of the predictions and NMS",
    ),
    Column(
        *("train_seconds", "training time"),
        write=duration,
        best="lowest",
        note="per run, without evaluation",
    ),
    Column("pretraining"),
    Column("weights", "initial weights"),
    Column("licence", "licence of the weights"),
)
_ALWAYS = ("model", "family", "runs", "pretraining", "weights", "licence")


def models_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the main table, with notes on missing metrics."""
    table = files.table(models_table(results), wide=True)
    return Section("Metrics and cost", [table], text=" ".join(missing_notes(results)))


def models_table(results: StudyResults) -> ReportTable:
    """Returns one row per model; metrics that were not measured have no column."""
    models = results.models()
    rows = [{str(key): value for key, value in row.items()} for row in models.to_dict("records")]
    reported = results.study.reported
    weights = "the last weights (EMA)"
    if reported.weights == "best":
        weights = "the weights of the best epoch on val"
    several = any(len(runs) > 1 for runs in results.runs_by_model.values())
    deviation = "± is the standard deviation over seeds. " if several else ""
    note = (
        f"{deviation}Metrics are those of {weights} on the {reported.split} split. "
        "Click a heading to sort; the best value is in bold."
    )
    columns = [c for c in _COLUMNS if c.key in _ALWAYS or results.is_known(c.key)]
    return ReportTable("models", columns, rows, note=note)


def missing_notes(results: StudyResults) -> list[str]:
    """Returns sentences on the metrics that the main table lacks."""
    kinds = ("crowded", "small", "medium", "large")
    lacking = [kind for kind in kinds if not results.is_known(f"ap_{kind}")]
    sentences = [f"The split has no {kind} objects: AP is undefined." for kind in lacking]
    models = results.models()
    if not results.is_known("ms_per_image"):
        sentences.append("Latency and memory per image were not measured.")
    elif unmeasured := models[models["ms_per_image"].isna()]["model"].tolist():
        sentences.append(f"Latency was not measured for {', '.join(unmeasured)}.")
    if len(results.pretraining_sources) > 1:
        sentences.append(
            "The models start from weights pretrained on different data: a difference between "
            "them is not due to the backbones alone."
        )
    return sentences


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
    "train_seconds": "Training time, s",
    "train_total": "Total loss, training",
    "val_total": "Total loss, validation",
}
"""Titles of the curves by their names in the log; the totals are sums of the three losses."""
_LOSSES = ("box", "objectness", "classes")


def curves_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the training curves."""
    curves = mean_curves(results)
    rows = [
        {"model": model, "epoch": epoch + 1}
        | {key: float(curves[key][model][epoch]) for key in CURVES}
        for model in results.names
        for epoch in range(len(curves["ap"][model]))
    ]
    columns = [Column("model"), Column("epoch", write=str)]
    for key, title in CURVES.items():
        columns.append(Column(key, title, decimals=1 if key.endswith("seconds") else 4))
    files.table(ReportTable("curves", columns, rows, caption="Means over seeds, by epoch"))
    figure = files.figure("curves", curves_figure(results, curves, CURVES))
    text = "Each curve is the mean over the seeds of a model, by epoch."
    return Section("Training curves", [figure], text=text)


def mean_curves(results: StudyResults) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Returns the mean over seeds, (epochs,), by curve and model.

    If the runs of a model have different lengths, the mean ends with the shortest.
    """
    curves: dict[str, dict[str, NDArray[np.float64]]] = {key: {} for key in CURVES}
    for model, runs in results.runs_by_model.items():
        epochs = min(len(run.log) for run in runs)
        for key in CURVES:
            seeds = [[_logged(row, key) for row in run.log[:epochs]] for run in runs]
            curves[key][model] = np.array(seeds, float).mean(axis=0)
    return curves


def _logged(row: Mapping[str, Any], key: str) -> float:
    split, _, name = key.partition("_")
    parts = [f"{split}_{loss}" for loss in _LOSSES] if name == "total" else [key]
    return sum(float("nan") if row.get(part) is None else row[part] for part in parts)


_MOST_MODELS, _MOST_MATRICES = 24, 12
"""Number of models with example images, and with a confusion matrix in the figure."""
_IMAGES, _SIDE = 4, 420
"""Images per row, and the longer side of each in pixels."""
_IN_A_GRID = 6
"""Models per grid, above one row of ground truth."""


def detection_sections(results: StudyResults, files: ReportFiles) -> list[Section]:
    """Returns the confusion matrices, and the detections of every model on the same images.

    Raises:
        DataError: detections are missing, or an image cannot be decoded.
    """
    name = detections_file(results.study.reported)
    index = results.index
    detections = {
        model: read_coco_results(results.runs_by_model[model][0].state.folder / name, index)
        for model in chosen_models(results, most=_MOST_MODELS)
    }
    matrices = {model: confusion_matrix(index, boxes) for model, boxes in detections.items()}
    files.table(confusions_table(matrices))
    drawn = chosen_models(results, most=_MOST_MATRICES)
    figure = files.figure("confusions", confusions_figure({m: matrices[m] for m in drawn}))
    return [
        Section(
            "Confusion matrices",
            [figure],
            text="Rows are ground truth, columns are predictions, normalized by row. "
            f"{_of_which(results, len(drawn))}",
        ),
        Section(
            "Example detections",
            _picture_blocks(results, detections),
            text="Detections of every model on the same images, above the ground truth. "
            f"{_of_which(results, len(detections))}",
        ),
    ]


def chosen_models(results: StudyResults, *, most: int) -> list[str]:
    """Returns all models, or, if there are too many, the Pareto set and the best others."""
    names = results.names
    if len(names) > most:
        members = [point.model for point in results.relation("ap", "params").members]
        names = list(dict.fromkeys([*members[::-1], *results.best_first]))[:most]
    return sorted(names, key=lambda model: results.number(model, "params"))


def _of_which(results: StudyResults, number: int) -> str:
    """Returns a sentence on the runs and models whose detections are shown."""
    several = any(len(runs) > 1 for runs in results.runs_by_model.values())
    which = " of the first finished run of each model" if several else ""
    text = f"Detections{which} with a confidence of at least {CONFIDENCE:g} are shown."
    if number < len(results.names):
        text += (
            f" {number} of {len(results.names)} models are included: the Pareto set of AP50-95 and "
            "parameters, and the best others."
        )
    return text


def confusions_table(matrices: Mapping[str, ConfusionMatrix]) -> ReportTable:
    """Returns one row per model and nonzero cell of its confusion matrix."""
    rows = [
        {
            "model": model,
            "truth": matrix.names[row],
            "predicted": matrix.names[column],
            "count": int(matrix.counts[row, column]),
            "share": float(matrix.normalized()[row, column]),
        }
        for model, matrix in matrices.items()
        for row, column in np.argwhere(matrix.counts).tolist()
    ]
    columns = [
        *(Column("model"), Column("truth", "ground truth"), Column("predicted")),
        Column("count", write=lambda count: f"{count:,d}"),
        Column("share", "share of the row", decimals=3),
    ]
    return ReportTable("confusions", columns, rows, caption="Confusion matrices")


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


_SETTINGS = (
    "epochs",
    "imgsz",
    "batch",
    "nominal_batch",
    "optimizer",
    "lr",
    "schedule",
    "precision",
)
"""Settings of `train` in the summary; the others are in the table of conditions."""
_ENVIRONMENT = (*MUST_AGREE, *MAY_DIFFER, "cpu_count")


def conditions_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the shared settings, failed runs, environments, and hashes to verify them."""
    missing = files.marked(missing_table(results))
    files.table(missing)
    begun = replace(missing, rows=[row for row in missing.rows if row["state"] != "waiting"])
    blocks: list[Block] = [_conditions(results)]
    if begun.rows:
        blocks.append(begun.as_block())
    blocks += [
        files.table(environments_table(results), wide=True),
        files.table(conditions_table(results), folded=True),
        files.table(runs_table(results), folded=True, wide=True),
    ]
    planned = counted(len(results.states), "planned run")
    waiting = len(missing.rows) - len(begun.rows)
    text = (
        f"{len(results.runs)} of {planned} are done, {waiting} have not started. "
        f"Missing values are left out everywhere; no imputation. {results.folder.plan.equality}"
    )
    if different := find_differences(results.study, environments_of(results.states)):
        text += f" The runs were not all computed alike: {'; '.join(map(str, different))}."
    return Section("Conditions", blocks, text=text)


def _conditions(results: StudyResults) -> KeyValues:
    plan, index, study = results.folder.plan, results.index, results.study
    records = [run.state.record for run in results.runs if run.state.record]
    fingerprint = records[0].data_fingerprint if records else ""
    seconds = sum(sum(record.times.values()) for record in records)
    settings = {name: plan.conditions.get(f"train.{name}") for name in _SETTINGS}
    pairs: list[tuple[str, str | int | float | None]] = [
        ("recipe", study.recipe.base),
        *((key, None if value is None else str(value)) for key, value in settings.items()),
        ("neck", study.neck),
        ("seeds", listed([str(seed) for seed in study.seeds])),
        ("initial weights", listed(results.pretraining_sources)),
        ("reported", f"{study.reported.weights} weights on {study.reported.split}"),
        ("evaluated on", f"{len(index):,} images, {len(index.labels):,} objects"),
        ("classes", listed(list(index.names), most=8)),
        ("training and evaluation, all runs", duration(seconds)),
        ("hash of the shared settings", plan.shared_settings_hash[:16]),
        ("data fingerprint", "-".join(part[:12] for part in fingerprint.split("-"))),
    ]
    return KeyValues(pairs)


def conditions_table(results: StudyResults) -> ReportTable:
    """Returns every setting that all runs share, and the declared differences."""
    plan = results.folder.plan
    settings = {key: _written(value) for key, value in sorted(plan.conditions.items())}
    for key, models in plan.exceptions.items():
        settings |= {f"{key} ({model})": _written(value) for model, value in models.items()}
    for key, values in results.study.vary.items():
        settings[f"{key} (varied)"] = ", ".join(map(str, values))
    rows = [{"setting": key, "value": value} for key, value in settings.items()]
    columns = [Column("setting"), Column("value")]
    return ReportTable("conditions", columns, rows, caption="All settings")


def _written(value: Any) -> str:
    return "not set" if value is None else str(value)


def environments_table(results: StudyResults) -> ReportTable:
    """Returns the environments of the runs and of the measurements."""
    records = [run.state.record for run in results.runs if run.state.record]
    counts = Counter(_environment(record.environment) for record in records)
    rows = [
        {"of": f"{count} runs" if count > 1 else "1 run", **dict(environment)}
        for environment, count in counts.items()
    ]
    measured = results.measurements
    if measured:
        environment = _environment(measured.get("environment", {}))
        rows.append({"of": f"latency, on {measured.get('device', '')}", **dict(environment)})
    columns = [Column("of", "applies to"), *map(Column, _ENVIRONMENT)]
    return ReportTable("environments", columns, rows, caption="Environment and hardware")


def _environment(environment: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, shorten_hash(key, str(environment.get(key, "")))) for key in _ENVIRONMENT)


def missing_table(results: StudyResults) -> ReportTable:
    """Returns the planned runs without results, with the reasons."""
    rows = [
        {
            "run": state.run.name,
            "state": state.state,
            "epochs": state.epochs_done,
            "reason": state.reason or "",
        }
        for state in results.states
        if state.state != "done"
    ]
    columns = [
        *(Column("run"), Column("state"), Column("epochs", "epochs done", write=str)),
        Column("reason"),
    ]
    return ReportTable("missing", columns, rows, caption="Runs without results")


def runs_table(results: StudyResults) -> ReportTable:
    """Returns one row per finished run with its metrics, costs, times and hashes."""
    rows: list[Mapping[str, Any]] = []
    for run in results.runs:
        if run.state.record is not None:
            files = run.state.record.files.items()
            hashes = {f"sha256 of {name}": digest for name, digest in files}
            rows.append({**run.row, "config_hash": run.state.record.config_hash, **hashes})
    hashes = dict.fromkeys(key for row in rows for key in row if key.startswith("sha256 of "))
    columns = [
        *(Column(key) for key in ("run", "model", "family", "pretraining")),
        *(Column(key, write=str) for key in ("seed", *results.study.vary)),
        *(Column(key, title, decimals=3) for key, title in results.qualities.items()),
        Column("params", "parameters", write=compact),
        Column("flops", "FLOPs", write=compact),
        Column("train_seconds", "training time", write=duration),
        *(Column("config_hash", "settings, sha256"), *map(Column, hashes)),
    ]
    return ReportTable("runs", columns, rows, caption="Finished runs")
