"""`ossa predict` with videos, cameras and streams, from the outside."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from file_server import served
from known_detector import write_png
from typer.testing import CliRunner, Result
from videos import break_frames, rate_of, read_numbers, write_video

import ossa.cli.options
import ossa.predict.predictor
from ossa.cli.main import app
from ossa.cli.predict import Outputs
from ossa.errors import ConfigError, RunFailed
from ossa.predict.results import Results
from ossa.predict.sources import Frame
from ossa.predict.writer import ResultFolder


@pytest.fixture
def predict(weights: Path, tmp_path: Path) -> "Predict":
    return Predict(weights, tmp_path / "out")


class Predict:
    """Runs the command with a detector that is sure of nothing, at most one box a picture."""

    def __init__(self, weights: Path, out: Path) -> None:
        self.weights = weights
        self.out = out

    def __call__(self, *arguments: object) -> Result:
        fixed = ("--weights", self.weights, "--output", self.out, "--device", "cpu")
        low = ("--conf", 1e-5, "--max-det", 1)
        return CliRunner().invoke(app, ["predict", *map(str, (*arguments, *fixed, *low))])


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[str]:
    """The address of a stream of 9 frames."""
    with served() as server:
        server.files["/live"] = write_video(tmp_path / "live.avi", 9).read_bytes()
        yield f"{server.address}/live"


def ctrl_c_behind(num_shots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has Ctrl-C come while the results of a picture are written."""
    frames = []
    add = Outputs.add

    def add_and_stop(*arguments: object) -> bool:
        frames.append(arguments)
        if len(frames) == num_shots:
            signal.raise_signal(signal.SIGINT)
        return add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Outputs, "add", add_and_stop)


def test_a_video_becomes_one_that_a_browser_plays(predict: Predict, tmp_path: Path) -> None:
    result = predict(break_frames(write_video(tmp_path / "a.avi", 10, rate=25), [4]))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("9 frames: ")
    *_, fault, results = result.stderr.splitlines()
    assert "a.avi: 1 frame cannot be decoded, the first of them number 4" in fault
    assert results == f"results in {predict.out}"
    assert rate_of(predict.out / "a.webm") == 25
    assert len(read_numbers(predict.out / "a.webm")) == 10


def test_json_lines_say_each_frame_as_soon_as_it_is_known(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = []
    add = Outputs.add

    def add_and_look(*arguments: object) -> bool:
        goes_on = add(*arguments)  # type: ignore[arg-type]
        sys.stdout.flush()
        printed.append(sys.stdout.buffer.tell())  # type: ignore[attr-defined]
        return goes_on

    monkeypatch.setattr(Outputs, "add", add_and_look)
    result = predict(write_video(tmp_path / "a.avi", 3), "--jsonl", "--no-pictures")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2]
    assert list(json.loads(lines[0])) == [
        *("file", "frame", "seconds", "width", "height", "detections"),
    ]
    ends = np.cumsum([len(line) + 1 for line in lines])
    assert printed == ends.tolist()


def test_json_is_one_document_of_pictures_and_frames(predict: Predict, tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.avi", 2)
    write_png(tmp_path / "in" / "b.png")
    result = predict(tmp_path / "in", "--json", "--nosave")
    assert result.exit_code == 0, result.output
    objects = json.loads(result.stdout)
    assert [(Path(one["file"]).name, one.get("frame")) for one in objects] == [
        *(("a.avi", 0), ("a.avi", 1), ("b.png", None)),
    ]
    assert not predict.out.exists()


def test_yolov5_s_names_of_options_are_known(predict: Predict, tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 9)
    options = ("--nosave", "--save-crop", "--save-csv", "--save-txt", "--vid-stride", 4)
    result = predict("--source", file, *options, "--batch-size", 2, "--conf-thres", 1e-5)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("3 frames: ")
    assert sorted(path.name for path in (predict.out / "labels").iterdir()) == [
        *("a_000000.txt", "a_000004.txt", "a_000008.txt"),
    ]
    assert len((predict.out / "predictions.csv").read_text().splitlines()) == 1 + 3
    assert len(list((predict.out / "crops").rglob("*.jpg"))) == 3
    assert not (predict.out / "a.webm").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Expected one picture, video"),
        (("a.png", "--source", "b.png"), "found two"),
        (("a.png", "--json", "--jsonl"), "Expected --json or --jsonl, found both"),
        (("a.png", "--show"), "found neither DISPLAY nor WAYLAND_DISPLAY"),
        (("a.png", "--batch", 0), "--batch"),
    ],
)
def test_wrong_arguments_are_bad_input(
    predict: Predict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "a.png")
    result = predict(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not predict.out.exists()


def test_ctrl_c_is_how_a_stream_ends(
    predict: Predict, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctrl_c_behind(4, monkeypatch)
    result = predict(stream, "--save-json")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4 frames: ")
    assert len(read_numbers(predict.out / "stream.webm")) == 4
    assert len(json.loads((predict.out / "predictions.json").read_text())) == 4


def test_ctrl_c_in_a_file_leaves_what_was_done_and_says_so(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctrl_c_behind(4, monkeypatch)
    result = predict(write_video(tmp_path / "a.avi", 30))
    assert result.exit_code == 1
    assert "error: stopped before it was done, after 4 frames" in result.stderr
    assert len(read_numbers(predict.out / "a.webm")) == 4


def test_where_the_disk_is_full_json_is_still_a_document(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json = ResultFolder.add

    def add_or_fail(folder: ResultFolder, frame: Frame, found: Results) -> object:
        if frame.name == "a_000002":
            raise RunFailed("could not write it: no space left")
        return write_json(folder, frame, found)

    monkeypatch.setattr(ResultFolder, "add", add_or_fail)
    result = predict(write_video(tmp_path / "a.avi", 5), "--json", "--save-txt")
    assert result.exit_code == 1
    assert "error: could not write it: no space left" in result.stderr
    assert [one["frame"] for one in json.loads(result.stdout)] == [0, 1, 2]


def test_an_exported_file_runs_on_the_processor_where_there_is_a_gpu_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def load(weights: Path, device: str, imgsz: int | None, **_: object) -> None:
        devices.append(device)
        raise ConfigError("seen enough")

    monkeypatch.setattr(ossa.predict.predictor, "load", load)
    monkeypatch.setattr(ossa.cli.options, "choose_device", lambda wanted: wanted or "cuda:0")
    write_png(tmp_path / "a.png")
    for weights in ("a.onnx", "a.safetensors"):
        for device in ((), ("--device", "cuda:1")):
            arguments = (tmp_path / "a.png", "--weights", weights, *device)
            CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert devices == ["cpu", "cuda:1", "cuda:0", "cuda:1"]


def test_closing_the_window_ends_with_success(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = iter((-1, -1, ord("q")))
    monkeypatch.setenv("DISPLAY", ":0")
    for name, answer in (
        ("currentUIFramework", lambda: "QT5"),
        ("imshow", lambda *_: None),
        ("waitKey", lambda _: next(keys)),
        ("getWindowProperty", lambda *_: 1.0),
        ("destroyAllWindows", lambda: None),
    ):
        monkeypatch.setattr(cv2, name, answer)
    result = predict(write_video(tmp_path / "a.avi", 30), "--view-img")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("3 frames: ")


@pytest.mark.parametrize("source", ["97", "empty.avi"])
def test_a_source_without_any_picture_is_a_failure(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "empty.avi", 0)
    result = predict(source)
    assert result.exit_code == 1
    *_, told, error = result.stderr.splitlines()
    assert told.startswith("Expected a ")
    assert error == f"error: nothing in {source} could be read"
    assert result.stdout == ""
