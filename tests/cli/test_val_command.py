"""`ossa val`: the numbers of the training again, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest
import yaml
from running import FinishedTraining, Ossa

from ossa.cli.output import KEYS

SAME_MACHINE = ("--batch", 8, "--workers", 0, "--device", "cpu")


def data_with(names: list[str], scenes: Path, folder: Path) -> Path:
    """Returns a data.yaml of the same images with other class names."""
    settings = yaml.safe_load((scenes / "data.yaml").read_text())
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**settings, "path": str(scenes), "names": names}))
    return file


def test_the_numbers_and_detections_are_those_of_the_training_to_the_last_digit(
    ossa: Ossa, training: FinishedTraining, scenes: Path, tmp_path: Path
) -> None:
    result = ossa(
        *("val", "--data", scenes, "--weights", training.folder / "last.safetensors", "--json"),
        *("--save-predictions", "found.json", *SAME_MACHINE),
    )
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    last = json.loads((training.folder / "record.json").read_text())["metrics"]["last"]
    assert {key: row[key] for key in last if key != "epoch"} == {
        key: value for key, value in last.items() if key != "epoch"
    }
    found = json.loads((tmp_path / "found.json").read_text())
    recorded = gzip.decompress((training.folder / "val-detections.json.gz").read_bytes())
    assert len(found) == last["num_detections"] > 0
    assert found == json.loads(recorded)


def test_json_is_one_object_with_the_common_keys(
    ossa: Ossa, training: FinishedTraining, scenes: Path
) -> None:
    weights = training.folder / "best.safetensors"
    result = ossa(
        "val", "--data", scenes, "--weights", weights, "--json", "--per-class", *SAME_MACHINE
    )
    row = json.loads(result.stdout)
    assert list(row)[: len(KEYS)] == list(KEYS)
    assert (row["model"], row["imgsz"], row["split"]) == ("yolov5n", 64, "val")
    assert row["train_seconds"] is None
    assert row["ms_per_image"] == pytest.approx(1000 / row["images_per_second"])
    assert row["params"] == training.row()["params"]
    assert [entry["name"] for entry in row["per_class"]] == ["disc", "triangle", "cross", "ring"]


def test_the_table_has_the_metrics_and_on_demand_every_class(
    ossa: Ossa, training: FinishedTraining, scenes: Path
) -> None:
    result = ossa(
        *("val", "--data", scenes, "--weights", training.folder / "last.safetensors"),
        *("--per-class", "--imgsz", 96, "--max-det", 5, *SAME_MACHINE),
    )
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["yolov5n"]
    assert lines[1].split() == ["image", "side", "96", "px"]
    assert any(line.startswith("AP50-95 ") for line in lines)
    assert [line.split()[0] for line in lines[-5:]] == [
        *("class", "disc", "triangle", "cross", "ring")
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["disc", "triangle", "cross", "ring", "star"],
        ["disc", "triangle", "plus", "ring"],
        ["disc", "cross", "triangle", "ring"],
    ],
    ids=["one more", "another name", "another order"],
)
def test_other_classes_than_the_checkpoint_knows_are_refused(
    ossa: Ossa, training: FinishedTraining, scenes: Path, tmp_path: Path, names: list[str]
) -> None:
    data = data_with(names, scenes, tmp_path)
    weights = training.folder / "last.safetensors"
    result = ossa("val", "--data", data, "--weights", weights)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {weights} knows 4 classes (disc, triangle, cross, ...), " in result.stderr
    assert "they must be the same, in the same order" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--split test", "Expected a key 'test'"),
        ("--imgsz 333", "found 333: use 320 or 352"),
        ("--conf 2", "evaluate.confidence: input should be less than 1, found 2.0"),
        ("--iou 0", "evaluate.nms_iou: input should be greater than 0, found 0.0"),
        ("--save-predictions no/where.json", "found no/where.json"),
        ("--device 7", "--device 7: this machine has"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    ossa: Ossa, training: FinishedTraining, scenes: Path, arguments: str, sentence: str
) -> None:
    weights = training.folder / "last.safetensors"
    result = ossa("val", "--data", scenes, "--weights", weights, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr


def test_a_truncated_checkpoint_is_refused(
    ossa: Ossa, training: FinishedTraining, scenes: Path, tmp_path: Path
) -> None:
    whole = (training.folder / "last.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    result = ossa("val", "--data", scenes, "--weights", "half.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: half.safetensors is damaged")
    assert result.stderr.count("\n") == 1


def test_missing_files_are_named(ossa: Ossa, training: FinishedTraining) -> None:
    weights = training.folder / "last.safetensors"
    assert "weights file at none.pt" in ossa("val", "--data", "d", "--weights", "none.pt").stderr
    result = ossa("val", "--data", "nowhere", "--weights", weights)
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_a_report_is_a_page_with_figures_and_tables(
    training: FinishedTraining, scenes: Path, ossa: Ossa, tmp_path: Path
) -> None:
    weights = training.folder / "best.safetensors"
    common = ("val", "--weights", weights, "--data", scenes, "--workers", 0, "--device", "cpu")
    result = ossa(*common, "--report", "pages/first", "--json")
    assert result.exit_code == 0, result.stderr
    assert "report: pages/first/index.html" in result.stderr
    html = (tmp_path / "pages" / "first" / "index.html").read_text()
    assert "<h1>yolov5n" in html
    rows = json.loads((tmp_path / "pages" / "first" / "tables" / "metrics.json").read_text())
    assert rows[0]["ap"] == pytest.approx(json.loads(result.stdout)["ap"])
    again = ossa(*common, "--report", "pages/first")
    assert again.exit_code == 2
    assert "expected a new or empty folder for --report, found pages/first in use" in again.stderr
