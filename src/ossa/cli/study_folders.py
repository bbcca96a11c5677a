"""What the commands of a study share: its file or folder, its executor, its pilot."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.config import ExecutorConfig, StudyConfig
    from ossa.study.datasets import StudySet
    from ossa.study.folder import StudyFolder
    from ossa.study.plan import Plan
    from ossa.study.results import StudyResults
    from ossa.study.sequential import SeedsNeeded


def open_study(
    study: Path, *, output: Path | None = None, begin: bool = False, **roots: Path | None
) -> "StudyFolder":
    """Returns the study of a folder or file; `begin` creates the folder of a file if needed."""
    from ossa.study.config import read_study
    from ossa.study.folder import create_study, read_study_folder

    if study.is_dir():
        for name, value in {**roots, "output": output}.items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{study} already has the paths of its data and weights: remove {option}"
                )
        return read_study_folder(study)
    config = read_study(study)
    folder = output or Path("runs") / config.name
    if not begin:
        return read_study_folder(folder)
    (data,) = places_of(config, study, roots["data_root"]).values()
    weights = roots["weights_root"] or study.parent
    return create_study(config, folder, data=data, weights_folder=weights)


def open_studies(
    study: Path, *, output: Path | None = None, begin: bool = False, **roots: Path | None
) -> "StudySet":
    """Returns the studies of all data sets, or the only one by the name ''."""
    from ossa.study.config import read_study
    from ossa.study.datasets import StudySet, create_studies, is_study_set, read_studies

    config = None if study.is_dir() else read_study(study)
    folder = study if config is None else output or Path("runs") / config.name
    if config is not None and len(config.data_sets) > 1 and begin:
        places = places_of(config, study, roots["data_root"])
        weights = roots["weights_root"] or study.parent
        return create_studies(config, folder, places=places, weights_folder=weights)
    if is_study_set(folder):
        return read_studies(folder)
    opened = open_study(study, output=output, begin=begin, **roots)
    return StudySet(opened.path, {"": opened})


def plans_of(
    study: Path, *, data_root: Path | None, weights_root: Path | None
) -> "dict[str, Plan]":
    """Returns the plan of each data set by its name, or the only one by ''; nothing is written."""
    from ossa.study.config import read_study
    from ossa.study.datasets import split_study
    from ossa.study.plan import make_plan

    if study.is_dir():
        return {name: one.plan for name, one in open_studies(study).studies.items()}
    config = read_study(study)
    places = places_of(config, study, data_root)
    parts = {"": config} if len(places) == 1 else split_study(config, places)
    folder = weights_root or study.parent
    return {
        name: make_plan(own, data=place, folder=folder)
        for (name, own), place in zip(parts.items(), places.values(), strict=True)
    }


def places_of(study: "StudyConfig", file: Path, root: Path | None) -> dict[str, Path]:
    """Returns the data sets of a study by their names; they must be below the data root.

    Raises:
        ConfigError: one is missing, or outside the data root.
    """
    from ossa.study.datasets import data_names

    return {name: _place(data, file, root) for name, data in data_names(study).items()}


def _place(data: str, file: Path, root: Path | None) -> Path:
    """Returns a data set, which must be below the data root.

    Raises:
        ConfigError: it is missing, or outside the data root.
    """
    from ossa.recipes import file_below

    place = file_below(root or file.parent, data, where=f"{file}: data (--data-root)")
    if os.path.exists(place):
        return place
    raise ConfigError(
        f"{file}: expected the data set {data} at {place}, found none: name the folder "
        "that holds it with --data-root"
    )


def folder_of(study: Path) -> Path:
    """Returns the folder of the study of one data set, given its folder or its file."""
    from ossa.study.config import read_study
    from ossa.study.datasets import is_study_set, read_studies

    folder = Path("runs") / read_study(study).name if study.is_file() else study
    if is_study_set(folder):
        folders = [str(one.path) for one in read_studies(folder).studies.values()]
        raise ConfigError(
            expected="the study of one data set",
            found=f"one on {len(folders)}",
            path=folder,
            advice=f"choose one: {', '.join(folders)}",
        )
    return folder


def read_results(folder: Path, console: "Console") -> "StudyResults":
    from ossa.cli.study_output import print_differences
    from ossa.study.environments import environments_of, find_differences
    from ossa.study.folder import read_study_folder
    from ossa.study.results import load_study

    opened = read_study_folder(folder)
    try:
        with console.progress("reading runs") as on_run:
            return load_study(opened, on_run=on_run)
    except DataError:
        different = find_differences(opened.study, environments_of(opened.states()))
        print_differences([difference for difference in different if difference.is_refused])
        raise


def seeds_from_pilot(
    plan: "Plan", pilot: Path, console: "Console", difference: float, power: float
) -> "SeedsNeeded":
    """Returns how many seeds a study needs, from the deviations of a pilot."""
    from ossa.study.sequential import seeds_needed

    if not pilot.is_dir():
        raise ConfigError(
            "--detect needs the deviations of finished runs: name a study that has some with "
            "--pilot FOLDER"
        )
    return seeds_needed(
        read_results(pilot, console).values("ap"),
        difference=difference,
        planned=len(plan.study.seeds),
        models=len(plan.study.models),
        power=power,
    )


def executor_config(study: "StudyConfig", kind: str | None, **machine: Any) -> "ExecutorConfig":
    """Returns the executor settings of the study, overridden by the options."""
    from ossa.schema import validated
    from ossa.study.config import ExecutorConfig

    given = {key: value for key, value in machine.items() if value is not None}
    if kind is not None:
        given["kind"] = kind
    where = "the options of the executor"
    return validated(ExecutorConfig, {**study.executor.model_dump(), **given}, where=where)
