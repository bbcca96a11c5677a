"""Where the numbers of a study come from: environments, edited records, and their verification."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_studies import InThisProcess, a_study

from ossa.errors import ConfigError, DataError
from ossa.study.environments import check_next_run, environments_of, find_differences
from ossa.study.folder import STUDY_FILE, StudyFolder, create_study, read_study_folder
from ossa.study.results import load_study
from ossa.study.runner import run_study
from ossa.study.verify import VerifiedRun, verify_study
from ossa.train.provenance import code_hash, continued
from ossa.train.run_folder import RECORD_FILE, read_record, write_record

RUNS = ("cspdarknet_n-seed0", "resnet10t-seed0")


@pytest.fixture
def study(finished: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy of the finished study, to be changed."""
    shutil.copytree(finished.path, tmp_path / "tiny")
    return read_study_folder(tmp_path / "tiny")


def folder_of(study: StudyFolder, run: int = 0) -> Path:
    return study.run_folder(study.plan.runs[run])


def edit(study: StudyFolder, change: Callable[[dict[str, Any]], None], *, run: int = 0) -> None:
    """Edits the text of a record, as a hand does."""
    file = folder_of(study, run) / RECORD_FILE
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def forge(study: StudyFolder, *, run: int = 0, **parts: Any) -> None:
    """Changes parts of a record, and its digest with them."""
    folder = folder_of(study, run)
    record = read_record(folder)
    merged = {key: {**getattr(record, key), **values} for key, values in parts.items()}
    write_record(replace(record, **merged), folder)


def compute_with(study: StudyFolder, run: int, **environment: str) -> None:
    forge(study, run=run, environment=environment)


def verified(study: StudyFolder) -> VerifiedRun:
    first, second = verify_study(study)
    assert second.verdict == "agrees"
    return first


def test_every_number_and_file_of_a_study_is_verified(finished: StudyFolder):
    for run in verify_study(finished):
        assert (run.verdict, run.mismatches, run.unverified) == ("agrees", (), ())
        # Log, detections, last and best weights.
        assert run.files == 4
        assert run.numbers > 30


def test_a_number_that_was_edited_by_hand_is_noticed_everywhere(study: StudyFolder):
    edit(study, lambda record: record["metrics"]["last"].update(ap=0.99))
    state = study.states()[0]
    assert state.state == "foreign"
    assert "was changed: its content is not that of its digest" in str(state.reason)
    assert load_study(study).names == ["resnet10t"]
    run = verified(study)
    assert run.verdict == "differs"
    assert {mismatch.what for mismatch in run.mismatches} == {RECORD_FILE, "metrics.last.ap"}


def test_an_edited_number_of_a_record_without_digest_is_not_that_of_the_log(study: StudyFolder):
    def change(record: dict[str, Any]) -> None:
        record["metrics"]["best"]["ap50"] = 0.99
        record["schema"] = 3
        del record["digest"]

    edit(study, change)
    assert "metrics.best.ap50 is 0.99, and " in str(study.states()[0].reason)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"cost": {"params_neck": 7}}, "cost.params_neck"),
        ({"times": {"train": 0.1}}, "times.train"),
        ({"image_fingerprint": None}, "images of val"),
    ],
    ids=["cost", "time", "images"],
)
def test_a_forged_record_is_not_what_is_recomputed(
    study: StudyFolder, parts: dict[str, Any], what: str
):
    if "image_fingerprint" in parts:
        record = read_record(folder_of(study))
        write_record(replace(record, image_fingerprint="0-0"), folder_of(study))
    else:
        forge(study, **parts)
    run = verified(study)
    assert [mismatch.what for mismatch in run.mismatches] == [what]


def test_other_weights_differ_and_missing_detections_cannot_be_verified(study: StudyFolder):
    folder = folder_of(study)
    (folder / "last.safetensors").write_bytes(b"other")
    assert study.states()[0].state == "done"
    assert [one.what for one in verified(study).mismatches] == ["sha256 of last.safetensors"]
    (folder / "last.safetensors").unlink()
    (folder / "val-detections.json.gz").unlink()
    run = verified(study)
    assert run.verdict == "cannot be verified"
    assert "metrics.last: cannot be recomputed without val-detections.json.gz" in run.unverified


