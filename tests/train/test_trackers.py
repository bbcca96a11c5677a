"""Experiment trackers: what they are told, what lies in their files, and what a dead network costs.

Nothing leaves this machine: servers listen on the loopback, and home is an empty folder.
"""

import importlib.util
import json
import os
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ossa.config import EvaluateConfig, ModelConfig, RunConfig, TrainConfig
from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError
from ossa.train.callbacks import Callback, RunStart
from ossa.train.loop import train
from ossa.train.run_folder import read_log
from ossa.train.trackers import (
    CometTracker,
    TensorBoardTracker,
    Tracker,
    TrackerCallback,
    WandbTracker,
    create_trackers,
    tracked,
)
from ossa.train.trackers.callback import numbers, settings_and_cost, tracking_key
from ossa.train.trackers.network import answers
from ossa.types import Record

KEY = "not-a-key-of-anyone-0123456789"
ROW = {"epoch": 0, "train_box": 0.25, "ap": 0.5, "ap75": None}
COUNTS = [[7, 1, 2], [0, 5, 3], [4, 0, 0]]
NAMES = ["disc", "square", "background"]


@pytest.fixture(scope="module", autouse=True)
def nobody_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty home and working directory, no setting of a tracker and no proxy."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("COMET_", "WANDB_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.delenv("NETRC", raising=False)
        patch.chdir(home)
        yield


class Notes(Callback):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)


class Recorder:
    """A tracker that remembers its calls, and fails in the method that is named."""

    name = "recorder"

    def __init__(self, *, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[tuple[Any, ...]] = []

    def _called(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, *arguments))
        if method == self.failing:
            raise ConnectionError("the server\nis gone")

    def begin(self, start: RunStart) -> str:
        self._called("begin", start.folder)
        return "in memory"

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._called("epoch", dict(row))

    def figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._called("figure", name, path, epoch)

    def confusion(
        self, names: Sequence[str], counts: Sequence[Sequence[int]], *, epoch: int
    ) -> None:
        self._called("confusion", names, counts, epoch)

    def weights(self, path: Path) -> None:
        self._called("weights", path)

    def end(self, record: Record | None) -> None:
        self._called("end", record and record.status)

    def methods(self) -> list[str]:
        return [call[0] for call in self.calls]


def start_in(folder: Path, *, epochs_done: int = 0) -> RunStart:
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig(model=ModelConfig(name="yolov5n", neck="own"), data="scenes", seed=7)
    nothing = cast(Any, None)
    return RunStart(
        config=config,
        folder=folder,
        train_index=nothing,
        val_index=nothing,
        batches_per_epoch=3,
        epochs_done=epochs_done,
        cost={"params": 1_872_157},
    )


def a_record(status: str = "done") -> Record:
    return Record(
        schema=1,
        model="yolov5n",
        status=status,
        reason=None,
        config={},
        config_hash="c0ffee",
        seed=7,
        initial_weights={},
        cost={},
        metrics={},
        times={},
        environment={"torch": "2.6"},
        data_fingerprint="da7a",
    )


def draw_figures(run: Path, *names: str) -> None:
    """Writes pictures of 4 x 3 px, all red, and a confusion matrix."""
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / f"{name}.png"), np.full((3, 4, 3), (0, 0, 255), np.uint8))
    (folder / "confusion.json").write_text(json.dumps({"names": NAMES, "matrix": COUNTS}))


def drive(tracker: Tracker, folder: Path, *, weights: bool = False) -> list[str]:
    """Tells a tracker of a run of one epoch with a figure; returns the notes."""
    notes = Notes()
    with tracked([tracker], notes, weights=weights) as callback:
        callback.on_start(start_in(folder))
        draw_figures(folder, "curves")
        (folder / "best.safetensors").write_bytes(b"weights")
        callback.on_epoch_end(ROW, cast(Any, None))
        callback.on_end(a_record())
    return notes.sentences


# A real run, with several trackers at once


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, list[str]]:
    """A training of two epochs: its folder, a tracker's memory, and what was noted."""
    data = write_scenes(
        tmp_path_factory.mktemp("data") / "scenes", images={"train": 8, "val": 4}, imgsz=128
    )
    settings: dict[str, Any] = {"epochs": 2, "imgsz": 64, "batch": 8, "lr": 1e-3}
    config = RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"),
        data=str(data),
        train=TrainConfig(**settings),
        evaluate=EvaluateConfig(max_detections=20),
    )
    folder, notes, recorder = tmp_path_factory.mktemp("run"), Notes(), Recorder()
    trackers = [Recorder(failing="epoch"), recorder, TensorBoardTracker()]
    with tracked(trackers, notes) as callback:
        assert train(config, folder, callback=callback).status == "done"
    return folder, recorder, notes.sentences


