"""`ossa val`: the numbers of the training again, and what is refused."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from running import FinishedTraining, Ossa

from ossa.cli.console import KEYS

SAME_MACHINE = ("--batch", 8, "--workers", 0, "--device", "cpu")


def data_with(names: list[str], scenes: Path, folder: Path) -> Path:
    """Returns a data.yaml of the same images with other class names."""
    settings = yaml.safe_load((scenes / "data.yaml").read_text())
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**settings, "path": str(scenes), "names": names}))
    return file


@pytest.mark.parametrize("cache", [("--cache", "none"), (), ("--cache", "disk")])
def test_the_numbers_and_detections_are_those_of_the_training_to_the_last_digit(
    ossa: Ossa, training: FinishedTraining, scenes: Path, tmp_path: Path, cache: tuple[str, ...]
) -> None:
    result = ossa(
        *("val", "--data", scenes, "--weights", training.folder / "last.safetensors", "--json"),
        *("--save-predictions", "found.json", *SAME_MACHINE, *cache),
    )
    assert result.exit_code == 0, result.stderr
    assert ("cache of 8 images of split 'val' at 64 px" in result.stderr) == ("none" not in cache)
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


def test_without_data_it_is_that_of_the_training(
    ossa: Ossa, scenes: Path, training: FinishedTraining
) -> None:
    weights = training.folder / "last.safetensors"
    result = ossa("val", "--weights", weights, "--json", *SAME_MACHINE)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["data"] == str(scenes)
    assert f"data: {scenes}, that of the training" in result.stderr


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
    result = ossa("val", "--data", data, "--weights", weights, "--cache", "disk")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cache of" not in result.stderr  # no image was read in vain
    assert f"error: {weights} has 4 classes (disc, triangle, cross, ...), " in result.stderr
    assert "they must be the same, in the same order" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--split test", "Expected a key 'test'"),
        ("--data nowhere", "nowhere"),
        ("--imgsz 333", "found 333: use 320 or 352"),
        ("--conf 2", "evaluate: confidence: input should be less than 1, found 2.0"),
        ("--iou 0", "evaluate: nms_iou: input should be greater than 0, found 0.0"),
        ("--save-predictions no/where.json", "found no/where.json"),
        ("--device 7", "a GPU for --device 7, found"),
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
    assert "half.safetensors, found one that is damaged" in result.stderr
    assert result.stderr.count("\n") == 1


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
    assert "Expected a new or empty folder for --report, found pages/first in use" in again.stderr


def test_a_report_that_cannot_be_written_is_told_before_the_evaluation(
    ossa: Ossa, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = score(ossa, coco_data(tmp_path, images=1), [HIT], "--report", "file/page")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "folder that can be written for --report, found" in result.stderr
    score(ossa, coco_data(tmp_path, images=1), [HIT], "--report", "new/page", "--split", "none")
    assert not (tmp_path / "new").exists()


# In two pictures with a dog each, at 10, 10: found, and looked for elsewhere.
HIT = {"image_id": 1, "category_id": 18, "bbox": [10, 10, 20, 20], "score": 0.9}
MISS = {"image_id": 2, "category_id": 18, "bbox": [50, 10, 10, 10], "score": 0.8}


def coco_data(folder: Path, *, images: int = 2, boxes: bool = True) -> Path:
    """Writes pictures of 64 x 48 px with a dog (category 18) at 10, 10 and returns data.yaml."""
    for number in range(1, images + 1):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((48, 64, 3), np.uint8))
    truth = {"category_id": 18, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 64, "height": 48}
            for n in range(1, images + 1)
        ],
        "annotations": [{**truth, "id": n, "image_id": n} for n in range(1, images + 1) if boxes],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    file = folder / "data.yaml"
    file.write_text("val: {images: ., annotations: instances.json}\n")
    return file


def score(ossa: Ossa, data: Path, entries: Any, *arguments: object) -> Any:
    """Writes the entries beside the data and returns the result of `ossa val` on them."""
    file = data.parent / "results.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return ossa("val", "--data", data, "--predictions", file, *arguments)


def test_predictions_are_scored_without_a_model(ossa: Ossa, tmp_path: Path) -> None:
    result = score(ossa, coco_data(tmp_path), [HIT, MISS], "--json", "--per-class")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    assert list(row)[: len(KEYS)] == list(KEYS)
    # Of two dogs one is found, before the false one: precision 1 up to recall 0.5, that is at 51 of
    # COCO's 101 recalls.
    assert row["ap50"] == pytest.approx(51 / 101)
    assert (row["ar_100"], row["num_detections"], row["num_truths"]) == (0.5, 2, 2)
    assert [entry["num_truths"] for entry in row["per_class"]] == [0, 2]
    assert (row["model"], row["predictions"]) == ("results.json", str(tmp_path / "results.json"))
    assert [row[key] for key in ("imgsz", "params", "ms_per_image")] == [None] * 3


def test_saved_predictions_score_as_the_detector_that_made_them(
    ossa: Ossa, training: FinishedTraining, scenes: Path, tmp_path: Path
) -> None:
    weights = training.folder / "last.safetensors"
    common = ("val", "--data", scenes, "--json", "--per-class", "--voc", "2010")
    save = ("--weights", weights, "--save-predictions", "found.json.gz", *SAME_MACHINE)
    made = json.loads(ossa(*common, *save).stdout)
    result = ossa(*common, "--predictions", "found.json.gz", "--report", "page")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    assert list(row) == list(made)
    of_the_detector = {key for key in row if row[key] != made[key]}
    assert of_the_detector == {
        *("model", "imgsz", "params", "flops", "macs", "ms_per_image", "images_per_second"),
        *("weights", "predictions"),
    }
    assert "found.json.gz, split val, 640 px" in (tmp_path / "page" / "index.html").read_text()


# The false detection comes behind the hit: precision 1 up to recall 0.5, at 6 of 11 recalls.
@pytest.mark.parametrize(("year", "ap"), [("2007", 6 / 11), ("2010", 1 / 2)])
def test_the_ap_of_voc_is_added_on_demand(ossa: Ossa, tmp_path: Path, year: str, ap: float) -> None:
    data = coco_data(tmp_path)
    options = ("--voc", year, "--per-class")
    row = json.loads(score(ossa, data, [HIT, MISS], *options, "--json").stdout)
    assert row[f"voc{year}_ap50"] == pytest.approx(ap)
    assert [one[f"voc{year}_ap50"] for one in row["per_class"]] == [None, pytest.approx(ap)]
    told = score(ossa, data, [HIT, MISS], *options).stdout.splitlines()
    assert [line.split()[-1] for line in told if line.startswith("AP50 of VOC")] == [f"{ap:.3f}"]
    assert f"VOC {year}" in told[-3]
    assert f"{ap:.3f}" in told[-1].split()


def test_json_has_the_twelve_numbers_of_coco(ossa: Ossa, tmp_path: Path) -> None:
    row = json.loads(score(ossa, coco_data(tmp_path), [HIT, MISS], "--json").stdout)
    # The dogs have 400 square pixels: small.
    expected = {"ap": 51 / 101, "ap50": 51 / 101, "ap75": 51 / 101, "ap_small": 51 / 101}
    expected |= {"ar_1": 0.5, "ar_10": 0.5, "ar_100": 0.5, "ar_small": 0.5}
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    nothing = ("ap_medium", "ap_large", "ar_medium", "ar_large")
    assert [row[key] for key in nothing] == [None] * 4


def test_a_detector_that_finds_nothing_scores_nothing(ossa: Ossa, tmp_path: Path) -> None:
    result = score(ossa, coco_data(tmp_path), [], "--json")
    row = json.loads(result.stdout)
    assert (row["ap"], row["ar_100"], row["num_detections"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([HIT, {**HIT, "image_id": 3}], "Expected image ids of the data set"),
        ([{**HIT, "category_id": 1}], "Expected a category_id of the data set (17, 18), "),
        ([{**HIT, "score": math.nan}], "and a score in 0..1, found {"),
        ([{**HIT, "score": 1.5}], "and a score in 0..1, found {"),
        ([{**HIT, "bbox": [30, 30, -20, -20]}], "[x, y, width, height] without negative sizes"),
        ([{**HIT, "bbox": [10, 10, 20]}], "four numbers for bbox"),
        ([{"image_id": 1}], "Expected an object with image_id, category_id, bbox and score"),
        ({"annotations": [HIT]}, "Give the results, not the annotation file."),
        ("", "Write [] where nothing was detected."),
        ("[{", "Expected a COCO results file (a JSON list of detections), found what is"),
    ],
    ids=[
        *("unknown image", "unknown category", "NaN", "score over 1", "upside down", "3 numbers"),
        *("no box", "annotations", "empty file", "cut off"),
    ],
)
def test_predictions_that_cannot_be_are_told_in_a_sentence(
    ossa: Ossa, tmp_path: Path, entries: Any, sentence: str
) -> None:
    result = score(ossa, coco_data(tmp_path), entries)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("error: Expected ")
    assert f"({tmp_path / 'results.json'}" in result.stderr
    assert sentence in result.stderr.splitlines()[-1]


def test_a_damaged_archive_of_predictions_is_told_in_a_sentence(ossa: Ossa, tmp_path: Path) -> None:
    data = coco_data(tmp_path)
    whole = gzip.compress(json.dumps([HIT] * 100).encode())
    for damaged in (whole[:30], whole[:20] + b"\xff" * 9 + whole[29:], b"[]"):
        (tmp_path / "results.json.gz").write_bytes(damaged)
        result = ossa("val", "--data", data, "--predictions", "results.json.gz")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Expected a COCO results file" in result.stderr
        assert "results.json.gz). " in result.stderr


def test_a_split_without_objects_is_refused(ossa: Ossa, tmp_path: Path) -> None:
    data = coco_data(tmp_path, boxes=False)
    result = score(ossa, data, [HIT])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(
        "error: Expected objects in split 'val', other than crowd regions and difficult ones, "
        f"found none in 2 images ({data})."
    )


def test_one_image_has_metrics_but_its_report_no_intervals(ossa: Ossa, tmp_path: Path) -> None:
    result = score(ossa, coco_data(tmp_path, images=1), [HIT], "--json", "--report", "one")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["ap"] == pytest.approx(1)
    html = (tmp_path / "one" / "index.html").read_text()
    assert "intervals none, for they need objects in two images at least" in html
    sizes = json.loads((tmp_path / "one" / "tables" / "size.json").read_text())
    assert [bin_["ap"] for bin_ in sizes if bin_["num_truths"]] == pytest.approx([1])
    assert {bin_["ap_low"] for bin_ in sizes} == {None}


def test_a_detector_or_its_predictions_are_needed_and_not_both(ossa: Ossa, tmp_path: Path) -> None:
    data = coco_data(tmp_path)
    neither = ossa("val", "--data", data)
    assert neither.exit_code == 2
    assert neither.stderr == (
        "error: Expected --weights of a detector or its --predictions, found neither.\n"
    )
    for option, value in (("--weights", "a.pt"), ("--conf-thres", 0.5), ("--max-det", 100)):
        both = score(ossa, data, [HIT], option, value)
        assert both.exit_code == 2
        assert both.stderr.startswith(
            "error: Expected no option of a detector beside --predictions, found --"
        )
        assert option.removesuffix("-thres") in both.stderr


def test_a_results_file_is_scored_and_reported_without_the_images(
    ossa: Ossa, tmp_path: Path
) -> None:
    data = coco_data(tmp_path)
    before = json.loads(score(ossa, data, [HIT, MISS], "--json").stdout)
    for image in tmp_path.rglob("*.png"):
        image.unlink()
    result = score(ossa, data, [HIT, MISS], "--json", "--report", tmp_path / "two")
    assert json.loads(result.stdout) == before
    html = (tmp_path / "two" / "index.html").read_text()
    assert "The image files are not there." in html
    assert "intervals none" not in html
    sizes = json.loads((tmp_path / "two" / "tables" / "size.json").read_text())
    # Either picture is at times drawn twice.
    assert [(bin_["ap_low"], bin_["ap_high"]) for bin_ in sizes if bin_["num_truths"]] == [
        pytest.approx((0, 1))
    ]


def test_class_ids_counted_from_another_number_are_hinted_at(ossa: Ossa, tmp_path: Path) -> None:
    data = coco_data(tmp_path)
    from_zero = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}
    refused = score(ossa, data, [from_zero])
    assert refused.exit_code == 2
    assert (
        "counts the classes from 0, ossa val --predictions FILE --class-ids-from 0"
        in refused.stderr
    )
    given = score(ossa, data, [from_zero], "--class-ids-from", 0, "--json")
    assert json.loads(given.stdout)["ap"] > 0


def test_a_reading_of_class_ids_that_scores_better_is_told(ossa: Ossa, tmp_path: Path) -> None:
    data = coco_data(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text().replace("18", "1"))
    content["categories"][0]["id"] = 2
    (tmp_path / "instances.json").write_text(json.dumps(content))  # dog 1, cat 2
    result = score(ossa, data, [{**HIT, "category_id": 1}])
    assert "--class-ids-from" not in result.stderr
    (tmp_path / "instances.json").write_text(
        json.dumps(content).replace('"category_id": 1', '"category_id": 2')
    )
    result = score(ossa, data, [{**HIT, "category_id": 1}])
    assert "AP50-95 is 0.000, and 0.505 if " in result.stderr
    assert "from 0: in that case give --class-ids-from 0" in " ".join(result.stderr.split())
