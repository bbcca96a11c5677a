"""`ossa predict` from the outside: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest
from known_detector import shape_of, write_png
from typer.testing import CliRunner, Result

from ossa.cli.main import app
from ossa.data.cache_files import cache_folder
from ossa.export.graph import is_installed
from ossa.predict.predictor import load
from ossa.types import Detections


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png"):
        write_png(tmp_path / "pics" / name, (64, 48))
    return tmp_path / "pics"


@pytest.fixture
def damaged(pictures: Path) -> Path:
    """A picture that is cut short, beside two good ones."""
    file = pictures / "c.png"
    file.write_bytes((pictures / "b.png").read_bytes()[:60])
    return file


# An untrained detector is sure of nothing.
LOW = ("--conf", 0.0001, "--max-det", 3)


def written(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in files)


def test_pictures_are_drawn_and_the_counts_and_the_place_are_told(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    result = predict(pictures, "--weights", weights, "--output", tmp_path / "out", *LOW)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 pictures: ")
    assert f"results in {tmp_path / 'out'}" in result.stderr
    assert written(tmp_path / "out") == ["a.jpg", "b.png"]
    assert shape_of(tmp_path / "out" / "b.png") == (48, 64, 3)


@pytest.mark.skipif(not is_installed("openvino"), reason="needs the extra openvino")
def test_the_fastest_runtime_runs_it_and_finds_what_pytorch_finds(
    pictures: Path, weights: Path
) -> None:
    common = (pictures / "b.png", "--weights", weights, "--no-pictures", "--json", *LOW)
    (fast,) = json.loads(predict(*common).stdout)
    (plain,) = json.loads(predict(*common, "--runtime", "torch").stdout)
    assert len(plain["detections"]) == 3
    for one, other in zip(fast["detections"], plain["detections"], strict=True):
        assert one["box_xyxy"] == pytest.approx(other["box_xyxy"], abs=0.1)
        assert one["score"] == pytest.approx(other["score"], abs=0.001)
    kept = {file.parent.name for file in (cache_folder() / "converted").rglob("model.xml")}
    assert any("-64-openvino-" in name for name in kept)


@pytest.mark.skipif(not is_installed("openvino"), reason="needs the extra openvino")
def test_a_conversion_is_told_before_it_begins_and_only_once(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    arguments = (pictures / "b.png", "--weights", weights, "--no-pictures", *LOW)
    first, second = (predict(*arguments) for _ in range(2))
    told = f"converting to OpenVINO (once, kept in {tmp_path / 'cache' / 'converted'})"
    assert first.stderr.startswith(told)
    assert "converting" not in second.stderr
    assert first.stdout == second.stdout


def test_json_is_all_that_stdout_gets_and_says_what_the_python_api_says(
    pictures: Path, weights: Path, damaged: Path
) -> None:
    result = predict(pictures, "--weights", weights, "--no-pictures", "--json", *LOW)
    assert result.exit_code == 0, result.output
    objects = json.loads(result.stdout)
    assert [one["file"] for one in objects] == [str(pictures / "a.jpg"), str(pictures / "b.png")]
    assert objects[1]["width"] == 64
    assert objects[1]["height"] == 48
    found = load(weights).predict(pictures / "b.png", confidence=0.0001, max_detections=3)
    assert isinstance(found, Detections)
    assert len(found) == 3
    boxes = [one["box_xyxy"] for one in objects[1]["detections"]]
    assert boxes == found.boxes_xyxy.tolist()


def test_without_anything_to_write_no_folder_is_made(
    pictures: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = predict(pictures, "--weights", weights, "--no-pictures")
    assert result.exit_code == 0
    assert "results in" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_label_files_and_coco_results_are_written_on_demand(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = predict(
        pictures, "--weights", weights, "--output", out, "--no-pictures", "--save-json", *LOW,
        "--save-conf",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert written(out) == ["labels/a.txt", "labels/b.txt", "predictions.json"]
    lines = (out / "labels" / "b.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [6, 6, 6]
    assert len(json.loads((out / "predictions.json").read_text())) == 6


def test_a_damaged_picture_costs_one_sentence(pictures: Path, weights: Path, damaged: Path) -> None:
    result = predict(pictures, "--weights", weights, "--no-pictures")
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if str(damaged) in line]
    assert len(told) == 1
    assert told[0].startswith("Expected an image, found ")
    assert result.stdout.startswith("2 pictures (1 file unreadable): ")


def test_no_readable_picture_leaves_no_folder(weights: Path, damaged: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    assert predict(damaged, "--weights", weights, "--output", output).exit_code == 1
    assert not output.parent.exists()


def test_a_source_that_is_not_there_is_bad_input(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "present").mkdir()
    result = predict(tmp_path / "resent", "--weights", weights)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: The file or folder does not exist ({tmp_path / 'resent'}). Did you mean present?\n"
    )


def test_a_wrong_setting_is_refused_before_a_folder_is_made(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    for wrong in (("--conf", 1), ("--classes", "cta"), ("--imgsz", 100)):
        result = predict(pictures, "--weights", weights, "--output", tmp_path / "out", *wrong)
        assert result.exit_code == 2, wrong
    assert not (tmp_path / "out").exists()


def test_the_confidence_that_was_not_chosen_is_told(pictures: Path, weights: Path) -> None:
    for chosen, told in (((), True), (("--conf", 0.25), False)):
        result = predict(pictures, "--weights", weights, "--no-pictures", *chosen)
        assert result.exit_code == 0, result.output
        assert ("detections from a score of 0.25; --conf sets another" in result.stderr) is told


@pytest.mark.parametrize("classes", [("cat,fire truck",), ("cat", "fire truck"), ("0, 2",)])
def test_classes_are_separated_by_commas_or_given_one_by_one(
    pictures: Path, weights: Path, classes: tuple[str, ...]
) -> None:
    options = [part for text in classes for part in ("--classes", text)]
    result = predict(
        pictures, "--weights", weights, "--no-pictures", "--json", "--conf", 1e-5, *options
    )
    found = [one["label"] for picture in json.loads(result.stdout) for one in picture["detections"]]
    assert set(found) == {0, 2}


def write_truth(folder: Path, names: str = "[cat, dog, fire truck]") -> Path:
    (folder / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text(f"val: .\nnames: {names}\n")
    return folder


def test_the_ground_truth_is_shown_below_the_detections(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    stranger = write_png(tmp_path / "more" / "d.png", (64, 48))
    out = tmp_path / "out"
    truth = write_truth(pictures)
    for source in (pictures, stranger):
        result = predict(source, "--weights", weights, "--output", out, "--show-truth", truth, *LOW)
        assert result.exit_code == 0, result.output
    # Under titles of 24 rows each, with three gaps of 4.
    assert shape_of(out / "a.jpg") == (2 * 48 + 2 * 24 + 3 * 4, 64 + 2 * 4, 3)
    assert shape_of(tmp_path / "out-2" / "d.png") == (48, 64, 3)
    assert "1 of 1 pictures are in no split of" in result.stderr


def test_coco_results_are_refused_where_the_classes_are_not_the_data_sets(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    truth = write_truth(pictures, names="[cat, dog, van]")
    arguments = (pictures, "--weights", weights, "--output", tmp_path / "out")
    result = predict(*arguments, "--show-truth", truth, "--save-json")
    assert result.exit_code == 2
    assert "Expected the 3 classes of the detector for --save-json, found 3 others" in result.stderr
    assert not (tmp_path / "out").exists()
