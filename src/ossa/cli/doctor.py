"""`ossa doctor`: versions, processors, memory and devices, for an issue report or a slow run."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ossa.cli import options
from ossa.cli.command import command
from ossa.machine import BUILDS_DIFFER, count_processors, cpu_name, free_memory, others_busy

_LIBRARIES = (
    *("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "scipy", "hotcoco"),
    *("onnx", "onnxruntime", "openvino", "gradio", "ray", "submitit", "comet-ml", "wandb"),
)
_SHARED_MEMORY = Path("/dev/shm")
_LITTLE_SHARED_MEMORY, _LITTLE_MEMORY = 256e6, 2e9
"""Bytes under which a training is likely to meet the limit."""


@command()
def doctor(*, as_json: options.AsJson = False) -> None:
    """Tell what this machine gives to ossa, and what stands in the way.

    Paste what it prints into an issue: it holds no names of users, files or hosts.

    [bold]Example[/bold]

      ossa doctor --json
    """
    from ossa.cli.console import Console, new_table, print_json, print_table

    found = _look()
    advice = _advise(found)
    if as_json:
        print_json({**found, "advice": advice})
        return
    table = new_table("", "")
    table.columns[1].justify = "left"
    for key, value in found.items():
        texts = [f"{name} {one}" for name, one in value.items()] if isinstance(value, dict) else []
        table.add_row(_title(key), ", ".join(texts) or _text(key, value))
    print_table(table)
    with Console() as console:
        for sentence in advice:
            console.note(sentence)


def _look() -> dict[str, Any]:
    """Returns what is found, by name; numbers of bytes have names that end in '_bytes'."""
    import torch

    from ossa import __version__

    shared = None
    if _SHARED_MEMORY.is_dir():
        status = os.statvfs(_SHARED_MEMORY)
        shared = status.f_bavail * status.f_frsize
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "ossa": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "processor": cpu_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "processors_allowed": count_processors(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "free_memory_bytes": free_memory(),
        "shared_memory_bytes": shared,
        "gpus": {
            str(number): f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
            for number, gpu in enumerate(gpus)
        },
        "mps": torch.backends.mps.is_available(),
    }


def _advise(found: dict[str, Any]) -> list[str]:
    """Returns one sentence for each thing that makes training slow or stops it."""
    advice = [] if _torchvision_works() else [BUILDS_DIFFER]
    if found["threads"] > found["processors_allowed"]:
        advice.append(
            f"{found['threads']} threads on {found['processors_allowed']} processors wait for each "
            "other: set OMP_NUM_THREADS, or use --threads"
        )
    if found["OMP_WAIT_POLICY"] != "PASSIVE":
        advice.append(
            "OMP_WAIT_POLICY is not PASSIVE: beside other programs training is many times slower"
        )
    if busy := others_busy():
        advice.append(busy)
    if found["free_memory_bytes"] < _LITTLE_MEMORY:
        advice.append(
            f"{_text('bytes', found['free_memory_bytes'])} of memory are free: use a smaller "
            "--batch, --imgsz or --cache disk"
        )
    shared = found["shared_memory_bytes"]
    if shared is not None and shared < _LITTLE_SHARED_MEMORY:
        advice.append(
            f"{_SHARED_MEMORY} has {_text('bytes', shared)}, too little for many --workers: start "
            "the container with more, as docker run --shm-size=2g"
        )
    return advice


def _torchvision_works() -> bool:
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def _title(key: str) -> str:
    return key if key.isupper() else key.removesuffix("_bytes").replace("_", " ")


def _text(key: str, value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value / 1e9:.1f} GB" if key.endswith("bytes") else str(value)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
