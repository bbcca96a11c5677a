"""Estimates the cost of training before a study, and measures inference after it.

Each model is estimated in a separate process, so that its peak memory is its own:
`python -m ossa.study.measure` reads a configuration from standard input.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ossa.config import RunConfig, build_config
from ossa.cost.benchmark import measure_throughput
from ossa.errors import DataError, OssaError
from ossa.escaping import print_line
from ossa.files import write_json_atomically
from ossa.machine import others_busy, peak_memory, short_wait
from ossa.models.checkpoint import detector_from, read_checkpoint
from ossa.models.complexity import Cost, count_cost
from ossa.models.detector import Detector, build_detector
from ossa.models.fuse import fuse_detector
from ossa.models.postprocess import non_max_suppression
from ossa.study.folder import MEASUREMENTS_FILE, RunState, StudyFolder, read_measurements
from ossa.study.plan import Plan, PlannedRun, make_plan
from ossa.train.autobatch import TrialStep
from ossa.train.callbacks import Callback
from ossa.train.diagnostics import check_single_values
from ossa.train.provenance import environment
from ossa.train.run_folder import LAST_WEIGHTS
from ossa.types import Letterbox

_STEPS = 3
"""Number of timed steps, after one warm-up step."""
_WARMUP_RUNS, _TIMED_RUNS = 10, 50
_MODELS_AT_ONCE = 16
"""Number of models that are in memory together and timed in turn."""


@dataclass(frozen=True)
class RunEstimate:
    """The estimated cost of one run of a model."""

    params: int
    flops: int
    macs: int
    step_seconds: float
    """Seconds per batch: forward, losses and backward, without image decoding and optimizer."""
    evaluate_seconds: float
    """Seconds per batch: forward, decoding of the predictions and NMS."""
    peak_bytes: int
    """Peak memory: of the process, including PyTorch, on the CPU; of the allocator on a GPU."""

    def run_seconds(self, config: RunConfig, *, train_images: int, val_images: int) -> float:
        """Returns the seconds of a whole run with these numbers of images per epoch."""
        batch = config.train.batch
        train, val = -(-train_images // batch), -(-val_images // batch)
        epochs = config.train.epochs
        evaluations = -(-epochs // config.train.evaluate_every)
        return epochs * train * self.step_seconds + evaluations * val * self.evaluate_seconds


def estimate_models(
    plan: Plan,
    *,
    num_classes: int,
    device: str,
    threads: int,
    on_model: Callable[[int, int], None] | None = None,
) -> dict[str, RunEstimate | str]:
    """Returns the estimated cost of each detector, or the reason why it cannot be trained.

    Detectors have the names of `Plan.detector_of`.

    Args:
        plan: the plan of the study.
        num_classes: number of classes.
        device: the device that will train.
        threads: number of threads per run.
        on_model: called with the number of models measured and their total.
    """
    first: dict[str, PlannedRun] = {}
    for run in sorted(plan.runs, key=lambda run: run.varied != plan.base):
        first.setdefault(plan.detector_of(run), run)
    estimates: dict[str, RunEstimate | str] = {}
    for model, run in first.items():
        estimates[model] = _estimate_in_process(
            run.config, num_classes=num_classes, device=device, threads=threads
        )
        if on_model is not None:
            on_model(len(estimates), len(first))
    return estimates


def _estimate_in_process(
    config: RunConfig, *, num_classes: int, device: str, threads: int
) -> RunEstimate | str:
    command = [sys.executable, "-m", "ossa.study.measure", str(num_classes), device]
    finished = subprocess.run(
        command,
        input=config.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **short_wait(), "OMP_NUM_THREADS": str(threads)},
    )
    if finished.returncode == 0:
        return RunEstimate(**json.loads(finished.stdout.splitlines()[-1]))
    lines = finished.stderr.strip().splitlines()
    return lines[-1] if lines else f"its process ended with exit code {finished.returncode}"


def estimate(config: RunConfig, *, num_classes: int, device: torch.device) -> RunEstimate:
    """Returns the estimated cost of a run, from a few steps in this process."""
    detector = build_detector(config.model, num_classes=num_classes, imgsz=config.train.imgsz)
    cost = count_cost(detector, config.train.imgsz).total
    check_single_values(detector, config, images=2 * config.train.batch)
    del detector
    step = TrialStep(config, num_classes=num_classes, device=device)
    batch = config.train.batch
    step_seconds = _seconds(lambda: step(batch), device)
    evaluate_seconds = _seconds(lambda: _evaluate(step.detector, config, device), device)
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_memory()
    return RunEstimate(cost.params, cost.flops, cost.macs, step_seconds, evaluate_seconds, peak)


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
    non_max_suppression(detector(images), placements, config.evaluate)


def measure_models(
    folder: StudyFolder,
    states: Sequence[RunState],
    *,
    device: str = "cpu",
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Measures latency and memory per image; writes and returns `measurements.json`.

    Each detector (`Plan.detector_of`) is fused and timed at batch 1, from the image on the device
    to the detections, with the weights of its first finished run.

    Args:
        folder: the study.
        states: the states of its runs.
        device: the device to measure on.
        callback: receives a note if other programs are busy.
    """
    busy = others_busy()
    if busy and callback:
        callback.note(busy)
    first: dict[str, RunState] = {}
    for state in sorted(states, key=lambda state: state.run.varied != folder.plan.base):
        if state.state == "done" and (state.folder / LAST_WEIGHTS).is_file():
            first.setdefault(folder.plan.detector_of(state.run), state)
    by_imgsz: dict[int, list[str]] = {}
    for name, state in first.items():
        by_imgsz.setdefault(state.run.config.train.imgsz, []).append(name)
    models: dict[str, dict[str, float]] = {}
    for names in by_imgsz.values():
        for start in range(0, len(names), _MODELS_AT_ONCE):
            together = names[start : start + _MODELS_AT_ONCE]
            models |= _measure({name: first[name] for name in together}, device)
    content = {
        "device": device,
        "environment": environment(),
        "others_busy": busy is not None,
        "warmup_runs": _WARMUP_RUNS,
        "timed_runs": _TIMED_RUNS,
        "models": models,
    }
    write_json_atomically(folder.path / MEASUREMENTS_FILE, content)
    return content


