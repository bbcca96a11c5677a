"""Trains in two processes, with and without a stop, and scores the result with one and with two.

torchrun --nproc-per-node 2 tests/train/two_runs.py SCENES FOLDER
"""

import os
import signal
import sys
from pathlib import Path

import torch
from test_loop import config_of

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.evaluate.run import evaluate
from ossa.models.weights import detector_from, read_checkpoint
from ossa.train.distributed import ALONE, joined_processes
from ossa.train.events import Silence
from ossa.train.loop import train


class StopsBoth(Silence):
    """Asks the first process to stop after a number of batches; the second learns it from there."""

    def __init__(self, after: int) -> None:
        self.left = after

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def main(scenes: Path, folder: Path) -> None:
    with joined_processes("cpu") as processes:
        whole, resumed = (folder / name for name in ("whole", "resumed"))
        for run in (whole, resumed):
            run.mkdir(exist_ok=True)
        config = config_of(scenes)
        train(config, whole, processes=processes)
        # Steps come behind the batches 0, 2 and 4: after the fourth, gradients wait.
        stopped = train(config, resumed, processes=processes, watcher=StopsBoth(3))
        assert stopped.status == "stopped"
        assert stopped.metrics["last"]["epoch"] == 0
        train(config, resumed, processes=processes, resume=True)

        checkpoint = read_checkpoint(whole / "last.safetensors")
        index = read_index(read_description(scenes), "val").index
        scores = []
        for sharing in (ALONE, processes):
            found = evaluate(
                detector_from(checkpoint),
                index,
                imgsz=checkpoint.imgsz,
                config=config.evaluate,
                batch=2,
                share=(sharing.rank, sharing.count),
                gather=sharing.gather,
            )
            scores.append(found.metrics.flat())
        if processes.is_first:
            torch.save(scores, folder / "scores.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
