"""Writing and reading the record of a run."""

import gzip
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import cv2
import timm
import torch
import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from ossa.config import RunConfig, build_config, merge, settings_digest
from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError, DataError, legible
from ossa.evaluate.coco import detections_as_coco_results
from ossa.files import (
    TEMPORARY_FILES,
    read_json_object,
    read_small_file,
    sha256_of,
    write_atomically,
    write_json_atomically,
    write_text_atomically,
)
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import Detector
from ossa.safe_yaml import read_yaml
from ossa.schema import Section, first_problem
from ossa.types import Detections, Record

RECORD_SCHEMA = 3
RECORD_FILE = "record.json"
SETTINGS_BEFORE = {"train": {"schedule_lag": False, "warmup_limit": None}}
"""What settings that are younger than some runs were for these, whatever is the default today.

Before schema 3 there was neither the lag of the learning rate nor a limit of the warm-up.
"""
_Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Numbers: TypeAlias = dict[str, Annotated[int | float, Field(ge=-(2**63), le=2**63)] | None]
"""What a record says in numbers. JSON has integers that no float can hold."""
_FileName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")]


class _RecordContent(Section, strict=True):
    """The keys of a record, but the version of its schema. `ossa.types.Record` says what they are.

    Schema 3 added `image_fingerprint`.
    """

    model: str
    status: Literal["done", "stopped", "failed"]
    reason: str | None
    config: dict[str, Any]
    config_hash: str
    seed: int
    initial_weights: dict[str, Any]
    cost: dict[str, _Count]
    metrics: dict[str, Numbers]
    times: dict[str, Annotated[float, Field(ge=0, le=2**63)]]
    environment: dict[str, str]
    data_fingerprint: str
    files: dict[_FileName, str] = Field(default_factory=dict)
    image_fingerprint: str | None = None


def write_record(record: Record, folder: Path) -> None:
    """Writes `record.json` whole into the run's folder."""
    write_json_atomically(folder / RECORD_FILE, asdict(record))


def read_record(folder: Path) -> Record:
    """Returns the record of a run's folder, of whichever schema, as one of today's.

    Raises:
        DataError: there is none, or it is not a record of a known schema.

    Example:
        >>> import ossa
        >>> record = ossa.read_record(Path("study/runs/resnet10t-seed0"))
        >>> record.model, record.status
        ('resnet10t', 'done')
    """
    file = folder / RECORD_FILE
    content = read_json_object(file, what="the record of a run")
    schema = content.pop("schema", None)
    if type(schema) is not int or schema < 1:
        raise DataError(f"{file} is damaged: expected the version of its schema, found none")
    if schema > RECORD_SCHEMA:
        raise DataError(
            f"{file} is a record of schema {schema}, this version reads 1 to {RECORD_SCHEMA}: "
            "update ossa"
        )
    try:
        _RecordContent.model_validate(content)
    except ValidationError as problems:
        raise DataError(f"{file} is damaged: {first_problem(problems, _RecordContent)}") from None
    record = Record(schema=RECORD_SCHEMA, **content)
    return record if schema == RECORD_SCHEMA else _from_earlier_schema(record)


def _from_earlier_schema(record: Record) -> Record:
    """Returns a record with the settings that its run could not choose yet."""
    config = merge(SETTINGS_BEFORE, record.config)
    # A hash that was not that of the settings must not become it.
    honest = record.config_hash == settings_digest(record.config)
    config_hash = settings_digest(config) if honest else record.config_hash
    return replace(record, config=config, config_hash=config_hash)


def environment() -> dict[str, str]:
    """Returns what a result depends on beside the configuration: hardware and versions."""
    from ossa import __version__

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "ossa": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "opencv": cv2.__version__,
        "cpu": _cpu_name(),
        "cpu_count": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"
LAST_WEIGHTS = "last.safetensors"
BEST_WEIGHTS = "best.safetensors"
DETECTIONS_FILE = "val-detections.json.gz"
_KEPT_METRICS = ("ap", "ap50", "precision", "recall", "best_confidence")
"""In the weights: what they reached on val, and the confidence that predictions start at."""
FIGURES_FOLDER = "figures"
"""In the folder of a run: the pictures of it."""
LogRow: TypeAlias = dict[str, Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | None]
"""An epoch of a log; a loss is NaN where all batches were left out."""
_ROW = TypeAdapter(LogRow)
_NUMBERS = ("epoch", "train_box", "train_objectness", "train_classes")
"""That every row of a log has."""


