"""The folder of a run: what is written, under which names, and when."""

import gzip
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from ossa.config import RunConfig, build_config, merge
from ossa.data.index import DatasetIndex
from ossa.errors import ConfigError, DataError, legible
from ossa.evaluate.coco import detections_as_coco_results
from ossa.files import (
    TEMPORARY_FILES,
    read_small_file,
    sha256_of,
    write_atomically,
    write_text_atomically,
)
from ossa.models.detector import Detector
from ossa.models.weights import save_checkpoint
from ossa.safe_yaml import read_yaml
from ossa.train.record import RECORD_FILE, SETTINGS_BEFORE, write_record
from ossa.types import Detections, Record

CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"
LAST_WEIGHTS = "last.safetensors"
BEST_WEIGHTS = "best.safetensors"
DETECTIONS_FILE = "val-detections.json.gz"
_KEPT_METRICS = ("ap", "ap50", "precision", "recall", "best_confidence")
"""In the weights: what they reached on val, and the confidence that predictions start at."""
FIGURES_FOLDER = "figures"
"""In the folder of a run: the pictures of it."""
_ROW = TypeAdapter(dict[str, int | float | None])
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
