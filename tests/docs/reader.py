"""Does what a page shows, step by step, in the present folder.

Files are written, Python is executed as one program, commands run in this process. Trainings are
shortened: what is shown is run, only not as long.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from documentation import Step, steps_of
from typer.testing import CliRunner

from ossa.cli.main import app

TRAINING = "--epochs 1 --imgsz 64 --batch 4 --workers 0 --device cpu"
SHORTER = {
    "train": TRAINING,
    "pretrain": TRAINING,
    "val": "--workers 0 --device cpu",
    "predict": "--device cpu",
    "bench": "--imgsz 64 --warmup 0 --runs 1",
    "study plan": "--no-measure",
    "study run": "--workers 0 --device cpu",
}
"""Options that are appended to a command and have the last word."""
SMALLER = {
    r"(\bepochs\"?: )\d+": r"\g<1>1",
    r"(\bimgsz\"?: )\d+": r"\g<1>64",
    r"(\"(?:train|val)\": )\d+": r"\g<1>6",
}
"""What changes in files and Python: epochs, sides of images, numbers of generated scenes."""


def shrunk(text: str) -> str:
    for pattern, smaller in SMALLER.items():
        text = re.sub(pattern, smaller, text)
    return text


def run_step(step: Step, names: dict[str, Any]) -> None:
    """Does one step; `names` are those of the program that the page's Python is."""
    if step.kind == "file":
        Path(step.title).parent.mkdir(parents=True, exist_ok=True)
        Path(step.title).write_text(shrunk(step.text))
    elif step.kind == "python":
        exec(compile(shrunk(step.text), step.place, "exec"), names)
    elif step.environment or step.words[0] == "torchrun":
        run_process(step)
    else:
        program, *words = step.words
        assert program == "ossa", f"{step.place}: no test runs {step.text}"
        found = CliRunner().invoke(app, [*words, *added(words)])
        said = f"{step.place}: {step.text}\n{found.output}"
        assert found.exit_code == 0, said


def added(words: list[str]) -> list[str]:
    """Returns the options that make a command shorter."""
    if "--predictions" in words or "--resume" in words:  # no model is run, or as it began
        return []
    command = " ".join(words[:2] if words[0] == "study" else words[:1])
    return SHORTER.get(command, "").split()


def run_process(step: Step) -> None:
    """Runs torchrun, or ossa with an environment, by the interpreter of this process."""
    program, *words = step.words
    if program == "torchrun":
        words = ["torch.distributed.run", "--standalone", *words, *added(["train"])]
    else:
        words = [program, *words, *added(words)]
    command = [sys.executable, "-m", *words]
    environment = {**os.environ, **step.environment}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, f"{step.place}: {step.text}\n{found.stderr}"


def run_page(
    page: str, *, kinds: tuple[str, ...] = ("file", "python", "command")
) -> dict[str, Any]:
    """Does the steps of a page that need nothing; returns the names that its Python leaves."""
    names: dict[str, Any] = {"__name__": page}
    for step in steps_of(page):
        if step.kind in kinds and not step.needs:
            run_step(step, names)
    return names
