"""Writing and reading the record of a run."""

import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import timm
import torch

from ossa.config import merge, settings_digest
from ossa.errors import DataError
from ossa.files import write_json_atomically
from ossa.types import Record

RECORD_SCHEMA = 3
RECORD_FILE = "record.json"
SETTINGS_BEFORE = {
    "augment": {"window": None},
    "train": {"schedule_lag": False, "warmup_limit": None},
}
"""What settings that are younger than some runs were for these, whatever is the default today.

Schema 1 had no window: the partners of mosaic and mixup were drawn from all images. Schema 2 had
neither the lag of the learning rate nor a limit of the warm-up.
"""


def write_record(record: Record, folder: Path) -> None:
    """Writes `record.json` whole into the run's folder."""
    write_json_atomically(folder / RECORD_FILE, asdict(record))


def read_record(folder: Path) -> Record:
    """Returns the record of a run's folder, of whichever schema, as one of today's.

    Raises:
        DataError: there is none, or it is not a record of a known schema.
    """
    file = folder / RECORD_FILE
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        schema = content["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"expected the record of a run at {file}, found none") from None
    if schema not in range(1, RECORD_SCHEMA + 1):
        raise DataError(
            f"{file} is a record of schema {schema}, this version reads 1 to {RECORD_SCHEMA}: "
            "update ossa"
        )
    record = Record(**content)
    return record if schema == RECORD_SCHEMA else _from_earlier_schema(record)


def _from_earlier_schema(record: Record) -> Record:
    """Returns a record of today's schema with the settings that its run could not choose yet."""
    config = merge(SETTINGS_BEFORE, record.config)
    # A hash that was not that of the settings must not become it.
    honest = record.config_hash == settings_digest(record.config)
    config_hash = settings_digest(config) if honest else record.config_hash
    return replace(record, schema=RECORD_SCHEMA, config=config, config_hash=config_hash)


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
