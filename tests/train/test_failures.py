"""What befalls a run from outside, in one sentence each."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import config_of

from ossa.errors import DataError, RunFailed
from ossa.train.autobatch import largest_batch, largest_that_fits
from ossa.train.callbacks import Callback
from ossa.train.diagnostics import wrap_errors
from ossa.train.loop import train


def told(error: Exception, fitting: int | None = 5) -> str:
    with (
        pytest.raises((RunFailed, DataError)) as failure,
        wrap_errors(batch=16, fitting_batch=lambda: fitting),
    ):
        raise error
    return str(failure.value)


def test_a_gpu_without_memory_names_a_batch_that_fits():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert "no memory for a batch of 16 images: --batch 5 fits" in told(error)
    assert "not even a batch of 1 fits" in told(error, None)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")]
)
def test_a_machine_without_memory_is_told(error: Exception):
    assert "the machine has no memory for a batch of 16 images" in told(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ],
)
def test_a_worker_that_is_gone_is_told_however_it_is_noticed(error: Exception):
    assert "a process that loads images died" in told(error)


def test_other_errors_stay_what_they_are():
    with (
        pytest.raises(RuntimeError, match="a fault of ours"),
        wrap_errors(batch=16, fitting_batch=lambda: 1),
    ):
        raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100, 1000])
def test_the_largest_number_that_fits_is_found(limit: int):
    asked: list[int] = []

    def fits(images: int) -> bool:
        asked.append(images)
        return images <= limit

    assert largest_that_fits(fits, most=1000) == limit
    assert len(asked) <= 2 * limit.bit_length() + 1


def test_where_nothing_fits_none_is_found():
    assert largest_that_fits(lambda images: False, most=8) is None


def test_a_batch_for_the_processor_is_not_looked_for(scenes: Path):
    with pytest.raises(Exception, match="on a GPU, found cpu"):
        largest_batch(config_of(scenes), num_classes=4, device=torch.device("cpu"))


class After(Callback):
    """Does something when a batch is done."""

    def __init__(self, batch: int, act: Any) -> None:
        self.batch, self.act, self.done = batch, act, 0

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        self.done += 1
        if self.done == self.batch:
            self.act()


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_a_worker_that_dies_is_told_and_the_last_state_is_there(scenes: Path, tmp_path: Path):
    def kill_a_worker() -> None:
        os.kill(children()[-1], signal.SIGKILL)

    config = config_of(scenes, epochs=20)
    with pytest.raises(RunFailed, match="a process that loads images died"):
        train(config, tmp_path, workers=1, callback=After(4, kill_a_worker))
    assert (
        torch.load(tmp_path / "last.state.pt", weights_only=True)["progress"]["batch_number"] >= 3
    )


def test_data_that_vanish_are_told_in_one_sentence(scenes: Path, tmp_path: Path):
    data, run = tmp_path / "scenes", tmp_path / "run"
    shutil.copytree(scenes.parent if scenes.is_file() else scenes, data)
    run.mkdir()
    config = config_of(data / scenes.name if scenes.is_file() else data, epochs=20)
    with pytest.raises(DataError) as failure:
        train(config, run, workers=1, callback=After(4, lambda: shutil.rmtree(data)))
    assert "Traceback" not in str(failure.value)
    assert "\n" not in str(failure.value)
    assert str(data) in str(failure.value)
