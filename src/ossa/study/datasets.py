"""A study on several data sets: one study for each, under the same conditions.

studies.yaml        the study, with all data sets
data_sets/NAME/     the study of one data set, as `ossa.study.folder` says

Every data set has its own runs, records, measurements and report; models, seeds and settings are
shared. Where the study reports `test` and a data set has no such split, the last weights are
reported on its val; plan, run and the page over the data sets say so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ossa.data.description import read_description
from ossa.errors import ConfigError, legible
from ossa.files import write_text_atomically
from ossa.safe_yaml import read_yaml
from ossa.study.config import Reported, StudyConfig, check_study
from ossa.study.folder import StudyFolder, create_study, extend_study, read_study_folder

STUDIES_FILE = "studies.yaml"
_FOLDER = "data_sets"


@dataclass(frozen=True)
class StudySet:
    """The studies of several data sets."""

    path: Path
    studies: Mapping[str, StudyFolder]
    """By the name of the data set."""

    @property
    def notes(self) -> list[str]:
        """Sentences on data sets that are reported on another split than the others."""
        splits = {data: study.study.reported.split for data, study in self.studies.items()}
        if "test" not in splits.values():
            return []
        return [
            f"{data} has no test split: the last weights are reported on its val, unlike the others"
            for data, split in splits.items()
            if split == "val"
        ]


def data_names(study: StudyConfig) -> dict[str, str]:
    """Returns the data sets of a study by their names in folders and tables.

    Raises:
        ConfigError: two of them have the same name.
    """
    names: dict[str, str] = {}
    for data in study.data_sets:
        short = re.sub(r"/?data\.ya?ml$", "", data).strip("/.")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", short).strip("-.") or "data"
        if name in names:
            raise ConfigError(
                expected="data sets with different names",
                found=legible(f"{data} and {names[name]}"),
            )
        names[name] = data
    return names


def split_study(study: StudyConfig, places: Mapping[str, Path]) -> dict[str, StudyConfig]:
    """Returns the study of each data set by its name.

    Args:
        study: with several data sets.
        places: the data.yaml, or its folder, by the name of the data set.

    Raises:
        ConfigError, DataError: a data.yaml cannot be read.
    """
    studies = {}
    has_test = {name: "test" in read_description(place).splits for name, place in places.items()}
    for name, data in data_names(study).items():
        reported = study.reported
        if reported.split == "test" and not has_test[name] and any(has_test.values()):
            reported = Reported()
        changes = {"name": f"{study.name}-{name}", "data": data, "reported": reported}
        studies[name] = study.model_copy(update=changes)
    return studies


def is_study_set(path: Path) -> bool:
    """Returns whether a folder holds a study on several data sets."""
    return (path / STUDIES_FILE).is_file()


def create_studies(
    study: StudyConfig, path: Path, *, places: Mapping[str, Path], weights_folder: Path
) -> StudySet:
    """Writes the studies of all data sets, or checks that those in the folder are the same.

    Raises:
        ConfigError: the folder has another study, or a plan is invalid.
    """
    if path.exists() and not is_study_set(path) and (not path.is_dir() or any(path.iterdir())):
        expected = "a new or empty folder or a study on several data sets"
        raise ConfigError(expected=expected, found="one in use", path=path)
    if is_study_set(path):
        if (known := _read_names(path)) != list(places):
            raise ConfigError(
                expected=f"a study on {', '.join(places)}",
                found=f"one on {', '.join(known)}",
                path=path,
                advice="use another folder",
            )
    else:  # first, so that an interrupted start is gone on with
        path.mkdir(parents=True, exist_ok=True)
        content = yaml.safe_dump({"study": study.model_dump(mode="json")}, sort_keys=False)
        write_text_atomically(path / STUDIES_FILE, content)
    for name, own in split_study(study, places).items():
        folder = path / _FOLDER / name
        create_study(own, folder, data=places[name], weights_folder=weights_folder)
    return read_studies(path)


def read_studies(path: Path) -> StudySet:
    """Returns the studies of a folder.

    Raises:
        ConfigError: the folder has none, or they are not under the same conditions.
    """
    studies = {name: read_study_folder(path / _FOLDER / name) for name in _read_names(path)}
    first, *others = studies.values()
    for other in others:
        for key in first.plan.conditions.keys() | other.plan.conditions.keys():
            here, there = (one.plan.conditions.get(key) for one in (first, other))
            if here != there:
                raise ConfigError(
                    expected=f"the same {key} on all data sets ({legible(str(here))})",
                    found=legible(str(there)),
                    path=other.path,
                    advice="results under different conditions are not comparable",
                )
    return StudySet(path, studies)


def _read_names(path: Path) -> list[str]:
    file = path / STUDIES_FILE
    try:
        content = read_yaml(file).value
        return list(data_names(check_study(content["study"], where=str(file))))
    except (OSError, KeyError, TypeError):
        raise ConfigError(expected="a study on several data sets", path=file) from None


def extend_studies(path: Path, *, models: list[str], seeds: list[int]) -> tuple[StudyFolder, ...]:
    """Adds models and seeds to the studies of all data sets and returns the studies.

    Raises:
        ConfigError: as `extend_study`; a model or seed that all of them have.
    """
    lacking = []
    for one in read_studies(path).studies.values():
        own = one.study  # may have some, after a call that was interrupted
        new_models = [model for model in models if model not in own.models]
        lacking.append((one.path, new_models, [seed for seed in seeds if seed not in own.seeds]))
    if not any(new_models or new_seeds for _, new_models, new_seeds in lacking):
        lacking = [(folder, models, seeds) for folder, _, _ in lacking]
    for folder, new_models, new_seeds in lacking:
        extend_study(folder, models=new_models, seeds=new_seeds)
    return tuple(read_studies(path).studies.values())