def test_a_record_says_where_its_numbers_come_from(finished: StudyFolder):
    for state in finished.states():
        assert state.record is not None
        environment = state.record.environment
        assert (environment["conditions"], environment["code"]) == ("2", code_hash())
        assert (environment["device"], environment["precision"]) == ("cpu", "fp32")
        assert environment["instruction_set"]
        assert environment["commit"]


@pytest.mark.parametrize("key", ["conditions", "code", "torch", "timm", "precision", "device"])
def test_what_decides_numbers_must_agree_or_be_declared(study: StudyFolder, key: str):
    compute_with(study, 1, **{key: "another"})
    with pytest.raises(DataError, match=rf"Expected runs .* {key} .* another in {RUNS[1]}"):
        load_study(study)
    file = study.path / STUDY_FILE
    declared = yaml.safe_load(file.read_text())
    declared["study"]["mixed_environments"] = True
    file.write_text(yaml.safe_dump(declared))
    assert load_study(study.path).names == ["cspdarknet_n", "resnet10t"]


def test_runs_of_a_backbone_of_ones_own_must_have_the_same_code(study: StudyFolder):
    compute_with(study, 1, **{"code of pebble": "a" * 64})
    assert len(load_study(study).runs) == 2  # the other one is of another backbone
    sentence = f"code of pebble aaaaaaaaaaaa in {RUNS[1]}, bbbbbbbbbbbb in"
    with pytest.raises(DataError, match=f"{sentence} the next run"):
        check_next_run(study, {"code of pebble": "b" * 64})
    compute_with(study, 0, **{"code of pebble": f"{'a' * 64}, then {'b' * 64}"})
    with pytest.raises(DataError, match=r"aaaaaaaaaaaa, then bbbbbbbbbbbb in .*, aaaaaaaaaaaa in"):
        load_study(study)


def test_another_processor_or_number_of_threads_is_marked_only(study: StudyFolder):
    compute_with(study, 1, cpu="Another", threads="64")
    assert len(load_study(study).runs) == 2
    cpu, threads = find_differences(study.study, environments_of(study.states()))
    assert (cpu.key, threads.key) == ("cpu", "threads")
    assert not cpu.is_refused
    assert not threads.is_refused
    assert str(cpu).endswith(f"Another in {RUNS[1]}")


def as_before(record: dict[str, Any]) -> None:
    """Makes a record one of before where its numbers come from was recorded."""
    del record["digest"]
    record["schema"] = 3
    kept = ("ossa", "python", "torch", "timm", "opencv", "cpu", "cpu_count", "threads", "gpu")
    record["environment"] = {key: record["environment"][key] for key in kept}


def test_old_records_are_compared_among_themselves(study: StudyFolder):
    edit(study, as_before, run=0)
    with pytest.raises(
        DataError, match=f"conditions not recorded in {RUNS[0]}, 2 in {RUNS[1]}; code"
    ):
        load_study(study)
    edit(study, as_before, run=1)
    assert len(load_study(study).runs) == 2
    assert {run.verdict for run in verify_study(study)} == {"agrees"}


def test_a_study_of_other_code_does_not_go_on_unless_declared(
    study: StudyFolder, scenes: Path, tmp_path: Path
):
    compute_with(study, 0, code="another")
    shutil.rmtree(folder_of(study, 1))
    executor = InThisProcess()
    with pytest.raises(DataError, match=f"code another in {RUNS[0]}, .* in the next run"):
        run_study(study, executor, on_run=lambda _: None)
    declared = a_study(mixed_environments=True)
    again = create_study(declared, study.path, data=scenes, weights_folder=tmp_path)
    run_study(again, executor, on_run=lambda _: None)
    assert executor.executed == [RUNS[1]]
    assert read_study_folder(study.path).study.mixed_environments


def test_a_run_that_goes_on_elsewhere_says_so_once():
    first = continued({"torch": "2.9"}, {"torch": "2.10", "code": "a"})
    assert first == {"torch": "2.9, then 2.10", "code": "not recorded, then a"}
    assert continued(first, {"torch": "2.9", "code": "a"}) == first


@pytest.mark.parametrize(("line", "found"), [("", "None"), ("conditions_version: 9", "9")])
def test_a_folder_of_another_version_is_refused(study: StudyFolder, line: str, found: str):
    file = study.path / STUDY_FILE
    file.write_text(file.read_text().replace("conditions_version: 2", line))
    with pytest.raises(ConfigError, match=f"Expected conditions of version 2, found {found}"):
        read_study_folder(study.path)
