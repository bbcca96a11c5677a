"""The folder of figures that is kept while a run is trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_run
from small_run import a_record, log_without_times

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.data.annotations import DatasetIndex
from ossa.data.reading import read_data
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.evaluate.evaluator import Evaluation
from ossa.evaluate.metrics import evaluate_detections
from ossa.train import figures as figures_module
from ossa.train.callbacks import RunStart
from ossa.train.figures import RunFigures, curves_figure, first_batch_picture
from ossa.train.loop import train
from ossa.train.run_folder import LOG_FILE
from ossa.types import Detections

FILES = {
    *("curves.png", "curves.svg", "mosaic.png", "predictions.png", "pr.png", "pr.svg"),
    *("confusion.png", "confusion.svg", "confusion.csv", "confusion.json"),
}
LOSSES = ("box", "objectness", "classes")


def config_of(data: Path) -> RunConfig:
    return RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"),
        data=str(data),
        train=TrainConfig(epochs=1, imgsz=64, batch=6),
    )


class Run:
    """A run that is told of, and not trained: in every epoch one truth more is found."""

    def __init__(self, scenes: Path, folder: Path) -> None:
        self.folder = folder
        self.start = RunStart(
            config=config_of(scenes),
            folder=folder,
            train_index=read_data(scenes, "train").index,
            val_index=read_data(scenes, "val").index,
            batches_per_epoch=2,
            epochs_done=0,
            cost={},
        )
        self.notes: list[str] = []
        self.figures = RunFigures(self.notes.append)
        (folder / LOG_FILE).touch()

    def evaluation(self, found: int) -> Evaluation:
        detections = first_gt(self.start.val_index, found)
        metrics = evaluate_detections(self.start.val_index, detections)
        return Evaluation(metrics, detections, losses=None, seconds=0.0)

    def epoch(self, epoch: int) -> None:
        """`epoch` is counted from 0."""
        row = a_row(epoch)
        with (self.folder / LOG_FILE).open("a") as log:
            log.write(json.dumps(row) + "\n")
        self.figures.on_epoch_end(row, self.evaluation(epoch + 1))


@pytest.fixture
def run(scenes: Path, tmp_path: Path) -> Run:
    return Run(scenes, tmp_path)


def first_gt(index: DatasetIndex, number: int) -> dict[int, Detections]:
    """Returns the first truths of the first image as what was found."""
    rows = slice(0, number)
    boxes_xyxy = index.boxes_xyxy[rows].astype(np.float32)
    scores = np.linspace(0.9, 0.5, len(boxes_xyxy)).astype(np.float32)
    owners = np.repeat(index.image_ids, np.diff(index.gt_offsets))[rows]
    return {
        image_id: Detections(
            boxes_xyxy[owners == image_id],
            scores[owners == image_id],
            index.labels[rows][owners == image_id],
        )
        for image_id in owners.tolist()
    }


def a_row(epoch: int, **changes: float | None) -> dict[str, Any]:
    losses = {f"{split}_{n}": 0.1 / (epoch + 1) for split in ("train", "val") for n in LOSSES}
    metrics = {"ap": 0.1 * epoch, "ap50": 0.2 * epoch, "precision": 0.5, "recall": 0.4}
    return {"epoch": epoch, **losses, **metrics, "lr": 0.01, **changes}


class Clock:
    """Stands in for the module `time`; goes on only when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.per_drawing = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(figures_module, "time", clock)
    return clock


# What is drawn


def test_curves_are_those_of_the_log() -> None:
    log = [a_row(epoch, lr=0.1 / (epoch + 1)) for epoch in range(5)]
    log[2]["ap"] = None
    figure = curves_figure(log)
    drawn = {
        (axes.get_title(loc="left"), str(line.get_label())): line
        for axes in figure.axes
        for line in axes.lines
    }
    keys = {
        **{("Box loss", split): f"{split}_box" for split in ("train", "val")},
        **{("Objectness loss", split): f"{split}_objectness" for split in ("train", "val")},
        **{("Class loss", split): f"{split}_classes" for split in ("train", "val")},
        ("Average precision", "AP50-95"): "ap",
        ("Average precision", "AP50"): "ap50",
        ("Precision, recall", "precision"): "precision",
        ("Precision, recall", "recall"): "recall",
        ("Learning rate", "_child1"): "lr",  # the title says it
    }
    assert set(drawn) == set(keys)
    for place, key in keys.items():
        assert np.asarray(drawn[place].get_xdata()).tolist() == [1, 2, 3, 4, 5]
        expected = np.array([row[key] for row in log], float)  # None becomes NaN, a gap
        np.testing.assert_array_equal(drawn[place].get_ydata(), expected)


def test_nothing_found_and_nothing_to_find_can_be_drawn(run: Run) -> None:
    index = run.start.val_index
    empty = {name: getattr(index, name)[:0] for name in ("boxes_xyxy", "labels", "areas")}
    empty |= {name: getattr(index, name)[:0] for name in ("crowd", "difficult", "annotation_ids")}
    empty["gt_offsets"] = np.zeros_like(index.gt_offsets)
    run.start = replace(run.start, val_index=replace(index, **empty))
    run.figures.on_start(run.start)
    row = a_row(0, ap=None, ap50=None, precision=None, recall=None)
    (run.folder / LOG_FILE).write_text(json.dumps(row))
    run.figures.on_epoch_end(row, run.evaluation(0))
    run.figures.on_end(a_record())
    assert {file.name for file in (run.folder / "figures").iterdir()} == FILES
    assert run.notes == []


