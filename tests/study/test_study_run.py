"""Running a study: what is trained, what is left alone, and what its folder tells."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_studies import TINY, InThisProcess, a_study

from ossa.cli.study_output import print_status
from ossa.data.reading import read_data
from ossa.errors import ConfigError, DataError
from ossa.files import held
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Job, OnEnd, create_executor
from ossa.study.folder import (
    StudyFolder,
    create_study,
    extend_study,
    read_progress,
    read_study_folder,
    write_failure,
)
from ossa.study.reported import RESAMPLED_FILE, ensure_resampled
from ossa.study.results import load_study
from ossa.study.runner import (
    epochs_trained,
    run_study,
    run_until_decided,
    seconds_left,
    with_seeds_of_looks,
)
from ossa.study.verify import verify_study
from ossa.train.run_folder import DETECTIONS_FILE, read_log, read_record, write_record


def ignore(_: object) -> None:
    pass


@pytest.fixture
def study(finished: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy of the finished study, to be changed."""
    shutil.copytree(finished.path, tmp_path / "tiny")
    return read_study_folder(tmp_path / "tiny")


def states_of(study: StudyFolder) -> dict[str, str]:
    return {state.run.name: state.state for state in study.states()}


def test_every_run_is_done_with_a_record_and_samples(finished: StudyFolder):
    assert states_of(finished) == {"cspdarknet_n-seed0": "done", "resnet10t-seed0": "done"}
    for state in finished.states():
        assert state.record is not None
        assert state.record.config_hash == state.run.config.digest()
        assert (state.folder / RESAMPLED_FILE).is_file()
        assert state.epochs_done == 2
    assert epochs_trained(finished) == 4
    assert seconds_left(finished.states()) == 0


def test_what_is_done_is_not_trained_again(study: StudyFolder):
    executor = InThisProcess()
    run_study(study, executor, on_run=ignore)
    assert executor.executed == []


def test_a_model_that_is_added_later_is_trained_alone(study: StudyFolder):
    extended = extend_study(study.path, models=["repvgg_a0"], seeds=[])
    assert states_of(extended)["repvgg_a0-seed0"] == "waiting"
    executor = InThisProcess()
    run_study(extended, executor, on_run=ignore)
    assert executor.executed == ["repvgg_a0-seed0"]
    assert set(states_of(read_study_folder(study.path)).values()) == {"done"}


def test_a_seed_that_is_added_is_one_more_run_of_each_model(study: StudyFolder):
    extended = extend_study(study.path, models=[], seeds=[7])
    assert [name for name, state in states_of(extended).items() if state == "waiting"] == [
        "cspdarknet_n-seed7",
        "resnet10t-seed7",
    ]


@pytest.mark.parametrize(
    ("models", "seeds", "sentence"),
    [
        (["resnet10t"], [], "resnet10t is already in the study; '--seed N' alone"),
        (["resnet10t"], [2], "'--seed 2' alone trains all of its models with that seed"),
        ([], [0], "seeds has 0 more"),
    ],
)
def test_what_is_there_already_is_not_added(
    study: StudyFolder, models: list[str], seeds: list[int], sentence: str
):
    with pytest.raises(ConfigError, match=sentence):
        extend_study(study.path, models=models, seeds=seeds)


def test_a_missing_record_is_missing(study: StudyFolder):
    folder = study.run_folder(study.plan.runs[0])
    shutil.rmtree(folder)
    assert states_of(study)["cspdarknet_n-seed0"] == "waiting"


def test_a_record_of_another_run_is_foreign_and_not_overwritten(
    study: StudyFolder, capsys: pytest.CaptureFixture[str]
):
    one, other = (study.run_folder(run) for run in study.plan.runs)
    shutil.copy(other / "record.json", one / "record.json")
    state = study.states()[0]
    assert (state.state, state.record) == ("foreign", None)
    assert "is of a run with other settings" in str(state.reason)
    print_status(study, study.states())
    said = "1 foreign (settings, files or data are not those of the plan), 1 done"
    assert said in capsys.readouterr().out
    executor = InThisProcess()
    run_study(study, executor, on_run=ignore)
    assert executor.executed == []


def test_a_record_whose_detections_were_changed_is_foreign(study: StudyFolder):
    detections = study.run_folder(study.plan.runs[0]) / "val-detections.json.gz"
    detections.write_bytes(detections.read_bytes() + b" ")
    assert "its sha256 differs" in str(study.states()[0].reason)


def test_a_damaged_record_is_told(study: StudyFolder):
    (study.run_folder(study.plan.runs[0]) / "record.json").write_text("{")
    assert "Expected the record of a run" in str(study.states()[0].reason)


