"""Reading runs that are done: what they were, and what they found on their val split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossa.config import RunConfig, build_config, settings_digest
from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError, DataError
from ossa.evaluate.coco import read_coco_results
from ossa.files import sha256_of
from ossa.train.run_folder import (
    CONFIG_FILE,
    DETECTIONS_FILE,
    RECORD_FILE,
    read_config,
    read_record,
)
from ossa.types import Detections, Record

_MAY_DIFFER = {"data", "seed"}
"""Settings of runs of one model: where the data lie is no property of them."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as planned."""

    folder: Path
    config: RunConfig
    record: Record

    @property
    def val_fingerprint(self) -> str:
        """That of the split that its detections are of."""
        return self.record.data_fingerprint.rpartition("-")[2]

    @property
    def val_images(self) -> str | None:
        """The fingerprint of what its image files held; None where the record does not say it."""
        images = self.record.image_fingerprint
        return None if images is None else images.rpartition("-")[2]

    def val_detections(self, index: DatasetIndex) -> dict[int, Detections]:
        """Returns what the last weights found, by image id.

        Args:
            index: the val split, of the fingerprint of the run.

        Raises:
            DataError: the detections are missing or not those that the record speaks of.
        """
        file = self.folder / DETECTIONS_FILE
        if not file.is_file():
            raise DataError(f"expected the detections of a run at {file}, found none")
        if sha256_of(file) != self.record.files.get(DETECTIONS_FILE):
            raise DataError(
                f"{file} is not the file that {RECORD_FILE} beside it speaks of: its sha256 differs"
            )
        return read_coco_results(file, index)


def read_finished_run(folder: Path) -> FinishedRun:
    """Returns the run of a folder.

    Raises:
        DataError: the folder has no record, or one of a run that failed.
        ConfigError: its configuration is damaged.
    """
    if (folder / CONFIG_FILE).is_file() and not (folder / RECORD_FILE).is_file():
        raise DataError(
            f"expected a finished run in {folder}, found no {RECORD_FILE}: "
            f"finish it with 'ossa train --resume {folder}'"
        )
    record = read_record(folder)
    if record.status != "done":
        raise DataError(
            f"expected a finished run in {folder}, found one that {record.status}"
            + (f" ({record.reason})" if record.reason else "")
            + f": finish it with 'ossa train --resume {folder}'"
        )
    config = read_config(folder)
    if why := why_not_of(record, config):
        raise DataError(f"{folder / RECORD_FILE} {why}: is it that of the run in {folder}?")
    return FinishedRun(folder, config, record)


def why_not_of(record: Record, config: RunConfig) -> str | None:
    """Returns in which way a record is not one of a run with this configuration, or None.

    Raises:
        ConfigError: the settings in it are none.
    """
    if record.config_hash != settings_digest(record.config):
        return "was changed: its settings are not those of its hash"
    # By the schema of today: a record of an earlier one has what was added since by default.
    if build_config(record.config).digest() != config.digest():
        return "is of a run with other settings"
    if (record.model, record.seed) != (config.model.name, config.seed):
        return "was changed: its model or seed is not that of its settings"
    return None


def what_is_missing(record: Record) -> str | None:
    """Returns 'lacks ...' of what the record of a run that is done must have, or None."""
    if record.status != "done":
        return None
    needed = {
        "cost": (record.cost, ("params", "flops", "macs")),
        "times": (record.times, ("train", "evaluate")),
        "metrics": (record.metrics, ("last", "best")),
        "metrics.last": (record.metrics.get("last", {}), ("epoch", "ap", "ap50")),
        "metrics.best": (record.metrics.get("best", {}), ("epoch", "ap", "ap50")),
    }
    missing = (
        f"lacks {name}.{key}"
        for name, (of, keys) in needed.items()
        for key in keys
        if key not in of
    )
    return next(missing, None)


def same_images(fingerprint: str | None, other: str | None) -> bool:
    """Returns whether images held the same for two runs, as far as is known of both."""
    return fingerprint is None or other is None or fingerprint == other


def check_seeds(runs: Sequence[FinishedRun]) -> None:
    """Raises ConfigError unless runs differ in their seeds, all of these, and in nothing else."""
    first = runs[0]
    settings = dict(_flat(first.config.model_dump(mode="json", exclude=_MAY_DIFFER)))
    for number, run in enumerate(runs[1:], start=1):
        others = dict(_flat(run.config.model_dump(mode="json", exclude=_MAY_DIFFER)))
        for key in settings.keys() | others.keys():
            if settings.get(key) != others.get(key):
                raise ConfigError(
                    f"expected runs of one model that differ in their seeds alone, found {key} "
                    f"{settings.get(key)} in {first.folder} and {others.get(key)} in {run.folder}: "
                    "compare them as two models"
                )
        for earlier in runs[:number]:
            if earlier.config.seed == run.config.seed:
                raise ConfigError(
                    f"expected runs of different seeds, found seed {run.config.seed} in both "
                    f"{earlier.folder} and {run.folder}: they are the same run twice"
                )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings by their dotted names."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
