"""Two processes with half of every batch each, and one with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import assert_same_weights, config_of, log_without_times
from two_processes import STEPS, train

from ossa.errors import ConfigError
from ossa.train.callbacks import Callback
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext, device_of_process
from ossa.train.run_folder import read_log, read_record
from ossa.train.setup import init_run

HERE = Path(__file__).parent


def run_two(script: str, *arguments: str) -> None:
    """Starts a script in two processes, which find each other on a free port of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", script, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two_runs.py writes."""
    folder = tmp_path_factory.mktemp("two")
    run_two(str(HERE / "two_runs.py"), str(scenes), str(folder))
    return folder


def test_ten_steps_of_two_processes_are_those_of_one(runs: Path):
    assert_same_steps("cspdarknet_n", runs / "anchor.pt")


def test_so_are_two_steps_of_the_dense_head(runs: Path):
    """Then rounding breaks a tie between two points otherwise, and the assignments differ: on one
    kind of processor in the third step, on another in the fourth."""
    two = torch.load(runs / "dense.pt", weights_only=True)
    one = train("cspdarknet_n", SINGLE_PROCESS, head="dense")
    torch.testing.assert_close(two["losses"][:4], one["losses"][:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two["norms"][:2], one["norms"][:2], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_layer_norms_in_two_processes_are_those_of_one(tmp_path: Path):
    run_two(str(HERE / "two_processes.py"), "test_convnext", str(tmp_path / "two.pt"))
    assert_same_steps("test_convnext", tmp_path / "two.pt")


def assert_same_steps(backbone: str, file: Path) -> None:
    two, one = torch.load(file, weights_only=True), train(backbone, SINGLE_PROCESS)
    assert len(one["norms"]) == STEPS
    assert (one["norms"] > 0).all()
    assert set(two) == set(one)
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-4, atol=1e-4, msg=name)


def test_a_training_of_two_processes_writes_one_run_and_scores_every_image_once(runs: Path):
    record = read_record(runs / "whole")
    assert record.status == "done"
    assert record.metrics["last"]["num_images"] == 4
    rows = read_log(runs / "whole")
    assert [row["images"] for row in rows] == [12, 12]
    # Stopped with gradients waiting in both processes, and resumed.
    assert log_without_times(runs / "resumed") == log_without_times(runs / "whole")
    assert_same_weights(runs / "resumed", runs / "whole")
    # The same weights scored by one process: see two_runs.py.
    alone, shared = torch.load(runs / "scores.pt", weights_only=True)
    assert alone == shared


@pytest.mark.parametrize(
    ("world_size", "sync_batchnorm", "message"),
    [
        (13, False, "an image at least for each of 13 processes, found 12"),
        (2, True, "needs several processes with a GPU each"),
    ],
)
def test_settings_that_these_processes_cannot_have_are_refused(
    scenes: Path,
    tmp_path: Path,
    world_size: int,
    sync_batchnorm: bool,
    message: str,
):
    with pytest.raises(ConfigError, match=message):
        init_run(
            config_of(scenes, sync_batchnorm=sync_batchnorm),
            tmp_path,
            device=torch.device("cpu"),
            callback=Callback(),
            distributed=DistributedContext(0, world_size),
        )


def test_alone_a_process_keeps_its_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert device_of_process("cuda:1") == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of_process("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_process("cuda:0") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="found 1 and a process of number 1"):
        device_of_process("cuda:0")
