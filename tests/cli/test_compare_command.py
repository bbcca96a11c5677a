"""`ossa compare`: runs, seeds and results files, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from running import FinishedTraining, Ossa

from ossa.config import build_config
from ossa.data.annotations import DatasetIndex
from ossa.data.reading import read_data
from ossa.data.synthetic import write_scenes
from ossa.evaluate.metrics import evaluate_detections
from ossa.train.run_folder import (
    DETECTIONS_FILE,
    RECORD_SCHEMA,
    finish_folder,
    read_record,
    start_folder,
    write_log,
    write_record,
)
from ossa.types import Detections, Record

FEW = ("--resamples", 100)
WriteRun = Callable[..., Path]


def some_of_the_gt(index: DatasetIndex, *, fraction: float, seed: int) -> dict[int, Detections]:
    """Returns so many of the objects of each image, found exactly."""
    rng = np.random.default_rng(seed)
    detections = {}
    for position, image_id in enumerate(index.image_ids.tolist()):
        truths = index.gt_rows(position)
        boxes_xyxy, labels = index.boxes_xyxy[truths], index.labels[truths]
        found = rng.random(len(labels)) < fraction
        detections[image_id] = Detections(
            boxes_xyxy[found].astype(np.float32),
            np.full(found.sum(), 0.9, np.float32),
            labels[found],
        )
    return detections


@pytest.fixture
def write_run(scenes: Path, tmp_path: Path) -> WriteRun:
    """Writes the folder of a run that found so many of the objects; returns its name."""

    def write(
        name: str,
        *,
        fraction: float,
        seed: int = 0,
        data: Path = scenes,
        status: str = "done",
        **train: Any,
    ) -> Path:
        index = read_data(data, "val").index
        config = build_config(
            {"model": {"name": "yolov5n"}, "data": str(data), "seed": seed, "train": train}
        )
        folder = tmp_path / name
        folder.mkdir()
        detections = some_of_the_gt(index, fraction=fraction, seed=seed)
        record = Record(
            schema=RECORD_SCHEMA,
            model="yolov5n",
            status=status,
            reason=None,
            config=config.model_dump(mode="json"),
            config_hash=config.digest(),
            seed=seed,
            initial_weights={},
            cost={},
            metrics={"last": evaluate_detections(index, detections).flat()},
            times={},
            environment={},
            data_fingerprint=f"train-{index.fingerprint()}",
        )
        start_folder(folder, config)
        write_log([], folder)
        finish_folder(record, folder, index, detections)
        return Path(name)

    return write


def test_the_table_tells_metrics_differences_and_verdicts(ossa: Ossa, write_run: WriteRun) -> None:
    write_run("half", fraction=0.5)
    write_run("all", fraction=1)
    result = ossa("compare", "half", "all", *FEW)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("AP")] == [
        *("AP50-95", "AP50", "AP75")
    ]
    assert lines[1].split()[-1] == "reference"
    assert max(map(len, lines[:3])) <= 100
    assert lines[2].startswith("all ")
    assert lines[2].split()[-1] == "better"
    assert "no seed interval" in lines[2]
    assert "(8 images, drawn 100 times)" in result.stdout
    assert "No seed interval under 3 runs of both models (found 1, 1)" in result.stdout
    assert "p is corrected by Holm for 3 comparisons; intervals are not." in result.stdout


def test_one_detector_alone_has_its_metrics_with_intervals(ossa: Ossa, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(f"half-seed{seed}", fraction=0.5, seed=seed)
    alone = ossa("compare", "half-seed0", *FEW)
    row = next(line for line in alone.stdout.splitlines() if line.startswith("AP50-95"))
    value, low, _, high = row.split()[1:5]
    assert 0 < float(low) < float(value) < float(high) < 1
    assert row.endswith("no seed interval")
    assert "found 1): the interval is about these weights" in alone.stdout
    assert "verdict" not in alone.stdout
    three = ossa("compare", "half-seed*", *FEW).stdout
    assert "And seeds, 95%: other seeds, too (3 runs).\n" in three
    assert "no seed interval" not in three


def test_json_is_a_list_with_the_metrics_of_the_records(
    ossa: Ossa, write_run: WriteRun, tmp_path: Path
) -> None:
    for name, fraction in (("a", 0.5), ("b", 0.8), ("c", 0.9)):
        write_run(name, fraction=fraction)
    result = ossa("compare", "a", "b", "c", "--metric", "ap50,ar_100", "--json", *FEW)
    rows = json.loads(result.stdout)
    assert [(row["metric"], row["model"]) for row in rows] == [
        (metric, model) for metric in ("ap50", "ar_100") for model in "abc"
    ]
    for row in rows:
        recorded = read_record(tmp_path / row["model"]).metrics["last"]
        assert row["value"] == pytest.approx(recorded[row["metric"]], abs=1e-9)
        assert row["images_low"] <= row["value"] <= row["images_high"]
        assert (row["seeds_low"], row["runs"], row["images"]) == (None, 1, 8)
    assert rows[0]["difference"] is None
    assert rows[1]["difference"] == pytest.approx(rows[1]["value"] - rows[0]["value"])
    assert rows[1]["p_adjusted"] >= rows[1]["p"]


def test_environments_that_differ_are_shown_in_one_line(
    ossa: Ossa, write_run: WriteRun, tmp_path: Path
) -> None:
    for name, threads in (("a", "1"), ("b", "2")):
        write_run(name, fraction=0.5)
        record = read_record(tmp_path / name)
        write_record(
            replace(record, environment={"torch": "2.9", "threads": threads}), tmp_path / name
        )
    result = ossa("compare", "a", "b", "--metric", "ap", *FEW)
    line = "the runs were not all computed alike: threads 1 in a, 2 in b"
    assert line in result.stderr.splitlines()


def test_settings_that_differ_are_shown_in_one_line(ossa: Ossa, write_run: WriteRun) -> None:
    for name, epochs in (("a", 2), ("b", 3)):
        write_run(name, fraction=0.5, seed=epochs, epochs=epochs)
    result = ossa("compare", "a", "b", "--metric", "ap", "--json", *FEW)
    assert "the trainings differ in: train.epochs 2 and 3" in result.stderr.splitlines()
    assert json.loads(result.stdout)[0]["differing_settings"] == ["train.epochs 2 and 3"]


@pytest.mark.parametrize("separator", ["pattern", "commas"])
def test_three_runs_each_have_an_interval_over_seeds(
    ossa: Ossa, write_run: WriteRun, separator: str
) -> None:
    for seed in range(3):
        write_run(f"a-{seed}", fraction=0.5, seed=seed)
        write_run(f"b-{seed}", fraction=0.9, seed=seed)
    a, b = ("a-*", "b-*") if separator == "pattern" else ("a-0,a-1,a-2", "b-0,b-1,b-2")
    result = ossa("compare", a, b, "--metric", "ap", "--json", *FEW)
    assert result.exit_code == 0, result.stderr
    reference, row = json.loads(result.stdout)
    assert (reference["model"], reference["runs"]) == (a, 3)
    assert row["difference_seeds_low"] < row["difference"] < row["difference_seeds_high"]
    told = ossa("compare", a, b, "--metric", "ap", *FEW).stdout
    assert "no seed interval" not in told
    assert "And seeds, 95%: other seeds, too (3, 3 runs); p and verdict are about these." in told


@pytest.mark.slow
def test_a_real_run_and_its_own_detections_as_a_file_are_not_distinguishable(
    ossa: Ossa, training: FinishedTraining, tmp_path: Path
) -> None:
    shutil.copy(training.folder / DETECTIONS_FILE, tmp_path / "own.json.gz")
    result = ossa("compare", training.folder, "own.json.gz", "--json", *FEW)
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["verdict"] for row in rows[1::2]} == {"not distinguishable"}
    assert rows[0]["value"] == pytest.approx(training.row()["ap"], abs=1e-9)


def test_results_files_alone_take_the_data_that_they_are_given(
    ossa: Ossa, write_run: WriteRun, scenes: Path
) -> None:
    files = [write_run(name, fraction=f) / DETECTIONS_FILE for name, f in (("a", 0.4), ("b", 1))]
    result = ossa("compare", *files, "--data", scenes, "--json", *FEW)
    assert result.exit_code == 0, result.stderr
    assert [row["verdict"] for row in json.loads(result.stdout)[:2]] == [None, "better"]
    refused = ossa("compare", *files)
    assert refused.exit_code == 2
    assert "Expected --data beside results files, which do not name their images" in refused.stderr


def failed(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    record = replace(read_record(folder / "bad"), status="failed", reason="the loss exploded")
    write_record(record, folder / "bad")


def unfinished(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    (folder / "bad" / "record.json").unlink()


def damaged(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    (folder / "bad" / DETECTIONS_FILE).write_bytes(b"no longer")


def without_detections(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    (folder / "bad" / DETECTIONS_FILE).unlink()


def of_other_images(write_run: WriteRun, folder: Path) -> None:
    data = write_scenes(folder / "other", images={"train": 1, "val": 5}, imgsz=128).parent
    write_run("bad", fraction=1, data=data)


def of_other_classes(write_run: WriteRun, folder: Path, *, scenes: Path) -> None:
    settings = yaml.safe_load((scenes / "data.yaml").read_text())
    names = ["disc", "plus", "cross", "ring"]
    text = yaml.safe_dump({**settings, "path": str(scenes), "names": names})
    (folder / "data.yaml").write_text(text)
    write_run("bad", fraction=1, data=folder)


def with_the_record_of_another(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    write_run("other", fraction=1, lr=0.5)
    shutil.copy(folder / "other" / "record.json", folder / "bad")


def with_an_edited_seed(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    write_record(replace(read_record(folder / "bad"), seed=7), folder / "bad")


def with_an_unknown_key(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    content = json.loads((folder / "bad" / "record.json").read_text())
    (folder / "bad" / "record.json").write_text(json.dumps(content | {"surprise": 1}))


def of_other_pixels(write_run: WriteRun, folder: Path) -> None:
    write_run("bad", fraction=1)
    for name, images in (("good", "train-here"), ("bad", "train-there")):
        record = replace(read_record(folder / name), image_fingerprint=images)
        write_record(record, folder / name)


def nowhere(write_run: WriteRun, folder: Path) -> None:
    """There is no such path."""


def an_empty_folder(write_run: WriteRun, folder: Path) -> None:
    (folder / "bad").mkdir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (failed, "found one that failed (the loss exploded): finish it with 'ossa train --resume"),
        (unfinished, "expected a finished run in bad, found no record.json: finish it with"),
        (damaged, "val-detections.json.gz is not the file that record.json beside it speaks of"),
        (without_detections, "expected the detections of a run at bad/val-detections.json.gz"),
        (of_other_images, "scored on one split, found in good and bad other images: 8 and 5"),
        (of_other_classes, "other classes: disc, triangle, cross, ring and disc, plus, cross"),
        (with_the_record_of_another, "bad/record.json is of a run with other settings: is it that"),
        (with_an_edited_seed, "bad/record.json was changed: its model or seed is not that of its"),
        (with_an_unknown_key, "bad/record.json is damaged: there is no setting 'surprise'"),
        (of_other_pixels, "found other pixels for bad than for good. Train one of them"),
        (nowhere, "Expected the folder of a run or a COCO results file, found none (bad)"),
        (an_empty_folder, "Expected the record of a run, found none (bad/record.json)"),
    ],
)
def test_a_model_that_cannot_be_compared_is_told_in_a_sentence(
    ossa: Ossa,
    write_run: WriteRun,
    scenes: Path,
    tmp_path: Path,
    make: Callable[..., None],
    sentence: str,
) -> None:
    write_run("good", fraction=0.5)
    if make is of_other_classes:
        make = partial(make, scenes=scenes)
    make(write_run, tmp_path)
    result = ossa("compare", "good", "bad", *FEW)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("good other --metric ap,ap5", "found 'ap5'. Did you mean ap75, ap50 or ap?"),
        ("good other --metric ap_smal", "Expected metrics of ap, ap50, ap75, ar_100"),
        ("good other --split test", "Expected --split val for runs, found test"),
        ("good none-*", "Expected runs or results files like none-*, found none"),
        (
            "good other --data elsewhere",
            "Expected the val split that good was scored on, found another",
        ),
        ("good other,good", "found seed 0 in both other and good: they are the same run twice"),
        ("good,longer other", "found train.epochs 300 in good and 7 in longer"),
        ("good unknown.json", "Expected image ids of the data set"),
        ("good others.json", "Expected a category_id of the data set (0, 1, 2, 3), found"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    ossa: Ossa, write_run: WriteRun, tmp_path: Path, arguments: str, sentence: str
) -> None:
    write_run("good", fraction=0.5)
    write_run("other", fraction=0.6)
    write_run("longer", fraction=0.6, seed=1, epochs=7)
    write_scenes(tmp_path / "elsewhere", images={"train": 1, "val": 2}, imgsz=128)
    detection = {"image_id": 99, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    (tmp_path / "unknown.json").write_text(json.dumps([detection]))
    of_another_class = {**detection, "image_id": 1, "category_id": 17}
    (tmp_path / "others.json").write_text(json.dumps([of_another_class]))
    result = ossa("compare", *arguments.split(), *FEW)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_data_set_of_one_image_is_refused(
    ossa: Ossa, write_run: WriteRun, tmp_path: Path
) -> None:
    data = write_scenes(tmp_path / "one", images={"train": 1, "val": 1}, imgsz=128).parent
    for name in ("a", "b"):
        write_run(name, fraction=1, data=data)
    result = ossa("compare", "a", "b", *FEW)
    assert result.exit_code == 2
    assert "expected objects in two images at least, found them in 1 of 1" in result.stderr
