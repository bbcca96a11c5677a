"""Opens a foreign file in a process of its own, within limits of memory and time.

A runtime computes constants while it opens a file, and a few bytes can ask for any number of them.
This file is run as a script and imports nothing of ossa, so that the process is small; -P keeps
`import openvino` from finding the module beside it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SMALL_FILE = 64 * 2**20
_MEMORY, _SECONDS = 1_200_000_000, 5
"""Of a file of up to 64 MiB; of the process and of its processor. What is larger gets more."""
_REFUSED = 3


def try_to_open(file: Path, *, runtime: str) -> str | None:
    """Returns why 'onnxruntime' or 'openvino' cannot open a file within the limits, or None."""
    parts = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    beyond = max(0, sum(part.stat().st_size for part in parts) - _SMALL_FILE)
    memory, seconds = _MEMORY + 6 * beyond, _SECONDS + beyond // (20 * 2**20)
    command = [sys.executable, "-P", __file__, runtime, str(file), str(memory), str(seconds)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20 * seconds
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {seconds} s to open"
    if done.returncode == 0:
        return None
    if done.returncode == _REFUSED and done.stdout.strip():
        return done.stdout.strip().splitlines()[-1]
    return f"it takes more than {seconds} s or {memory / 1e9:.1f} GB to open, or ends {runtime}"


def _open(runtime: str, file: str) -> None:
    if runtime == "openvino":
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        core: Any = openvino.Core()
        weights = {"weights": str(Path(file).with_suffix(".bin"))} if file.endswith("xml") else {}
        core.compile_model(core.read_model(file, **weights), "CPU", {"INFERENCE_NUM_THREADS": 1})
    else:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _main(runtime: str, file: str, memory: str, seconds: str) -> int:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # a thread, and its stack, for every core would count
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        _open(runtime, file)
    except MemoryError:
        return 1
    except Exception as problem:  # of whatever kind a runtime raises
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        said = [one for one in lines if not one.startswith(("Exception from", "Check '"))]
        out_of_memory = any("bad_alloc" in one or "allocate" in one for one in lines)
        print((said or lines or [type(problem).__name__])[0])  # noqa: T201 - read by its parent
        return 1 if out_of_memory else _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
