"""Studies that were never trained: folders as `ossa study run` leaves them, in seconds.

Every run has its configuration, log, detections on val and record, with hashes that are right. The
detections are the truths of generated scenes, some missed, most displaced and a few false, by a
skill that grows with the logarithm of a model's parameters and differs a little by family and seed.
Parameters and FLOPs are those of the real backbones (the table that ossa ships).

What is invented is marked as such: the record's environment says 'synthetic'.
"""

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_xywh
from ossa.data.annotations import DatasetIndex
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.data.synthetic import write_scenes
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.metrics import evaluate_detections
from ossa.files import sha256_of, write_atomically, write_json_atomically, write_text_atomically
from ossa.models.backbones.catalog import CatalogRow, shipped_table
from ossa.study.config import StudyConfig
from ossa.study.folder import MEASUREMENTS_FILE, RunState, StudyFolder, create_study
from ossa.study.plan import PlannedRun
from ossa.train.run_folder import (
    CONFIG_FILE,
    DETECTIONS_FILE,
    LOG_FILE,
    RECORD_FILE,
    RECORD_SCHEMA,
    write_record,
)
from ossa.types import Record

NECK_PARAMS, NECK_FLOPS = 3_000_000, 350_000_000
"""About those of the neck s and its head at 160 px."""
_IMGSZ, _TABLE_IMGSZ = 160, 640
_SEED_DEVIATION, _FAMILY_DEVIATION = 0.03, 0.09
"""Of the skill; 0.1 is about 0.05 of AP."""


@dataclass(frozen=True)
class Costs:
    """What one detector costs."""

    params: int
    flops: int

    @property
    def skill(self) -> float:
        """Without what family and seed add."""
        return 0.35 * math.log10(self.params / 5e6)


def supported_models(count: int, *, most_params: int = 120_000_000) -> tuple[str, ...]:
    """Returns so many real backbones, evenly spread over the table of those that are supported."""
    rows = [
        row.model
        for row in shipped_table().values()
        if row.supported and row.params and row.params <= most_params and "_patch" not in row.model
    ]
    return tuple(rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int))


