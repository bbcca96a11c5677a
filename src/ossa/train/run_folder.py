"""The folder of a run: its configuration, log, weights, detections and record, written and read."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from ossa.config import RunConfig, build_config, flattened, merge, settings_digest
from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError, DataError, legible
from ossa.evaluate.coco import detections_as_coco_results, read_coco_results
from ossa.files import (
    TEMPORARY_FILES,
    read_json_object,
    read_small_file,
    sha256_of,
    without_nan,
    write_atomically,
    write_json_atomically,
    write_text_atomically,
)
from ossa.safe_yaml import read_yaml
from ossa.schema import Section, first_problem
from ossa.types import Detections, Record

CONFIG_FILE = "config.yaml"
RECORD_FILE = "record.json"
LOG_FILE = "log.jsonl"
LAST_WEIGHTS = "last.safetensors"
BEST_WEIGHTS = "best.safetensors"
DETECTIONS_FILE = "val-detections.json.gz"
FIGURES_FOLDER = "figures"
WEIGHTS = (LAST_WEIGHTS, BEST_WEIGHTS)
RECORD_SCHEMA = 4
"""A new setting needs no new version, unless its default changes what old runs did."""
_NUMBERS = ("epoch", "train_box", "train_classes")
"""Keys that every row of a log has."""
_ALWAYS = (
    *("cost.params", "cost.flops", "cost.macs", "times.train", "times.evaluate"),
    *(f"metrics.{which}.{key}" for which in ("last", "best") for key in ("epoch", "ap", "ap50")),
)
"""Keys that the record of every run has that is done."""
SETTINGS_BEFORE = {"train": {"schedule_lag": False, "warmup_limit": None}}
"""Of runs before schema 3, which had neither a lag of the learning rate nor a warm-up limit."""
_CURRENT_SETTINGS, _DIGEST_SCHEMA = 3, 4
"""Schemas from which on records have all those settings, and a digest."""
_Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Numbers: TypeAlias = dict[str, Annotated[int | float, Field(ge=-(2**63), le=2**63)] | None]
"""What a record says in numbers. JSON has integers that no float can hold."""
_FileName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")]
LogRow: TypeAlias = dict[str, Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | None]
"""An epoch of a log; a loss is NaN where all batches were left out."""
_ROW = TypeAdapter(LogRow)


class _RecordContent(Section, strict=True):
    """The keys of a record, but the version of its schema. `ossa.types.Record` says what they are.

    Schema 3 added `image_fingerprint`; schema 4 `digest`, the hashes of the weights, and in
    `environment` where the numbers come from (`ossa.train.provenance`).
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
    digest: str | None = None


def write_record(record: Record, folder: Path) -> None:
    """Writes `record.json` whole into the run's folder, with the digest of its content."""
    record = replace(record, digest=record_digest(record))
    write_json_atomically(folder / RECORD_FILE, asdict(record))


