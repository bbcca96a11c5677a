"""The page of a comparison: one table, the curves, and what each model sees."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ossa.data.index import DatasetIndex
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.confusion import CONFIDENCE
from ossa.evaluate.pictures import open_gallery
from ossa.report.drawing import encode_jpeg, picture_grid
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

_PICTURES = 6
_PICTURE_SIDE = 480
"""Pixels, at which the labels of boxes can be read."""

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
                text=f"Detections with a score of {CONFIDENCE} or more, "
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
    gallery = open_gallery(index, most=_PICTURES, side=_PICTURE_SIDE)
    found = [read_coco_results(run.folder / DETECTIONS_FILE, index) for run in runs]
    rows = [*(gallery.with_detections(detections) for detections in found), gallery.with_truths()]
    titles = [*(run.record.model for run in runs), "truth"]
    return PictureBlock(encode_jpeg(picture_grid(rows, row_titles=titles)))


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
