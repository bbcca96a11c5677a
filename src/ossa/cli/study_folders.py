"""What the commands of a study share: its file or folder, its executor, its pilot."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.config import ExecutorConfig, StudyConfig
    from ossa.study.folder import RunState, StudyFolder
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


def images_kept_here(
    study: "StudyFolder",
    executor: "ExecutorConfig",
    states: "list[RunState]",
    *,
    callback: "Console",
) -> "AbstractContextManager[None]":
    """Caches the decoded images of all unfinished runs, if they are trained on this machine."""
    from ossa.study.runner import images_kept

    runs = [state.run for state in states if not state.finished]
    # On a cluster, the first run on a machine decodes the images for all.
    if executor.kind != "local":
        return nullcontext()
    splits = ("train", "val", study.study.reported.split)
    return images_kept(runs, executor.cache, splits=splits, callback=callback)


@contextmanager
def stoppable() -> Iterator[None]:
    """Treats SIGTERM like Ctrl-C, and handles Ctrl-C even if the shell ignores it (background)."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def states_before(
    study: "StudyFolder", console: "Console", *, allow_unlabeled: bool
) -> "list[RunState]":
    """Returns the states of all runs, and says how many are done and which images lack labels."""
    from ossa.data.reading import labels_sentence
    from ossa.train.splits import read_trainable

    states = study.states()
    done = sum(state.state == "done" for state in states)
    console.note(f"{study.path}: {done} of {len(states)} runs are done")
    if done < len(states):
        config = max((state.run.config for state in states), key=lambda c: c.train.imgsz)
        console.note(labels_sentence(read_trainable(config, allow_unlabeled=allow_unlabeled)))
    return states
