"""`ossa train --track`: a real run with loggers, what it leaves where, and refusals."""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import TINY, Ossa, start_ossa
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ossa.data.synthetic import write_scenes


@dataclass(frozen=True)
class TrackedTraining:
    """One training of one epoch with --track, in an empty home."""

    row: dict[str, Any]
    stderr: str
    home: Path

    @property
    def folder(self) -> Path:
        return Path(self.row["folder"])


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackedTraining]:
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    data = write_scenes(elsewhere / "scenes", images={"train": 2, "val": 1}, imgsz=128)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("COMET_"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.delenv("MPLCONFIGDIR", raising=False)
        process = start_ossa(
            *("train", "--data", data, "--model", "test_resnet", "--neck", "n", "--epochs", 1),
            *(*TINY, "--json", "--no-figures"),
            *("--project", elsewhere, "--track", "comet,tensorboard", "--track-weights"),
        )
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        yield TrackedTraining(json.loads(stdout), stderr, home)


def test_a_tracked_run_leaves_nothing_at_home(tracked: TrackedTraining) -> None:
    assert list(tracked.home.iterdir()) == []


def test_each_logger_reports_in_one_line_where_the_run_is(tracked: TrackedTraining) -> None:
    lines = [line for line in tracked.stderr.splitlines() if "comet" in line.lower()]
    assert len(lines) == 1
    assert lines[0].startswith("comet: there is no COMET_API_KEY, so the run is packed into")
    assert (
        f"tensorboard: tensorboard --logdir {tracked.folder}/tensorboard"
        in tracked.stderr.splitlines()
    )


def test_the_loggers_hold_what_the_command_printed(tracked: TrackedTraining) -> None:
    folder, row = tracked.folder, tracked.row
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    (ap,) = [
        message["payload"]["metric"]["metricValue"]
        for message in messages
        if message["type"] == "metric_msg" and message["payload"]["metric"]["metricName"] == "ap"
    ]
    assert ap == row["ap"]
    (weights,) = [
        message
        for message in messages
        if message["type"] == "file_upload" and message["payload"]["upload_type"] == "model-element"
    ]
    assert weights["payload"]["additional_params"]["fileName"] == "best.safetensors"
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("ap")] == [pytest.approx(ap)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--track commet", "no logger named 'commet'. Did you mean comet?"),
        ("--track comet,tensorbord", "no logger named 'tensorbord'. Did you mean tensorboard?"),
        ("--track-weights", "with the names of loggers beside --track-weights, found none"),
        ("--track-project bones", "with the names of loggers beside --track-project, found none"),
    ],
)
def test_bad_tracking_options_are_refused_and_leave_nothing_behind(
    ossa: Ossa, tmp_path: Path, arguments: str, sentence: str
) -> None:
    result = ossa("train", "--data", "scenes", "--model", "yolov5n", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_tracking_may_be_chosen_anew_when_a_run_is_resumed(
    ossa: Ossa, tracked: TrackedTraining
) -> None:
    result = ossa(
        *("train", "--resume", tracked.folder, "--track", "tensorboard", "--track", "comet"),
        *("--track-weights", "--track-project", "bones", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert "is already done" in result.stderr
