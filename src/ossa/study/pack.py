"""Times of a study's models on other machines: a folder to carry there, and what comes back.

`write_pack` exports every model with NMS and puts the script `time_models.py` beside the files; it
needs neither torch nor ossa. The measurements it writes come from anywhere: `read_measured` checks
schema, sizes and names, and refuses times of weights that are not the study's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ossa.data.annotations import DatasetIndex, select_images
from ossa.errors import ConfigError, DataError, OssaError, legible
from ossa.export.export import Export, export_detector
from ossa.export.graph import ExportSettings, NMSSettings, require
from ossa.export.parity import some_images
from ossa.files import (
    read_json_object,
    read_regular,
    sha256_of,
    write_atomically,
    write_json_atomically,
    write_text_atomically,
)
from ossa.models.checkpoint import read_checkpoint
from ossa.schema import Section, validated
from ossa.study import time_models
from ossa.study.analysis import Relation
from ossa.study.folder import RunState, StudyFolder
from ossa.study.reported import read_reported_split
from ossa.study.results import StudyResults
from ossa.study.scaling import InsufficientData
from ossa.train.run_folder import LAST_WEIGHTS

_COMPARED = 8
"""Number of images on which an exported file is compared with PyTorch."""
_LARGEST_SCRIPT = 2**20
_Text = Annotated[str, Field(max_length=300)]
_Milliseconds = Annotated[float, Field(gt=0, le=1e7)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, le=1_000_000)]

_SHEET = """\
# Timing the models of the study {study}

This folder has {models} exported models, a script, and this sheet. Copy it to the machine that the
models shall run on. There it needs Python 3.9, numpy, and onnxruntime or openvino, nothing else:

    pip install numpy onnxruntime
    python time_models.py --name my-laptop

`--runtime openvino` times with OpenVINO, `--threads N` with N threads (default: all processors).
Close other programs first: the models run turn by turn, {warmup} times without and {runs} times
with the clock, on the CPU in fp32, one image of {imgsz} x {imgsz} pixels at a time, including
decoding and NMS. The script sends nothing anywhere. It writes `measurements-my-laptop.json`; with
that file, and those of other machines,

    ossa study report STUDY --measurements measurements-my-laptop.json

shows quality against time for each machine. The file is refused where the weights were others.
{left_out}"""


def write_pack(
    study: StudyFolder,
    folder: Path,
    *,
    on_model: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Writes the exported models, the script and a sheet; returns the models left out, and why.

    The weights of a model are the last ones of its first finished run.

    Args:
        study: with at least one finished run.
        folder: new or empty.
        on_model: called with the number of models exported and their total.

    Raises:
        ConfigError: the folder is in use, or a package for the export is missing.
        DataError: no run is finished, or no model can be exported.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, purpose="ossa study pack")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(expected="a new or empty folder", found="one in use", path=folder)
    first = _first_runs(study)
    some = next(iter(first.values()))
    index = read_reported_split(some.folder, some.run.config.data, study.study.reported)
    with_objects = select_images(index, np.diff(index.gt_offsets) > 0)
    images = some_images(with_objects, _COMPARED)
    (folder / "models").mkdir(parents=True, exist_ok=True)
    models: dict[str, dict[str, str]] = {}
    left_out: dict[str, str] = {}
    for number, (model, state) in enumerate(first.items(), start=1):
        file = folder / "models" / f"{number:03d}-{re.sub('[^A-Za-z0-9._-]', '_', model)}.onnx"
        try:
            exported = _export(state, file, images)
            if exported.fault is not None:
                exported.file.unlink()
                raise DataError(exported.fault)
            weights = sha256_of(state.folder / LAST_WEIGHTS)
        except OssaError as problem:
            left_out[model] = str(problem)
        else:
            models[model] = {
                "file": str(file.relative_to(folder)),
                "file_sha256": sha256_of(file),
                "weights_sha256": weights,
            }
        if on_model is not None:
            on_model(number, len(first))
    if not models:
        reason = next(iter(left_out.values()))
        raise DataError(expected="a model that can be exported", path=study.path, advice=reason)
    _write_rest(folder, study.study.name, models, left_out, imgsz=some.run.config.train.imgsz)
    return left_out


def _write_rest(
    folder: Path,
    study: str,
    models: Mapping[str, Mapping[str, str]],
    left_out: Mapping[str, str],
    *,
    imgsz: int,
) -> None:
    """Writes the list of the models, the script and the sheet."""
    content = {"schema_number": 1, "study": study, "imgsz": imgsz, "models": models}
    write_json_atomically(folder / time_models.PACK_FILE, content)
    script = Path(time_models.__file__)
    write_atomically(folder / script.name, read_regular(script, most_bytes=_LARGEST_SCRIPT))
    lines = [f"- {model}: {legible(reason)}" for model, reason in left_out.items()]
    sheet = _SHEET.format(
        study=study,
        models=len(models),
        imgsz=imgsz,
        warmup=time_models.WARMUP_RUNS,
        runs=time_models.TIMED_RUNS,
        left_out="\n".join(["\nNot in this folder:\n", *lines, ""]) if lines else "",
    )
    write_text_atomically(folder / "README.md", sheet)


def _first_runs(study: StudyFolder) -> dict[str, RunState]:
    first: dict[str, RunState] = {}
    for state in study.states():
        if state.state == "done" and state.run.varied == study.plan.base:
            first.setdefault(state.run.model, state)
    if not first:
        advice = "train them with 'ossa study run'"
        raise DataError(expected="finished runs", path=study.path, advice=advice)
    return first


def _export(state: RunState, file: Path, images: DatasetIndex) -> Export:
    """Writes a model with the NMS of its evaluation."""
    config = state.run.config.evaluate
    keys = set(NMSSettings.model_fields)
    nms = NMSSettings(**config.model_dump(include=keys))
    imgsz = state.run.config.train.imgsz
    checkpoint = read_checkpoint(state.folder / LAST_WEIGHTS)
    settings = ExportSettings("onnx", imgsz=imgsz, nms=nms)
    return export_detector(checkpoint, file, settings, images=images)


class _ModelTimes(Section, strict=True):
    weights_sha256: _Sha256
    median_ms: _Milliseconds
    mean_ms: _Milliseconds
    p95_ms: _Milliseconds


class Measured(Section, strict=True):
    """The content of a `measurements-NAME.json`: times of one machine."""

    schema_number: Literal[1]
    machine: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    study: _Text
    imgsz: _Count
    cpu: _Text
    system: _Text
    runtime: Literal["onnxruntime", "openvino"]
    runtime_version: _Text
    threads: _Count
    warmup_runs: int = Field(ge=0, le=1_000_000)
    timed_runs: _Count
    models: dict[_Text, _ModelTimes] = Field(min_length=1, max_length=10_000)


@dataclass(frozen=True)
class Machine:
    """Quality against the time on one machine."""

    measured: Measured
    results: StudyResults
    """The study's, with the times of this machine."""

    @property
    def name(self) -> str:
        return self.measured.machine

    @property
    def relation(self) -> Relation:
        """AP50-95 against milliseconds per image."""
        return self.results.relation("ap", "ms_per_image")

    def sentence(self) -> str:
        """Returns a sentence on the machine, its Pareto set and its power law."""
        about, fit = self.measured, self.relation.fit
        members = ", ".join(point.model for point in self.relation.members)
        law = (
            f"no power-law fit: {fit.reason}"
            if isinstance(fit, InsufficientData)
            else (
                f"power-law slope {fit.slope:.3f} (95% CI {fit.slope_interval.low:.3f} to "
                f"{fit.slope_interval.high:.3f})"
            )
        )
        return (
            f"{self.name} ({about.cpu}, {about.runtime} {about.runtime_version}, {about.threads} "
            f"threads, median of {about.timed_runs} runs): Pareto set {members or 'empty'}; {law}."
        )


