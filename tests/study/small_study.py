"""A study of two small networks on generated scenes, and what two executions of it must share."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ossa.data.synthetic import write_scenes
from ossa.study.config import ExecutorConfig, check_study
from ossa.study.executors import create_executor
from ossa.study.folder import RunState, StudyFolder, create_study
from ossa.study.runner import run_study
from ossa.train.run_folder import LOG_FILE, read_log, read_record

FIRST, SECOND = "cspdarknet_n-seed0", "mobilenetv3_small_050-seed0"
EPOCHS = 10
_PATIENCE_SECONDS = 200


def begin_study(folder: Path) -> StudyFolder:
    """Returns a study that was not begun, in a folder; its data lie beside it."""
    data = folder.parent / "scenes"
    if not data.exists():
        write_scenes(data, images={"train": 32, "val": 8}, imgsz=128)
    content = {
        "name": "small",
        "data": "scenes",
        "models": ["cspdarknet_n", "mobilenetv3_small_050"],
        "seeds": [0],
        "neck": "n",
        "recipe": {"base": "quick", "epochs": EPOCHS, "imgsz": 64, "batch": 8},
    }
    study = check_study(content, where="small_study.py")
    return create_study(study, folder, data=data, weights_folder=folder.parent)


def execute(study: StudyFolder, **executor: Any) -> list[RunState]:
    """Brings the runs to their end, with one thread each."""
    config = ExecutorConfig(threads=1, **executor)
    return run_study(study, create_executor(config), on_run=lambda _: None)


def states_of(study: StudyFolder) -> dict[str, str]:
    return {state.run.name: state.state for state in study.states()}


def said(study: StudyFolder, run: str) -> str:
    """Returns the log of a run's processes."""
    return (study.path / "runs" / run / "worker.log").read_text()


def results_of(study: StudyFolder, run: str) -> dict[str, Any]:
    """Returns log, record and weights of a run without times, environment and their hashes."""
    folder = study.path / "runs" / run
    record = asdict(read_record(folder))
    del record["times"], record["environment"], record["files"][LOG_FILE], record["digest"]
    log = [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for row in read_log(folder)
    ]
    weights = load_file(folder / "last.safetensors")
    return {
        "record": record,
        "log": log,
        "weights": {name: tensor.tolist() for name, tensor in weights.items()},
    }


def wait_for(happened: Callable[[], bool]) -> None:
    """Returns as soon as something has happened."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def epochs_of(study: StudyFolder, run: str) -> int:
    """Returns how many epochs of a run are logged."""
    file = study.path / "runs" / run / LOG_FILE
    return file.read_text().count("\n") if file.exists() else 0


def in_the_middle(study: StudyFolder, *runs: str) -> bool:
    """Returns whether every one of the runs has a state to go on from; fails where one is over."""
    for run in runs:
        for file in ("record.json", "failure.json"):
            path = study.path / "runs" / run / file
            assert not path.exists(), path.read_text()
    # An epoch is logged before its state is saved: that of the first is there.
    return min(epochs_of(study, run) for run in runs) >= 2


@contextmanager
def meanwhile(disturb: Callable[[], None]) -> Iterator[None]:
    """Disturbs what goes on in the body, and tells where the disturbance went wrong."""
    problems: list[BaseException] = []

    def guarded() -> None:
        try:
            disturb()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        assert not problems, problems
