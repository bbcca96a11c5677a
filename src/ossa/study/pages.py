"""The page of a comparison: one table, the curves, and what each model sees."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.decode import decode_image
from ossa.data.index import DatasetIndex
from ossa.evaluate.coco import read_coco_results
from ossa.report.drawing import draw_boxes, encode_jpeg, picture_grid
from ossa.report.figures import Line, figure_svg, line_figure
from ossa.report.page import (
    Block,
    Column,
    FigureBlock,
    KeyValues,
    Page,
    PictureBlock,
    Section,
    Table,
    write_page,
)
from ossa.study.run import FinishedRun
from ossa.train.outputs import DETECTIONS_FILE, read_log
from ossa.types import NOTHING_FOUND

_PICTURES = 6
_SHOWN_CONFIDENCE = 0.25
_LEAST_SIDE = 480
"""Pixels; smaller pictures are enlarged before boxes are drawn, so that labels can be read."""

_COLUMNS = {
    "model": Column("model"),
    "ap": Column("AP50-95", ".3f", best="highest"),
    "ap50": Column("AP50", ".3f", best="highest"),
    "ap_small": Column("AP small", ".3f", best="highest"),
    "recall": Column("recall", ".3f", best="highest", note="at the confidence of the best mean F1"),
    "params": Column("parameters", ",d", best="lowest"),
    "flops": Column("FLOPs", ",d", best="lowest", note="2 x multiply-adds, one image"),
    "ms_per_image": Column(
        "ms an image", ".1f", best="lowest", note="batch 1, with decoding and NMS"
    ),
    "train_seconds": Column("training s", ".0f", best="lowest", note="without evaluation"),
}
_CURVES = (
    ("ap", "AP50-95 on held-out images", "AP50-95"),
    ("ap50", "AP50 on held-out images", "AP50"),
    ("train_box", "Box loss, training", "loss"),
    ("val_box", "Box loss, held-out images", "loss"),
    ("train_objectness", "Objectness loss, training", "loss"),
    ("val_objectness", "Objectness loss, held-out images", "loss"),
    ("train_classes", "Class loss, training", "loss"),
    ("val_classes", "Class loss, held-out images", "loss"),
)


def write_comparison(
    runs: Sequence[FinishedRun], index: DatasetIndex, path: Path, *, title: str, subtitle: str
) -> Path:
    """Writes one self-contained HTML page over finished runs and returns its path.

    Args:
        runs: of the same data.
        index: the split that they were evaluated on.
        path: of the page.
        title: of the page.
        subtitle: what was compared, in a sentence.
    """
    page = Page(
        title=title,
        subtitle=subtitle,
        sections=[
            Section("What each model buys and costs", [_main_table(runs)]),
            Section("How they learned", _curves(runs)),
            Section(
                "What they see",
                [_pictures(runs, index)],
                text=f"Detections with a score of {_SHOWN_CONFIDENCE} or more, "
                "above the truth of the same image.",
            ),
            Section("Conditions", [_conditions(runs)], text="The same for every model."),
        ],
        footer=f"Ossa {runs[0].record.environment['ossa']}",
    )
    return write_page(page, path)


def _main_table(runs: Sequence[FinishedRun]) -> Table:
    rows = [run.row() for run in runs]
    return Table(
        columns=list(_COLUMNS.values()),
        rows=[[row[key] for key in _COLUMNS] for row in rows],
        note="Metrics of the last weights (their running average) on held-out images. One seed: "
        "a difference between two models may be chance.",
    )


def _curves(runs: Sequence[FinishedRun]) -> list[Block]:
    logs = {run.record.model: read_log(run.folder) for run in runs}
    return [
        FigureBlock(
            figure_svg(
                line_figure(
                    [_line(model, log, key) for model, log in logs.items()],
                    x_label="epoch",
                    y_label=label,
                    title=heading,
                    size_inches=(6.0, 3.0),
                )
            )
        )
        for key, heading, label in _CURVES
    ]


def _line(model: str, log: Sequence[Mapping[str, Any]], key: str) -> Line:
    return Line(model, [row["epoch"] + 1 for row in log], [row[key] for row in log])


def _pictures(runs: Sequence[FinishedRun], index: DatasetIndex) -> PictureBlock:
    """Returns the same images through every model, above the truth."""
    positions = np.linspace(0, len(index) - 1, min(_PICTURES, len(index))).astype(int).tolist()
    images = [decode_image(index.image_path(position)) for position in positions]
    scale = max(_LEAST_SIDE // max(max(image.shape[:2]) for image in images), 1)
    rows: list[list[NDArray[np.uint8]]] = []
    for run in runs:
        found = read_coco_results(run.folder / DETECTIONS_FILE, index)
        row = []
        for image, position in zip(images, positions, strict=True):
            detections = found.get(int(index.image_ids[position]), NOTHING_FOUND)
            detections = detections.above(_SHOWN_CONFIDENCE)
            row.append(
                draw_boxes(
                    image,
                    detections.boxes_xyxy,
                    detections.labels,
                    names=index.names,
                    scores=detections.scores,
                    scale=scale,
                )
            )
        rows.append(row)
    truth = []
    for image, position in zip(images, positions, strict=True):
        mine = index.truths(position)
        boxes = index.boxes_xyxy[mine].astype(np.float32)
        labels = index.labels[mine]
        truth.append(draw_boxes(image, boxes, labels, names=index.names, scale=scale))
    titles = [*(run.record.model for run in runs), "truth"]
    return PictureBlock(encode_jpeg(picture_grid([*rows, truth], row_titles=titles)))


def _conditions(runs: Sequence[FinishedRun]) -> KeyValues:
    first = runs[0].record
    train = first.config["train"]
    return KeyValues(
        [
            ("recipe", first.config["recipe"]),
            ("epochs", train["epochs"]),
            ("image size", f"{train['imgsz']} px"),
            ("batch", train["batch"]),
            ("seed", first.seed),
            ("initial weights", first.initial_weights["file"] or "none: from scratch"),
            ("neck", first.config["model"]["neck"]),
            ("data fingerprint", first.data_fingerprint[:16]),
            ("processor", first.environment["cpu"]),
            ("threads", first.environment["threads"]),
            ("torch, timm", f"{first.environment['torch']}, {first.environment['timm']}"),
        ]
    )
