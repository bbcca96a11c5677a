"""The study that a command names (its file, or the folder of a started one), and its executor."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.config import ExecutorConfig, StudyConfig
    from ossa.study.folder import StudyFolder
    from ossa.study.results import StudyResults


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
    data = data_of(config, study, roots["data_root"])
    weights = roots["weights_root"] or study.parent
    return create_study(config, folder, data=data, weights_folder=weights)


def data_of(study: "StudyConfig", file: Path, root: Path | None) -> Path:
    """Returns the data set of a study, which must be below the data root.

    Raises:
        ConfigError: it is missing, or outside the data root.
    """
    from ossa.recipes import file_below

    place = file_below(root or file.parent, study.data, where=f"{file}: data (--data-root)")
    if os.path.exists(place):
        return place
    raise ConfigError(
        f"{file}: expected the data set {study.data} at {place}, found none: name the folder "
        "that holds it with --data-root"
    )


def folder_of(study: Path) -> Path:
    """Returns the folder of a study, given its folder or its file."""
    from ossa.study.config import read_study

    return Path("runs") / read_study(study).name if study.is_file() else study


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


def executor_config(study: "StudyConfig", kind: str | None, **machine: Any) -> "ExecutorConfig":
    """Returns the executor settings of the study, overridden by the options."""
    from ossa.schema import validated
    from ossa.study.config import ExecutorConfig

    given = {key: value for key, value in machine.items() if value is not None}
    if kind is not None:
        given["kind"] = kind
    where = "the options of the executor"
    return validated(ExecutorConfig, {**study.executor.model_dump(), **given}, where=where)
