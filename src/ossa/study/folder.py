"""The folder of a study: its configuration, its runs, and the state of each run.

study.yaml          the study with the models and seeds that were added later
runs/NAME/          one folder per run, as written by `ossa train`, with
    worker.log      the output of its process
    failure.json    why it failed, if it has no record
measurements.json   latency and memory per image, measured after the last run
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from ossa.config import CONDITIONS_VERSION, merge, refuse_window
from ossa.errors import ConfigError, DataError, OssaError, legible
from ossa.files import (
    is_held,
    read_json_object,
    sha256_of,
    write_json_atomically,
    write_text_atomically,
)
from ossa.safe_yaml import read_yaml
from ossa.schema import Section, validated
from ossa.study.config import Reported, StudyConfig, check_study
from ossa.study.executors import RUNS_FOLDER
from ossa.study.plan import Plan, PlannedRun, make_plan
from ossa.study.reported import is_reported, read_publication
from ossa.train.resume import STATE_FILE
from ossa.train.run_folder import (
    LOG_FILE,
    RECORD_FILE,
    WEIGHTS,
    read_log,
    read_record,
    why_not_of,
)
from ossa.types import Record

STUDY_FILE = "study.yaml"
MEASUREMENTS_FILE = "measurements.json"
FAILURE_FILE = "failure.json"
_PROGRESS_FILE = "progress.json"

State = Literal["done", "failed", "refused", "running", "interrupted", "waiting", "foreign"]
"""Of a run; one that was refused could not begin, and is tried again by the next call."""


@dataclass(frozen=True)
class RunState:
    """A planned run and its state."""

    run: PlannedRun
    folder: Path
    state: State
    record: Record | None = None
    """Present if the run is done, or failed after its start."""
    reason: str | None = None
    """Why the run failed or was refused, or why its record does not belong to it."""
    epochs_done: int = 0

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed", "foreign")


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk."""

    path: Path
    plan: Plan

    @property
    def study(self) -> StudyConfig:
        return self.plan.study

    def run_folder(self, run: PlannedRun) -> Path:
        return self.path / RUNS_FOLDER / run.name

    def states(self) -> list[RunState]:
        """Returns the state of every planned run, in the order of the plan."""
        return [run_state(run, self.run_folder(run), self.study.reported) for run in self.plan.runs]


def run_state(run: PlannedRun, folder: Path, reported: Reported) -> RunState:
    """Returns the state of a run, read from its folder."""
    rows = []
    if (folder / LOG_FILE).is_file():
        with suppress(DataError):
            rows = read_log(folder)
    epochs = len(rows)
    if is_held(folder):
        return RunState(run, folder, "running", epochs_done=epochs)
    if (folder / RECORD_FILE).exists():
        return _recorded(run, folder, reported, rows)
    if (folder / FAILURE_FILE).exists():
        state, reason = _failure(folder / FAILURE_FILE)
        return RunState(run, folder, state, reason=reason, epochs_done=epochs)
    begun = (folder / STATE_FILE).exists() or epochs > 0
    return RunState(run, folder, "interrupted" if begun else "waiting", epochs_done=epochs)


def _recorded(
    run: PlannedRun, folder: Path, reported: Reported, rows: Sequence[Mapping[str, Any]]
) -> RunState:
    epochs = len(rows)
    try:
        record = read_record(folder)
        foreign = why_foreign(run, folder, record, rows)
    except OssaError as problem:
        return RunState(run, folder, "foreign", reason=str(problem), epochs_done=epochs)
    if foreign is not None:
        return RunState(run, folder, "foreign", reason=foreign, epochs_done=epochs)
    if record.status == "done" and not is_reported(folder, reported):
        return RunState(run, folder, "interrupted", epochs_done=epochs)
    if record.status == "done":
        return RunState(run, folder, "done", record, epochs_done=epochs)
    return RunState(run, folder, "failed", record, reason=record.reason, epochs_done=epochs)


