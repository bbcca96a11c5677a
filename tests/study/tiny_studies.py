"""Small studies that the tests of this folder share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ossa.evaluate.statistics import Values
from ossa.study.config import StudyConfig, check_study
from ossa.study.executors import Job, OnEnd
from ossa.study.folder import read_study_folder
from ossa.study.plan import Plan, make_plan
from ossa.study.worker import train_run

TINY = {"base": "quick", "epochs": 2, "imgsz": 64, "batch": 8}
"""A recipe of a second or two on 16 images."""


def a_study(**settings: Any) -> StudyConfig:
    """Returns a study of two small models and one seed, with the settings in their place."""
    content = {
        "name": "tiny",
        "data": "scenes",
        "models": ["cspdarknet_n", "resnet10t"],
        "neck": "n",
        "seeds": [0],
        "recipe": TINY,
    }
    return check_study(content | settings, where="the test")


def a_plan(*, folder: Path = Path(), **settings: Any) -> Plan:
    """Returns the plan of `a_study`, whose file lies in `folder`; nothing needs to be there."""
    return make_plan(a_study(**settings), data=Path("scenes"), folder=folder)


class InThisProcess:
    """An executor that trains in the process of the test."""

    def __init__(self) -> None:
        self.executed: list[str] = []

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        for job in jobs:
            self.executed.append(job.run)
            study = read_study_folder(job.study)
            run = study.plan.run(job.run)
            folder = study.run_folder(run)
            code = train_run(run, folder, reported=study.study.reported, device="cpu", workers=0)
            on_end(job.run, code)


def runs_of(*seeds: float) -> Values:
    """Returns runs whose value does not depend on the images."""
    plain = np.array(seeds)
    return Values(plain, np.repeat(plain[:, None], 20, 1), np.repeat(plain[:, None], 10, 1), 10)
