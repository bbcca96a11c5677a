"""Experiment loggers: what they log, what lies in their files, and what a dead network costs.

Nothing leaves this machine: servers listen on the loopback, and home is an empty folder.
"""

import doctest
import importlib.util
import json
import os
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, call, create_autospec

import cv2
import numpy as np
import pytest
from small_run import a_record, config_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ossa.config import ModelConfig, RunConfig
from ossa.errors import ConfigError
from ossa.train import loggers
from ossa.train.callbacks import RunStart
from ossa.train.comet import CometLogger
from ossa.train.loggers import (
    Logger,
    LoggerCallback,
    TensorBoardLogger,
    WandbLogger,
    create_loggers,
    is_reachable,
    numeric_values,
    settings_and_cost,
    tracking_key,
)
from ossa.train.loop import train
from ossa.train.mlflow import MLflowLogger
from ossa.train.run_folder import read_log

KEY = "not-a-key-of-anyone-0123456789"
ROW = {"epoch": 0, "train_box": 0.25, "ap": 0.5, "ap75": None}
COUNTS = [[7, 1, 2], [0, 5, 3], [4, 0, 0]]
NAMES = ["disc", "square", "background"]


@pytest.fixture(scope="module", autouse=True)
def nobody_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty home and working directory, no setting of a logger and no proxy."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("COMET_", "WANDB_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.delenv("NETRC", raising=False)
        patch.chdir(home)
        yield


def recorder(*, failing: str = "") -> Mock:
    """Returns a logger that remembers its calls, and fails in the method that is named."""
    logger = create_autospec(Logger, instance=True)
    logger.name, logger.start.return_value = "recorder", "in memory"
    if failing:
        getattr(logger, failing).side_effect = ConnectionError("the server\nis gone")
    return logger


def methods(logger: Mock) -> list[str]:
    return [method for method, _, _ in logger.method_calls]


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


def draw_figures(run: Path, *names: str) -> None:
    """Writes pictures of 4 x 3 px, all red, and a confusion matrix."""
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / f"{name}.png"), np.full((3, 4, 3), (0, 0, 255), np.uint8))
    (folder / "confusion.json").write_text(json.dumps({"names": NAMES, "matrix": COUNTS}))


def drive(logger: Logger, folder: Path, *, log_weights: bool = False) -> list[str]:
    """Logs a run of one epoch with a figure; returns what was reported."""
    notes: list[str] = []
    with LoggerCallback([logger], notes.append, log_weights=log_weights) as callback:
        callback.on_start(start_in(folder))
        draw_figures(folder, "curves")
        (folder / "best.safetensors").write_bytes(b"weights")
        callback.on_epoch_end(ROW, cast(Any, None))
        callback.on_end(a_record())
    return notes


# A real run, with several loggers at once


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mock, list[str]]:
    """A training of two epochs: its folder, a logger's memory, and what was reported."""
    folder, logger, notes = tmp_path_factory.mktemp("run"), recorder(), list[str]()
    used = [recorder(failing="log_metrics"), logger, TensorBoardLogger()]
    with LoggerCallback(used, notes.append) as callback:
        assert train(config_of(scenes), folder, callback=callback).status == "done"
    return folder, logger, notes


def test_a_logger_receives_every_row_of_the_log(run: tuple[Path, Mock, list[str]]):
    folder, logger, _ = run
    assert methods(logger) == ["start", "log_metrics", "log_metrics", "finish"]
    assert [call.args[0] for call in logger.log_metrics.mock_calls] == read_log(folder)
    assert logger.finish.call_args.args[0].status == "done"


def test_the_event_file_holds_every_number_of_every_row(run: tuple[Path, Mock, list[str]]):
    folder, _, _ = run
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = [numeric_values(row) for row in read_log(folder)]
    assert set(events.Tags()["scalars"]) == set(rows[0]) | set(rows[1])
    assert {"ap", "val_box", "lr", "train_seconds"} <= set(rows[0])
    for key in rows[0]:
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found == pytest.approx({0: rows[0][key], 1: rows[1][key]}, rel=1e-6)


def test_a_run_goes_on_without_a_logger_that_fails(run: tuple[Path, Mock, list[str]]):
    _, _, notes = run
    assert [note for note in notes if "logging stopped" in note] == [
        "recorder: logging stopped, the run goes on (ConnectionError: the server is gone)"
    ]


# What the callback logs, and when


METHODS = ["start", "log_metrics", "log_figure", "log_confusion_matrix", "log_weights", "finish"]


