"""How much slower a training is beside other programs, with OpenMP's threads waiting in three ways.

    python benchmarks/contention.py --busy 2

Trains yolov5n on made-up images in processes of their own, with all processors, alone and beside
--busy processes that compute without end, in turn. Prints one JSON object with, for each way to
wait (`unset`: as OpenMP comes; `PASSIVE`: asleep at once; `ossa`: asleep after the short spin that
ossa sets), the median milliseconds of a batch alone and beside the others, and two ratios with the
quartiles over the rounds: `times_slower`, beside the others to alone with threads as OpenMP comes,
and `alone`, what waiting so costs a training that has the machine to itself. Where n threads share
the processors fairly with n busy processes, the former is 2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ossa.machine import short_wait

for _name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    os.environ.pop(_name, None)
WAYS = {"unset": {}, "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}, "ossa": short_wait()}


def train_a_few_batches(batches: int, *, imgsz: int) -> None:
    """Is the process that trains: prints the milliseconds of every batch as JSON."""
    import torch

    from ossa.config import build_config
    from ossa.machine import keep_freed_memory
    from ossa.train.autobatch import TrialStep

    keep_freed_memory()
    config = build_config(
        {"model": {"name": "yolov5n", "neck": "own"}, "data": "", "train": {"imgsz": imgsz}}
    )
    step = TrialStep(config, num_classes=3, device=torch.device("cpu"))
    step(8)
    times = []
    for _ in range(batches):
        started = time.perf_counter()
        step(8)
        times.append(1000 * (time.perf_counter() - started))
    print(json.dumps(times))


def milliseconds(way: str, *, imgsz: int, batches: int, threads: int) -> float:
    """Returns the median time of a batch in a new process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), **WAYS[way]}
    command = [sys.executable, __file__, "--train", str(batches), "--imgsz", str(imgsz)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    return statistics.median(json.loads(output))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Has processes compute without end, while it lasts."""
    processes = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_a_few_batches(arguments.train, imgsz=arguments.imgsz)
        return
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    beside: dict[str, list[float]] = {way: [] for way in WAYS}
    measured = {key: getattr(arguments, key) for key in ("imgsz", "batches", "threads")}
    for _ in range(arguments.rounds):
        for way in WAYS:
            alone[way].append(milliseconds(way, **measured))
        with busy(arguments.busy):
            for way in WAYS:
                beside[way].append(milliseconds(way, **measured))
    rows = {
        way: {
            "alone_ms": statistics.median(alone[way]),
            "beside_ms": statistics.median(beside[way]),
            "alone": quartiles(np.divide(alone[way], alone["unset"]).tolist()),
            "times_slower": quartiles(np.divide(beside[way], alone["unset"]).tolist()),
        }
        for way in WAYS
    }
    print(json.dumps({"busy": arguments.busy, "imgsz": arguments.imgsz, **rows}, indent=2))


if __name__ == "__main__":
    main()