def test_the_first_batch_depends_on_the_seed_alone(run: Run, scenes: Path) -> None:
    index, config = run.start.train_index, run.start.config
    picture = first_batch_picture(config, index)
    # Gap 12; 6 images of 480 x 480 in rows of 4 and 2.
    assert picture.shape == (12 + 2 * 492, 12 + 4 * 492, 3)
    np.testing.assert_array_equal(picture, first_batch_picture(config, index))
    other = first_batch_picture(config.model_copy(update={"seed": 1}), index)
    assert (picture != other).any()


# When it is drawn


@dataclass
class Drawn:
    """What would have been drawn, had drawing not been left out to save time."""

    epochs_in_curves: list[int] = field(default_factory=list)
    gt_found: list[int] = field(default_factory=list)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Drawn:
    drawn = Drawn()

    def save_curves(log: list[Mapping[str, Any]], path: Path) -> None:
        drawn.epochs_in_curves.append(len(log))
        clock.now += clock.per_drawing

    def save_confusion(matrix: ConfusionMatrix, path: Path) -> None:
        drawn.gt_found.append(int(np.trace(matrix.counts)))

    monkeypatch.setattr(figures_module, "_save_curves", save_curves)
    monkeypatch.setattr(figures_module, "save_confusion", save_confusion)
    monkeypatch.setattr(figures_module, "save_figure", lambda *_: None)
    monkeypatch.setattr(figures_module, "precision_recall_figure", lambda _: None)
    return drawn


def test_evaluations_are_drawn_after_epochs_1_2_4_8_and_the_last(run: Run, drawn: Drawn) -> None:
    run.figures.on_start(run.start)
    for epoch in range(7):
        run.epoch(epoch)
    assert drawn.gt_found == [1, 2, 4]
    run.figures.on_end(a_record("stopped"))
    assert drawn.gt_found == [1, 2, 4, 7]
    run.figures.on_end(a_record())
    assert drawn.gt_found == [1, 2, 4, 7]


def test_curves_are_drawn_again_after_ten_seconds_and_at_the_end(
    run: Run, drawn: Drawn, clock: Clock
) -> None:
    run.figures.on_start(run.start)
    for epoch, seconds in enumerate((0, 10, 9.5, 0.5, 0.5)):
        clock.now += seconds
        run.epoch(epoch)
    # At the start, 10 s after it, 10 s after that.
    assert drawn.epochs_in_curves == [0, 2, 4]
    run.figures.on_end(a_record())
    assert drawn.epochs_in_curves == [0, 2, 4, 5]


def test_slow_drawing_of_curves_takes_a_fiftieth_of_the_time(
    run: Run, drawn: Drawn, clock: Clock
) -> None:
    clock.per_drawing = 2.0
    run.figures.on_start(run.start)
    for epoch in range(5):
        clock.now += 50
        run.epoch(epoch)
    assert drawn.epochs_in_curves == [0, 2, 4], "100 s from the end of one to the next"


def test_a_resumed_run_has_the_curves_of_its_whole_history(run: Run, drawn: Drawn) -> None:
    before = [a_row(epoch) for epoch in range(3)]
    (run.folder / LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in before))
    run.figures.on_start(replace(run.start, epochs_done=3))
    run.epoch(3)
    run.figures.on_end(a_record())
    assert drawn.epochs_in_curves == [3, 4]


def test_what_a_killed_process_left_half_written_is_taken_away(run: Run, drawn: Drawn) -> None:
    leftover = run.folder / "figures" / ".0123456789abcdef.tmp"
    leftover.parent.mkdir()
    leftover.write_text("half a pic")
    run.figures.on_start(run.start)
    assert [file.name for file in leftover.parent.iterdir()] == ["mosaic.png"]


# What goes wrong


def test_a_figure_that_fails_is_told_once_and_the_others_are_drawn(
    run: Run, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr(figures_module, "precision_recall_figure", broken)
    run.figures.on_start(run.start)
    for epoch in range(2):
        run.epoch(epoch)
    run.figures.on_end(a_record())
    place = run.folder / "figures" / "pr"
    assert run.notes == [f"the training goes on without {place}: no such font"]
    assert drawn.gt_found == [1, 2]


def test_a_folder_that_cannot_be_written_does_not_stop_a_run(run: Run) -> None:
    (run.folder / "figures").write_text("a file where the folder should be")
    run.figures.on_start(run.start)
    for epoch in range(2):
        run.epoch(epoch)
    run.figures.on_end(a_record())
    names = [note.split(":")[0].rpartition("/")[2] for note in run.notes]
    assert names == ["mosaic.png", "curves", "predictions.png", "pr", "confusion"]


def test_ctrl_c_while_drawing_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figures_module, "first_batch_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.figures.on_start(run.start)


# In a training


def test_a_training_computes_the_same_with_all_figures_beside_it(
    uninterrupted: Path, scenes: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    train(small_run.config_of(scenes), tmp_path, callback=RunFigures(notes.append))
    assert log_without_times(tmp_path) == log_without_times(uninterrupted)
    assert not (uninterrupted / "figures").exists()
    files = list((tmp_path / "figures").iterdir())
    assert {file.name for file in files} == FILES, "and nothing half-written"
    for file in files:
        assert cv2.imread(str(file)) is not None if file.suffix == ".png" else file.read_text()
    assert notes == []
