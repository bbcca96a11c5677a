"""Fixtures for the tests of the command line: a small data set and one short training on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running import TINY, FinishedTraining, Ossa, start_ossa
from typer.testing import CliRunner

from ossa.cli.main import app
from ossa.data.synthetic import write_scenes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that the tests start: the number of threads decides the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a data set of 16 + 8 generated images with 4 classes."""
    return write_scenes(
        tmp_path_factory.mktemp("data") / "scenes", images={"train": 16, "val": 8}, imgsz=128
    ).parent


@pytest.fixture(scope="session")
def training(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedTraining:
    project = tmp_path_factory.mktemp("project") / "runs"
    process = start_ossa(
        *("train", "--data", scenes, "--model", "yolov5n", "--epochs", 1),
        *("--project", project, "--json", *TINY),
    )
    stdout, stderr = process.communicate()
    return FinishedTraining(project / "yolov5n", stdout, stderr, process.returncode)


@pytest.fixture
def ossa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ossa:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
