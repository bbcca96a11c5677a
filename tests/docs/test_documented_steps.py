"""README and docs/ are run: every page from top to bottom, in a folder where its names exist.

Blocks that need what is not here are left out; `test_documented_commands.py` looks at what they say
they need.
"""

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from documentation import PAGES, ROOT, steps_of
from reader import run_page
from workplace import prepare

import ossa

STUDIES = {"README.md": "bccd-224", "docs/studies.md": "bccd-320"}
"""Pages that show a study of hours. It lies there finished, with results that are invented."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    prepare(folder)
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own copy of the prepared folder, in which the test then works, with one thread."""
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def begin_study(folder: Path, name: str) -> None:
    """Puts a finished run of that study into `runs`, and the data that it was about into DATA."""
    synthetic = runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py"), run_name="made_up")
    file = folder / "studies" / f"{name}.yaml"
    settings = yaml.safe_load(file.read_text())
    settings.pop("reported", None)  # a split that the invented data lack
    file.write_text(yaml.safe_dump(settings))
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


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(page: str, place: Path) -> None:
    if page in STUDIES:
        begin_study(place, STUDIES[page])
    names = run_page(page)
    if page == "docs/export.md":
        check_detections_without_ossa(page, names)


def check_detections_without_ossa(page: str, names: dict[str, Any]) -> None:
    """Compares the best boxes that the page finds with onnxruntime and NumPy alone."""
    assert names["boxes_xyxy"].shape == (len(names["labels"]), 4)  # of the file with NMS
    code = next(step.text for step in steps_of(page) if "InferenceSession" in step.text)
    exec(code.replace('about["confidence"]', "1e-5"), names)  # the network has learned little
    expected = ossa.load("best-fp32.onnx").predict("photo.jpg", confidence=1e-5)[:20]
    best_first = sorted(names["found"], key=lambda one: -one[1])[:20]
    assert len(expected) == len(best_first) == 20
    for (name, score, box_xywh), wanted in zip(best_first, expected, strict=True):
        assert (name,) == wanted.class_names
        assert score == pytest.approx(wanted.scores[0], rel=1e-3)
        # ossa cuts boxes off at the edges of the photo.
        ends = np.add(box_xywh[:2], box_xywh[2:])
        box_xyxy = np.clip([*box_xywh[:2], *ends], 0, names["photo"].shape[:2][::-1] * 2)
        np.testing.assert_allclose(box_xyxy, wanted.boxes_xyxy[0], atol=0.1)
