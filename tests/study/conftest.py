"""Fixtures for the tests of studies: a small data set, and a study that is done."""

from pathlib import Path

import pytest
from tiny_studies import InThisProcess, a_study

from ossa.data.synthetic import write_scenes
from ossa.study.folder import StudyFolder, create_study
from ossa.study.runner import run_study


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a data set of 16 + 8 generated images with 4 classes, and a test split of 8."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    images = {"train": 16, "val": 8, "test": 8}
    return write_scenes(folder, images=images, imgsz=128).parent


@pytest.fixture(scope="session")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of two models, one run each."""
    path = tmp_path_factory.mktemp("studies") / "tiny"
    study = create_study(a_study(), path, data=scenes, weights_folder=path.parent)
    run_study(study, InThisProcess(), on_run=lambda state: None)
    return study