def is_measured(folder: StudyFolder, states: Sequence[RunState]) -> bool:
    """Returns whether every detector with a finished run has been measured."""
    try:
        models = read_measurements(folder.path).get("models", {})
    except DataError:
        models = {}
    done = [state.run for state in states if state.state == "done"]
    return all(folder.plan.detector_of(run) in models for run in done)


def _measure(states: Mapping[str, RunState], device: str) -> dict[str, dict[str, float]]:
    """Returns the measurements of detectors for one image size, timed in turn."""
    config = next(iter(states.values())).run.config
    imgsz = config.train.imgsz
    detectors: dict[str, Detector] = {}
    memory: dict[str, int] = {}
    for name, state in states.items():
        detector = detector_from(read_checkpoint(state.folder / LAST_WEIGHTS))
        fused = fuse_detector(detector).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        detectors[name] = fused
        memory[name] = count_cost(fused, imgsz).total.peak_bytes
    times = measure_throughput(
        detectors,
        imgsz=imgsz,
        warmup=_WARMUP_RUNS,
        runs=_TIMED_RUNS,
        device=device,
        config=config.evaluate,
    )
    return {
        name: {
            "ms_per_image": times[name].ms_per_image,
            "ms_network": times[name].network.ms_per_image,
            "peak_bytes": memory[name],
        }
        for name in detectors
    }


def main() -> int:
    """Estimates the configuration on standard input and prints one JSON object."""
    parser = argparse.ArgumentParser(description="Prints the estimated cost of a run as JSON.")
    parser.add_argument("num_classes", type=int)
    parser.add_argument("device")
    options = parser.parse_args()
    config = build_config(json.load(sys.stdin))
    try:
        result = estimate(
            config, num_classes=options.num_classes, device=torch.device(options.device)
        )
    except (OssaError, torch.OutOfMemoryError) as problem:
        print_line(" ".join(str(problem).split()), to=sys.stderr)
        return 1
    print(json.dumps(asdict(result)))  # noqa: T201 - JSON
    return 0


def cost_in_study(folder: StudyFolder, model: str, *, num_classes: int) -> Cost:
    """Returns the cost of a detector of the study with another backbone.

    Args:
        folder: the study, which sets the neck and the image size.
        model: a backbone, or a preset.
        num_classes: number of classes.

    Raises:
        ConfigError, UnsupportedBackbone: the model is unknown or cannot be a backbone.
    """
    study = folder.study.model_copy(
        update={"models": (model,), "initial_weights": "none", "families": {}}
    )
    plan = make_plan(study, data=folder.path, folder=folder.path)
    config = plan.base_runs()[0].config
    imgsz = config.train.imgsz
    detector = build_detector(config.model, num_classes=num_classes, imgsz=imgsz)
    return count_cost(detector, imgsz).total


if __name__ == "__main__":
    sys.exit(main())
