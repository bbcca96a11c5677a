"""Times the packed models of a study on this machine and writes measurements-NAME.json.

Needs Python 3.9, numpy, and onnxruntime or openvino. Nothing is sent anywhere.

    python time_models.py --name my-laptop
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = ("onnxruntime", "openvino")
WARMUP_RUNS, TIMED_RUNS = 50, 200
PACK_FILE = "pack.json"
_MODELS_AT_ONCE = 16
"""Number of models that are in memory together and timed in turn."""


def load(runtime: str, file: Path, threads: int) -> Callable[[Any], Any]:
    """Returns a function that maps uint8 images (1, 3, H, W) to detections, on the CPU in fp32."""
    if runtime == "openvino":
        core = openvino_core()
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        return core.compile_model(core.read_model(str(file)), "CPU", hints)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The threads of one model must not compute while another one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


@functools.cache
def openvino_core() -> Any:
    """Returns the one core of this process; a second one would break Ctrl-C."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()


def measure(
    models: dict[str, Callable[[Any], Any]], images: Any, warmup: int, runs: int
) -> dict[str, list[float]]:
    """Returns the milliseconds of every timed run by model; the models run turn by turn."""
    milliseconds: dict[str, list[float]] = {name: [] for name in models}
    for run in range(warmup + runs):
        for name, model in models.items():
            started = time.perf_counter()
            model(images)
            if run >= warmup:
                milliseconds[name].append(1000 * (time.perf_counter() - started))
    return milliseconds


def cpu_name() -> str:
    """Returns the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> int:
    """Times all models and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", required=True, help="of this machine, such as my-laptop")
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: the first one installed")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--warmup", type=int, default=WARMUP_RUNS, help="runs that are not timed")
    parser.add_argument("--runs", type=int, default=TIMED_RUNS, help="timed runs of each model")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="of the pack")
    options = parser.parse_args()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", options.name):
        parser.error("--name: expected at most 64 letters, digits, '.', '_' and '-'")
    if min(options.threads, options.runs) < 1 or options.warmup < 0:
        parser.error("expected at least one thread and one timed run")
    installed = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    runtime = options.runtime or next(iter(installed), None)
    if runtime not in installed:
        parser.error("no runtime found: pip install onnxruntime (or openvino)")
    pack = json.loads((options.folder / PACK_FILE).read_text())
    for model in pack["models"].values():
        content = (options.folder / model["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != model["file_sha256"]:
            parser.error(f"{model['file']} is not the file that was packed: copy it again")
    side = pack["imgsz"]
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    names, times = list(pack["models"]), {}
    for start in range(0, len(names), _MODELS_AT_ONCE):
        chosen = names[start : start + _MODELS_AT_ONCE]
        sys.stderr.write(f"timing {', '.join(chosen)}\n")
        models = {
            name: load(runtime, options.folder / pack["models"][name]["file"], options.threads)
            for name in chosen
        }
        times.update(measure(models, images, options.warmup, options.runs))
    content = {
        "schema_number": 1,
        "machine": options.name,
        "study": pack["study"],
        "imgsz": side,
        "cpu": cpu_name(),
        "system": platform.platform(),
        "runtime": runtime,
        "runtime_version": sys.modules[runtime].__version__,
        "threads": options.threads,
        "warmup_runs": options.warmup,
        "timed_runs": options.runs,
        "models": {
            name: {
                "weights_sha256": pack["models"][name]["weights_sha256"],
                "median_ms": float(np.median(own)),
                "mean_ms": float(np.mean(own)),
                "p95_ms": float(np.quantile(own, 0.95)),
            }
            for name, own in times.items()
        },
    }
    file = Path(f"measurements-{options.name}.json")
    file.write_text(json.dumps(content, indent=2) + "\n")
    sys.stderr.write(f"written: {file}; give it to: ossa study report STUDY --measurements\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
