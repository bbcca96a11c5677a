"""A training in a process of its own, which tells a pipe how far it is."""

import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from small_run import config_of

from ossa.evaluate.evaluator import Evaluation
from ossa.train.callbacks import Callback, RunStart
from ossa.train.loop import train
from ossa.train.resume import STATE_FILE

EPOCHS = 6


class Tells(Callback):
    """Sends a word for every event: the state is written right after a batch and an epoch."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def on_start(self, start: RunStart) -> None:
        self.pipe.send("started")

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        self.pipe.send(f"batch {epoch}.{batch}")

    def on_evaluate(self, *, epoch: int, done: int, total: int) -> None:
        self.pipe.send(f"evaluating {epoch}")

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
        self.pipe.send(f"epoch {row['epoch']}")


def run(scenes: Path, folder: Path, pipe: Connection) -> None:
    """Starts the training in `folder`, or goes on with it; the state is saved after every batch."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    config = config_of(scenes, epochs=EPOCHS)
    resume = (folder / STATE_FILE).exists()
    train(config, folder, resume=resume, callback=Tells(pipe), save_minutes=0)
    pipe.send("done")
