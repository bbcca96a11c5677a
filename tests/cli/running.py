"""How the tests run commands: in this process, or as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import Result

TINY = ("--recipe", "quick", "--imgsz", "64", "--batch", "8", "--workers", "0", "--device", "cpu")
"""A training of a second or two."""

Ossa = Callable[..., Result]
"""Runs a command in an empty folder; its result has exit_code, stdout and stderr."""


def start_ossa(*arguments: object) -> "subprocess.Popen[str]":
    """Starts a command as a process of its own."""
    program = "from ossa.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@dataclass(frozen=True)
class FinishedTraining:
    """One training of one epoch, started as a process of its own with --json."""

    folder: Path
    stdout: str
    stderr: str
    exit_code: int

    def row(self) -> dict[str, Any]:
        return json.loads(self.stdout)