class RunFolder:
    """Writes a run's configuration, log, weights, detections and record."""

    def __init__(
        self, folder: Path, *, config: RunConfig, names: tuple[str, ...], writes: bool = True
    ) -> None:
        """`writes`: False for all but the first of several processes, whose calls do nothing."""
        self.folder = folder
        self.writes = writes
        self.config = config
        self.names = names

    def start(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Writes the resolved configuration, and the log of the epochs that are done.

        What a process that was killed left half-written is taken away, and the record of a run
        that failed and now goes on.
        """
        if not self.writes:
            return
        for leftover in (*self.folder.glob(TEMPORARY_FILES), self.folder / RECORD_FILE):
            leftover.unlink(missing_ok=True)
        settings = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_text_atomically(self.folder / CONFIG_FILE, settings)
        self.log(rows)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `log.jsonl` whole, a line per epoch: whatever was there before is none of it."""
        if self.writes:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_text_atomically(self.folder / LOG_FILE, lines)

    def save_weights(
        self,
        detector: Detector,
        *,
        metrics: Mapping[str, Any],
        initial_weights: Mapping[str, Any],
        best: bool,
    ) -> None:
        """Writes `last.safetensors`, and `best.safetensors` where this is the best epoch.

        Args:
            detector: of the epoch.
            metrics: flat, with the epoch.
            initial_weights: what the run started from, as in its record.
            best: whether no epoch was better so far.
        """
        if not self.writes:
            return
        for name in (LAST_WEIGHTS, BEST_WEIGHTS) if best else (LAST_WEIGHTS,):
            save_checkpoint(
                self.folder / name,
                detector,
                model=self.config.model,
                names=self.names,
                imgsz=self.config.train.imgsz,
                details={
                    "run": self.config.model_dump(mode="json"),
                    "epoch": metrics["epoch"],
                    "metrics": {key: metrics[key] for key in _KEPT_METRICS},
                    "pretraining": initial_weights["pretraining"],
                    "licence": initial_weights["licence"],
                },
            )

    def finish(
        self, record: Record, index: DatasetIndex, detections: Mapping[int, Detections]
    ) -> Record:
        """Writes the last weights' detections on val and then, last of all, the record."""
        if not self.writes:
            return record
        results = json.dumps(detections_as_coco_results(index, detections))
        write_atomically(self.folder / DETECTIONS_FILE, gzip.compress(results.encode(), mtime=0))
        files = {name: sha256_of(self.folder / name) for name in (LOG_FILE, DETECTIONS_FILE)}
        record = replace(record, files=files)
        write_record(record, self.folder)
        return record

    def fail(self, record: Record) -> Record:
        """Writes the record of a run that failed."""
        if self.writes:
            write_record(record, self.folder)
        return record


def read_config(folder: Path) -> RunConfig:
    """Returns the configuration that a run was started with.

    Raises:
        ConfigError: the folder holds no run.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(f"expected a run to resume in {folder}, found no {CONFIG_FILE} there")
    try:
        settings = read_yaml(file).value
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} is damaged: expected the settings of a run, found none")
    # All settings that there were at the time are in it.
    return build_config(merge(SETTINGS_BEFORE, settings), where=str(file))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the epochs that a run has logged.

    Raises:
        DataError: there is no log, or a line of it is no epoch's.
    """
    file, rows = folder / LOG_FILE, []
    for number, line in enumerate(_lines(file), start=1):
        try:
            rows.append(_row(line))
        except ValueError:
            raise DataError(
                f"{file}, line {number}: expected an epoch of a run in JSON, found {legible(line)}"
            ) from None
    return rows


def recovered_rows(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Returns what the log of a run still says of its first epochs, in their order."""
    rows: dict[Any, dict[str, Any]] = {}
    with suppress(DataError):
        for line in _lines(folder / LOG_FILE):
            with suppress(ValueError):
                row = _row(line)
                rows[row["epoch"]] = row
    return [rows[epoch] for epoch in range(epochs) if epoch in rows]


def _lines(file: Path) -> list[str]:
    return read_small_file(file, what="the log of a run").decode(errors="replace").splitlines()


def _row(line: str) -> dict[str, Any]:
    row = _ROW.validate_json(line, strict=True)
    if any(row.get(name) is None for name in _NUMBERS):
        raise ValueError
    return row
