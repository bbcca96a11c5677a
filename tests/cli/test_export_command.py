"""`ossa export` from the outside: what it writes, says and refuses."""

import errno
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import Ossa
from typer.testing import CliRunner, Result

from ossa.cli.main import app
from ossa.config import ModelConfig
from ossa.data.reading import read_data
from ossa.export.graph import METADATA_KEY
from ossa.models.checkpoint import read_checkpoint, save_checkpoint
from ossa.models.detector import build_detector
from ossa.predict.predictor import load

PREDICT = ("predict", "--no-pictures", "--threads", 1)


@pytest.fixture(scope="module")
def weights(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained detector at 64 px that knows on which data it was trained."""
    names = read_data(scenes).index.names
    model = ModelConfig(name="test_resnet", neck="n")
    torch.manual_seed(0)
    detector = build_detector(model, num_classes=len(names), imgsz=64)
    with torch.no_grad():
        for conv in detector.head.predict:  # type: ignore[union-attr]
            conv.bias.zero_()  # type: ignore[union-attr]
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    details = {"run": {"data": str(scenes)}, "licence": "Apache-2.0"}
    save_checkpoint(file, detector, model=model, names=names, imgsz=64, details=details)
    return file


@pytest.fixture(scope="module")
def rectangles(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a data set of 2 images of 64 x 40 pixels with the classes of the weights."""
    folder = tmp_path_factory.mktemp("rectangles")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 64, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels)
        (folder / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    names = ", ".join(read_checkpoint(weights).names)
    (folder / "data.yaml").write_text(f"val: images\nnames: [{names}]\n")
    return folder


@pytest.fixture(scope="module")
def exported(weights: Path, rectangles: Path) -> tuple[Path, Result]:
    """A good export for OpenVINO, and what the command printed."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file = rectangles / "exported" / "small.xml"
    file.parent.mkdir()
    arguments = ("export", "--weights", weights, "--data", rectangles, "--format", "openvino")
    return file, CliRunner().invoke(app, [*map(str, arguments), "--output", str(file)])


def test_a_file_is_compared_and_is_all_that_predict_needs(
    ossa: Ossa, exported: tuple[Path, Result], rectangles: Path
) -> None:
    file, result = exported
    assert result.exit_code == 0, result.output
    told = dict(line.split("  ", 1) for line in result.stdout.splitlines()[:9])
    assert told["verdict"].strip() == "good"
    assert told["compared on"].strip().startswith("2 images, ")
    assert float(told["largest score difference"]) < 1e-4
    assert told["AP50-95 before"].strip() == told["AP50-95 after"].strip()
    # A file of fixed size sees squares, its checkpoint rectangles.
    assert "On the 2 images that are no squares" in result.stdout
    assert {one.name for one in file.parent.iterdir()} == {"small.xml", "small.bin"}
    assert load(file).licence == "Apache-2.0"
    result = ossa(*PREDICT, rectangles / "images", "--weights", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 pictures: ")
    assert "small.xml sees squares of 64 px, its checkpoint" in " ".join(result.stderr.split())


def test_a_file_is_scored_as_its_checkpoint_is(
    ossa: Ossa, exported: tuple[Path, Result], weights: Path, scenes: Path
) -> None:
    file, _ = exported
    shared = ("val", "--data", scenes, "--workers", 0, "--device", "cpu", "--json")
    ours, theirs = (json.loads(ossa(*shared, "--weights", one).stdout) for one in (file, weights))
    assert ours["model"] == "small.xml, openvino fp32"
    assert ours["num_detections"] == theirs["num_detections"]
    assert ours["ap50"] == pytest.approx(theirs["ap50"], abs=1e-3)
    result = ossa(*shared, "--weights", file, "--imgsz", 96)
    assert result.exit_code == 2
    assert "64 px, the only size of this file, found 96" in result.stderr


def test_a_file_is_timed_as_it_is(ossa: Ossa, exported: tuple[Path, Result]) -> None:
    file, _ = exported
    arguments = ("bench", "--weights", file, "--warmup", 0, "--runs", 2, "--json")
    (row,) = json.loads(ossa(*arguments).stdout)
    assert (row["model"], row["imgsz"]) == (str(file), 64)
    assert (row["runtime"], row["precision"], row["device"]) == ("openvino", "fp32", "cpu")
    assert 0 < row["mean_ms_network"] < row["mean_ms"]
    for also, said in ((("--imgsz", 96), "64 px, the only size"), (("yolov5n",), "as it is")):
        result = ossa(*arguments, *also)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())


def test_a_file_that_is_not_good_says_so_and_one_with_its_own_nms_is_not_scored(
    ossa: Ossa, weights: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.export.export.SCORE_TOLERANCE", -1.0)
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file = tmp_path / "small.xml"
    file.write_text("what was good before")
    arguments = ("--weights", weights, "--format", "openvino", "--images", 2, "--output", file)
    result = ossa("export", *arguments, "--nms")
    assert result.exit_code == 1
    assert "not good: a score differs by" in result.stdout
    words = " ".join(result.stdout.split())
    assert "lets through: from a confidence of 0.25 on, by an IoU of 0.45 and at most 300" in words
    assert "ossa val counts from 0.001 on, and its AP is therefore higher." in words
    assert file.read_text() == "what was good before"
    not_good = tmp_path / "small-not-good.xml"
    result = ossa("val", "--data", scenes, "--weights", not_good, "--device", "cpu")
    assert result.exit_code == 2
    assert "from a confidence of 0.001 on, found NMS in the graph from 0.25 on" in result.stderr
    result = ossa("bench", "--weights", not_good, "--warmup", 0, "--runs", 1, "--json")
    assert json.loads(result.stdout)[0]["mean_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--format", "onnx", "--precision", "bf16"),
            "fp32, fp16, int8 with --format onnx, found bf16. ONNX Runtime has no",
        ),
        (("--format", "torchscript"), "torchscript"),
        (("--output", "a.xml"), "Expected a file named *.onnx for --output, found a.xml"),
        (
            ("--output", "absent/a.onnx"),
            "a folder that can be written for --output, found no such file (absent)",
        ),
        (("--output", "folder.onnx"), "Expected a file for --output, found the folder folder.onnx"),
        (("--conf", 0.3), "Expected --nms beside --conf"),
        (("--imgsz", 0), "a multiple of the largest stride, 32, found 0: use 32 or 64"),
        (("--imgsz", 100), "a multiple of the largest stride, 32, found 100: use 96 or 128"),
        (("--split", "tset"), "tset"),
        (("--formt", "onnx"), "--format"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    ossa: Ossa, weights: Path, arguments: tuple[object, ...], said: str
) -> None:
    Path("folder.onnx").mkdir()
    result = ossa("export", "--weights", weights, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")
    assert "exporting" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["export", "val"])
def test_for_the_folder_of_a_run_its_best_weights_are_named(
    ossa: Ossa, weights: Path, command: str
) -> None:
    result = ossa(command, "--weights", weights.parent)
    assert result.exit_code == 2
    assert "Expected a weights file, found the folder of a run" in result.stderr
    assert f"Name the file in it: {weights}." in result.stderr


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    ossa: Ossa, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # root may write anywhere

    monkeypatch.setattr("ossa.export.export.tempfile.TemporaryDirectory", denied)
    result = ossa("export", "--weights", weights, "--output", tmp_path / "a.onnx")
    assert result.exit_code == 2
    assert f"can be written for --output, found permission denied ({tmp_path})" in result.stderr
    assert "exporting" not in result.stderr


def test_an_exported_file_is_no_checkpoint(ossa: Ossa, tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.touch()
    result = ossa("export", "--weights", file, "--data", "coco128")
    assert result.exit_code == 2
    assert f"found the exported file {file}: give the checkpoint" in result.stderr


def test_without_real_images_nothing_is_exported(ossa: Ossa, weights: Path, tmp_path: Path) -> None:
    read = load(weights)
    file = tmp_path / "unknown.safetensors"
    model = ModelConfig(name="test_resnet", neck="n")
    save_checkpoint(file, read.detector, model=model, names=read.names, imgsz=64, details={})
    result = ossa("export", "--weights", file)
    assert result.exit_code == 2
    assert "found none in the weights" in result.stderr


def test_the_key_of_the_metadata_is_the_documented_one() -> None:
    assert METADATA_KEY == "ossa"
