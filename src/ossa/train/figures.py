"""The figures in a run's folder: drawn while it is trained, complete when it ends."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ossa.config import RunConfig
from ossa.data.annotations import DatasetIndex
from ossa.data.letterbox import resize_long_side
from ossa.data.loader import EpochBatches
from ossa.evaluate.confusion import confusion_matrix
from ossa.evaluate.evaluator import Evaluation
from ossa.evaluate.report import Gallery, open_gallery, predictions_above_gt
from ossa.evaluate.report_figures import precision_recall_figure, save_confusion
from ossa.files import TEMPORARY_FILES, write_atomically
from ossa.train.callbacks import Callback, RunStart
from ossa.train.run_folder import FIGURES_FOLDER, read_log
from ossa.train.splits import training_dataset
from ossa.types import Record
from ossa.viz.draw import draw_boxes, encode_png, picture_grid
from ossa.viz.plots import Line, Panel, panel_figure, save_figure

_IMAGES, _IN_A_ROW = 8, 4
_SIDE = 480
"""Pixels of the longer side of each image in a picture."""
_LEAST_SECONDS = 10.0
_LARGEST_SHARE = 0.02
"""Of the time of a run that drawing its curves may take."""
_PANELS = (
    ("Box loss", "mean over images", {"train_box": "train", "val_box": "val"}),
    ("Objectness loss", "mean over images", {"train_objectness": "train", "val_objectness": "val"}),
    ("Class loss", "mean over images", {"train_classes": "train", "val_classes": "val"}),
    ("Distribution focal loss", "mean over images", {"train_dfl": "train", "val_dfl": "val"}),
    ("Average precision", "on val", {"ap": "AP50-95", "ap50": "AP50"}),
    (
        "Precision, recall",
        "on val, at the confidence of the best F1",
        {"precision": "precision", "recall": "recall"},
    ),
    ("Learning rate", "at the end of each epoch", {"lr": ""}),
)
"""Title, label of the y axis, and the columns of the log with their names in the legend."""


class RunFigures(Callback):
    """Keeps the folder `figures` of a run current.

    - curves.png, .svg: losses, metrics and learning rate of every epoch in the log. Drawn anew
      after ten seconds or more, so seldom that it takes a fiftieth of the time at most; and at the
      end.
    - mosaic.png: the first images of the first batch, as the network sees them.
    - predictions.png, pr.png, .svg, confusion.png, .svg, .csv, .json: of the evaluations after
      the epochs 1, 2, 4, 8, ... (counted from 1) and after the last.

    Files are replaced whole. What cannot be drawn is reported once and does not end the run.
    """

    _run: RunStart
    """Set by `on_start`, like all below."""
    _gallery: Gallery | None
    _failed: set[str]
    """Figures of which a failure was reported."""
    _undrawn: Evaluation | None
    """The latest evaluation, unless it is drawn."""
    _curves_due: float
    """On the clock of `time.monotonic`."""

    def __init__(self, report: Callable[[str], None] = lambda sentence: None) -> None:
        """`report` receives a sentence for each figure that cannot be drawn."""
        self._report = report

    def on_start(self, start: RunStart) -> None:
        self._run, self._failed = start, set()
        self._gallery, self._undrawn = None, None
        for half_written in (start.folder / FIGURES_FOLDER).glob(TEMPORARY_FILES):
            with suppress(OSError):
                half_written.unlink()
        self._attempt("mosaic.png", self._save_first_batch)
        self._draw_curves()

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
        self._undrawn = evaluation or self._undrawn
        if (row["epoch"] + 1).bit_count() == 1:
            self._draw_evaluation()
        if time.monotonic() >= self._curves_due:
            self._draw_curves()

    def on_end(self, record: Record) -> None:
        self._draw_curves()
        self._draw_evaluation()

    def _draw_curves(self) -> None:
        started = time.monotonic()
        self._attempt("curves", lambda path: _save_curves(read_log(self._run.folder), path))
        now = time.monotonic()
        self._curves_due = now + max(_LEAST_SECONDS, (now - started) / _LARGEST_SHARE)

    def _draw_evaluation(self) -> None:
        if self._undrawn is None:
            return
        index, metrics = self._run.val_index, self._undrawn.metrics
        detections, self._undrawn = self._undrawn.detections, None

        def save_predictions(path: Path) -> None:
            self._gallery = self._gallery or open_gallery(index, most=_IMAGES, side=_SIDE)
            write_atomically(path, encode_png(predictions_above_gt(self._gallery, detections)))

        self._attempt("predictions.png", save_predictions)
        self._attempt("pr", lambda path: save_figure(precision_recall_figure(metrics), path))
        self._attempt(
            "confusion", lambda path: save_confusion(confusion_matrix(index, detections), path)
        )
        # Figures are cycles, 7 MB here, which would wait for the next full collection.
        gc.collect()

    def _save_first_batch(self, path: Path) -> None:
        picture = first_batch_picture(self._run.config, self._run.train_index)
        write_atomically(path, encode_png(picture))

    def _attempt(self, name: str, draw: Callable[[Path], object]) -> None:
        """Calls `draw` with the path of a figure; the first failure of each is reported."""
        path = self._run.folder / FIGURES_FOLDER / name
        try:
            path.parent.mkdir(exist_ok=True)
            draw(path)
        except Exception as problem:  # whatever it is, no picture is worth a training
            if name not in self._failed:
                self._failed.add(name)
                self._report(f"the training goes on without {path}: {problem}")


def curves_figure(log: Sequence[Mapping[str, Any]]) -> Figure:
    """Returns losses, metrics and learning rate of a run over its epochs, from its log's rows."""
    evaluated = [row for row in log if row["val_box"] is not None]

    def line(key: str, name: str) -> Line:
        rows = log if key == "lr" or key.startswith("train_") else evaluated
        return Line(name, [row["epoch"] + 1 for row in rows], [row[key] for row in rows])

    panels = [
        Panel(
            [line(key, name) for key, name in names.items()],
            x_label="epoch",
            y_label=y_label,
            title=title,
            y_low=0.0,
        )
        for title, y_label, names in _PANELS
        if not log or names.keys() <= log[0].keys()  # heads differ in their losses
    ]
    return panel_figure(panels, columns=3)


def _save_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    if log:  # nothing to see before the first epoch
        save_figure(curves_figure(log), path, dpi=150)


def first_batch_picture(config: RunConfig, index: DatasetIndex) -> NDArray[np.uint8]:
    """Returns one picture of the first images of epoch 1 with their boxes, augmented."""
    dataset = training_dataset(config, index)
    batches = EpochBatches(len(index), batch=config.train.batch, seed=config.seed, epochs=1)
    samples = [dataset[draw][0] for draw in next(iter(batches))[:_IMAGES]]
    scale = _SIDE / config.train.imgsz
    drawn = [
        draw_boxes(
            resize_long_side(sample.image, _SIDE),
            sample.boxes_xyxy * scale,
            sample.labels,
            names=index.names,
        )
        for sample in samples
    ]
    rows = [drawn[first : first + _IN_A_ROW] for first in range(0, len(drawn), _IN_A_ROW)]
    return picture_grid(rows)