def read_machines(results: StudyResults, files: Sequence[Path]) -> list[Machine]:
    """Returns what was measured on other machines, checked against the study.

    Raises:
        DataError: a file is missing or damaged, of another study, image size or weights, or of a
            machine that another file is of.
    """
    machines: list[Machine] = []
    for file in files:
        measured = read_measured(results, file)
        if measured.machine in {machine.name for machine in machines}:
            expected = "one file of each machine"
            raise DataError(expected=expected, found=f"two of {measured.machine}", path=file)
        machines.append(Machine(measured, _timed_on(results, measured)))
    return machines


def machines_by_data(
    results: Mapping[str, StudyResults], files: Sequence[Path]
) -> dict[str, list[Machine]]:
    """Returns the machines of every data set; a file is of the study that it names.

    Args:
        results: by data set.
        files: as of `read_machines`.

    Raises:
        DataError: as `read_machines`; a file of none of the studies.
    """
    if len(results) == 1:
        return {data: read_machines(one, files) for data, one in results.items()}
    own: dict[str, list[Path]] = {one.study.name: [] for one in results.values()}
    for file in files:
        study = _read(file).study
        if study not in own:
            expected = f"measurements of one of the studies {', '.join(own)}"
            raise DataError(expected=expected, found=legible(study), path=file)
        own[study].append(file)
    return {data: read_machines(one, own[one.study.name]) for data, one in results.items()}


def _timed_on(results: StudyResults, measured: Measured) -> StudyResults:
    """Returns the results with the times of a machine; of the budgets, those in ms are left."""
    times = {model: own.median_ms for model, own in measured.models.items()}
    runs = [
        replace(run, row={**run.row, "ms_per_image": times.get(run.row["model"])})
        for run in results.runs
    ]
    budgets = {"ms_per_image": results.study.budgets.get("ms_per_image", ())}
    study = results.study.model_copy(update={"budgets": budgets})
    folder = replace(results.folder, plan=replace(results.folder.plan, study=study))
    return replace(results, runs=tuple(runs), folder=folder, measurements={})


def _read(file: Path) -> Measured:
    content = read_json_object(file, what="the measurements of a machine")
    try:
        return validated(Measured, content, where=str(file))
    except ConfigError as problem:
        raise DataError(str(problem)) from None


def read_measured(results: StudyResults, file: Path) -> Measured:
    """Returns the times in a file, whose models and weights are the study's.

    Raises:
        DataError: as `read_machines`.
    """
    measured = _read(file)
    imgsz = results.runs[0].state.run.config.train.imgsz
    for what, expected, found in (
        ("study", results.study.name, measured.study),
        ("image side in px", imgsz, measured.imgsz),
    ):
        if found != expected:
            raise DataError(
                expected=f"measurements of {what} {expected}", found=legible(str(found)), path=file
            )
    for model, times in measured.models.items():
        if times.weights_sha256 not in _weights_of(results, model):
            raise DataError(
                expected=f"times of weights of the study {results.study.name}",
                found=f"others for {legible(model)}",
                path=file,
                advice="pack the study and measure again",
            )
    return measured


def _weights_of(results: StudyResults, model: str) -> set[str]:
    """Returns the sha256 of the last weights of every finished run of a model."""
    digests = set()
    for run in results.runs_by_model.get(model, []):
        file, record = run.state.folder / LAST_WEIGHTS, run.state.record
        if file.is_file():
            digests.add(sha256_of(file))
        elif record is not None:
            digests.add(record.files.get(LAST_WEIGHTS, ""))
    return digests
