"""What an image costs with each model of a study, measured on one machine, turn by turn."""

from collections.abc import Sequence
from typing import Any

import torch

from ossa.cost.benchmark import measure_throughput
from ossa.errors import DataError
from ossa.files import write_json_atomically
from ossa.models.checkpoint import detector_from, read_checkpoint
from ossa.models.complexity import count_cost
from ossa.models.detector import Detector
from ossa.models.fuse import fuse_detector
from ossa.study.folder import MEASUREMENTS_FILE, RunState, StudyFolder, read_measurements
from ossa.train.run_folder import LAST_WEIGHTS, environment

_WARMUP_RUNS, _TIMED_RUNS = 10, 50
_MODELS_AT_ONCE = 16
"""Are timed turn by turn, and held in memory."""


def measure_models(
    folder: StudyFolder, states: Sequence[RunState], *, device: str = "cpu"
) -> dict[str, Any]:
    """Writes `measurements.json` and returns it: milliseconds and memory of an image by model.

    Each model is timed at batch 1 from the image on the device to the detections, in the form that
    is deployed, with the weights of its first finished run.

    Args:
        folder: of the study.
        states: of its runs.
        device: that is timed.
    """
    first: dict[str, RunState] = {}
    for state in states:
        if state.state == "done" and (state.folder / LAST_WEIGHTS).is_file():
            first.setdefault(state.run.model, state)
    models: dict[str, dict[str, float]] = {}
    names = list(first)
    for start in range(0, len(names), _MODELS_AT_ONCE):
        models |= _measure([first[name] for name in names[start : start + _MODELS_AT_ONCE]], device)
    content = {
        "device": device,
        "environment": environment(),
        "warmup_runs": _WARMUP_RUNS,
        "timed_runs": _TIMED_RUNS,
        "models": models,
    }
    write_json_atomically(folder.path / MEASUREMENTS_FILE, content)
    return content


def is_measured(folder: StudyFolder, states: Sequence[RunState]) -> bool:
    """Returns whether every model with a finished run has been measured."""
    try:
        models = read_measurements(folder.path).get("models", {})
    except DataError:
        models = {}
    return all(state.run.model in models for state in states if state.state == "done")


def _measure(states: Sequence[RunState], device: str) -> dict[str, dict[str, float]]:
    config = states[0].run.config
    imgsz = config.train.imgsz
    detectors: dict[str, Detector] = {}
    memory: dict[str, int] = {}
    for state in states:
        detector = detector_from(read_checkpoint(state.folder / LAST_WEIGHTS))
        used = fuse_detector(detector).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        detectors[state.run.model] = used
        memory[state.run.model] = count_cost(used, imgsz).total.peak_bytes
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
