"""The metrics of a run under resampled images, kept beside its record.

A report over hundreds of runs then matches nothing and resamples nothing: the weightings of the
images are the same for every run on a split, so what was stored months apart is comparable.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError, OssaError
from ossa.evaluate.bootstrap import METRICS, RESAMPLES, image_weightings, resample
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.metrics import Metrics
from ossa.evaluate.object_bins import bins_of
from ossa.evaluate.statistics import Values
from ossa.files import sha256_of, write_atomically
from ossa.study.config import StudyConfig
from ossa.study.folder import RunState, StudyFolder, read_measurements
from ossa.study.reported import detections_file, read_reported, read_split
from ossa.study.scaling import inverse_normalised_loss
from ossa.train.finished import same_images
from ossa.train.run_folder import read_log

SAMPLES_FILE = "resampled.npz"
_SEED = 0
_LARGEST = 64 * 2**20


def samples_of(
    detections: Path, index: DatasetIndex, *, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]]:
    """Returns (W,) of every metric of a run, from the file beside its detections or made anew.

    Args:
        detections: COCO results of a run on the split.
        index: the split.
        resamples: how often the images are drawn.

    Raises:
        DataError: detections that do not fit the split.
    """
    origin = f"{sha256_of(detections)} {index.fingerprint()} {resamples} {_SEED}"
    file = detections.parent / SAMPLES_FILE
    kept = _read_samples(file, origin)
    if kept is not None:
        return kept
    matches = match(index, read_coco_results(detections, index))
    values = _resample(matches, index, resamples=resamples)
    content = BytesIO()
    arrays = {"origin": np.array(origin), "digest": np.array(_digest(values)), **values}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(file, content.getvalue())
    return values


def _resample(
    matches: Matches, index: DatasetIndex, *, resamples: int
) -> dict[str, NDArray[np.float64]]:
    weights = image_weightings(len(index), resamples=resamples, seed=_SEED)
    return resample(matches, METRICS, weights=weights, bins=bins_of(index, matches))


def _read_samples(file: Path, origin: str) -> dict[str, NDArray[np.float64]] | None:
    """Returns what a file holds, None where it is missing, changed or of other detections."""
    try:
        with ZipFile(file) as archive, np.load(file, allow_pickle=False) as content:
            size = sum(member.file_size for member in archive.infolist())
            if size > _LARGEST or str(content["origin"]) != origin:
                return None
            values = {name: content[name] for name in METRICS}
            return values if str(content["digest"]) == _digest(values) else None
    except Exception:  # of the many kinds that damaged archives raise: it is made anew
        return None


def _digest(values: Mapping[str, NDArray[np.float64]]) -> str:
    return hashlib.sha256(b"".join(values[name].tobytes() for name in METRICS)).hexdigest()


def values_of(
    runs: Sequence[Mapping[str, NDArray[np.float64]]], metric: str, *, num_images: int
) -> Values:
    """Returns one metric of the runs of a model.

    Raises:
        DataError: the split has no object of the kind that the metric is about.
    """
    stacked = np.stack([run[metric] for run in runs])
    if not np.isfinite(stacked[:, 0]).all():
        raise DataError(f"expected objects for {metric} in the evaluation split, found none")
    return Values.of(stacked, num_images=num_images)


QUALITIES: Final[Mapping[str, str]] = {
    "ap": "AP50-95",
    "ap50": "AP50",
    "ap_small": "AP small",
    "ap_crowded": "AP crowded",
    "recall": "recall",
    "inverse_loss": "inverse normalised loss",
}
COMPLEXITIES: Final[Mapping[str, str]] = {
    "params": "parameters",
    "flops": "FLOPs",
    "macs": "MACs",
    "ms_per_image": "ms an image",
    "train_seconds": "training s",
    "peak_bytes": "memory, bytes",
}
_ROUNDING = 1e-6
_LOSSES = ("train_box", "train_objectness", "train_classes")


@dataclass(frozen=True)
class StudyRun:
    """A run that is done, with all that is told of it."""

    state: RunState
    log: tuple[Mapping[str, Any], ...]
    """An entry an epoch."""
    samples: Mapping[str, NDArray[Any]]
    """(W,) of every metric under the weightings of the images."""
    row: Mapping[str, Any]
    """Flat: model, family, seed, what is varied, metrics, costs, seconds."""


@dataclass(frozen=True)
class StudyResults:
    """A study as far as it is done."""

    folder: StudyFolder
    states: tuple[RunState, ...]
    """Of all runs that were planned."""
    runs: tuple[StudyRun, ...]
    """Those that are done and were trained on the same data."""
    index: DatasetIndex
    """The split that the study reports on."""
    measurements: Mapping[str, Any]
    """`measurements.json`; empty where nothing was measured."""

    @property
    def study(self) -> StudyConfig:
        return self.folder.study

    def base_runs(self) -> list[StudyRun]:
        """Returns the runs with the recipe as it is, or with the first of the varied values."""
        base = self.folder.plan.base
        return [run for run in self.runs if run.state.run.varied == base]

    def table(self) -> pd.DataFrame:
        """Returns a row a finished run, with the varied ones."""
        return pd.DataFrame([run.row for run in self.runs])

    def models(self) -> pd.DataFrame:
        """Returns a row a model in the order of the study: `runs` and the means over its seeds.

        Columns of numbers have a deviation over seeds beside them, `ap_std`: NaN of one run.
        """
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for run in self.base_runs():
            rows.setdefault(run.state.run.model, []).append(run.row)
        order = [model for model in self.study.models if model in rows]
        return pd.DataFrame([_mean_row(rows[model]) for model in order])

    def values(self, metric: str) -> dict[str, Values]:
        """Returns one sampled metric of every model that has finished runs.

        Raises:
            DataError: the split has nothing that the metric is about.
        """
        runs: dict[str, list[Mapping[str, NDArray[Any]]]] = {}
        for run in self.base_runs():
            runs.setdefault(run.state.run.model, []).append(run.samples)
        return {
            model: values_of(runs[model], metric, num_images=len(self.index))
            for model in self.study.models
            if model in runs
        }


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the runs of a model have in common, and their means and deviations."""
    words = ("model", "family", "policy", "weights", "licence", "neck")
    row: dict[str, Any] = {"runs": len(rows), **{key: rows[0][key] for key in words}}
    for name in (*QUALITIES, *COMPLEXITIES, *_MORE):
        values = np.array([run[name] for run in rows], float)  # None becomes NaN
        row[name] = float(values.mean())
        row[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return row


_MORE = ("ap75", "ap_medium", "ap_large", "ar_100", "precision", "f1", "evaluate_seconds")
"""Columns of numbers beside qualities and complexities."""


def read_results(
    folder: StudyFolder, *, on_run: Callable[[int, int], None] | None = None
) -> StudyResults:
    """Returns what a study has found so far.

    Args:
        folder: of the study.
        on_run: called with the number of finished runs read and their total.

    Raises:
        DataError: no run is done, or the data are no longer those that were trained on.
    """
    states = folder.states()
    done = [state for state in states if state.state == "done"]
    if not done:
        raise DataError(
            f"expected finished runs in {folder.path}, found none of {len(states)}: "
            "train them with 'ossa study run'"
        )
    index = read_split(done[0].folder, done[0].run.config.data, folder.study.reported)
    states, done = _of_one_data_set(states)
    measurements = read_measurements(folder.path)
    runs = []
    for number, state in enumerate(done, start=1):
        try:
            runs.append(_read_run(folder, state, index, measurements))
        except OssaError as problem:
            foreign = replace(state, state="foreign", record=None, reason=str(problem))
            states[states.index(state)] = foreign
        if on_run is not None:
            on_run(number, len(done))
    if not runs:
        reason = next(state.reason for state in states if state.reason)
        raise DataError(f"expected runs that can be read in {folder.path}, found none: {reason}")
    return StudyResults(folder, tuple(states), tuple(runs), index, measurements)


def _of_one_data_set(states: list[RunState]) -> tuple[list[RunState], list[RunState]]:
    """Returns all states, those of other data than the first as foreign; and the done ones."""
    first = next(state.record for state in states if state.record and state.state == "done")
    kept = []
    for state in states:
        record = state.record
        if record and not (
            record.data_fingerprint == first.data_fingerprint
            and same_images(record.image_fingerprint, first.image_fingerprint)
        ):
            reason = f"{state.folder} was trained on other data than the first run"
            state = RunState(state.run, state.folder, "foreign", reason=reason)
        kept.append(state)
    return kept, [state for state in kept if state.state == "done"]


def _read_run(
    folder: StudyFolder,
    state: RunState,
    index: DatasetIndex,
    measurements: Mapping[str, Any],
) -> StudyRun:
    reported, run, record = folder.study.reported, state.run, state.record
    assert record is not None
    log = read_log(state.folder)
    samples = samples_of(state.folder / detections_file(reported), index)
    recorded = read_reported(state.folder, reported)
    metrics = {field.name: recorded.get(field.name) for field in fields(Metrics)}
    del metrics["per_class"]
    _check_recomputed(metrics, samples, state.folder)
    precision, recall = metrics.get("precision"), metrics.get("recall")
    measured = measurements.get("models", {}).get(run.model, {})
    row = {
        "run": run.name,
        "model": run.model,
        "family": run.family,
        "seed": run.seed,
        **run.varied,
        "policy": run.weights.policy,
        "weights": run.weights.source,
        "licence": run.weights.licence,
        "neck": run.config.model.neck,
        "imgsz": run.config.train.imgsz,
        **metrics,
        "f1": 2 * precision * recall / (precision + recall) if precision and recall else None,
        "ap_crowded": float(samples["ap_crowded"][0]),
        "inverse_loss": inverse_normalised_loss([sum(e[key] for key in _LOSSES) for e in log]),
        **{key: record.cost[key] for key in ("params", "flops", "macs")},
        "ms_per_image": measured.get("ms_per_image"),
        "images_per_second": 1000.0 / measured["ms_per_image"] if measured else None,
        "peak_bytes": measured.get("peak_bytes"),
        "train_seconds": record.times["train"],
        "evaluate_seconds": record.times["evaluate"],
    }
    return StudyRun(state, tuple(log), samples, row)


def _check_recomputed(
    metrics: Mapping[str, Any], samples: Mapping[str, NDArray[Any]], folder: Path
) -> None:
    """Raises DataError where the metrics of a run are not those of its detections."""
    for name in ("ap", "ap50", "ap75"):
        value, found = metrics.get(name), float(samples[name][0])
        if value is not None and abs(value - found) > _ROUNDING:
            raise DataError(
                f"{folder}: expected {name} {found:.6f}, which the detections there give, found "
                f"{value:.6f} recorded: record, detections and {SAMPLES_FILE} do not belong "
                "together"
            )
