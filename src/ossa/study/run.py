"""Training several models under the same conditions, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ossa.config import ModelConfig, build_config, load_recipe, merge
from ossa.cost.throughput import measure_throughput
from ossa.models.weights import detector_from, read_checkpoint
from ossa.train.events import Watcher
from ossa.train.loop import train
from ossa.train.outputs import LAST_WEIGHTS
from ossa.types import Record

_WARMUP_RUNS, _TIMED_RUNS = 10, 50


@dataclass(frozen=True)
class FinishedRun:
    """A run of a study with what only a comparison measures."""

    record: Record
    folder: Path
    ms_per_image: float
    """Mean of the network at batch 1 with decoding and suppression, all models turn by turn."""

    def row(self) -> dict[str, Any]:
        """Returns the flat keys by which every command prints figures."""
        metrics, cost = self.record.metrics["last"], self.record.cost
        return {
            "model": self.record.model,
            "imgsz": self.record.config["train"]["imgsz"],
            **{key: value for key, value in metrics.items() if key != "epoch"},
            **{key: cost[key] for key in ("params", "flops", "macs")},
            "ms_per_image": self.ms_per_image,
            "images_per_second": 1000.0 / self.ms_per_image,
            "train_seconds": self.record.times["train"],
        }


def run_models(
    models: Sequence[ModelConfig],
    folder: Path,
    *,
    data: str,
    recipe: str,
    settings: Mapping[str, Any],
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    watcher: Watcher | None = None,
) -> list[FinishedRun]:
    """Trains every model by the same recipe, on the same data, from the same seed.

    Args:
        models: what differs.
        folder: receives one folder a model, named after it.
        data: a data.yaml or its folder.
        recipe: a shipped recipe or a YAML file.
        settings: sections that replace values of the recipe, alike for all.
        seed: of every run.
        device: that trains and is timed.
        workers: processes that load images.
        watcher: is told how each training goes.
    """
    records = []
    for model in models:
        run_folder = folder / model.name
        run_folder.mkdir(parents=True)
        config = build_config(
            merge(
                merge(load_recipe(recipe), settings),
                {"model": model.model_dump(), "data": data, "recipe": recipe, "seed": seed},
            )
        )
        record = train(config, run_folder, device=device, workers=workers, watcher=watcher)
        records.append(record)
        if record.status == "stopped":
            raise KeyboardInterrupt
    return _with_times(records, folder, device=device)


def _with_times(records: Sequence[Record], folder: Path, *, device: str) -> list[FinishedRun]:
    detectors, imgsz = {}, 0
    for record in records:
        checkpoint = read_checkpoint(folder / record.model / LAST_WEIGHTS)
        imgsz = checkpoint.imgsz
        detector = detector_from(checkpoint).to(device)
        detectors[record.model] = detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = build_config(records[0].config).evaluate
    times = measure_throughput(
        detectors, imgsz=imgsz, warmup=_WARMUP_RUNS, runs=_TIMED_RUNS, device=device, config=config
    )
    return [
        FinishedRun(record, folder / record.model, times[record.model].ms_per_image)
        for record in records
    ]
