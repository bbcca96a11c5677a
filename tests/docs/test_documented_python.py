"""What the Python of some pages leaves behind, with numbers that can be checked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader import run_page
from workplace import write_data, write_results

import ossa
from ossa.files import sha256_of
from ossa.models.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and detections of them: objects in even rows at 0.9, the others at 0.3."""
    folder = tmp_path_factory.mktemp("examples")
    write_data(folder)
    write_results(folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_page("docs/evaluation.md", kinds=("python",))


@pytest.fixture(scope="module")
def backbones(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        return run_page("docs/backbones.md", kinds=("file", "python"))


def test_a_chosen_confidence_has_its_precision_and_recall(evaluation: dict[str, Any]) -> None:
    labels, point = evaluation["index"].labels, evaluation["point"]
    even = np.arange(len(labels)) % 2 == 0
    recalls = [even[labels == label].mean() for label in np.unique(labels)]
    assert 0 < np.mean(recalls) < 1
    assert point.confidence == 0.4
    assert point.means()["precision"] == pytest.approx(1)
    assert point.means()["recall"] == pytest.approx(np.mean(recalls))


def test_the_limits_are_those_that_were_asked_for(evaluation: dict[str, Any]) -> None:
    rows = evaluation["rows"]
    assert [row["area"] for row in rows if row["class"] is None] == ["all", "tiny"]
    assert [key for key in rows[0] if key.startswith("ar_")] == ["ar_1", "ar_100", "ar_300"]
    assert (rows[0]["ap"], rows[0]["ar_300"]) == pytest.approx((1, 1))
    assert rows[0]["num_truths"] == len(evaluation["index"].labels)


def test_a_network_registered_with_timm_is_a_backbone(
    backbones: dict[str, Any], folder: Path
) -> None:
    levels = backbones["detector"].backbone.levels
    assert [tuple(level) for level in levels] == [(8, 64), (16, 128), (32, 256)]
    run, sha256 = folder / "runs" / "pebble", sha256_of(folder / "pebble.py")
    assert ossa.read_record(run).environment["code of pebble"] == sha256
    assert read_checkpoint(run / "best.safetensors").details["backbone_code"] == sha256


def test_any_module_with_levels_is_a_backbone(backbones: dict[str, Any]) -> None:
    shapes = [tuple(logits.shape) for logits in backbones["raw"].logits]
    assert shapes == [(2, 3, 40, 32, 8), (2, 3, 20, 16, 8), (2, 3, 10, 8, 8)]
