"""Writing and reading the record of a run."""

import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import cv2
import timm
import torch
from pydantic import Field, StringConstraints, ValidationError

from ossa.config import Section, first_problem, merge, settings_digest
from ossa.errors import DataError
from ossa.files import read_json_object, write_json_atomically
from ossa.types import Record

RECORD_SCHEMA = 3
RECORD_FILE = "record.json"
SETTINGS_BEFORE = {"train": {"schedule_lag": False, "warmup_limit": None}}
"""What settings that are younger than some runs were for these, whatever is the default today.

Before schema 3 there was neither the lag of the learning rate nor a limit of the warm-up.
"""
_Numbers: TypeAlias = dict[str, int | float | None]
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
    cost: dict[str, int]
    metrics: dict[str, _Numbers]
    times: dict[str, float]
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
