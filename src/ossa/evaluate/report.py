"""The page on an evaluation with its figures and tables, and galleries of images with boxes."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image
from ossa.data.letterbox import resize_long_side
from ossa.errors import DataError
from ossa.escaping import write_csv
from ossa.evaluate.confusion import CONFIDENCE
from ossa.evaluate.error_analysis import Analysis
from ossa.evaluate.metrics import METRIC_TITLES
from ossa.evaluate.report_figures import (
    bins_figure,
    calibration_figure,
    confusion_figure,
    errors_figure,
    f1_figure,
    precision_recall_figure,
)
from ossa.files import write_json_atomically, write_text_atomically
from ossa.types import Detections
from ossa.viz import page
from ossa.viz.draw import draw_boxes, encode_jpeg, picture_grid
from ossa.viz.plots import save_figure

_IN_A_ROW = 4
_WORST = 4
_SIDE = 420
"""Pixels of the longer side of an image."""


@dataclass(frozen=True)
class Gallery:
    """Images of a split, decoded once, to be drawn upon again and again."""

    index: DatasetIndex
    positions: tuple[int, ...]
    """Of the images in the index."""
    images: tuple[NDArray[np.uint8], ...]
    """(h, w, 3), smaller or larger than their files."""

    def with_gt(self) -> list[NDArray[np.uint8]]:
        """Returns the images with all their ground truth, ignored boxes included."""
        rows = [self.index.gt_rows(position) for position in self.positions]
        boxes, labels = self.index.boxes_xyxy, self.index.labels
        return [self._drawn(n, boxes[mine], labels[mine]) for n, mine in enumerate(rows)]

    def with_detections(
        self, detections: Mapping[int, Detections], *, confidence: float = CONFIDENCE
    ) -> list[NDArray[np.uint8]]:
        """Returns the images with the detections of at least `confidence`, and their scores."""
        image_ids = self.index.image_ids[list(self.positions)].tolist()
        found = [detections.get(id_, Detections.empty()).above(confidence) for id_ in image_ids]
        return [
            self._drawn(number, mine.boxes_xyxy, mine.labels, scores=mine.scores)
            for number, mine in enumerate(found)
        ]

    def _drawn(
        self,
        number: int,
        boxes_xyxy: NDArray[np.floating],
        labels: NDArray[np.int64],
        *,
        scores: NDArray[np.floating] | None = None,
    ) -> NDArray[np.uint8]:
        image = self.images[number]
        size_wh = np.array((image.shape[1], image.shape[0]))
        scale_xy = size_wh / self.index.sizes_wh[self.positions[number]]
        boxes_xyxy = boxes_xyxy * np.tile(scale_xy, 2)
        return draw_boxes(image, boxes_xyxy, labels, names=self.index.names, scores=scores)


def open_gallery(index: DatasetIndex, *, most: int, side: int) -> Gallery:
    """Returns up to `most` images, evenly spread over those with ground truth.

    Args:
        index: the split; if no image has ground truth, any of them are taken.
        most: images.
        side: the longer one of each image, in pixels.
    """
    with_gt = np.flatnonzero(np.diff(index.gt_offsets))
    candidates = with_gt if len(with_gt) else np.arange(len(index))
    chosen = np.linspace(0, len(candidates) - 1, min(most, len(candidates))).astype(int)
    return _gallery_of(index, candidates[chosen].tolist(), side=side)


def _gallery_of(index: DatasetIndex, positions: Sequence[int], *, side: int) -> Gallery:
    """Returns those images at these positions of the index that can be decoded."""
    images = {}
    for position in positions:
        with suppress(DataError):
            images[position] = resize_long_side(decode_image(index.image_path(position)), side)
    return Gallery(index, tuple(images), tuple(images.values()))


def predictions_above_gt(
    gallery: Gallery, detections: Mapping[int, Detections]
) -> NDArray[np.uint8]:
    """Returns one image of the gallery: four predictions per row, ground truth in the row below."""
    found, gt = gallery.with_detections(detections), gallery.with_gt()
    rows: list[Sequence[NDArray[np.uint8]]] = []
    for first in range(0, len(found), _IN_A_ROW):
        rows += [found[first : first + _IN_A_ROW], gt[first : first + _IN_A_ROW]]
    titles = [f"predicted, confidence {CONFIDENCE:g} or more", "ground truth"] * (len(rows) // 2)
    return picture_grid(rows, row_titles=titles)


_MAIN_COLUMNS = {
    name: page.Column(METRIC_TITLES[name], ".3f")
    for name in (
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100"),
        *("precision", "recall", "f1", "best_confidence"),
    )
}
_CLASS_COLUMNS = {
    "name": page.Column("class"),
    "num_truths": page.Column("objects", ",d"),
    "num_images": page.Column("images", ",d"),
    **{name: _MAIN_COLUMNS[name] for name in ("ap", "ap50", "ap75", "precision", "recall")},
}
_BIN_COLUMNS = {
    "ap": page.Column("AP50-95", ".3f"),
    "interval": page.Column("95% interval"),
    "ap50": page.Column("AP50", ".3f"),
    "recall": page.Column("recall", ".3f", note="at IoU 0.5, of all detections"),
    "num_truths": page.Column("objects", ",d"),
    "num_detections": page.Column("detections", ",d"),
}
_BIN_TITLES = {
    "size": "Size at the network's input",
    "crowding": "Crowding",
    "coverage": "Fraction of the object that others cover",
}


def write_report(
    analysis: Analysis, folder: Path, *, title: str, subtitle: str, facts: Mapping[str, str]
) -> Path:
    """Writes index.html, figures/*.svg and *.png, tables/*.csv and *.json; returns the page.

    Args:
        analysis: what is shown.
        folder: made where it is not there; files of the same names are replaced.
        title: of the page, such as the name of the weights.
        subtitle: the data and the split.
        facts: what else to say at the end, such as image size and versions.

    Raises:
        CheckpointError: the disk is full or cannot be written.
        DataError: an image that is to be shown cannot be decoded.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    svgs = {
        name: save_figure(figure, folder / "figures" / name)
        for name, figure in _figures(analysis).items()
    }
    for name, rows in _tables(analysis).items():
        write_json_atomically(folder / "tables" / f"{name}.json", rows)
        text = io.StringIO()
        write_csv(text, [rows[0] if rows else [], *(row.values() for row in rows)])
        write_text_atomically(folder / "tables" / f"{name}.csv", text.getvalue())
    footer = " · ".join(f"{name} {value}" for name, value in facts.items())
    whole = page.Page(title, _sections(analysis, svgs), subtitle, footer)
    return page.write_page(whole, folder / "index.html")


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
        "errors": [asdict(kind) for kind in analysis.errors],
        "calibration": asdict(analysis.calibration)["bins"],
    }


def _table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, page.Column], *, note: str = ""
) -> page.Table:
    cells = [[row[key] for key in columns] for row in rows]
    return page.Table(columns=list(columns.values()), rows=cells, note=note)


def _sections(analysis: Analysis, svgs: Mapping[str, str]) -> list[page.Section]:
    def drawn(*names: str) -> list[page.Block]:
        return [page.FigureBlock(svgs[name]) for name in names]

    metrics, calibration = analysis.metrics, analysis.calibration
    bins: list[page.Block] = []
    for one in analysis.bins:
        rows: list[dict[str, Any]] = [{"interval": None, **row} for row in one.rows()]
        for row in rows:
            if row["ap_low"] is not None:
                row["interval"] = f"{row['ap_low']:.3f} to {row['ap_high']:.3f}"
        columns = {"label": page.Column(one.name), **_BIN_COLUMNS}
        bins += [*drawn(one.name), _table(rows, columns)]
    return [
        page.Section(
            "Metrics",
            [
                _table([metrics.flat()], _MAIN_COLUMNS),
                *drawn("precision-recall", "f1-confidence"),
            ],
            text=f"{metrics.num_images:,} images with {metrics.num_truths:,} objects, "
            f"{metrics.num_detections:,} detections. Metrics are COCO's; precision, recall and F1 "
            "are means over the classes at IoU 0.5.",
        ),
        page.Section(
            "Every class",
            [
                _table(
                    metrics.rows(),
                    _CLASS_COLUMNS,
                    note="Precision and recall at the confidence that is best for all classes "
                    "together. A click on a heading sorts.",
                )
            ],
        ),
        page.Section("Which class is detected as which", drawn("confusion")),
        page.Section(
            "Small and crowded objects",
            bins,
            text="Compare detectors within a bin, never bins with one another: AP depends on how "
            "many false detections there are per object, and that differs between bins whatever "
            "the detector.",
        ),
        page.Section(
            "Types of errors",
            drawn("errors"),
            text="What AP50 would gain if all errors of one type were repaired (TIDE). The gains "
            "do not add up.",
        ),
        page.Section(
            "Calibration",
            drawn("calibration"),
            text=""
            if calibration.error is None
            else f"Expected calibration error {calibration.error:.3f}, of detections with a "
            f"confidence of {calibration.confidence:g} or more.",
        ),
        *(_worst_section(analysis, kind) for kind in ("missed", "false")),
    ]


def _worst_section(analysis: Analysis, kind: str) -> page.Section:
    """Returns the images with most 'missed' objects or most 'false' detections."""
    heading, images = f"Images with most {kind}", analysis.worst_images(_WORST)[kind]
    gallery = _gallery_of(analysis.index, [position for position, _ in images], side=_SIDE)
    if not gallery.positions:
        nothing = "The image files are not there." if images else "None at this confidence."
        return page.Section(heading, [page.TextBlock(nothing)])
    found = gallery.with_detections(analysis.detections, confidence=analysis.confidence)
    titles = [f"detections with {analysis.confidence:g} or more", "ground truth"]
    picture = picture_grid([found, gallery.with_gt()], row_titles=titles)
    caption = ", ".join(
        f"{analysis.index.file_names[position]}: {number}"
        for position, number in images
        if position in gallery.positions
    )
    return page.Section(heading, [page.PictureBlock(encode_jpeg(picture), caption=caption)])
