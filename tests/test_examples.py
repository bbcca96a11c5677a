"""The `Examples:` block of every public name runs, on drawn scenes and without a network."""

import doctest
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import ossa
from ossa.config import ModelConfig
from ossa.data.decode import decode_image
from ossa.evaluate.coco import detections_as_coco_results
from ossa.models.checkpoint import save_checkpoint
from ossa.viz.draw import encode_png

ROOT = Path(__file__).resolve().parents[1]
SLOW = ("StudyResults", "export_detector", "load_study", "train_detector")
"""Their examples take seconds."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ossa.__all__
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    synthetic = runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py"))
    synthetic["write_study"](folder, models=("resnet10t", "mobilenetv2_100"), images=2, epochs=1)
    index = ossa.read_data(folder / "scenes").index
    gt = {}
    for position, image_id in enumerate(index.image_ids.tolist()):
        rows = index.gt_rows(position)
        scores = np.full(len(index.labels[rows]), 0.9, np.float32)
        gt[image_id] = ossa.Detections(index.boxes_xyxy[rows], scores, index.labels[rows])
    (folder / "results.json").write_text(json.dumps(detections_as_coco_results(index, gt)))
    image = decode_image(index.image_path(0))
    (folder / "photo.png").write_bytes(encode_png(image))
    writer = ossa.VideoWriter(folder / "street.webm", rate=10)
    for number in range(3):
        writer.add(image, number / 10)
    writer.close()
    torch.manual_seed(0)
    save_checkpoint(
        folder / "best.safetensors",
        ossa.create_detector("yolov5n", num_classes=len(index.names), imgsz=64),
        model=ModelConfig(name="yolov5n", neck="own"),
        names=index.names,
        imgsz=64,
        details={},
    )
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_runs(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    named = getattr(ossa, name)
    names = vars(__import__(named.__module__, fromlist=[name])).copy()
    example = doctest.DocTestParser().get_doctest(named.__doc__, names, name, None, None)
    assert example.examples, f"the docstring of ossa.{name} has no Example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)
