"""Verifies the records of a study: metrics from stored detections, costs, and hashes of files."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import content_fingerprint
from ossa.errors import OssaError
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.metrics import evaluate_detections
from ossa.files import sha256_of
from ossa.model_config import ModelConfig
from ossa.models.backbones.timm import SkipInit
from ossa.models.complexity import count_cost
from ossa.models.detector import build_detector
from ossa.study.config import Reported
from ossa.study.folder import StudyFolder, why_not_of_log
from ossa.study.plan import PlannedRun
from ossa.study.reported import (
    RESAMPLED_FILE,
    compute_resampled,
    detections_file,
    read_publication,
    read_reported,
    read_reported_split,
    read_resampled,
    reported_images,
)
from ossa.train.run_folder import LOG_FILE, RECORD_FILE, read_log, read_record, why_not_of
from ossa.types import Record

Verdict = Literal["agrees", "differs", "cannot be verified", "no record"]
_TOLERANCE = 1e-9
"""Of metrics: sums in another order differ in the last digits."""
_COSTS = ("params", "flops", "macs")


@dataclass(frozen=True)
class Mismatch:
    """Something that a record says otherwise than its files do."""

    what: str
    """Such as 'metrics.last.ap' or the name of a file."""
    recorded: Any = None
    recomputed: Any = None
    reason: str | None = None
    """Where it is not a matter of two values."""

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.what}: {self.reason}"
        recorded, recomputed = (
            "none" if value is None else value for value in (self.recorded, self.recomputed)
        )
        return f"{self.what}: {recorded} recorded, {recomputed} recomputed"


@dataclass(frozen=True)
class VerifiedRun:
    """What was found for one planned run, or for README.md of a published study."""

    run: str
    numbers: int
    """Numbers that were recomputed."""
    files: int
    """Files that were hashed."""
    mismatches: tuple[Mismatch, ...]
    unverified: tuple[str, ...]
    """Sentences on what could not be verified."""
    not_published: tuple[str, ...] = ()
    """Files that are not there because the study was published without them."""
    has_record: bool = True

    @property
    def verdict(self) -> Verdict:
        if not self.has_record:
            return "no record"
        if self.mismatches:
            return "differs"
        return "cannot be verified" if self.unverified else "agrees"

    def flat(self) -> dict[str, Any]:
        """Returns everything as values ready for JSON."""
        return {"verdict": self.verdict, **asdict(self)}


def verify_study(
    study: StudyFolder, *, on_run: Callable[[int, int], None] | None = None
) -> list[VerifiedRun]:
    """Recomputes what the records of a study say, and returns what was found for each run.

    Args:
        study: the folder of a study.
        on_run: called with the number of runs verified and their total.
    """
    data = _Data()
    found = []
    for run in study.plan.runs:
        found.append(_Verification(study, run, data).result())
        if on_run is not None:
            on_run(len(found), len(study.plan.runs))
    return found


class _Data:
    """Splits, hashes of their images and costs of models, each read or computed once."""

    def __init__(self) -> None:
        self._splits: dict[tuple[str, str, str], DatasetIndex] = {}
        self._images: dict[int, str] = {}
        self._costs: dict[str, dict[str, int]] = {}

    def split(self, folder: Path, data: str, reported: Reported, known: str) -> DatasetIndex:
        """Returns the split that a run was scored on; `known` is its fingerprint."""
        key = (data, reported.split, known)
        if key not in self._splits:
            self._splits[key] = read_reported_split(folder, data, reported)
        return self._splits[key]

    def images(self, index: DatasetIndex) -> str:
        """Returns the fingerprint of the image files of a split that is kept here."""
        if id(index) not in self._images:
            self._images[id(index)] = content_fingerprint(index)
        return self._images[id(index)]

    def cost(self, model: ModelConfig, *, num_classes: int, imgsz: int) -> dict[str, int]:
        """Returns the flat cost of a model, counted without its weights."""
        key = f"{model.model_dump_json()} {num_classes} {imgsz}"
        if key not in self._costs:
            nothing = {"pretrained": False, "backbone_weights": None, "weights": None}
            model = model.model_copy(update=nothing)
            with torch.device("meta"), SkipInit():
                detector = build_detector(model, num_classes=num_classes, imgsz=imgsz)
            self._costs[key] = count_cost(detector, imgsz).flat(_COSTS)
        return self._costs[key]


class _Verification:
    """The verification of one run."""

    def __init__(self, study: StudyFolder, run: PlannedRun, data: _Data) -> None:
        self.study, self.run, self.data = study, run, data
        self.folder = study.run_folder(run)
        self.numbers = self.files = 0
        self.mismatches: list[Mismatch] = []
        self.unverified: list[str] = []
        self.not_published: tuple[str, ...] = ()

    def result(self) -> VerifiedRun:
        has_record = (self.folder / RECORD_FILE).exists()
        if has_record:
            try:
                record = read_record(self.folder)
                publication = read_publication(self.folder)
                self.not_published = publication.left_out if publication else ()
            except OssaError as problem:
                self.mismatches.append(Mismatch(RECORD_FILE, reason=str(problem)))
            else:
                self._verify(record)
        return VerifiedRun(
            self.run.name,
            self.numbers,
            self.files,
            tuple(self.mismatches),
            tuple(self.unverified),
            self.not_published,
            has_record,
        )

    def _verify(self, record: Record) -> None:
        if why := why_not_of(record, self.run.config):
            self.mismatches.append(Mismatch(RECORD_FILE, reason=why))
        for name, digest in record.files.items():
            self._hash(name, digest)
        self._compare_log(record)
        if record.status != "done":
            return
        index = self._score(record)
        reported = self.study.study.reported
        if reported.split != "val":
            self._score_reported(reported)
        if index is not None:
            imgsz = self.run.config.train.imgsz
            try:
                cost = self.data.cost(
                    self.run.config.model, num_classes=len(index.names), imgsz=imgsz
                )
            except OssaError as problem:
                self.unverified.append(f"cost: {problem}")
            else:
                self._compare("cost", record.cost, cost)

    def _hash(self, name: str, digest: str) -> None:
        file = self.folder / name
        if name in self.not_published and not file.exists():
            return
        if not file.is_file():
            self.unverified.append(f"{name} is not there")
            return
        self.files += 1
        if (found := sha256_of(file)) != digest:
            self.mismatches.append(Mismatch(f"sha256 of {name}", digest, found))

    def _compare_log(self, record: Record) -> None:
        """Compares metrics and times with the epochs of the log."""
        try:
            rows = read_log(self.folder)
        except OssaError as problem:
            self.unverified.append(f"{LOG_FILE}: {problem}")
            return
        if why := why_not_of_log(record, rows):
            self.mismatches.append(Mismatch(RECORD_FILE, reason=why))
        if [row["epoch"] for row in rows] == list(range(len(rows))):
            self._compare("times", record.times, _seconds(rows), tolerance=1e-3)

    def _score(self, record: Record) -> DatasetIndex | None:
        """Recomputes the metrics of the last weights on val; returns the split, if it is there."""
        known = record.data_fingerprint.rpartition("-")[2]
        index = self._index(Reported(), known)
        if index is not None:
            self._hash_images(index, Reported())
            self._recompute("metrics.last", record.metrics["last"], index, Reported())
        return index

    def _score_reported(self, reported: Reported) -> None:
        """Recomputes the metrics on the split that the study reports."""
        try:
            metrics = read_reported(self.folder, reported)
        except OssaError as problem:
            self.unverified.append(str(problem))
            return
        index = self._index(reported, "reported")
        if index is not None:
            self._hash_images(index, reported)
            self._recompute(f"{reported.split} metrics", metrics, index, reported)

    def _hash_images(self, index: DatasetIndex, reported: Reported) -> None:
        """Compares the image files of a split with those that the run was scored on."""
        what = f"images of {reported.split}"
        recorded = reported_images(self.folder, reported)
        if recorded is None:
            self.unverified.append(f"{what}: they were not hashed when the run was scored on them")
            return
        try:
            found = self.data.images(index)
        except OssaError as problem:
            self.unverified.append(f"{what}: {problem}")
            return
        self.numbers += 1
        if found != recorded:
            self.mismatches.append(Mismatch(what, recorded, found))

    def _index(self, reported: Reported, known: str) -> DatasetIndex | None:
        try:
            return self.data.split(self.folder, self.run.config.data, reported, known)
        except OssaError as problem:
            self.unverified.append(str(problem))
            return None

    def _recompute(
        self, what: str, metrics: Mapping[str, Any], index: DatasetIndex, reported: Reported
    ) -> None:
        file = detections_file(self.folder, reported)
        if file.name in self.not_published and not file.exists():
            return
        if not file.is_file():
            self.unverified.append(f"{what}: cannot be recomputed without {file.name}")
            return
        try:
            detections = read_coco_results(file, index)
        except OssaError as problem:
            self.mismatches.append(Mismatch(file.name, reason=str(problem)))
            return
        self._compare(what, metrics, evaluate_detections(index, detections).flat())
        if reported == self.study.study.reported:
            self._compare_resampled(file, index)

    def _compare_resampled(self, detections: Path, index: DatasetIndex) -> None:
        """Draws the images again, by which the intervals of a report are computed."""
        stored = read_resampled(detections, index)
        if stored is None:
            return  # a report computes it anew
        self.numbers += 1
        drawn = compute_resampled(detections, index)
        for name, values in drawn.items():
            if not np.allclose(stored[name], values, rtol=0, atol=_TOLERANCE, equal_nan=True):
                reason = f"{name} is not that of the detections"
                self.mismatches.append(Mismatch(RESAMPLED_FILE, reason=reason))

    def _compare(
        self,
        what: str,
        recorded: Mapping[str, Any],
        recomputed: Mapping[str, Any],
        *,
        tolerance: float = _TOLERANCE,
    ) -> None:
        for key in recomputed.keys() & recorded.keys():
            self.numbers += 1
            if not _same(recorded[key], recomputed[key], tolerance):
                name = f"{what}.{key}"
                self.mismatches.append(Mismatch(name, recorded[key], recomputed[key]))


def _same(recorded: Any, recomputed: Any, tolerance: float) -> bool:
    if recorded is None or recomputed is None:
        return recorded is recomputed
    return math.isclose(recorded, recomputed, rel_tol=0, abs_tol=tolerance)


def _seconds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    def total(name: str) -> Iterator[float]:
        return (row.get(f"{name}_seconds") or 0.0 for row in rows)

    return {name: sum(total(name)) for name in ("train", "evaluate")}