def test_a_model_that_cannot_be_built_is_refused_with_its_reason_and_stops_nobody(
    scenes: Path, tmp_path: Path
):
    models = ["vit_giant_patch14_reg4_dinov2_x", "cspdarknet_n"]
    study = create_study(
        a_study(models=models), tmp_path / "study", data=scenes, weights_folder=tmp_path
    )
    states = run_study(study, InThisProcess(), on_run=ignore)
    assert [state.state for state in states] == ["refused", "done"]
    assert "no model named 'vit_giant_patch14_reg4_dinov2_x'" in str(states[0].reason)


def test_a_failed_run_keeps_its_reason_until_it_is_tried_again(study: StudyFolder):
    folder = study.run_folder(study.plan.runs[1])
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "failure.json").write_text(json.dumps({"reason": "no such thing"}))
    state = study.states()[1]
    assert (state.state, state.reason) == ("failed", "no such thing")
    executor = InThisProcess()
    run_study(study, executor, on_run=ignore)
    assert executor.executed == []
    run_study(study, executor, retry_failed=True, on_run=ignore)
    assert executor.executed == ["resnet10t-seed0"]
    assert set(states_of(study).values()) == {"done"}


def test_a_refused_run_is_tried_again_by_the_next_call(study: StudyFolder):
    folder = study.run_folder(study.plan.runs[1])
    shutil.rmtree(folder)
    write_failure(folder, "the data are not there", refused=True)
    state = study.states()[1]
    assert (state.state, state.reason) == ("refused", "the data are not there")
    executor = InThisProcess()
    run_study(study, executor, on_run=ignore)
    assert executor.executed == ["resnet10t-seed0"]
    assert set(states_of(study).values()) == {"done"}


def test_a_study_of_which_every_run_fails_ends_without_a_decision(scenes: Path, tmp_path: Path):
    study = with_seeds_of_looks(
        create_study(a_study(), tmp_path / "study", data=scenes, weights_folder=tmp_path)
    )

    class Refuses:
        def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
            for job in jobs:
                run = study.plan.run(job.run)
                write_failure(study.run_folder(run), "no such data", refused=True)
                on_end(job.run, 1)

    states = run_until_decided(study, Refuses(), on_run=ignore, on_look=ignore)
    assert [state.state for state in states if state.run.seed < 3] == ["refused"] * 6


def test_a_process_that_dies_without_a_word_has_failed(study: StudyFolder):
    class Dying:
        def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
            for job, exit_code in zip(jobs, (1, -9), strict=True):
                on_end(job.run, exit_code)

    for run in study.plan.runs:
        shutil.rmtree(study.run_folder(run))
        study.run_folder(run).mkdir()
    first, second = run_study(study, Dying(), on_run=ignore)
    assert (first.state, second.state) == ("failed", "failed")
    assert "its process ended with exit code 1; worker.log" in str(first.reason)
    assert "ended by signal 9, often for lack of memory" in str(second.reason)


def test_a_study_that_goes_on_must_be_the_same(study: StudyFolder, scenes: Path, tmp_path: Path):
    def again(**settings: object) -> StudyFolder:
        return create_study(a_study(**settings), study.path, data=scenes, weights_folder=tmp_path)

    assert states_of(again()) == states_of(study)
    with pytest.raises(ConfigError, match="has another recipe, neck or weights for cspdarknet_n"):
        again(recipe={**TINY, "epochs": 3})
    with pytest.raises(
        ConfigError, match="has no run cspdarknet_n-seed1: add its model or seed with"
    ):
        again(seeds=[0, 1])


def test_a_folder_with_other_things_is_not_taken(scenes: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="Expected a new or empty folder or a study"):
        create_study(a_study(), tmp_path, data=scenes, weights_folder=tmp_path)


def test_a_run_that_a_process_trains_is_running(study: StudyFolder):
    folder = study.run_folder(study.plan.runs[0])
    with held(folder):
        assert states_of(study)["cspdarknet_n-seed0"] == "running"
    assert states_of(study)["cspdarknet_n-seed0"] == "done"


