"""Trains in two processes, with and without a stop, and scores the result with one and with two.

Then it trains the steps of two_processes.py.

torchrun --nproc-per-node 2 tests/train/two_runs.py SCENES FOLDER
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from small_run import config_of
from two_processes import train as train_steps

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.evaluate.evaluator import evaluate
from ossa.files import write_atomically
from ossa.models.checkpoint import detector_from, read_checkpoint
from ossa.train import resume
from ossa.train.callbacks import Callback
from ossa.train.distributed import SINGLE_PROCESS, joined_processes
from ossa.train.loop import train


class StopsBoth(Callback):
    """Asks the first process to stop after a number of batches; the second learns it from there."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def write_slowly(path: Path, content: Callable[[BinaryIO], object]) -> None:
    """Takes its time, as a large state does: who does not wait for it resumes from an old one."""
    time.sleep(0.5)
    write_atomically(path, content)


def main(scenes: Path, folder: Path) -> None:
    resume.write_atomically = write_slowly
    with joined_processes("cpu") as processes:
        whole, resumed = (folder / name for name in ("whole", "resumed"))
        for run in (whole, resumed):
            run.mkdir(exist_ok=True)
        config = config_of(scenes)
        train(config, whole, distributed=processes)
        # Steps come behind the batches 0, 2 and 4: after the fourth, gradients wait.
        stopped = train(config, resumed, distributed=processes, callback=StopsBoth(3))
        assert stopped.status == "stopped"
        assert stopped.metrics["last"]["epoch"] == 0
        train(config, resumed, distributed=processes, resume=True)

        trained = read_checkpoint(whole / "last.safetensors")
        index = read_index(read_description(scenes), "val").index
        scores = []
        for sharing in (SINGLE_PROCESS, processes):
            found = evaluate(
                detector_from(trained),
                index,
                imgsz=trained.imgsz,
                config=config.evaluate,
                batch=2,
                share=sharing.share,
                gather=sharing.gather,
            )
            scores.append(found.metrics.flat())
        heads = ("anchor", "dense")
        steps = [train_steps("cspdarknet_n", processes, head=head) for head in heads]
        if processes.is_main:
            torch.save(scores, folder / "scores.pt")
            for head, values in zip(heads, steps, strict=True):
                torch.save(values, folder / f"{head}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