@pytest.mark.parametrize("failing", METHODS)
def test_a_logger_that_fails_is_not_called_again(tmp_path: Path, failing: str):
    whole, broken = recorder(), recorder(failing=failing)
    drive(whole, tmp_path / "a", log_weights=True)
    assert methods(whole) == METHODS
    notes = drive(broken, tmp_path / "b", log_weights=True)
    assert methods(broken) == METHODS[: METHODS.index(failing) + 1]
    assert len([note for note in notes if "ConnectionError: the server is gone" in note]) == 1


def test_figures_are_sent_every_tenth_epoch_and_at_the_end_where_they_have_changed(tmp_path: Path):
    logger = recorder()
    callback = LoggerCallback([logger])
    callback.on_start(start_in(tmp_path))
    for epoch in range(25):
        if epoch in (0, 15, 23):
            draw_figures(tmp_path, "curves")
        if epoch == 3:
            draw_figures(tmp_path, "mosaic")
        callback.on_epoch_end({"epoch": epoch}, cast(Any, None))
    callback.on_end(a_record())
    figures = logger.log_figure.mock_calls
    sent = [(call.args[0], call.kwargs["epoch"]) for call in figures]
    assert sent == [("curves", 0), ("mosaic", 10), ("curves", 20), ("curves", 24)]
    assert logger.log_confusion_matrix.mock_calls == [
        call(NAMES, COUNTS, epoch=epoch) for epoch in (0, 10, 20, 24)
    ]


def test_weights_are_sent_only_where_they_are_wanted(tmp_path: Path):
    asked, not_asked = recorder(), recorder()
    drive(not_asked, tmp_path / "a")
    drive(asked, tmp_path / "b", log_weights=True)
    not_asked.log_weights.assert_not_called()
    asked.log_weights.assert_called_once_with(tmp_path / "b" / "best.safetensors")


def test_a_run_that_is_interrupted_is_finished_without_a_record(tmp_path: Path):
    logger = recorder()

    def interrupted() -> None:
        with LoggerCallback([logger]) as callback:
            callback.on_start(start_in(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert logger.method_calls[1:] == [call.finish(None)]


def test_a_logger_that_was_never_started_is_not_finished():
    logger = recorder()
    with LoggerCallback([logger]):
        pass
    assert logger.method_calls == []


def test_settings_are_flat_and_have_the_cost(tmp_path: Path):
    settings = settings_and_cost(start_in(tmp_path))
    assert (settings["model.name"], settings["train.lr"], settings["seed"]) == ("yolov5n", 0.01, 7)
    assert settings["cost.params"] == 1_872_157
    assert (settings["model.strides"], settings["model.weights"]) == ("[8, 16, 32]", "null")
    assert {type(value) for value in settings.values()} <= {str, int, float, bool}


def test_a_run_keeps_its_key_when_it_is_resumed(tmp_path: Path):
    (tmp_path / "other").mkdir()
    key = tracking_key(tmp_path)
    assert len(key) == 32
    assert tracking_key(tmp_path) == key
    assert tracking_key(tmp_path / "other") != key


def test_a_resumed_run_goes_on_where_it_was_logged_before(tmp_path: Path):
    for epoch, status in enumerate(("stopped", "done")):
        with LoggerCallback([TensorBoardLogger(), CometLogger()]) as callback:
            callback.on_start(start_in(tmp_path, epochs_done=epoch))
            callback.on_epoch_end({"epoch": epoch, "ap": 0.25 * epoch}, cast(Any, None))
            callback.on_end(a_record(status))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("ap")] == [(0, 0.0), (1, 0.25)]
    files = list(tmp_path.glob("*.zip"))
    assert len(files) == 2
    assert {file.name.partition("-")[0] for file in files} == {tracking_key(tmp_path)}


def test_the_examples_of_the_protocol_and_the_callback_run():
    assert doctest.testmod(loggers) == (0, 3)


# Names


def test_loggers_are_created_by_their_names_each_once():
    created = create_loggers(["tensorboard", "comet", "tensorboard"])
    assert [logger.name for logger in created] == ["tensorboard", "comet"]


def test_a_misspelt_logger_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no logger named 'tensorbord'. Did you mean tensorb"):
        create_loggers(["tensorbord"])
    with pytest.raises(ConfigError, match=r"There are comet, mlflow, tensorboard, wandb\."):
        create_loggers(["xyz"])


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("comet", "comet_ml", "comet-ml"),
        ("mlflow", "mlflow", "mlflow"),
        ("tensorboard", "tensorboard", "tensorboard"),
        ("wandb", "wandb", "'ossa[wandb]'"),
    ],
)
def test_a_missing_package_is_reported_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, install: str
):
    monkeypatch.setattr("ossa.train.loggers.find_spec", lambda package: None)
    with pytest.raises(ConfigError) as caught:
        create_loggers([name])
    assert str(caught.value) == (
        f"the logger {name} needs the package {package}, found none: pip install {install}"
    )


