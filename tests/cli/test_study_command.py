"""`ossa study` as a user types it."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from running import Ossa, start_ossa

from ossa.errors import ConfigError
from ossa.study.config import ExecutorConfig
from ossa.study.folder import read_measurements
from ossa.study.measure import RunEstimate

STUDY = """\
name: tiny
data: {data}
models: [cspdarknet_n{more}]
neck: n
seeds: [0]
recipe: {{base: quick, epochs: {epochs}, imgsz: 64, batch: 8}}
"""


def study_file(scenes: Path, folder: Path, *, more: str = "", epochs: int = 1) -> Path:
    """Writes a study of the scenes and returns its file."""
    file = folder / "tiny.yaml"
    file.write_text(STUDY.format(data=scenes.name, more=more, epochs=epochs))
    return file


def test_a_plan_has_cost_conditions_differences_and_what_cannot_be_trained(
    ossa: Ossa, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = RunEstimate(1_872_157, 4_468_121_600, 2_234_060_800, 10.0, 5.0, 30_100_000)
    estimates = {"cspdarknet_n": known, "resnet10t": "no room for it"}
    monkeypatch.setattr("ossa.study.measure.estimate_models", lambda *_, **__: estimates)
    file = study_file(scenes, tmp_path, more=", resnet1")
    result = ossa("study", "plan", file, "--data-root", scenes.parent)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no model named 'resnet1'. Did you mean resnet1" in result.stderr
    file = study_file(scenes, tmp_path, more=", resnet10t")
    result = ossa("study", "plan", file, "--data-root", scenes.parent)
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stdout.split())
    # Two steps and one batch of val in the one epoch.
    assert "1.87 M 4.47 G 2.23 G 25.0 s 30.1 MB" in words
    assert "resnet10t: no room for it" in words
    assert "2 runs: 2 models x 1 seeds; about 25.0 s, one after the other, without 1 runs" in words
    assert "the same for all runs" in words
    assert "what differs: the backbone, the seed\n" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_a_plan_as_json_has_a_row_a_run(ossa: Ossa, scenes: Path, tmp_path: Path) -> None:
    file = study_file(scenes, tmp_path, more=", resnet10t")
    told = ossa("study", "plan", file, "--data-root", scenes.parent, "--no-measure", "--json")
    plan = json.loads(told.stdout)
    assert [row["run"] for row in plan["runs"]] == ["cspdarknet_n-seed0", "resnet10t-seed0"]
    assert plan["runs"][0]["seconds"] is None
    assert (plan["train_images"], plan["val_images"]) == (16, 8)
    assert plan["conditions"]["train.epochs"] == 1
    assert len(plan["data_fingerprint"].split("-")) == 2


def test_a_plan_shows_every_model_with_every_head_and_what_is_varied(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    file = study_file(scenes, tmp_path, more=", resnet10t")
    varied = "vary: {train.imgsz: [64, 96], train.epochs: [1, 2], train.batch: [4, 8]}"
    file.write_text(f"{file.read_text()}heads: [anchor, dense]\n{varied}\n")
    result = ossa("study", "plan", file, "--data-root", scenes.parent, "--no-measure")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    names = [
        "cspdarknet_n ",
        "cspdarknet_n, model.head dense ",
        "resnet10t, model.head dense, train.",
    ]
    first = [next(i for i, line in enumerate(lines) if line.startswith(name)) for name in names]
    assert first == sorted(first)
    words = " ".join(result.stdout.split())
    assert (
        "32 runs: 2 models x 1 seeds x 2 values of model.head (anchor, dense) x 2 values" in words
    )
    assert "epochs, batch varied, varied image side varied neck" in words


def test_a_study_of_images_without_labels_stops_before_its_first_run(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / scenes.name
    shutil.copytree(scenes, data)
    for label in sorted((data / "labels/train").iterdir())[:9]:
        label.unlink()
    file = study_file(scenes, tmp_path)
    for command in ("plan", "run"):
        stopped = ossa("study", command, file, "--data-root", tmp_path)
        assert stopped.exit_code == 2
        assert "9 of 16 training images have no label, such as " in stopped.stderr
        assert "looked for in labels/train, images/train; go on with --all" in stopped.stderr
    allowed = ("--allow-unlabeled", "--no-measure")
    told = ossa("study", "plan", file, "--data-root", tmp_path, *allowed)
    assert told.exit_code == 0, told.stderr
    assert "without a label: 9 of 16 images of train, 0 of 8 images of val;" in told.stderr


def test_a_study_tells_before_its_first_run_which_reported_images_it_trains_on(
    ossa: Ossa, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_runs(chosen: ExecutorConfig) -> None:
        raise ConfigError("this test runs nothing")

    monkeypatch.setattr("ossa.study.executors.create_executor", no_runs)
    data = tmp_path / scenes.name
    shutil.copytree(scenes, data)
    with (data / "data.yaml").open("a") as stream:
        stream.write("test: [images/val, images/train]\n")
    file = study_file(scenes, tmp_path)
    file.write_text(f"{file.read_text()}reported: {{split: test}}\n")
    stopped = ossa("study", "run", file, "--data-root", tmp_path)
    assert "16 of the 24 images of test are also in train: AP will not tell" in stopped.stderr
    told = ossa("study", "plan", file, "--data-root", tmp_path, "--no-measure")
    assert "  reported         last weights on test, 24 images\n" in told.stdout
    assert "runs nothing" in stopped.stderr
    assert "images of val are" not in stopped.stderr


def test_a_plan_tells_of_a_last_batch_of_one_image(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    file = study_file(scenes, tmp_path)
    arguments = ("--data-root", scenes.parent, "--no-measure")
    assert "last batch" not in ossa("study", "plan", file, *arguments).stdout
    file.write_text(file.read_text().replace("batch: 8", "batch: 5"))  # of 16 images
    told = ossa("study", "plan", file, *arguments)
    assert "last batch       1 image; batch norms that have one value per channel" in told.stdout
    plan = json.loads(ossa("study", "plan", file, *arguments, "--json").stdout)
    assert plan["last_batch_images"] == 1


def test_a_study_is_run_extended_and_told(
    ossa: Ossa, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.study.measure.others_busy", lambda: "other programs are busy")
    file = study_file(scenes, tmp_path)
    newest = max(path.stat().st_ctime for path in scenes.rglob("*"))
    time.sleep(max(0.0, newest + 2.1 - time.time()))  # images so new are not shared
    finished = ossa("study", "run", file, "--data-root", scenes.parent)
    assert finished.exit_code == 0, finished.stderr
    # Decoded here, once for all runs, which find the images in memory.
    assert "decoding 16 images of split 'train' at 64 px once, 0.2 MB in memory" in finished.stderr
    log = Path("runs/tiny/runs/cspdarknet_n-seed0/worker.log").read_text()
    assert "cache of 16 images of split 'train' at 64 px: 0.2 MB in memory\n" in log
    assert "cache of 8 images of split 'val' at 64 px: 0.1 MB in memory\n" in log
    assert "decoding" not in log
    assert "cspdarknet_n-seed0: AP 0." in finished.stderr
    assert "1 of 1 runs are done" in finished.stderr
    assert "other programs are busy" in finished.stderr
    measured = read_measurements(Path("runs/tiny"))
    assert measured["others_busy"] is True
    assert measured["models"]["cspdarknet_n"]["ms_per_image"] > 0
    (row,) = json.loads(ossa("study", "status", "runs/tiny", "--json").stdout)
    assert (row["state"], row["epochs_done"], row["epochs"]) == ("done", 1, 1)
    verified = ossa("study", "verify", file, "--json")
    (found,) = json.loads(verified.stdout)["runs"]
    assert (verified.exit_code, found["verdict"], found["mismatches"]) == (0, "agrees", [])
    added = ossa("study", "add", "runs/tiny", "--model", "resnet10t")
    assert "2 runs, 1 of them are waiting" in added.stderr
    status = ossa("study", "status", file).stdout
    assert "1 done, 1 waiting" in status
    assert "of training are left" in status
    record = Path("runs/tiny/runs/cspdarknet_n-seed0/record.json")
    content = json.loads(record.read_text())
    content["metrics"]["last"]["ap_small"] = 0.99
    record.write_text(json.dumps(content))
    verified = ossa("study", "verify", "runs/tiny")
    assert verified.exit_code == 2
    assert "cspdarknet_n-seed0 differs: metrics.last.ap_small: 0.99 recorded, 0." in verified.stdout
    assert "no record" in verified.stdout


def two_data_sets(scenes: Path, folder: Path) -> Path:
    """Writes a study on two data sets, copies of one, and returns its file."""
    for name in ("first", "second"):
        shutil.copytree(scenes, folder / "sets" / name)
    file = study_file(scenes, folder)
    file.write_text(file.read_text().replace("data: scenes", "data: [first, second]"))
    return file


def test_a_plan_of_two_data_sets_has_the_runs_of_both(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    file = two_data_sets(scenes, tmp_path)
    arguments = ("plan", file, "--data-root", tmp_path / "sets", "--no-measure")
    told = ossa("study", *arguments)
    assert told.exit_code == 0, told.stderr
    assert [line for line in told.stdout.splitlines() if line.startswith("data set")] == [
        *("data set first", "data set second"),
    ]
    plans = json.loads(ossa("study", *arguments, "--json").stdout)["data_sets"]
    assert [len(plan["runs"]) for plan in plans.values()] == [1, 1]
    assert plans["first"]["recipe_hash"] == plans["second"]["recipe_hash"]
    missing = ossa("study", *("plan", file, "--data-root", tmp_path))
    assert "expected the data set first at" in missing.stderr


@pytest.mark.slow
def test_a_study_of_two_data_sets_is_run_extended_and_reported(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    file = two_data_sets(scenes, tmp_path)
    finished = ossa("study", "run", file, "--data-root", tmp_path / "sets")
    assert finished.exit_code == 0, finished.stderr
    assert "2 of 2 runs are done" in finished.stderr
    rows = json.loads(ossa("study", "status", "runs/tiny", "--json").stdout)
    assert [(row["data"], row["state"]) for row in rows] == [("first", "done"), ("second", "done")]
    added = ossa("study", "add", "runs/tiny", "--model", "resnet10t")
    assert "4 runs, 2 of them are waiting" in added.stderr
    refused = ossa("study", "predict", "runs/tiny", "--params", "1e6")
    assert "Expected the study of one data set, found one on 2 (runs/tiny)" in refused.stderr
    assert "Choose one: runs/tiny/data_sets/first, runs/tiny/data_sets/second" in refused.stderr
    assert ossa("study", "run", "runs/tiny").exit_code == 0
    told = ossa("study", "report", "runs/tiny")
    assert told.exit_code == 0, told.stderr
    assert told.stdout.split() == ["runs/tiny/report/index.html"]
    assert "on 2 data sets: first, second." in Path("runs/tiny/report/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("plan nothing.yaml", "Expected the file of a study, found no such file (nothing.yaml)"),
        ("status .", "Expected the folder of a study, found no study.yaml (.)"),
        ("run tiny.yaml", "/scenes, found none: name the folder that holds it with --data-root"),
        ("run abroad.yaml --data-root DATA", "data (--data-root): expected a path below"),
        ("run tiny.yaml --data-root DATA --executor cloud", "kind: input should be 'local'"),
        ("report . --output tiny.yaml/page", "a folder that can be written for --output, found"),
        ("add .", "expected --model or --seed, found neither"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    ossa: Ossa, scenes: Path, tmp_path: Path, arguments: str, sentence: str
) -> None:
    file = study_file(scenes, tmp_path)
    (tmp_path / "abroad.yaml").write_text(file.read_text().replace("data: ", "data: ../"))
    words = [str(scenes.parent) if word == "DATA" else word for word in arguments.split()]
    told = ossa("study", *words)
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("error: ")
    assert sentence in told.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_every_run_and_says_how_to_go_on(
    ossa: Ossa, scenes: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    file = study_file(scenes, tmp_path, more=", resnet10t", epochs=200)
    process = start_ossa(
        *("study", "run", file, "--data-root", scenes.parent, "--jobs", 2),
        *("--output", tmp_path / "out"),
    )
    states = [tmp_path / "out" / "runs" / name / "log.jsonl" for name in
              ("cspdarknet_n-seed0", "resnet10t-seed0")]  # fmt: skip
    while not all(log.is_file() and log.stat().st_size for log in states):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(ending)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert f"stopped; go on with: ossa study run {tmp_path / 'out'}" in stderr
    rows = json.loads(ossa("study", "status", tmp_path / "out", "--json").stdout)
    assert [row["state"] for row in rows] == ["interrupted", "interrupted"]