def test_a_tracker_is_told_what_the_log_is_told(run: tuple[Path, Recorder, list[str]]):
    folder, recorder, _ = run
    assert recorder.methods() == ["begin", "epoch", "epoch", "end"]
    assert [row for method, row in recorder.calls if method == "epoch"] == read_log(folder)
    assert recorder.calls[-1] == ("end", "done")


def test_the_event_file_holds_every_number_of_every_row(run: tuple[Path, Recorder, list[str]]):
    folder, _, _ = run
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = [numbers(row) for row in read_log(folder)]
    assert set(events.Tags()["scalars"]) == set(rows[0]) | set(rows[1])
    assert {"ap", "val_box", "lr", "train_seconds"} <= set(rows[0])
    for key in rows[0]:
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found == pytest.approx({0: rows[0][key], 1: rows[1][key]}, rel=1e-6)


def test_a_run_goes_on_without_a_tracker_that_fails(run: tuple[Path, Recorder, list[str]]):
    _, _, notes = run
    told = [sentence for sentence in notes if "recorder is told no more" in sentence]
    assert told == [
        "recorder is told no more of this run, which goes on: ConnectionError: the server is gone"
    ]


# What the callback tells, and when


@pytest.mark.parametrize(
    "failing", ["begin", "epoch", "figure", "confusion", "weights", "end"], ids=str
)
def test_a_tracker_that_fails_is_not_called_again(tmp_path: Path, failing: str):
    whole, broken = Recorder(), Recorder(failing=failing)
    drive(whole, tmp_path / "a", weights=True)
    assert whole.methods() == ["begin", "epoch", "figure", "confusion", "weights", "end"]
    notes = drive(broken, tmp_path / "b", weights=True)
    assert broken.methods() == whole.methods()[: whole.methods().index(failing) + 1]
    assert len([note for note in notes if "ConnectionError: the server is gone" in note]) == 1


def test_figures_are_sent_every_tenth_epoch_and_at_the_end_where_they_have_changed(tmp_path: Path):
    tracker = Recorder()
    callback = TrackerCallback(tracker, print)
    callback.on_start(start_in(tmp_path))
    for epoch in range(25):
        if epoch in (0, 15):
            draw_figures(tmp_path, "curves")
        if epoch == 3:
            draw_figures(tmp_path, "mosaic")
        callback.on_epoch_end({"epoch": epoch}, cast(Any, None))
    callback.on_end(a_record())
    sent = [(call[1], call[-1]) for call in tracker.calls if call[0] == "figure"]
    assert sent == [("curves", 0), ("mosaic", 10), ("curves", 20)]
    confusions = [call[1:] for call in tracker.calls if call[0] == "confusion"]
    assert confusions == [(NAMES, COUNTS, epoch) for epoch in (0, 10, 20)]


def test_pictures_drawn_after_the_last_epoch_are_sent_when_the_run_is_over(tmp_path: Path):
    tracker = Recorder()
    callback = TrackerCallback(tracker, print)
    callback.on_start(start_in(tmp_path))
    callback.on_epoch_end({"epoch": 0}, cast(Any, None))
    draw_figures(tmp_path, "predictions")
    callback.on_end(a_record())
    assert tracker.methods() == ["begin", "epoch", "figure", "confusion", "end"]


def test_weights_are_sent_only_where_they_are_wanted(tmp_path: Path):
    asked, not_asked = Recorder(), Recorder()
    drive(not_asked, tmp_path / "a")
    drive(asked, tmp_path / "b", weights=True)
    assert "weights" not in not_asked.methods()
    assert ("weights", tmp_path / "b" / "best.safetensors") in asked.calls


