"""Where a result comes from: code, versions, and the machine that computed it."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import cv2
import timm
import torch

from ossa.config import CONDITIONS_VERSION, RunConfig
from ossa.machine import cpu_name
from ossa.models.backbones.timm import own_code

_PACKAGE = Path(__file__).parent.parent
_DECIDING = ("models", "data", "train", "evaluate")
"""Packages whose code decides the numbers of a run."""
_DECIDING_FILES = ("backbone_args.py", "boxes.py", "config.py", "types.py")
NOT_RECORDED = "not recorded"
THEN = ", then "
OWN_CODE = "code of "
"""Begins the key of a backbone that is neither timm's nor Ossa's; its name follows."""


def environment() -> dict[str, str]:
    """Returns what a result depends on beside the configuration: hardware and versions."""
    from ossa import __version__

    return {
        "ossa": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "opencv": cv2.__version__,
        "cpu": cpu_name(),
        "cpu_count": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def provenance(config: RunConfig, device: torch.device) -> dict[str, str]:
    """Returns the `environment` of a run, with the code and the kind of computation."""
    own = own_code(config.model.name)
    return {
        **environment(),
        **deciding_versions(),
        **({} if own is None else {OWN_CODE + config.model.name: own}),
        "commit": _commit(),
        "device": device.type,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "precision": config.train.precision,
    }


def deciding_versions() -> dict[str, str]:
    """Returns what decides the numbers of a run here, whatever its settings and device."""
    return {
        "conditions": str(CONDITIONS_VERSION),
        "code": code_hash(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def continued(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a run that went on in another, 'A, then B' where they differ."""
    merged = {}
    for key, value in now.items():
        earlier = before.get(key, NOT_RECORDED)
        merged[key] = earlier if value in earlier.split(THEN) else earlier + THEN + value
    return merged


@cache
def code_hash() -> str:
    """Returns the sha256 of the source files that decide the numbers of a run."""
    files = [_PACKAGE / name for name in _DECIDING_FILES]
    for package in _DECIDING:
        files += sorted((_PACKAGE / package).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _commit() -> str:
    """Returns the commit of a checkout, with '-dirty' for changes, or 'none' where installed."""
    git = ("git", "-C", str(_PACKAGE))
    described = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    with suppress(OSError, subprocess.SubprocessError):
        # Installed below somebody's checkout, the package is not of that checkout.
        tracked = ("ls-files", "--error-unmatch", "__init__.py")
        subprocess.run([*git, *tracked], check=True, capture_output=True, timeout=10)
        found = subprocess.run([*git, *described], check=True, capture_output=True, timeout=10)
        return found.stdout.decode().strip()
    return "none"
