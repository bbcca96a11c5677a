"""What the tests of training share: a data set, a finished run, and costs that are counted once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import IMAGES, config_of

from ossa.data.synthetic import write_scenes
from ossa.models.complexity import NetworkCost, count_cost
from ossa.models.detector import Detector
from ossa.train.loop import train


@pytest.fixture(scope="session", autouse=True)
def cost_is_counted_once() -> Iterator[None]:
    """Remembers the cost of each network, which takes a quarter of a small training."""
    known: dict[tuple[str, int], NetworkCost] = {}

    def remembered(detector: Detector, imgsz: int) -> NetworkCost:
        key = repr(detector), imgsz
        if key not in known:
            known[key] = count_cost(detector, imgsz)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ossa.train.setup.count_cost", remembered)
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", images=IMAGES, imgsz=128)


@pytest.fixture(scope="session")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through."""
    folder = tmp_path_factory.mktemp("run")
    train(config_of(scenes), folder)
    return folder
