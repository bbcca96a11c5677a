"""What a training looks like on stderr, in a terminal and in a file."""

from pathlib import Path
from typing import Any

import pytest

from ossa.cli.console import Console
from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.train.callbacks import RunStart

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("COLUMNS", "100")


NO_EVALUATION: Any = None
"""The console reads the line alone."""


def start(*, epochs: int, batches: int) -> RunStart:
    config = RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"), data="bccd", train=TrainConfig(epochs=epochs)
    )
    no_data: Any = None
    return RunStart(
        config=config,
        folder=Path("runs/yolov5n"),
        train_index=no_data,
        val_index=no_data,
        batches_per_epoch=batches,
        epochs_done=0,
        cost={},
    )


def row(epoch: int) -> dict[str, float]:
    losses = {f"{split}_{name}": 0.1 for split in ("train", "val") for name in ("box", "classes")}
    return {
        "epoch": epoch,
        **losses,
        "train_objectness": 0.1,
        "val_objectness": 0.2,
        "ap": 0.25,
        "ap50": 0.5,
        "train_seconds": 3.0,
        "evaluate_seconds": 1.0,
    }


def train_one_epoch(console: Console) -> None:
    console.on_start(start(epochs=12, batches=2))
    console.on_batch_end(epoch=0, batch=1, loss=0.5)
    console.on_batch_end(epoch=0, batch=2, loss=0.3)
    console.on_evaluate(epoch=0, done=8, total=8)
    console.on_epoch_end(row(0), NO_EVALUATION)


def test_a_file_receives_one_line_an_epoch_and_no_control_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console("in runs/yolov5n on cpu") as console:
        train_one_epoch(console)
    out, err = capsys.readouterr()
    assert out == ""
    first, *settings, last = err.splitlines()
    assert first == "training yolov5n in runs/yolov5n on cpu (epochs: 12, batches in each: 2)"
    assert settings[0].endswith("a step of the optimizer after 4 batches, 64 images")
    assert [line.split(":")[0].strip() for line in settings[1:]] == [
        *("model", "train", "loss", "augment", "evaluate")
    ]
    assert "lr 0.01, momentum 0.937" in settings[2]
    assert last == ("epoch  1/12  loss 0.3000  val loss 0.4000  AP 0.250  AP50 0.500  4.0 s")


def test_the_first_epoch_says_how_long_the_others_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console("in runs/yolov5n on cpu") as console:
        console.on_start(start(epochs=12, batches=2))
        for epoch in (0, 1):
            console.on_epoch_end(row(epoch) | {"train_seconds": 30.0}, NO_EVALUATION)
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.endswith("31.0 s (about 5 min 41 s to go)")
    assert second.endswith("31.0 s")


def test_an_undefined_ap_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.on_start(start(epochs=1, batches=2))
        console.on_epoch_end({**row(0), "ap": None, "ap50": None}, NO_EVALUATION)
    assert "AP –  AP50 –" in capsys.readouterr().err


def test_brackets_in_a_note_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Console().note("runs/[bold]x: wrong")
    assert capsys.readouterr().err == "runs/[bold]x: wrong\n"


@pytest.mark.usefixtures("in_a_terminal")
def test_a_terminal_shows_a_live_line_and_gets_its_cursor_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console() as console:
        train_one_epoch(console)
        live = capsys.readouterr().err
    assert "epoch 1/12 training" in live
    assert HIDE_CURSOR in live
    assert SHOW_CURSOR not in live
    assert SHOW_CURSOR in capsys.readouterr().err


@pytest.mark.usefixtures("in_a_terminal")
def test_the_end_of_a_training_takes_the_live_line_away(capsys: pytest.CaptureFixture[str]) -> None:
    console, no_record = Console(), NO_EVALUATION
    console.on_start(start(epochs=1, batches=1))
    console.on_batch_end(epoch=0, batch=1, loss=0.5)
    console.on_epoch_end(row(0), NO_EVALUATION)
    console.on_end(no_record)
    assert SHOW_CURSOR in capsys.readouterr().err


@pytest.mark.usefixtures("in_a_terminal")
def test_the_time_left_follows_from_the_pace_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("ossa.cli.console.time.monotonic", lambda: next(clock))
    with Console() as console:
        console.on_start(start(epochs=3, batches=4))
        console.on_batch_end(epoch=0, batch=1, loss=0.5)
        # A quarter of an epoch took 10 s, so the 2.5 epochs that are left take 100 s.
        console.on_batch_end(epoch=0, batch=2, loss=0.5)
    assert "1 min 40 s left" in capsys.readouterr().err


@pytest.mark.usefixtures("in_a_terminal")
def test_progress_of_other_work_is_counted_in_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console().progress("drawing scenes") as on_image:
        on_image(1, 2)
    written = capsys.readouterr().err
    assert "drawing scenes" in written
    assert "1/2" in written
    assert SHOW_CURSOR in written


@pytest.mark.usefixtures("in_a_terminal")
def test_bytes_are_shown_with_unit_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console, console.progress("downloading", of_bytes=True) as on_bytes:
        on_bytes(1_500_000, 3_000_000)
    told = capsys.readouterr().err
    assert "1.5/3.0 MB" in told
    assert "?" in told  # one number is no rate yet
