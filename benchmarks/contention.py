"""How much slower a training is beside other programs, with OpenMP's threads waiting either way.

    python benchmarks/contention.py --busy 2

Trains yolov5n on made-up images in processes of their own, with all processors, alone and beside
--busy processes that compute without end, in turn. Prints one JSON object with, for each value of
OMP_WAIT_POLICY (`unset` is as OpenMP comes; `PASSIVE` is what ossa sets), the median milliseconds
of a batch alone and beside the others, and their ratio; `passive_alone` is what waiting passively
costs a training that has the machine to itself. Where n threads share the processors fairly with n
busy processes, the ratio is 2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLICIES = ("unset", "PASSIVE")


def train_a_few_batches(batches: int) -> None:
    """Is the process that trains: prints the milliseconds of every batch as JSON."""
    import torch

    from ossa.config import build_config
    from ossa.machine import keep_freed_memory
    from ossa.train.autobatch import TrialStep

    keep_freed_memory()
    config = build_config(
        {"model": {"name": "yolov5n", "neck": "own"}, "data": "", "train": {"imgsz": 160}}
    )
    step = TrialStep(config, num_classes=3, device=torch.device("cpu"))
    step(8)
    times = []
    for _ in range(batches):
        started = time.perf_counter()
        step(8)
        times.append(1000 * (time.perf_counter() - started))
    print(json.dumps(times))


def milliseconds(policy: str, *, batches: int, threads: int) -> float:
    """Returns the median time of a batch in a new process."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment["OMP_NUM_THREADS"] = str(threads)
    if policy != "unset":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "--train", str(batches)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_a_few_batches(arguments.train)
        return
    alone: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    beside: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for _ in range(arguments.rounds):
        for policy in POLICIES:
            measured = {"batches": arguments.batches, "threads": arguments.threads}
            alone[policy].append(milliseconds(policy, **measured))
            with busy(arguments.busy):
                beside[policy].append(milliseconds(policy, **measured))
    rows = {
        policy: {
            "alone_ms": statistics.median(alone[policy]),
            "beside_ms": statistics.median(beside[policy]),
            "times_slower": statistics.median(beside[policy]) / statistics.median(alone[policy]),
        }
        for policy in POLICIES
    }
    ratio = rows["PASSIVE"]["alone_ms"] / rows["unset"]["alone_ms"]
    print(json.dumps({"busy": arguments.busy, **rows, "passive_alone": ratio}, indent=2))


if __name__ == "__main__":
    main()