def test_the_best_epoch_is_reported_on_the_test_split(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = create_study(
        a_study(models=["cspdarknet_n"], reported={"weights": "best", "split": "test"}),
        tmp_path / "study",
        data=scenes,
        weights_folder=tmp_path,
    )
    run_study(study, InThisProcess(), on_run=ignore)
    folder = study.run_folder(study.plan.runs[0])
    reported = json.loads((folder / "reported.json").read_text())
    assert (reported["weights"], reported["split"]) == ("best", "test")
    assert reported["metrics"]["num_truths"] > 0
    assert [run.verdict for run in verify_study(study)] == ["agrees"]
    print_status(study, study.states())
    heading = "ranking so far, last weights on val (the report: best weights on test)"
    assert heading in capsys.readouterr().out
    del reported["images"]  # as before they were hashed
    (folder / "reported.json").write_text(json.dumps(reported))
    (run,) = verify_study(study)
    expected = "images of test: they were not hashed when the run was scored on them"
    assert (run.mismatches, run.unverified) == ((), (expected,))
    (folder / "reported.json").unlink()
    assert states_of(study) == {"cspdarknet_n-seed0": "interrupted"}


@pytest.mark.slow
def test_processes_that_are_killed_go_on_and_end_as_if_nothing_had_been(
    scenes: Path, tmp_path: Path
):
    recipe = {**TINY, "epochs": 6}
    whole = create_study(
        a_study(recipe=recipe), tmp_path / "whole", data=scenes, weights_folder=tmp_path
    )
    run_study(whole, create_executor(ExecutorConfig(jobs=2, device="cpu")), on_run=ignore)
    cut = create_study(
        a_study(recipe=recipe), tmp_path / "cut", data=scenes, weights_folder=tmp_path
    )
    # As many threads a run as above: they decide the last digit of a sum.
    command = [sys.executable, "-m", "ossa", "study", "run", str(cut.path), "--jobs", "2"]
    for ending in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = epochs_trained(cut)
        while epochs_trained(cut) <= before and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(ending)
        process.wait()
        for run in cut.plan.runs:  # until its process has ended, too
            with held(cut.run_folder(run), on_wait=ignore):
                pass
        assert "done" not in states_of(cut).values()
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    for state, other in zip(whole.states(), cut.states(), strict=True):
        assert state.state == other.state == "done"
        assert state.record is not None
        assert other.record is not None
        assert state.record.metrics == other.record.metrics
        for row, again in zip(read_log(state.folder), read_log(other.folder), strict=True):
            for key in row.keys() - {"train_seconds", "evaluate_seconds"}:
                assert row[key] == again[key]


@pytest.mark.parametrize("epochs", [None, "[1]", "-1", "NaN", "1e999", "1" + "0" * 400])
def test_progress_is_zero_where_nothing_was_told_that_can_be(tmp_path: Path, epochs: str | None):
    if epochs is not None:
        (tmp_path / "progress.json").write_text(f'{{"epochs": {epochs}}}')
    assert read_progress(tmp_path) == 0


def test_metrics_that_the_detections_do_not_give_are_foreign(study: StudyFolder):
    folder = study.run_folder(study.plan.runs[0])
    record = read_record(folder)
    last = record.metrics["last"] | {"ar_100": 0.99}  # which the log does not have
    write_record(replace(record, metrics=record.metrics | {"last": last}), folder)
    first, second = load_study(study).states
    assert (first.state, second.state) == ("foreign", "done")
    assert first.reason is not None
    assert "Expected ar_100 0." in first.reason
    assert "found 0.990000 recorded" in first.reason


def test_samples_that_were_edited_are_made_anew(study: StudyFolder):
    state = study.states()[0]
    file = state.folder / RESAMPLED_FILE
    index = read_data(state.run.config.data, "val").index
    detections = state.folder / DETECTIONS_FILE
    before = ensure_resampled(detections, index)
    with np.load(file) as content:
        edited = dict(content)
    edited["ap"] = edited["ap"] + 0.1
    np.savez_compressed(file, **edited)
    assert np.array_equal(ensure_resampled(detections, index)["ap"], before["ap"])
    for damage in (b"", b"PK", file.read_bytes()[:200]):
        file.write_bytes(damage)
        assert np.array_equal(ensure_resampled(detections, index)["ap"], before["ap"])


def test_samples_of_groups_are_others_and_those_of_images_alone_stay_as_they_were(
    study: StudyFolder,
):
    state = study.states()[0]
    index = read_data(state.run.config.data, "val").index
    detections = state.folder / DETECTIONS_FILE
    alone = ensure_resampled(detections, index)["ap"]
    groups = np.arange(len(index)) // 2
    grouped = ensure_resampled(detections, replace(index, groups=groups))["ap"]
    assert (len(alone), len(grouped)) == (1 + 2000 + 8, 1 + 2000 + 4)
    assert grouped[0] == alone[0]
    assert np.array_equal(ensure_resampled(detections, index)["ap"], alone)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"models": []}', '{"models": {"a": {"ms_per_image": 0}}}', '{"models": null}'],
)
def test_damaged_measurements_are_told_in_a_sentence(study: StudyFolder, content: str):
    (study.path / "measurements.json").write_text(content)
    with pytest.raises(DataError, match="measure again with 'ossa study run'"):
        load_study(study)


def test_a_run_whose_process_made_no_folder_has_failed(study: StudyFolder):
    shutil.rmtree(study.run_folder(study.plan.runs[0]))

    class Dies:
        def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
            for job in jobs:
                on_end(job.run, 1)

    first, second = run_study(study, Dies(), on_run=ignore)
    assert (first.state, second.state) == ("failed", "done")
