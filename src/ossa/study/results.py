"""The results of a study: one row per finished run, means over seeds, quality against cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError, OssaError
from ossa.evaluate.metrics import METRIC_TITLES, Metrics
from ossa.evaluate.object_bins import metrics_of_one_image
from ossa.evaluate.statistics import Interval, Values
from ossa.study.analysis import Relation, pareto_membership
from ossa.study.comparisons import Comparisons, compare_all
from ossa.study.config import StudyConfig
from ossa.study.efficiency import Efficiency, efficiencies
from ossa.study.environments import check_environments, environments_of
from ossa.study.estimates import draw_qualities, without_images
from ossa.study.folder import RunState, StudyFolder, read_measurements, read_study_folder
from ossa.study.interactions import Effect, effects_of
from ossa.study.reported import (
    check_recomputed,
    compute_resampled,
    detections_file,
    ensure_resampled,
    read_reported,
    read_reported_split,
)
from ossa.study.scaling import Points, fit_power_law, inverse_normalised_loss
from ossa.train.run_folder import read_log, same_images
from ossa.types import sum_of_losses

QUALITIES: Final[Mapping[str, str]] = {
    **{name: METRIC_TITLES[name] for name in ("ap", "ap50", "ap_small", "ap_crowded", "recall")},
    "inverse_loss": "inverse normalised loss",
}
COMPLEXITIES: Final[Mapping[str, str]] = {
    "params": "parameters",
    "flops": "FLOPs",
    "macs": "MACs",
    "ms_per_image": "ms per image",
    "train_seconds": "training time, s",
    "peak_bytes": "memory, bytes",
}
_OTHER_NUMBERS = ("ap75", "ap_medium", "ap_large", "ar_100", "precision", "f1", "evaluate_seconds")
_TEXTS = ("model", "family", "pretraining", "weights", "licence", "neck")


def values_of(
    runs: Sequence[Mapping[str, NDArray[np.float64]]], metric: str, *, num_images: int
) -> Values:
    """Returns the values of one metric over the runs of a model.

    Raises:
        DataError: the split has no object of the kind that the metric is about.
    """
    stacked = np.stack([run[metric] for run in runs])
    if not np.isfinite(stacked[:, 0]).all():
        raise DataError(expected=f"objects for {metric} in the evaluation split")
    return Values.of(stacked, num_images=num_images)


@dataclass(frozen=True)
class StudyRun:
    """A finished run."""

    state: RunState
    log: tuple[Mapping[str, Any], ...]
    """One entry per epoch."""
    resampled_metrics: Mapping[str, NDArray[Any]]
    """Values (W,) of every metric under the weightings of the images."""
    row: Mapping[str, Any]
    """Flat row: model, family, seed, varied settings, metrics, costs, seconds."""


@dataclass(frozen=True)
class StudyResults:
    """The results of a study so far, with at least one finished run.

    Examples:
        >>> import ossa
        >>> results = ossa.load_study("study")
        >>> results.table()["model"].unique().tolist()
        ['resnet10t', 'mobilenetv2_100']
    """

    folder: StudyFolder
    states: tuple[RunState, ...]
    """The states of all planned runs."""
    runs: tuple[StudyRun, ...]
    """The finished runs that were trained on the same data."""
    index: DatasetIndex
    """The split that the study reports on."""
    measurements: Mapping[str, Any]
    """The content of `measurements.json`; empty if nothing was measured."""

    _comparisons: dict[str, Comparisons] = field(default_factory=dict, repr=False, compare=False)
    _drawn: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Both by metric, as they are asked for."""

    @property
    def study(self) -> StudyConfig:
        """The configuration of the study."""
        return self.folder.study

    @cached_property
    def runs_by_model(self) -> dict[str, list[StudyRun]]:
        """Finished runs with the base values of the varied settings."""
        return self._runs_with(self.folder.plan.base)

    def _runs_with(self, varied: Mapping[str, Any]) -> dict[str, list[StudyRun]]:
        runs: dict[str, list[StudyRun]] = {}
        for run in self.runs:
            if run.state.run.varied == varied:
                runs.setdefault(run.state.run.model, []).append(run)
        return {model: runs[model] for model in self.study.models if model in runs}

    def table(self) -> pd.DataFrame:
        """Returns one row per finished run, including those with varied settings."""
        return pd.DataFrame([run.row for run in self.runs])

    def models(self) -> pd.DataFrame:
        """Returns one row per model in the order of the study: number of runs and means over seeds.

        Columns such as `ap_std` are standard deviations over seeds, NaN for a single run.
        """
        return self._models

    @cached_property
    def _models(self) -> pd.DataFrame:
        each = self.runs_by_model.values()
        return pd.DataFrame([_mean_row([run.row for run in runs]) for runs in each])

    @property
    def names(self) -> list[str]:
        """The models with finished runs, in the order of the study."""
        return list(self.runs_by_model)

    @property
    def pretraining_sources(self) -> list[str]:
        """The pretraining data of the initial weights, without duplicates."""
        return self._models["pretraining"].unique().tolist()

    @property
    def best_first(self) -> list[str]:
        """The models in descending order of their mean AP50-95."""
        return self._models.sort_values("ap", ascending=False, kind="stable")["model"].tolist()

    def number(self, model: str, column: str) -> float:
        """Returns a number from `models()`, NaN if it is unknown."""
        return float(self._by_model.at[model, column])

    @cached_property
    def _by_model(self) -> pd.DataFrame:
        return self._models.set_index("model")

    def is_known(self, column: str) -> bool:
        """Returns whether a column of `models()` has a number for at least one model."""
        return column in self._models and bool(self._models[column].notna().any())

    @property
    def independence(self) -> str:
        """A sentence on what the intervals over images take as independent."""
        if self.index.groups is None:
            return "Images count as independent: the data.yaml names no groups of them."
        return f"Images of one of {self.index.num_units} groups are drawn together."

    @property
    def qualities(self) -> dict[str, str]:
        """The `QUALITIES` that are known, with their titles."""
        return {key: title for key, title in QUALITIES.items() if self.is_known(key)}

    @property
    def complexities(self) -> dict[str, str]:
        """The `COMPLEXITIES` that are known, with their titles."""
        return {key: title for key, title in COMPLEXITIES.items() if self.is_known(key)}

    def values(self, metric: str, *, varied: Mapping[str, Any] | None = None) -> dict[str, Values]:
        """Returns one resampled metric of every model that has finished runs.

        Args:
            metric: such as 'ap'.
            varied: the values of all varied settings; by default the base values.

        Raises:
            DataError: the split has no object of the kind that the metric is about.
        """
        return {
            model: values_of(
                [run.resampled_metrics for run in runs], metric, num_images=self.index.num_units
            )
            for model, runs in self._runs_with(varied or self.folder.plan.base).items()
        }

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """How AP50-95 depends on each varied setting, while the others have their base values."""

        def values(varied: Mapping[str, Any]) -> dict[str, Values]:
            return self.values("ap", varied=varied)

        return effects_of(self.study.factors, self.folder.plan.base, values)

    def comparisons(self, metric: str = "ap") -> Comparisons:
        """Returns the comparisons of all pairs of models in one resampled metric.

        Raises:
            DataError: the split has no object of the kind that the metric is about.
        """
        if metric not in self._comparisons:
            self._comparisons[metric] = compare_all(self.values(metric), margin=self.study.margin)
        return self._comparisons[metric]

    def intervals(self, quality: str) -> dict[str, Interval] | None:
        """Returns the unadjusted 95% interval of a quality by model.

        None if it is not resampled, or its objects lie in fewer than two images or groups of them.
        """
        if quality not in self.runs[0].resampled_metrics or quality in self._of_one_image:
            return None
        return {model: self.comparisons(quality).interval(model) for model in self.names}

    @cached_property
    def _of_one_image(self) -> frozenset[str]:
        return metrics_of_one_image(self.index)

    def points(self, quality: str, complexity: str) -> Points:
        """Returns one point for each model that has both numbers."""
        models = self._models
        return Points.of(
            self.names,
            families=models["family"].tolist(),
            complexity=models[complexity].to_numpy(float),
            quality=models[quality].to_numpy(float),
        )

    def relation(self, quality: str, complexity: str) -> Relation:
        """Returns the relation of a quality to a complexity: power-law fit and Pareto set."""
        key = (quality, complexity)
        if key not in self._relations:
            points = self.points(quality, complexity)
            pareto = pareto_membership(points, self.draws(quality))
            self._relations[key] = Relation(*key, points, fit_power_law(points), pareto)
        return self._relations[key]

    @cached_property
    def _relations(self) -> dict[tuple[str, str], Relation]:
        return {}

    def efficiency(self, quality: str, complexity: str) -> tuple[Efficiency, ...]:
        """Returns the efficiency of every model, with intervals from the draws of `relation`."""
        return efficiencies(self.points(quality, complexity), self.draws(quality))

    def draws(self, quality: str) -> dict[str, NDArray[np.float64]] | None:
        """Returns draws of the true quality by model, None if neither images nor seeds vary it."""
        if quality not in self._drawn:
            if quality in self.runs[0].resampled_metrics:
                values = self.values(quality)
            else:
                each = self.runs_by_model.items()
                plain = {model: [run.row[quality] for run in runs] for model, runs in each}
                values = without_images(plain, like=next(iter(self.values("ap").values())))
            self._drawn[quality] = draw_qualities(values)
        return self._drawn[quality]


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the runs of a model have in common, with means and standard deviations."""
    row: dict[str, Any] = {"runs": len(rows), **{key: rows[0][key] for key in _TEXTS}}
    for name in (*QUALITIES, *COMPLEXITIES, *_OTHER_NUMBERS):
        values = np.array([run[name] for run in rows], float)  # None becomes NaN
        row[name] = float(values.mean())
        row[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return row


def load_study(
    study: StudyFolder | Path | str,
    *,
    keep_resampled: bool = True,
    on_run: Callable[[int, int], None] | None = None,
) -> StudyResults:
    """Returns the results of a study so far.

    Args:
        study: the folder of the study.
        keep_resampled: whether to use the stored resampled metrics and to store missing ones.
        on_run: called with the number of finished runs read and their total.

    Raises:
        DataError: no run is finished, runs were not computed alike, or the data have changed since
            the training.

    Examples:
        >>> import ossa
        >>> results = ossa.load_study("study")
        >>> results.study.models, len(results.runs)
        (('resnet10t', 'mobilenetv2_100'), 6)
    """
    folder = study if isinstance(study, StudyFolder) else read_study_folder(Path(study))
    states = folder.states()
    done = [state for state in states if state.state == "done"]
    if not done:
        found, advice = f"none of {len(states)}", "train them with 'ossa study run'"
        raise DataError(expected="finished runs", found=found, path=folder.path, advice=advice)
    check_environments(folder.study, environments_of(done), folder.path)
    index = read_reported_split(done[0].folder, done[0].run.config.data, folder.study.reported)
    states = _of_one_data_set(states, done[0])
    done = [state for state in states if state.state == "done"]
    measurements = read_measurements(folder.path)
    runs = []
    for number, state in enumerate(done, start=1):
        try:
            runs.append(_read_run(folder, state, index, measurements, keep_resampled))
        except OssaError as problem:
            at, reason = states.index(state), str(problem)
            states[at] = replace(state, state="foreign", record=None, reason=reason)
        if on_run is not None:
            on_run(number, len(done))
    if not runs:
        reason = next(state.reason for state in states if state.reason)
        raise DataError(expected="runs that can be read", path=folder.path, advice=reason)
    return StudyResults(folder, tuple(states), tuple(runs), index, measurements)


def _of_one_data_set(states: Sequence[RunState], first: RunState) -> list[RunState]:
    """Returns the states, with runs on other data than the first one marked as foreign."""
    kept, expected = [], first.record
    assert expected is not None
    for state in states:
        record = state.record
        if record and not (
            record.data_fingerprint == expected.data_fingerprint
            and same_images(record.image_fingerprint, expected.image_fingerprint)
        ):
            reason = f"{state.folder} was trained on other data than the first run"
            state = RunState(state.run, state.folder, "foreign", reason=reason)
        kept.append(state)
    return kept


def _read_run(
    folder: StudyFolder,
    state: RunState,
    index: DatasetIndex,
    measurements: Mapping[str, Any],
    keep_resampled: bool,
) -> StudyRun:
    log, reported = read_log(state.folder), folder.study.reported
    resampled_of = ensure_resampled if keep_resampled else compute_resampled
    resampled = resampled_of(detections_file(state.folder, reported), index)
    recorded = read_reported(state.folder, reported)
    metrics = {field.name: recorded.get(field.name) for field in fields(Metrics)}
    del metrics["per_class"]
    check_recomputed(metrics, resampled, state.folder)
    metrics["ap_crowded"] = float(resampled["ap_crowded"][0])
    measured = measurements.get("models", {}).get(folder.plan.detector_of(state.run), {})
    return StudyRun(state, tuple(log), resampled, run_row(state, log, metrics, measured))


def run_row(
    state: RunState, log: Sequence[Any], metrics: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the flat row of a finished run, from its log, its metrics and what was measured."""
    run, record = state.run, state.record
    assert record is not None
    precision, recall = metrics.get("precision"), metrics.get("recall")
    return {
        "run": run.name,
        "model": run.model,
        "family": run.family,
        "seed": run.seed,
        **run.varied,
        "pretraining": run.weights.pretraining,
        "weights": run.weights.source,
        "licence": run.weights.licence,
        "neck": run.config.model.neck,
        "imgsz": run.config.train.imgsz,
        **metrics,
        "f1": 2 * precision * recall / (precision + recall) if precision and recall else None,
        "inverse_loss": inverse_normalised_loss([sum_of_losses(epoch, "train_") for epoch in log]),
        **{key: record.cost[key] for key in ("params", "flops", "macs")},
        "ms_per_image": measured.get("ms_per_image"),
        "images_per_second": 1000.0 / measured["ms_per_image"] if measured else None,
        "peak_bytes": measured.get("peak_bytes"),
        "train_seconds": record.times["train"],
        "evaluate_seconds": record.times["evaluate"],
    }