# TensorBoard


def test_figures_and_tables_are_in_the_event_file(tmp_path: Path):
    notes = drive(TensorBoardLogger(), tmp_path)
    assert notes == [f"tensorboard: tensorboard --logdir {tmp_path / 'tensorboard'}"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (picture,) = events.Images("curves")
    pixels = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (3, 4, 3)
    assert (pixels == (0, 0, 255)).all()  # red, in OpenCV's order
    text = {tag: events.Tensors(f"{tag}/text_summary")[0] for tag in ("settings", "confusion")}
    tables = {tag: event.tensor_proto.string_val[0].decode() for tag, event in text.items()}
    assert "|train.lr|0.01|" in tables["settings"].splitlines()
    assert "|square|0|5|3|" in tables["confusion"].splitlines()


# MLflow


def test_mlflow_gets_settings_numbers_pictures_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlflow = Mock()
    mlflow.start_run.return_value.info.run_id = "abc"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr("ossa.train.loggers.find_spec", lambda package: package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notes = drive(MLflowLogger(project="cells"), tmp_path, log_weights=True)
    own = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert notes == [f"mlflow: mlflow ui --backend-store-uri {own}"]
    mlflow.set_experiment.assert_called_once_with("cells")
    assert mlflow.log_params.call_args[0][0]["train.lr"] == "0.01"
    assert mlflow.log_metrics.call_args[1]["step"] == 0
    assert {Path(call[0][0]).name for call in mlflow.log_artifact.call_args_list} == {
        *("curves.png", "best.safetensors"),
    }
    assert mlflow.log_dict.call_args[0][0]["counts"][1] == [0, 5, 3]
    mlflow.end_run.assert_called_once_with("FINISHED")
    MLflowLogger().start(start_in(tmp_path, epochs_done=1))  # resumed
    assert mlflow.start_run.call_args[1] == {"run_id": "abc", "run_name": None}


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
    """The folder of a run that Comet logged without a key, and what was reported."""
    folder = tmp_path_factory.mktemp("packed") / "run"
    return folder, drive(CometLogger(project="bones"), folder, log_weights=True)


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
    settings = settings_and_cost(start_in(packed[0]))
    assert {key: parameters[key] for key in settings} == settings
    metrics = {
        payload["metric"]["metricName"]: (
            payload["metric"]["epoch"],
            payload["metric"]["metricValue"],
        )
        for payload in payloads(messages, "metric_msg")
    }
    assert {key: metrics[key] for key in numeric_values(ROW)} == {
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
    notes = drive(CometLogger(), tmp_path)
    assert time.monotonic() - started < 10
    assert len(notes) == 1
    assert "/clientlib/ does not answer, so the run is packed into" in notes[0]
    assert payloads(offline_messages(tmp_path), "metric_msg")


def test_a_refused_key_is_not_in_the_report(
    tmp_path: Path, with_a_key: Callable[[str], None], server: "StandIn"
):
    server.status, server.answer = 400, {"sdk_error_code": 90212, "msg": "no such key"}
    with_a_key(server.address)
    notes = drive(CometLogger(), tmp_path)
    assert len(notes) == 1
    assert notes[0].startswith("comet: Comet refused the run (InvalidAPIKey: ")
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
    notes = drive(CometLogger(project="bones"), tmp_path)
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
        assert is_reachable(server.address) is expected


def test_where_nobody_listens_nothing_answers():
    assert not is_reachable(f"http://127.0.0.1:{closed_port()}")
    assert not is_reachable("not an address")


def test_a_silent_server_is_waited_for_as_long_as_the_limit_says():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        assert 0.2 < time.monotonic() - started < 2


# Weights & Biases


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is an extra and not installed"
)
def test_wandb_without_a_key_keeps_the_run_in_its_folder(tmp_path: Path):
    notes = drive(WandbLogger(project="bones"), tmp_path, log_weights=True)
    assert len(notes) == 1
    assert "there is no WANDB_API_KEY, so the run is kept in" in notes[0]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