def write_study(
    folder: Path,
    *,
    models: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    images: int = 60,
    epochs: int = 12,
    false_per_image: int = 10,
    measured: bool = True,
    skill: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> StudyFolder:
    """Writes generated scenes and a study in which every run is done, and returns the study.

    Args:
        folder: gets `scenes` and `study`.
        models: names of backbones.
        seeds: of the runs.
        images: of val.
        epochs: in the logs.
        false_per_image: detections of nothing, most with low scores, as real detectors have them.
        measured: whether milliseconds and memory were measured.
        skill: of all models, beside their own; at -20 they find nothing.
        settings: more of the study's file.
    """
    data = write_scenes(folder / "scenes", images={"train": 2, "val": images}, imgsz=_IMGSZ)
    recipe = {"base": "yolov5-low", "epochs": epochs, "imgsz": _IMGSZ}
    study = StudyConfig.model_validate(
        {"name": "synthetic", "data": "scenes", "models": models, "seeds": seeds, "recipe": recipe}
        | dict(settings or {})
    )
    opened = create_study(study, folder / "study", data=data, weights_folder=folder)
    indexes = [read_index(read_description(data), split).index for split in ("train", "val")]
    fingerprint = "-".join(index.fingerprint() for index in indexes)
    for run in opened.plan.runs:
        write_run(
            opened.run_folder(run),
            run,
            indexes[1],
            data_fingerprint=fingerprint,
            false_per_image=false_per_image,
            skill=skill,
        )
    if measured:
        write_measurements(opened)
    return opened


def costs_of(model: str) -> Costs:
    """Returns what a detector with this backbone costs, roughly."""
    row = shipped_table().get(model, CatalogRow(model))
    params, flops = row.params or 5_000_000, row.flops or 10_000_000_000
    share = (_IMGSZ / _TABLE_IMGSZ) ** 2
    return Costs(params + NECK_PARAMS, int(flops * share / 2) * 2 + NECK_FLOPS)


def write_run(
    folder: Path,
    run: PlannedRun,
    index: DatasetIndex,
    *,
    data_fingerprint: str,
    false_per_image: int = 10,
    skill: float = 0.0,
) -> None:
    """Writes the folder of a finished run."""
    folder.mkdir(parents=True)
    config = yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False)
    write_text_atomically(folder / CONFIG_FILE, config)
    costs, rng = costs_of(run.model), _rng(run.name)
    family = _rng(run.family).normal() * _FAMILY_DEVIATION
    skill += costs.skill + family + _SEED_DEVIATION * rng.normal() + _of_the_recipe(run)
    results = json.dumps(_results(index, skill, rng, false_per_image=false_per_image))
    write_atomically(folder / DETECTIONS_FILE, gzip.compress(results.encode(), mtime=0))
    detections = read_coco_results(folder / DETECTIONS_FILE, index)
    metrics = evaluate_detections(index, detections).flat()
    log = _log(run.config.train.epochs, metrics, costs=costs, rng=rng)
    write_text_atomically(folder / LOG_FILE, "".join(json.dumps(row) + "\n" for row in log))
    last = {"epoch": run.config.train.epochs - 1, **metrics}
    record = Record(
        schema=RECORD_SCHEMA,
        model=run.model,
        status="done",
        reason=None,
        config=run.config.model_dump(mode="json"),
        config_hash=run.config.digest(),
        seed=run.seed,
        initial_weights=dict.fromkeys(("file", "sha256", "pretraining", "licence")),
        cost={"params": costs.params, "flops": costs.flops, "macs": costs.flops // 2},
        metrics={"last": last, "best": last},
        times={name: sum(row[f"{name}_seconds"] for row in log) for name in ("train", "evaluate")},
        environment=_ENVIRONMENT,
        data_fingerprint=data_fingerprint,
        files={name: sha256_of(folder / name) for name in (LOG_FILE, DETECTIONS_FILE)},
    )
    write_record(record, folder)


_ENVIRONMENT = {
    **{"ossa": "0.1.0", "python": "3.11", "torch": "2.6", "timm": "1.0", "opencv": "5.0"},
    **{"cpu": "synthetic", "cpu_count": "2", "threads": "1", "gpu": "none"},
}


def write_failed_run(state: RunState, reason: str) -> None:
    """Turns a finished run into one that failed with its record."""
    assert state.record is not None
    write_record(replace(state.record, status="failed", reason=reason, files={}), state.folder)


def remove_run(state: RunState) -> None:
    """Turns a finished run into one that has not begun."""
    for name in (CONFIG_FILE, LOG_FILE, DETECTIONS_FILE, RECORD_FILE):
        (state.folder / name).unlink()


def write_measurements(folder: StudyFolder) -> None:
    """Writes `measurements.json` with invented milliseconds and bytes."""
    models = {}
    for model in folder.study.models:
        costs, noise = costs_of(model), math.exp(0.25 * _rng(model + "ms").normal())
        milliseconds = noise * (2 + 12 * (costs.flops / 1e9) ** 0.8)
        models[model] = {
            "ms_per_image": milliseconds,
            "ms_network": 0.8 * milliseconds,
            "peak_bytes": costs.params * 4 + 20_000_000,
        }
    content = {"device": "cpu", "environment": _ENVIRONMENT, "warmup_runs": 10, "timed_runs": 50}
    write_json_atomically(folder.path / MEASUREMENTS_FILE, {**content, "models": models})


def _of_the_recipe(run: PlannedRun) -> float:
    """Returns what a varied learning rate does to the skill: best at 0.01 for most, not for all."""
    best = 0.01 if _rng(run.model + "lr").random() < 0.7 else 0.03
    return -0.1 * math.log10(run.config.train.lr / best) ** 2


def _results(
    index: DatasetIndex, skill: float, rng: np.random.Generator, *, false_per_image: int
) -> list[dict[str, Any]]:
    """Returns detections as the content of a COCO results file."""
    x, y, width, height = xyxy_to_xywh(index.boxes_xyxy).T
    sides = np.sqrt(width * height)
    # What is hard is hard for all models, and so are small objects.
    difficulty = np.random.default_rng(0).normal(size=len(sides)) * 0.35 - np.log10(sides / 40)
    quality = skill + 0.6 - difficulty + 0.25 * rng.normal(size=len(sides))
    seen = quality > 0
    spread = 0.16 * np.exp(-1.4 * np.maximum(quality, 0)) + 0.01
    moved = rng.normal(size=(4, len(sides))) * spread
    boxes = np.stack(
        (
            x + moved[0] * width,
            y + moved[1] * height,
            width * np.exp(moved[2]),
            height * np.exp(moved[3]),
        ),
        axis=1,
    )
    wrong = rng.random(len(sides)) < 0.12 * np.exp(-quality)
    labels = np.where(wrong, rng.integers(len(index.names), size=len(sides)), index.labels)
    scores = 1 / (1 + np.exp(-(2.5 * quality - 0.5 + 0.8 * rng.normal(size=len(sides)))))
    images = index.gt_image_positions()
    false = len(index) * false_per_image
    sizes = index.sizes_wh[0].min() * rng.uniform(0.08, 0.4, size=(false, 2))
    places = rng.uniform(0, 1, size=(false, 2)) * (index.sizes_wh[0] - sizes)
    return _as_rows(
        index,
        np.concatenate((images[seen], np.repeat(np.arange(len(index)), false_per_image))),
        np.concatenate((labels[seen], rng.integers(len(index.names), size=false))),
        np.concatenate((boxes[seen], np.hstack((places, sizes)))),
        np.concatenate((scores[seen], rng.beta(0.4, 6 + 6 * max(skill, 0), size=false))),
    )


def _as_rows(
    index: DatasetIndex,
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes_xywh: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> list[dict[str, Any]]:
    columns = zip(
        index.image_ids[images].tolist(),
        index.category_ids[labels].tolist(),
        boxes_xywh.tolist(),
        np.clip(scores, 0.001, 0.999).tolist(),
        strict=True,
    )
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, label, box, score in columns
    ]


def _log(
    epochs: int, metrics: Mapping[str, Any], *, costs: Costs, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Returns an entry an epoch: losses fall by a power of the parameters, metrics rise."""
    final = 0.9 * (costs.params / 3e6) ** -0.16
    seconds = 4 + 6 * costs.flops / 1e9
    rows = []
    for epoch in range(epochs):
        left = math.exp(-4 * epoch / max(epochs - 1, 1)) * (1 - 1e-9)
        falling = (final + (1.2 - final) * left) * math.exp(0.01 * rng.normal())
        rising = (1 - left) / (1 - math.exp(-4))
        row: dict[str, Any] = {"epoch": epoch}
        for name, share in (("box", 0.11), ("objectness", 0.10), ("classes", 0.04)):
            row[f"train_{name}"] = share * falling
            row[f"val_{name}"] = share * falling * (1.05 + 0.1 * epoch / epochs)
        for name in ("ap", "ap50", "ap75", "precision", "recall"):
            value, is_last = metrics[name], epoch + 1 == epochs
            row[name] = value if value is None or is_last else value * rising
        row |= {"lr": 0.01 * (1 - epoch / epochs), "images": 205, "skipped": 0}
        row |= {"train_seconds": seconds * rng.uniform(0.95, 1.1), "evaluate_seconds": seconds / 6}
        rows.append(row)
    return rows


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
