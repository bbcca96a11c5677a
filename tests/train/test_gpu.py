"""What only a GPU shows. Each test skips itself where there is none."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CtrlC, assert_same_weights, config_of, log_without_times
from test_step import batch_of

from ossa.config import LossConfig, TrainConfig
from ossa.errors import RunFailed
from ossa.models.detector import create_detector
from ossa.train.autobatch import largest_batch
from ossa.train.distributed import AsyncMetricReader
from ossa.train.loop import forward, train
from ossa.train.optim import EMA, build_optimizer, optimizer_step
from ossa.train.run_folder import read_log
from ossa.types import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]
GPU = "cuda:0"


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"compile": True}], ids=str)
def test_the_losses_are_those_of_the_processor(
    scenes: Path,
    tmp_path: Path,
    settings: dict[str, Any],
):
    """The first batch starts from the same weights and images, so it has the same losses."""
    losses = []
    for device, options in (("cpu", dict[str, Any]()), (GPU, settings)):
        folder = tmp_path / device.partition(":")[0]
        folder.mkdir()
        train(config_of(scenes, epochs=1, batch=12, **options), folder, device=device)
        (row,) = read_log(folder)
        losses.append([row[f"train_{name}"] for name in ("box", "objectness", "classes")])
    tolerance = 0.02 if settings.get("precision") == "bf16" else 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_a_deterministic_run_resumes_to_the_same_bits(scenes: Path, tmp_path: Path):
    config = config_of(scenes, deterministic=True)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    train(config, straight, device=GPU)
    train(config, stopped, device=GPU, callback=CtrlC(2))
    train(config, stopped, device=GPU, resume=True)
    assert log_without_times(straight) == log_without_times(stopped)
    assert_same_weights(straight, stopped)


def test_values_are_read_one_batch_late():
    reader = AsyncMetricReader[str](torch.device(GPU))
    assert reader.put("first", torch.tensor([1.0], device=GPU)) == []
    assert reader.put("second", torch.tensor([2.0], device=GPU)) == [("first", [1.0])]
    assert reader.drain() == [("second", [2.0])]


def test_a_step_never_waits_for_the_device():
    detector = create_detector("yolov5n", num_classes=2, imgsz=64).train().to(GPU)
    loss = detector.head.criterion(LossConfig(), imgsz=64)
    config = TrainConfig(imgsz=64)
    optimizer, ema = build_optimizer(detector, config), EMA(detector, decay=0.5, ramp=1.0)

    def step(batch: Batch) -> None:
        (2 * loss(forward(detector, batch.images, config), batch).total()).backward()
        optimizer_step(detector, optimizer, ema, config)

    batch = batch_of(2).to(GPU)
    step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_batch_that_fits_is_found_and_named(scenes: Path, tmp_path: Path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2e9 / total))
    try:
        config = config_of(scenes, imgsz=640, batch=24)
        fitting = largest_batch(config, num_classes=4, device=torch.device(GPU))
        assert fitting is not None
        assert 1 <= fitting < 1024
        torch.cuda.set_per_process_memory_fraction(min(1.0, 3e8 / total))
        with pytest.raises(RunFailed, match=r"no memory for a batch of 24 images: (--batch|not)"):
            train(config, tmp_path, device=GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_synchronous_batch_norms_over_two_gpus(scenes: Path, tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    options = ["--data", str(scenes), "--model", "yolov5n", "--imgsz", "64", "--batch", "8"]
    done = subprocess.run(
        [*command, "-m", "ossa", "train", *options, "--epochs", "1", "--sync-bn"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(read_log(tmp_path / "runs" / "yolov5n")) == 1
