"""The study files in `studies/`: each is a study, and each that needs no weights can be planned."""

import math
from pathlib import Path

import pytest

from ossa.errors import ConfigError
from ossa.study.config import read_study
from ossa.study.plan import make_plan

FILES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_study_can_be_planned(file: Path):
    study = read_study(file)
    assert study.name == file.stem
    assert f"ossa study run studies/{file.name}" in file.read_text()
    data = Path(str(study.data))
    if isinstance(study.initial_weights, dict):  # files that are not shipped
        with pytest.raises(ConfigError, match=r"Expected a file for initial_weights"):
            make_plan(study, data=data, folder=Path("nowhere"))
        return
    plan = make_plan(study, data=data, folder=file.parent)
    settings = math.prod(len(values) for values in study.factors.values())
    assert len(plan.runs) == len(study.models) * len(study.seeds) * settings
    assert {run.weights.pretraining for run in plan.runs} == {"none"}


def test_the_study_as_published_declares_what_is_unequal():
    study = read_study(next(file for file in FILES if file.stem == "convnext-yolo"))
    assert study.mixed_initial_weights
    assert study.neck == "own"
