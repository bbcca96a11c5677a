"""A training of seconds: two epochs of three batches of scenes, and what its tests look at."""

import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ossa.config import EvaluateConfig, ModelConfig, RunConfig, TrainConfig
from ossa.train.callbacks import Callback
from ossa.train.run_folder import read_log
from ossa.types import Record

EPOCHS, BATCHES = 2, 3
IMAGES = {"train": 12, "val": 4}


def config_of(data: Path, *, seed: int = 0, **settings: Any) -> RunConfig:
    """Returns a run of 2 epochs of 3 batches; a step needs 1 or 2 of them."""
    defaults: dict[str, Any] = {"epochs": EPOCHS, "imgsz": 64, "batch": 4, "nominal_batch": 8}
    quick = {"warmup_epochs": 0.5, "warmup_min_batches": 1, "lr": 1e-3, "warmup_bias_lr": 1e-3}
    return RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"),
        data=str(data),
        seed=seed,
        train=TrainConfig(**(defaults | quick | settings)),
        evaluate=EvaluateConfig(max_detections=20),
    )


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for row in read_log(folder)
    ]


def assert_same_weights(folder: Path, other: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_file(folder / name), load_file(other / name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def a_record(status: str = "done") -> Record:
    """Returns a record of a run of nothing."""
    return Record(
        schema=1,
        model="yolov5n",
        status=status,
        reason=None,
        config={},
        config_hash="c0ffee",
        seed=7,
        initial_weights={},
        cost={},
        metrics={},
        times={},
        environment={"torch": "2.6"},
        data_fingerprint="da7a",
    )


class Notes(Callback):
    """Keeps the sentences for the user."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


class CtrlC(Callback):
    """Presses Ctrl-C when the given batches (counted from 1 over the run) are done."""

    def __init__(self, *after: int) -> None:
        self.after = after
        self.batches = 0

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        self.batches += 1
        if self.batches in self.after:
            signal.raise_signal(signal.SIGINT)
