"""README and docs/ are run: every page from top to bottom, in a folder where its names exist.

Files are written, Python is executed as one program, commands run in this process. Trainings are
shortened: what is shown is run, only not as long. Blocks that need what is not here are left out,
and `test_documented_commands.py` looks at what they say they need.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from documentation import PAGES, ROOT, Step, steps_of
from typer.testing import CliRunner
from workplace import prepare

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
    r"\bepochs\"?: \d+": lambda found: found[0].rpartition(" ")[0] + " 1",
    r"\bimgsz\"?: \d+": lambda found: found[0].rpartition(" ")[0] + " 64",
    r"\"(train|val)\": \d+": lambda found: found[0].rpartition(" ")[0] + " 6",
}
"""What changes in files and Python: epochs, sides of images, numbers of generated scenes."""
STUDIES = {"README.md": "bccd-160", "docs/studies.md": "bccd-320"}
"""Pages that show a study of hours. It lies there finished, with results that are invented."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    prepare(folder)
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of the prepared folder, with the present working directory in it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    yield folder  # pyright: ignore[reportReturnType]
    torch.set_num_threads(threads)


def begin_study(folder: Path, name: str) -> None:
    """Puts a finished run of that study into `runs`, and the data that it was about into DATA."""
    synthetic = runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py"), run_name="made_up")
    settings = yaml.safe_load((folder / "studies" / f"{name}.yaml").read_text())
    opened = synthetic["write_study"](
        folder / "made-up",
        models=settings["models"],
        images=8,
        false_per_image=2,
        settings=settings,
    )
    shutil.move(opened.path, folder / "runs" / name)
    shutil.rmtree(folder / "DATA" / settings["data"])
    shutil.copytree(folder / "made-up" / "scenes", folder / "DATA" / settings["data"])


def shrunk(text: str) -> str:
    for pattern, smaller in SMALLER.items():
        text = re.sub(pattern, smaller, text)
    return text


def run_step(step: Step, names: dict[str, Any]) -> None:
    if step.kind == "file":
        Path(step.title).parent.mkdir(parents=True, exist_ok=True)
        Path(step.title).write_text(shrunk(step.text))
    elif step.kind == "python":
        exec(compile(shrunk(step.text), step.place, "exec"), names)
    elif step.words[0] == "torchrun":
        run_process(step)
    else:
        program, *words = step.words
        assert program == "ossa", f"{step.place}: no test runs {step.text}"
        found = CliRunner().invoke(app, [*words, *added(words)])
        said = f"{step.place}: {step.text}\n{found.output}"
        assert found.exit_code == 0, said


def added(words: list[str]) -> list[str]:
    """Returns the options that make a command shorter."""
    if "--predictions" in words:  # no model is run
        return []
    command = " ".join(words[:2] if words[0] == "study" else words[:1])
    return SHORTER.get(command, "").split()


def run_process(step: Step) -> None:
    """Runs torchrun as a process, with the interpreter of this one."""
    words = [*step.words[1:], *added(["train"])]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    found = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert found.returncode == 0, f"{step.place}: {step.text}\n{found.stderr}"


def run_page(page: str, place: Path) -> dict[str, Any]:
    """Runs all steps of a page that need nothing; returns the names that its Python leaves."""
    if page in STUDIES:
        begin_study(place, STUDIES[page])
    names: dict[str, Any] = {"__name__": page}
    for step in steps_of(page):
        if not step.needs:
            run_step(step, names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(page: str, place: Path) -> None:
    run_page(page, place)