def test_a_run_that_is_interrupted_is_ended_without_a_record(tmp_path: Path):
    tracker = Recorder()

    def interrupted() -> None:
        with tracked([tracker]) as callback:
            callback.on_start(start_in(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tracker.calls[1:] == [("end", None)]


def test_a_tracker_that_never_began_is_not_ended():
    tracker = Recorder()
    with tracked([tracker]):
        pass
    assert tracker.calls == []


def test_settings_are_told_flat_with_the_cost(tmp_path: Path):
    told = settings_and_cost(start_in(tmp_path))
    assert (told["model.name"], told["train.lr"], told["seed"]) == ("yolov5n", 0.01, 7)
    assert told["cost.params"] == 1_872_157
    assert (told["model.strides"], told["model.weights"]) == ("[8, 16, 32]", "null")
    assert {type(value) for value in told.values()} <= {str, int, float, bool}


def test_a_run_keeps_its_key_when_it_is_resumed(tmp_path: Path):
    (tmp_path / "other").mkdir()
    key = tracking_key(tmp_path)
    assert len(key) == 32
    assert tracking_key(tmp_path) == key
    assert tracking_key(tmp_path / "other") != key


def test_a_resumed_run_goes_on_where_it_was_tracked_before(tmp_path: Path):
    for epoch, status in enumerate(("stopped", "done")):
        with tracked([TensorBoardTracker(), CometTracker()]) as callback:
            callback.on_start(start_in(tmp_path, epochs_done=epoch))
            callback.on_epoch_end({"epoch": epoch, "ap": 0.25 * epoch}, cast(Any, None))
            callback.on_end(a_record(status))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("ap")] == [(0, 0.0), (1, 0.25)]
    files = list(tmp_path.glob("*.zip"))
    assert len(files) == 2
    assert {file.name.partition("-")[0] for file in files} == {tracking_key(tmp_path)}


# Names


def test_trackers_are_created_by_their_names_each_once():
    trackers = create_trackers(["tensorboard", "comet", "tensorboard"])
    assert [tracker.name for tracker in trackers] == ["tensorboard", "comet"]


def test_a_misspelt_tracker_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no tracker named 'tensorbord'. Did you mean tensorb"):
        create_trackers(["tensorbord"])
    with pytest.raises(ConfigError, match=r"There are comet, tensorboard, wandb\."):
        create_trackers(["xyz"])


def test_wandb_without_its_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package .*: pip install 'ossa\[wandb\]'$"):
        create_trackers(["wandb"])


# TensorBoard


def test_figures_and_tables_are_in_the_event_file(tmp_path: Path):
    notes = drive(TensorBoardTracker(), tmp_path)
    assert notes == [f"tensorboard: tensorboard --logdir {tmp_path / 'tensorboard'}"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (picture,) = events.Images("curves")
    pixels = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (3, 4, 3)
    assert (pixels == (0, 0, 255)).all()  # red, in OpenCV's order
    text = {tag: events.Tensors(f"{tag}/text_summary")[0] for tag in ("settings", "confusion")}
    told = {tag: event.tensor_proto.string_val[0].decode() for tag, event in text.items()}
    assert "|train.lr|0.01|" in told["settings"].splitlines()
    assert "|square|0|5|3|" in told["confusion"].splitlines()


# Comet, offline


def offline_messages(folder: Path) -> list[dict[str, Any]]:
    """Returns what the one zip in a run's folder would upload."""
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        return [json.loads(line) for line in archive.read("messages.json").splitlines()]


def payloads(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message["payload"] for message in messages if message["type"] == kind]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run that Comet was told of without a key, and the notes."""
    folder = tmp_path_factory.mktemp("packed") / "run"
    return folder, drive(CometTracker(project="bones"), folder, weights=True)


def test_comet_without_a_key_packs_the_run_into_its_folder(packed: tuple[Path, list[str]]):
    folder, notes = packed
    (file,) = folder.glob("*.zip")
    assert file.name.startswith(tracking_key(folder))
    assert notes == [
        f"comet: there is no COMET_API_KEY, so the run is packed into {folder} when it ends; "
        f"comet upload {folder}/{tracking_key(folder)}-*.zip sends it"
    ]
    with zipfile.ZipFile(file) as archive:
        assert json.loads(archive.read("experiment.json"))["project_name"] == "bones"


def test_comet_gets_the_settings_and_the_numbers_of_the_row(packed: tuple[Path, list[str]]):
    messages = offline_messages(packed[0])
    parameters = {
        payload["param"]["paramName"]: payload["param"]["paramValue"]
        for payload in payloads(messages, "parameter_msg")
    }
    told = settings_and_cost(start_in(packed[0]))
    assert {key: parameters[key] for key in told} == told
    metrics = {
        payload["metric"]["metricName"]: (
            payload["metric"]["epoch"],
            payload["metric"]["metricValue"],
        )
        for payload in payloads(messages, "metric_msg")
    }
    assert {key: metrics[key] for key in numbers(ROW)} == {
        "epoch": (0, 0),
        "train_box": (0, 0.25),
        "ap": (0, 0.5),
    }
    assert "ap75" not in metrics


def test_comet_gets_pictures_the_confusion_matrix_and_the_weights(packed: tuple[Path, list[str]]):
    folder, _ = packed
    uploads = {
        payload["upload_type"]: payload
        for payload in payloads(offline_messages(folder), "file_upload")
    }
    assert set(uploads) == {"visualization", "confusion-matrix", "model-element"}
    assert uploads["visualization"]["additional_params"]["figName"] == "curves"
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        matrix = json.loads(archive.read(uploads["confusion-matrix"]["file_path"]))
        assert archive.read(uploads["model-element"]["file_path"]) == b"weights"
    assert (matrix["labels"], matrix["matrix"]) == (NAMES, COUNTS)


def test_comet_gets_the_outcome_and_nothing_of_the_machine(packed: tuple[Path, list[str]]):
    messages = offline_messages(packed[0])
    others = {payload["key"]: payload["value"] for payload in payloads(messages, "log_other")}
    assert others == {
        "offline_experiment": True,
        "Name": "run",
        "status": "done",
        "reason": "",
        "config_hash": "c0ffee",
        "data_fingerprint": "da7a",
        "torch": "2.6",
    }
    kinds = {message["type"] for message in messages}
    assert kinds == {"log_other", "parameter_msg", "metric_msg", "file_upload"}
    assert socket.gethostname() not in json.dumps(messages)


# Comet, with a key


@pytest.fixture
def with_a_key(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(address: str) -> None:
        monkeypatch.setenv("COMET_API_KEY", KEY)
        monkeypatch.setenv("COMET_URL_OVERRIDE", f"{address}/clientlib/")
        monkeypatch.setenv("COMET_MESSAGE_BATCH_USE_COMPRESSION", "false")

    return use


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_key_without_a_network_costs_seconds_and_the_run_is_packed(
    tmp_path: Path, with_a_key: Callable[[str], None]
):
    with_a_key(f"http://127.0.0.1:{closed_port()}")
    started = time.monotonic()
    notes = drive(CometTracker(), tmp_path)
    assert time.monotonic() - started < 10
    assert len(notes) == 1
    assert "/clientlib/ does not answer, so the run is packed into" in notes[0]
    assert payloads(offline_messages(tmp_path), "metric_msg")


def test_a_key_that_is_refused_is_told_without_the_key(
    tmp_path: Path, with_a_key: Callable[[str], None], server: "StandIn"
):
    server.status, server.answer = 400, {"sdk_error_code": 90212, "msg": "no such key"}
    with_a_key(server.address)
    notes = drive(CometTracker(), tmp_path)
    assert len(notes) == 1
    assert notes[0].startswith("comet: Comet took no run (InvalidAPIKey: ")
    assert KEY not in notes[0]
    assert payloads(offline_messages(tmp_path), "metric_msg")


def test_with_a_key_and_a_server_the_run_is_sent_there(
    tmp_path: Path, with_a_key: Callable[[str], None], server: "StandIn"
):
    server.answer = {
        "runId": "r",
        "project_id": "p",
        "focusUrl": "https://see/",
        "version": "5.0.0",
    }
    with_a_key(server.address)
    notes = drive(CometTracker(project="bones"), tmp_path)
    assert notes == [f"comet: https://see/{tracking_key(tmp_path)}"]
    assert list(tmp_path.glob("*.zip")) == []
    (opened, *_) = server.received("/clientlib/logger/add/run")
    assert (opened["projectName"], opened["experimentKey"]) == ("bones", tracking_key(tmp_path))
    batches = server.received("/clientlib/batch/logger/experiment/metric")
    sent = {
        value["metricName"]: value["metricValue"] for batch in batches for value in batch["values"]
    }
    assert (sent["train_box"], sent["ap"]) == (0.25, 0.5)


class StandIn:
    """A server that answers every request alike and remembers what was posted."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: dict[str, Any] = {}
        self.posts: list[tuple[str, bytes]] = []
        self.address = ""

    def received(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(body) for place, body in self.posts if place == path]


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(stand_in.status)
            self.end_headers()

        def do_GET(self) -> None:
            body = json.dumps(stand_in.answer).encode()
            self.send_response(stand_in.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            stand_in.posts.append((self.path, self.rfile.read(length)))
            self.do_GET()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.address = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
    thread.start()
    yield stand_in
    listening.shutdown()
    thread.join()
    listening.server_close()


# The network


def test_a_server_answers_whatever_it_says_unless_a_proxy_says_it_cannot(server: StandIn):
    for status, expected in [(200, True), (404, True), (401, True), (502, False)]:
        server.status = status
        assert answers(server.address) is expected


def test_where_nobody_listens_nothing_answers():
    assert not answers(f"http://127.0.0.1:{closed_port()}")
    assert not answers("not an address")


def test_a_server_that_says_nothing_is_waited_for_as_long_as_told():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        assert 0.2 < time.monotonic() - started < 2


# Weights & Biases


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is an extra and not installed"
)
def test_wandb_without_a_key_keeps_the_run_in_its_folder(tmp_path: Path):
    notes = drive(WandbTracker(project="bones"), tmp_path, weights=True)
    assert len(notes) == 1
    assert "there is no WANDB_API_KEY, so the run is kept in" in notes[0]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