def record_digest(record: Record) -> str:
    """Returns the sha256 of the canonical JSON of a record but its `digest`."""
    content = asdict(replace(record, digest=None))
    return hashlib.sha256(json.dumps(without_nan(content), sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """Returns the record of a run's folder, of whichever schema, as one of today's.

    Raises:
        DataError: there is none, or it is not a record of a known schema.

    Examples:
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
    if schema >= _DIGEST_SCHEMA and content.get("digest") is None:
        raise DataError(f"{file} is damaged: expected the digest of its content, found none")
    record = Record(schema=RECORD_SCHEMA, **content)
    if schema >= _CURRENT_SETTINGS:
        return record
    config = merge(SETTINGS_BEFORE, record.config)
    # A hash that was wrong before must not become right.
    hash_matches = record.config_hash == settings_digest(record.config)
    config_hash = settings_digest(config) if hash_matches else record.config_hash
    return replace(record, config=config, config_hash=config_hash)


def start_folder(folder: Path, config: RunConfig) -> None:
    """Writes the configuration of a run, and removes the record and leftovers of a killed run."""
    for leftover in (*folder.glob(TEMPORARY_FILES), folder / RECORD_FILE):
        leftover.unlink(missing_ok=True)
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text_atomically(folder / CONFIG_FILE, settings)


def write_log(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes `log.jsonl` whole, one line per epoch."""
    write_text_atomically(folder / LOG_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def finish_folder(
    record: Record, folder: Path, index: DatasetIndex, detections: Mapping[int, Detections]
) -> Record:
    """Writes the last weights' detections on val and then, last of all, the record."""
    results = json.dumps(detections_as_coco_results(index, detections))
    write_atomically(folder / DETECTIONS_FILE, gzip.compress(results.encode(), mtime=0))
    names = (LOG_FILE, DETECTIONS_FILE, *WEIGHTS)
    files = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    record = replace(record, files=files)
    write_record(record, folder)
    return record


def read_config(folder: Path) -> RunConfig:
    """Returns the configuration that a run was started with.

    Raises:
        ConfigError: the folder holds no run.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(
            f"expected the folder of a run, to resume it, found no {CONFIG_FILE} in {folder}"
        )
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
        DataError: there is no log, or a line of it is not an epoch.
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
    """Returns an epoch of a log, or raises ValueError for a line that is none."""
    row = _ROW.validate_json(line, strict=True)
    if any(row.get(name) is None for name in _NUMBERS):
        raise ValueError
    return row


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as planned."""

    folder: Path
    config: RunConfig
    record: Record

    @property
    def val_fingerprint(self) -> str:
        """The fingerprint of the split that its detections are of."""
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
    found, record = f"no {RECORD_FILE}", None
    if (folder / RECORD_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        record = read_record(folder)
        found = f"one that {record.status}" + (f" ({record.reason})" if record.reason else "")
    if record is None or record.status != "done":
        raise DataError(
            f"expected a finished run in {folder}, found {found}: "
            f"finish it with 'ossa train --resume {folder}'"
        )
    config = read_config(folder)
    if why := why_not_of(record, config, complete=False):
        raise DataError(f"{folder / RECORD_FILE} {why}: is it that of the run in {folder}?")
    return FinishedRun(folder, config, record)


def why_not_of(record: Record, config: RunConfig, *, complete: bool = True) -> str | None:
    """Returns why a record is not a (complete) one of a run with this configuration, or None.

    Raises:
        ConfigError: its settings are not a configuration.
    """
    if record.config_hash != settings_digest(record.config):
        return "was changed: its settings are not those of its hash"
    if record.digest is not None and record.digest != record_digest(record):
        return "was changed: its content is not that of its digest"
    # By the schema of today: a record of an earlier one has what was added since by default.
    if build_config(record.config).digest() != config.digest():
        return "is of a run with other settings"
    if (record.model, record.seed) != (config.model.name, config.seed):
        return "was changed: its model or seed is not that of its settings"
    if not complete or record.status != "done":
        return None
    present = flattened({"cost": record.cost, "times": record.times, "metrics": record.metrics})
    missing = [key for key in _ALWAYS if key not in present]
    return f"lacks {missing[0]}" if missing else None


def same_images(fingerprint: str | None, other: str | None) -> bool:
    """Returns whether images held the same for two runs, as far as is known of both."""
    return fingerprint is None or other is None or fingerprint == other


_OF_THE_MODEL = ("data", "seed", "recipe", "model.name")
_OF_THE_WEIGHTS = ("model.backbone_args", "model.backbone_mean", "model.backbone_std")
"""Come with `model.backbone_weights`, where these are given."""


def differing_settings(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns the settings in which runs of several models differ, beside model, seed and data."""
    each = [flattened(run.config.model_dump(mode="json")) for run in runs]
    of_weights = _OF_THE_WEIGHTS if any(one["model.backbone_weights"] for one in each) else ()
    differing = []
    for key in dict.fromkeys(key for settings in each for key in settings):
        values = list(dict.fromkeys(str(settings.get(key)) for settings in each))
        if len(values) > 1 and key not in _OF_THE_MODEL and not key.startswith(of_weights):
            differing.append(f"{key} {' and '.join(values)}")
    if len({run.record.data_fingerprint.rpartition("-")[0] for run in runs}) > 1:
        differing.append("the training images or their labels")
    names = {run.config.model.name for run in runs}
    if len(names) > 1 and not all(run.config.model.equal_conditions for run in runs):
        differing.append("laterals, and necks where a preset has its own")
    return differing


def check_seeds(runs: Sequence[FinishedRun]) -> None:
    """Raises ConfigError unless runs differ in their seeds, all of them, and in nothing else."""
    first, *others = runs
    seeds = {first.config.seed: first.folder}
    for run in others:
        settings, other = (flattened(it.config.model_dump(mode="json")) for it in (first, run))
        for key in (settings.keys() | other.keys()) - {"data", "seed"}:
            if settings.get(key) != other.get(key):
                raise ConfigError(
                    f"expected runs of one model that differ in their seeds alone, found {key} "
                    f"{settings.get(key)} in {first.folder} and {other.get(key)} in {run.folder}: "
                    "compare them as two models"
                )
        earlier = seeds.setdefault(run.config.seed, run.folder)
        if earlier is not run.folder:
            raise ConfigError(
                f"expected runs of different seeds, found seed {run.config.seed} in both "
                f"{earlier} and {run.folder}: they are the same run twice"
            )
