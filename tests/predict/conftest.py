"""Fixtures for the tests of prediction."""

from pathlib import Path

import pytest
import torch
from known_detector import NAMES

from ossa.model_config import ModelConfig
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import build_detector


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained yolov5n at 64 px with three classes."""
    model = ModelConfig(name="yolov5n", neck="own")
    torch.manual_seed(0)
    detector = build_detector(model, num_classes=3, imgsz=64)
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    details = {"licence": "Apache-2.0"}
    save_checkpoint(file, detector, model=model, names=NAMES, imgsz=64, details=details)
    return file
