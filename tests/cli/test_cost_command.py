"""`ossa cost`."""

import csv
import io
import json
from typing import Any

import pytest
from running import Ossa
from typer.testing import CliRunner

from ossa.cli.main import app


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """A preset, and the same backbone behind a larger neck, at 64 px."""
    arguments = ("cost", "yolov5n", "cspdarknet_n", "--neck", "m", "--imgsz", "64", "--json")
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_json_has_the_deployed_form_beside_the_training_form(rows: list[dict[str, Any]]) -> None:
    preset, larger = rows
    assert (preset["model"], preset["imgsz"]) == ("yolov5n", 64)
    # A preset keeps its own neck.
    assert (preset["params"], preset["params_deployed"]) == (1_872_157, 1_867_405)
    assert preset["params_neck"] < larger["params_neck"]
    assert 0 < preset["difference_relative"] < 1e-3
    assert {"operation": "silu", "calls": 57, "elements": 118_272} in preset["uncounted"]


def test_the_parts_add_up_to_the_whole(rows: list[dict[str, Any]]) -> None:
    parts = ("backbone", "lateral", "neck", "head")
    for row in rows:
        for form in ("", "_deployed"):
            for figure in ("params", "flops", "macs", "activations"):
                assert row[figure + form] == sum(row[f"{figure}_{part}{form}"] for part in parts)
                assert row[f"{figure}_backbone{form}"] > 0
            assert row[f"flops{form}"] == 2 * row[f"macs{form}"]


def test_under_equal_conditions_there_is_a_lateral_at_every_level(ossa: Ossa) -> None:
    arguments = ("cost", "cspdarknet_n", "--neck", "n", "--imgsz", 64, "--no-compare", "--json")
    (own,), (equal,) = (
        json.loads(ossa(*arguments, *more).stdout) for more in ((), ("--equal-conditions",))
    )
    assert own["params_lateral"] == 0 < equal["params_lateral"]
    assert equal["params_backbone"] < own["params_backbone"]  # without SPPF


def test_the_table_has_both_forms_and_what_is_not_counted(ossa: Ossa) -> None:
    lines = ossa("cost", "yolov5n", "--imgsz", 640, "--no-compare").stdout.splitlines()
    assert lines[0].split() == ["model", "total", "backbone", "lateral", "neck", "head"]
    assert lines[1].split()[:4] == ["yolov5n", "parameters", "1.87", "M"]
    assert lines[2].split()[:3] == ["FLOPs", "4.47", "G"]
    assert lines[3].split()[:3] == ["MACs", "2.23", "G"]
    assert lines[5].split()[:4] == ["peak", "memory", "30.1", "MB"]
    assert lines[7].split()[:4] == ["FLOPs,", "deployed", "4.47", "G"]
    norms = next(line.split() for line in lines if "batch_norm" in line)
    assert norms == ["yolov5n", "native_batch_norm", "57", "11.8", "M", "–", "–"]
    assert lines[-1] == "yolov5n: the outputs of the two forms were not compared"


def test_csv_has_one_line_per_model_and_a_class_less_saves_one_output_per_anchor(
    ossa: Ossa,
) -> None:
    arguments = ("yolov5n", "--classes", 79, "--imgsz", 64, "--csv", "--no-compare")
    (row,) = csv.DictReader(io.StringIO(ossa("cost", *arguments).stdout))
    # 3 anchors on maps of 64, 128 and 256 channels, with a bias each.
    assert int(row["params"]) == 1_872_157 - 3 * (64 + 128 + 256 + 3)
    assert "silu 57 118272" in row["uncounted"].split("; ")


def test_a_step_of_the_road_map_is_costed_as_a_classifier(ossa: Ossa) -> None:
    arguments = ("roadmap_patchify", "--classifier", "1000", "--imgsz", "224", "--json")
    (row,) = json.loads(ossa("cost", *arguments, "--no-compare").stdout)
    assert (row["params"], row["macs"]) == (28_622_184, 4_417_536_000)
    assert "params_neck" not in row


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("yolov5q",), "error: there is no model named 'yolov5q'. Did you mean yolov5"),
        (("resnet18", "--imgsz", "333"), "use 320 or 352"),
        (("resnet18", "--neck", "q"), "'q' is not one of 'n', 's', 'm', 'l', 'x'"),
        (("resnet18", "--csv", "--json"), "Expected --csv or --json, found both"),
        (("resnet18", "--classifier", "10", "--neck", "s"), "beside --classifier"),
        (("yolov5n", "--classifier", "10"), "timm has no classifier named 'yolov5n'"),
        ((), "Missing argument 'MODEL'"),
    ],
)
def test_bad_input_is_refused_with_advice(
    ossa: Ossa, arguments: tuple[str, ...], sentence: str
) -> None:
    result = ossa("cost", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.replace("│", " ").split())
