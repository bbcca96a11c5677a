"""The folder of a run: what is written, under which names, and when."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ossa.config import RunConfig, build_config, merge
from ossa.data.index import DatasetIndex
from ossa.errors import ConfigError, legible
from ossa.evaluate.coco import detections_as_coco_results
from ossa.files import TEMPORARY_FILES, sha256_of, write_atomically, write_text_atomically
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

    def start(self, *, epochs_kept: int) -> None:
        """Writes the resolved configuration, and keeps the first epochs of an existing log.

        What a process that was killed left half-written is taken away, and the record of a run
        that failed and now goes on.
        """
        if not self.writes:
            return
        for leftover in (*self.folder.glob(TEMPORARY_FILES), self.folder / RECORD_FILE):
            leftover.unlink(missing_ok=True)
        settings = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_text_atomically(self.folder / CONFIG_FILE, settings)
        log = self.folder / LOG_FILE
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        write_text_atomically(log, "".join(lines[:epochs_kept]))

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one line to `log.jsonl`."""
        if not self.writes:
            return
        with (self.folder / LOG_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")

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
        found = legible(repr(settings))
        raise ConfigError(f"{file}: expected the settings of a run, found {found}")
    # All settings that there were at the time are in it.
    return build_config(merge(SETTINGS_BEFORE, settings), where=str(file))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the epochs that a run has logged."""
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
