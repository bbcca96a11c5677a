"""`ossa cost`."""

import csv
import io
import json

import pytest
from running import Ossa


def test_the_figures_of_yolov5_come_out_to_the_digit(ossa: Ossa) -> None:
    result = ossa("cost", *(f"yolov5{scale}" for scale in "nsmlx"), "--json", "--no-compare")
    assert result.exit_code == 0
    assert result.stderr == ""
    rows = json.loads(result.stdout)
    assert [(row["model"], row["params"], round(row["flops"] / 1e6)) for row in rows] == [
        ("yolov5n", 1_872_157, 4_468),
        ("yolov5s", 7_235_389, 16_434),
        ("yolov5m", 21_190_557, 48_872),
        ("yolov5l", 46_563_709, 108_994),
        ("yolov5x", 86_749_405, 205_448),
    ]


def test_the_parts_add_up_to_the_whole(ossa: Ossa) -> None:
    (row,) = json.loads(ossa("cost", "resnet18", "--imgsz", "320", "--json", "--no-compare").stdout)
    parts = ("backbone", "lateral", "neck", "head")
    for form in ("", "_deployed"):
        for figure in ("params", "flops", "macs", "activations"):
            assert row[figure + form] == sum(row[f"{figure}_{part}{form}"] for part in parts)
            assert row[f"{figure}_backbone{form}"] > 0
    assert row["flops"] == 2 * row["macs"]
    assert row["imgsz"] == 320


def test_the_neck_is_that_of_the_option_behind_a_backbone_and_its_own_in_a_preset(
    ossa: Ossa,
) -> None:
    arguments = ("cost", "yolov5n", "cspdarknet_n", "--json", "--imgsz", "64", "--no-compare")
    small, large = (json.loads(ossa(*arguments, "--neck", scale).stdout) for scale in "nm")
    assert small[0] == large[0]
    assert small[1]["params_neck"] < large[1]["params_neck"]
    # Behind its own neck the backbone of a preset is the preset.
    assert small[1]["params"] == small[0]["params"]


def test_one_class_less_saves_one_output_an_anchor(ossa: Ossa) -> None:
    ten, nine = (
        json.loads(ossa("cost", "yolov5n", "--classes", k, "--json", "--no-compare").stdout)[0][
            "params"
        ]
        for k in (10, 9)
    )
    # 3 anchors on maps of 64, 128 and 256 channels, with a bias each.
    assert ten - nine == 3 * (64 + 128 + 256 + 3)


def test_the_table_has_both_forms_what_is_not_counted_and_the_difference(ossa: Ossa) -> None:
    lines = ossa("cost", "yolov5n", "--imgsz", "640").stdout.splitlines()
    assert lines[0].split() == ["model", "total", "backbone", "lateral", "neck", "head"]
    assert lines[1].split()[:4] == ["yolov5n", "parameters", "1.87", "M"]
    assert lines[2].split()[:3] == ["FLOPs", "4.47", "G"]
    assert lines[3].split()[:3] == ["MACs", "2.23", "G"]
    assert lines[5].split()[:4] == ["peak", "memory", "30.1", "MB"]
    assert lines[7].split()[:4] == ["FLOPs,", "deployed", "4.47", "G"]
    norms = next(line.split() for line in lines if "batch_norm" in line)
    assert norms == ["yolov5n", "native_batch_norm", "57", "11.8", "M", "–", "–"]
    assert lines[-1].startswith("yolov5n: the outputs of the two forms differ by ")


def test_json_has_the_deployed_form_beside_the_training_form(ossa: Ossa) -> None:
    (row,) = json.loads(ossa("cost", "yolov5n", "--imgsz", "64", "--json").stdout)
    assert (row["params"], row["params_deployed"]) == (1_872_157, 1_867_405)
    assert row["flops_deployed"] == 2 * row["macs_deployed"]
    assert 0 < row["difference_relative"] < 1e-3
    assert {"operation": "silu", "calls": 57, "elements": 118_272} in row["uncounted"]


def test_csv_has_a_line_a_model(ossa: Ossa) -> None:
    arguments = ("yolov5n", "cspdarknet_s", "--imgsz", "64", "--csv", "--no-compare")
    rows = list(csv.DictReader(io.StringIO(ossa("cost", *arguments).stdout)))
    assert [row["model"] for row in rows] == ["yolov5n", "cspdarknet_s"]
    assert rows[0]["params_deployed"] == "1867405"
    assert "silu 57 118272" in rows[0]["uncounted"].split("; ")


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
        (("resnet18", "--csv", "--json"), "expected --csv or --json, found both"),
        (("resnet18", "--classifier", "10", "--neck", "s"), "leave --classes and --neck"),
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
