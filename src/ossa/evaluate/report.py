"""One page on one evaluation, and beside it every figure and table as files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ossa.escaping import write_csv
from ossa.evaluate.analysis import Analysis
from ossa.evaluate.bin_figures import bins_figure, calibration_figure, errors_figure, f1_figure
from ossa.evaluate.bins import BinScores
from ossa.evaluate.figures import confusion_figure, precision_recall_figure
from ossa.evaluate.pictures import gallery_of
from ossa.files import write_json_atomically, write_text_atomically
from ossa.report.drawing import encode_jpeg, picture_grid
from ossa.report.figures import figure_svg, save_figure
from ossa.report.page import (
    Block,
    Cell,
    Column,
    FigureBlock,
    Page,
    PictureBlock,
    Section,
    Table,
    TextBlock,
    write_page,
)

_WORST = 4
_SIDE = 420
"""Pixels of the longer side of a picture."""
_NUMBERS = {
    "ap": "AP50-95",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar_1": "AR, 1 box",
    "ar_10": "AR, 10 boxes",
    "ar_100": "AR, 100 boxes",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "best_confidence": "at confidence",
}
_CLASS_COLUMNS = {
    "name": Column("class"),
    "num_truths": Column("truths", ",d"),
    "num_images": Column("images", ",d"),
    "ap": Column("AP50-95", ".3f"),
    "ap50": Column("AP50", ".3f"),
    "ap75": Column("AP75", ".3f"),
    "precision": Column("precision", ".3f"),
    "recall": Column("recall", ".3f"),
}
_BIN_TITLES = {
    "size": "Size at the network's input",
    "crowding": "Crowding",
    "coverage": "Part of the object that others cover",
}
_WITHIN_A_BIN = (
    "Compare detectors within a bin, never bins with one another: AP depends on how many false "
    "detections there are for each truth, and that differs between bins whatever the detector."
)


def write_report(
    analysis: Analysis, folder: Path, *, title: str, subtitle: str, facts: Mapping[str, str]
) -> Path:
    """Writes index.html, figures/*.svg and *.png, tables/*.csv and *.json; returns the page.

    Args:
        analysis: what is told.
        folder: made where it is not there; files of the same names are replaced.
        title: of the page, such as the weights' name.
        subtitle: the data and the split.
        facts: what else to say at the end, such as image size and versions.

    Raises:
        CheckpointError: the disk is full or cannot be written.
        DataError: an image that is to be shown cannot be decoded.
    """
    figures, tables = _figures(analysis), _tables(analysis)
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / name)
    for name, rows in tables.items():
        write_json_atomically(folder / "tables" / f"{name}.json", rows)
        write_text_atomically(folder / "tables" / f"{name}.csv", _as_csv(rows))
    page = Page(title, _sections(analysis, figures), subtitle, _footer(facts))
    return write_page(page, folder / "index.html")


def _figures(analysis: Analysis) -> dict[str, Figure]:
    return {
        "precision-recall": precision_recall_figure(analysis.metrics),
        "f1-confidence": f1_figure(analysis.curve, best=analysis.metrics.best_confidence),
        "confusion": confusion_figure(analysis.confusion),
        **{bins.name: bins_figure(bins, title=_BIN_TITLES[bins.name]) for bins in analysis.bins},
        "errors": errors_figure(analysis.errors),
        "calibration": calibration_figure(analysis.calibration),
    }


def _tables(analysis: Analysis) -> dict[str, list[dict[str, Any]]]:
    confusion = analysis.confusion
    return {
        "metrics": [analysis.metrics.flat()],
        "classes": analysis.metrics.rows(),
        "confusion": [
            {"truth": name, **dict(zip(confusion.names, row, strict=True))}
            for name, row in zip(confusion.names, confusion.counts.tolist(), strict=True)
        ],
        **{bins.name: bins.rows() for bins in analysis.bins},
        "errors": analysis.errors.as_dict()["kinds"],
        "calibration": analysis.calibration.as_dict()["bins"],
    }


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    write_csv(text, [rows[0] if rows else [], *(row.values() for row in rows)])
    return text.getvalue()


def _sections(analysis: Analysis, figures: Mapping[str, Figure]) -> list[Section]:
    def drawn(*names: str) -> list[Block]:
        return [FigureBlock(figure_svg(figures[name])) for name in names]

    metrics, error = analysis.metrics, analysis.calibration.error
    return [
        Section(
            "How good",
            [_main_table(analysis), *drawn("precision-recall", "f1-confidence")],
            text=f"{metrics.num_images:,} images with {metrics.num_truths:,} truths, "
            f"{metrics.num_detections:,} detections. Metrics are COCO's; precision, recall and F1 "
            "are means over the classes at IoU 0.5.",
        ),
        Section("Every class", [_class_table(analysis)]),
        Section("What is taken for what", drawn("confusion")),
        Section(
            "Small and crowded objects",
            [block for bins in analysis.bins for block in (*drawn(bins.name), _bin_table(bins))],
            text=_WITHIN_A_BIN,
        ),
        Section(
            "What goes wrong",
            drawn("errors"),
            text="What AP50 would gain if all errors of one kind were repaired (TIDE). The gains "
            "do not add up.",
        ),
        Section(
            "What a score means",
            drawn("calibration"),
            text=""
            if error is None
            else f"Expected calibration error {error:.3f}, of detections with a confidence of "
            f"{analysis.calibration.confidence:g} or more.",
        ),
        *_worst_sections(analysis),
    ]


def _main_table(analysis: Analysis) -> Table:
    numbers = analysis.metrics.flat()
    return Table(
        columns=[Column(heading, ".3f") for heading in _NUMBERS.values()],
        rows=[[numbers[key] for key in _NUMBERS]],
    )


def _class_table(analysis: Analysis) -> Table:
    return Table(
        columns=list(_CLASS_COLUMNS.values()),
        rows=[[row[key] for key in _CLASS_COLUMNS] for row in analysis.metrics.rows()],
        note="Precision and recall at the confidence that is best for all classes together. A "
        "click on a heading sorts.",
    )


def _bin_table(bins: BinScores) -> Table:
    def interval(row: Mapping[str, Any]) -> Cell:
        if row["ap_low"] is None:
            return None
        return f"{row['ap_low']:.3f} to {row['ap_high']:.3f}"

    return Table(
        columns=[
            Column(bins.name),
            Column("AP50-95", ".3f"),
            Column("95 % interval"),
            Column("AP50", ".3f"),
            Column("recall", ".3f", note="at IoU 0.5, of all detections"),
            Column("truths", ",d"),
            Column("detections", ",d"),
        ],
        rows=[
            [
                *(row["label"], row["ap"], interval(row), row["ap50"], row["recall"]),
                *(row["num_truths"], row["num_detections"]),
            ]
            for row in bins.rows()
        ],
    )


def _worst_sections(analysis: Analysis) -> list[Section]:
    headings = {"missed": "Images with most missed", "false": "Images with most false"}
    sections = []
    for kind, images in analysis.worst_images(_WORST).items():
        gallery = gallery_of(analysis.index, [position for position, _ in images], side=_SIDE)
        if not gallery.positions:
            nothing = "The image files are not there." if images else "None at this confidence."
            sections.append(Section(headings[kind], [TextBlock(nothing)]))
            continue
        found = gallery.with_detections(analysis.detections, confidence=analysis.confidence)
        titles = [f"detections with {analysis.confidence:g} or more", "truth"]
        picture = picture_grid([found, gallery.with_truths()], row_titles=titles)
        told = ", ".join(
            f"{analysis.index.file_names[position]}: {number}"
            for position, number in images
            if position in gallery.positions
        )
        sections.append(Section(headings[kind], [PictureBlock(encode_jpeg(picture), caption=told)]))
    return sections


def _footer(facts: Mapping[str, str]) -> str:
    return " · ".join(f"{name} {value}" for name, value in facts.items())
