"""What a study will take: cost of every model, seconds and memory from a few measured steps.

Each model is measured in a process of its own, so that one's memory is not the other's:
`python -m ossa.study.estimate` reads a configuration from its standard input.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ossa.config import RunConfig, build_config
from ossa.errors import OssaError
from ossa.escaping import print_line
from ossa.models.complexity import count_cost
from ossa.models.detector import Detector, build_detector
from ossa.models.postprocess import detect
from ossa.study.plan import Plan, PlannedRun
from ossa.train.autobatch import TrialStep
from ossa.train.diagnostics import check_single_values
from ossa.types import Letterbox

_STEPS = 3
"""Measured, behind one that is not."""


@dataclass(frozen=True)
class Estimate:
    """What one run of a model takes."""

    params: int
    flops: int
    macs: int
    step_seconds: float
    """Of a batch: forward, losses, backward. Decoding and the optimiser come on top."""
    evaluate_seconds: float
    """Of a batch: forward, decoding of the predictions and suppression."""
    peak_bytes: int
    """Of the process on the CPU, with PyTorch itself; of the allocator on a GPU."""

    def run_seconds(self, config: RunConfig, *, train_images: int, val_images: int) -> float:
        """Returns the time of a whole run of so many images an epoch."""
        batch = config.train.batch
        train, val = -(-train_images // batch), -(-val_images // batch)
        return config.train.epochs * (train * self.step_seconds + val * self.evaluate_seconds)


def estimate_models(
    plan: Plan,
    *,
    num_classes: int,
    device: str,
    threads: int,
    on_model: Callable[[int, int], None] | None = None,
) -> dict[str, Estimate | str]:
    """Returns what a run of each model takes, or in a sentence why it cannot be trained.

    Args:
        plan: of the study.
        num_classes: K.
        device: that will train.
        threads: of each run.
        on_model: called with the number of models measured and their total.
    """
    first: dict[str, PlannedRun] = {}
    for run in plan.base_runs():
        first.setdefault(run.model, run)
    found: dict[str, Estimate | str] = {}
    for model, run in first.items():
        found[model] = _in_a_process(
            run.config, num_classes=num_classes, device=device, threads=threads
        )
        if on_model is not None:
            on_model(len(found), len(first))
    return found


def _in_a_process(
    config: RunConfig, *, num_classes: int, device: str, threads: int
) -> Estimate | str:
    command = [sys.executable, "-m", "ossa.study.estimate", str(num_classes), device]
    finished = subprocess.run(
        command,
        input=config.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if finished.returncode == 0:
        return Estimate(**json.loads(finished.stdout.splitlines()[-1]))
    lines = finished.stderr.strip().splitlines()
    return lines[-1] if lines else f"its process ended with exit code {finished.returncode}"


def measure(config: RunConfig, *, num_classes: int, device: torch.device) -> Estimate:
    """Returns what a run takes, from a few steps in this process."""
    detector = build_detector(config.model, num_classes=num_classes, imgsz=config.train.imgsz)
    cost = count_cost(detector, config.train.imgsz).total
    check_single_values(detector, config, images=2 * config.train.batch)
    del detector
    step = TrialStep(config, num_classes=num_classes, device=device)
    batch = config.train.batch
    step_seconds = _seconds(lambda: step(batch), device)
    evaluate_seconds = _seconds(lambda: _evaluate(step.detector, config, device), device)
    peak = (
        torch.cuda.max_memory_reserved(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return Estimate(cost.params, cost.flops, cost.macs, step_seconds, evaluate_seconds, peak)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(1 + _STEPS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


@torch.no_grad()
def _evaluate(detector: Detector, config: RunConfig, device: torch.device) -> None:
    imgsz, batch = config.train.imgsz, config.train.batch
    detector.eval()
    images = torch.zeros(batch, 3, imgsz, imgsz, dtype=torch.uint8, device=device)
    placements = [Letterbox(1.0, 1.0, 0, 0, imgsz, imgsz)] * batch
    detect(detector(images), placements, config.evaluate)


def main() -> int:
    """Measures the configuration on standard input and prints one JSON object."""
    parser = argparse.ArgumentParser(description="What a run takes, as one JSON object.")
    parser.add_argument("num_classes", type=int)
    parser.add_argument("device")
    options = parser.parse_args()
    config = build_config(json.load(sys.stdin))
    try:
        estimate = measure(
            config, num_classes=options.num_classes, device=torch.device(options.device)
        )
    except (OssaError, torch.OutOfMemoryError) as problem:
        print_line(" ".join(str(problem).split()), to=sys.stderr)
        return 1
    print(json.dumps(asdict(estimate)))  # noqa: T201 - JSON
    return 0


if __name__ == "__main__":
    sys.exit(main())