def why_foreign(
    run: PlannedRun, folder: Path, record: Record, rows: Sequence[Mapping[str, Any]]
) -> str | None:
    """Returns why a record does not belong to this run or was changed, None if it is as written.

    Args:
        run: as planned.
        folder: of the run.
        record: in this folder.
        rows: of its log.
    """
    if why := why_not_of(record, run.config):
        return f"{folder / RECORD_FILE} {why}"
    publication = read_publication(folder)
    left_out = publication.left_out if publication else ()
    for name, digest in record.files.items():
        file = folder / name
        if name in WEIGHTS or (name in left_out and not file.exists()):
            continue  # large, and may be deleted: `ossa study verify` looks at them
        if not file.is_file():
            return f"{file}, which {RECORD_FILE} lists, is missing"
        if sha256_of(file) != digest:
            return f"{file} is not the file that {RECORD_FILE} lists: its sha256 differs"
    why = why_not_of_log(record, rows)
    return None if why is None else f"{folder / RECORD_FILE} {why}"


def why_not_of_log(record: Record, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns which number of a record is not the one in its epoch log, or None."""
    by_epoch = {row["epoch"]: row for row in rows}
    for which, metrics in record.metrics.items():
        row = by_epoch.get(metrics.get("epoch"), {})
        for key in row.keys() & metrics.keys():
            if metrics[key] != row[key]:
                where = f"metrics.{which}.{key} is {metrics[key]}, and {row[key]} in {LOG_FILE}"
                return f"was changed: {where}"
    return None


def write_failure(folder: Path, reason: str, *, refused: bool = False) -> None:
    """Records why a run without a record failed, or was refused: for what the user can mend."""
    folder.mkdir(parents=True, exist_ok=True)  # if its process did not create it
    write_json_atomically(folder / FAILURE_FILE, {"reason": reason, "refused": refused})


def write_progress(folder: Path, epochs: float) -> None:
    """Records the number of epochs that a run has trained."""
    write_json_atomically(folder / _PROGRESS_FILE, {"epochs": epochs})


def read_progress(folder: Path) -> float:
    """Returns the number of epochs trained, including the fraction of the current one."""
    try:
        content = read_json_object(folder / _PROGRESS_FILE, what="the progress of a run")
        epochs = float(content["epochs"])
    except (DataError, ValueError, KeyError, TypeError, OverflowError):
        return 0.0
    return epochs if 0 <= epochs < math.inf else 0.0


class _ModelMeasurements(Section, extra="ignore"):
    ms_per_image: float = Field(gt=0)
    peak_bytes: float | None = Field(default=None, ge=0)


class _Measurements(Section, extra="ignore"):
    device: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    others_busy: bool | None = None
    """Whether other programs kept the machine busy; None in files of earlier versions."""
    models: dict[str, _ModelMeasurements]


def read_measurements(folder: Path) -> dict[str, Any]:
    """Returns the content of `measurements.json`, empty if there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    file = folder / MEASUREMENTS_FILE
    if not file.exists():
        return {}
    try:
        content = read_json_object(file, what="the measurements of a study")
        return validated(_Measurements, content, where=str(file)).model_dump()
    except OssaError as problem:
        raise DataError(
            f"{problem}; remove {file} and measure again with 'ossa study run'"
        ) from None


def _failure(file: Path) -> tuple[State, str]:
    try:
        content = read_json_object(file, what="why a run failed")
        return "refused" if content.get("refused") is True else "failed", str(content["reason"])
    except (DataError, KeyError):
        return "failed", f"{file} cannot be read"


def create_study(
    study: StudyConfig, path: Path, *, data: Path, weights_folder: Path
) -> StudyFolder:
    """Writes the study into its folder, or checks that the study in the folder is the same.

    Raises:
        ConfigError: the folder has another study, or the plan is invalid.
    """
    file = path / STUDY_FILE
    there = read_study_folder(path) if file.exists() else None
    plan = make_plan(study, data=data, folder=weights_folder)
    if there is not None:
        _check_continues(there, plan, file)
        if study.mixed_environments and not there.study.mixed_environments:
            return _declare_mixed_environments(there)
        return there
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        expected = "a new or empty folder or a study"
        raise ConfigError(expected=expected, found="one in use", path=path)
    for run in plan.runs:
        refuse_window(run.config.augment)
    (path / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
    places = {"data": str(data.resolve()), "weights": str(weights_folder.resolve())}
    _write(file, study, places)
    return StudyFolder(path, plan)


def _declare_mixed_environments(there: StudyFolder) -> StudyFolder:
    """Writes into the study of a folder that its environments may differ."""
    study, places = _read(there.path / STUDY_FILE)
    study = study.model_copy(update={"mixed_environments": True})
    _write(there.path / STUDY_FILE, study, places)
    return StudyFolder(there.path, _plan_of(study, places))


def _check_continues(there: StudyFolder, plan: Plan, file: Path) -> None:
    """Raises ConfigError unless the existing study has all runs of the plan, unchanged."""
    known = {run.name: run.config.digest() for run in there.plan.runs}
    for run in plan.runs:
        if run.name not in known:
            raise ConfigError(
                f"{file} has no run {run.name}: add its model or seed with 'ossa study add', or "
                "use another folder"
            )
        if known[run.name] != run.config.digest():
            raise ConfigError(
                f"{file} has another recipe, neck or weights for {run.name}: results under "
                "different conditions are not comparable; use another folder"
            )


def read_study_folder(path: Path, *, data: Path | None = None) -> StudyFolder:
    """Returns the study of a folder; `data` is where its data set is now, if it was moved.

    Raises:
        ConfigError: the folder has no study, or an invalid one.
    """
    study, places = _read(path / STUDY_FILE)
    if data is not None:
        places = {**places, "data": str(data)}
    return StudyFolder(path, _plan_of(study, places))


def _plan_of(study: StudyConfig, places: dict[str, str]) -> Plan:
    return make_plan(study, data=Path(places["data"]), folder=Path(places["weights"]))


def extend_study(path: Path, *, models: list[str], seeds: list[int]) -> StudyFolder:
    """Adds models and seeds to the study of a folder and returns the study.

    Raises:
        ConfigError: a model or seed is already in the study, or is invalid.
    """
    study, places = _read(path / STUDY_FILE)
    content = study.model_dump(mode="json")
    if known := [model for model in models if model in study.models]:
        seed = f"--seed {seeds[0]}" if seeds else "--seed N"
        raise ConfigError(
            f"{path / STUDY_FILE}: {legible(known[0])} is already in the study; '{seed}' alone "
            "trains all of its models with that seed"
        )
    more = {
        "models": [*content["models"], *models],
        "seeds": [*content["seeds"], *seeds],
    }
    study = check_study(merge(content, more), where=f"{path / STUDY_FILE} with what is added")
    plan = _plan_of(study, places)
    _write(path / STUDY_FILE, study, places)
    return StudyFolder(path, plan)


def _write(file: Path, study: StudyConfig, places: dict[str, str]) -> None:
    content = {
        "study": study.model_dump(mode="json"),
        "places": places,
        "conditions_version": CONDITIONS_VERSION,
    }
    write_text_atomically(file, yaml.safe_dump(content, sort_keys=False))


def _read(file: Path) -> tuple[StudyConfig, dict[str, str]]:
    """Returns the study, and the places of its data and weights."""
    if not file.is_file():
        raise ConfigError(
            expected="the folder of a study",
            found=f"no {STUDY_FILE}",
            path=file.parent,
            advice="start one with 'ossa study run FILE.yaml'",
        )
    try:
        content = read_yaml(file).value
        study, places = content["study"], content["places"]
        places = {"data": str(places["data"]), "weights": str(places["weights"])}
        version = content.get("conditions_version")
    except (OSError, ConfigError, KeyError, TypeError):
        raise ConfigError(expected="a study and the places of its data", path=file) from None
    if version != CONDITIONS_VERSION:
        raise ConfigError(
            expected=f"conditions of version {CONDITIONS_VERSION}",
            found=legible(repr(version)),
            path=file,
            advice="read it with the version of ossa that started it",
        )
    return check_study(study, where=str(file)), places
