"""Runs a study: the executor trains every run that is not finished."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

import numpy as np

from ossa.data.cache import CachePlace, open_pixels
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import ConfigError
from ossa.evaluate.statistics import Values
from ossa.study.environments import check_next_run
from ossa.study.executors import DONE, STOPPED, Executor, Job
from ossa.study.folder import (
    FAILURE_FILE,
    RunState,
    StudyFolder,
    extend_study,
    read_progress,
    read_study_folder,
    run_state,
    write_failure,
)
from ossa.study.plan import PlannedRun
from ossa.study.results import load_study
from ossa.study.sequential import Look, SeededValues, decide
from ossa.train.callbacks import Callback
from ossa.train.provenance import deciding_versions
from ossa.train.run_folder import RECORD_FILE


@contextmanager
def images_kept(
    runs: Iterable[PlannedRun], place: CachePlace, *, splits: Iterable[str], callback: Callback
) -> Iterator[None]:
    """Decodes the images of the runs once on this machine and keeps them during the context.

    Raises:
        ConfigError, DataError, RunFailed: as `read_index` and `open_pixels`.
    """
    kept = []
    settings = ((run.config.data, run.config.train) for run in runs)
    seen = dict.fromkeys((data, train.imgsz, train.windows) for data, train in settings)
    for data, imgsz, tiles in seen:
        description = read_description(data)
        for split in dict.fromkeys(splits):
            pixels = open_pixels(
                read_index(description, split).index,
                place,
                description=description,
                split=split,
                imgsz=imgsz,
                tiles=tiles,
                reduced=split == "train",
                callback=callback,
            )
            kept.append(pixels)
    yield
    del kept


def run_study(
    study: StudyFolder,
    executor: Executor,
    *,
    retry_failed: bool = False,
    only: Collection[str] | None = None,
    on_run: Callable[[RunState], None],
) -> list[RunState]:
    """Trains every run that is not finished and returns the final states of all runs.

    Args:
        study: the study, with the results of earlier calls.
        executor: trains the runs.
        retry_failed: also train failed runs again.
        only: names of the runs to train; by default all.
        on_run: called with the state of each run that has ended.

    Raises:
        DataError: finished runs were computed by other code or versions, which is not declared.
        KeyboardInterrupt: after Ctrl-C, once every run has saved its state.
    """
    wanted = [
        state
        for state in study.states()
        if (only is None or state.run.name in only)
        and (not state.finished or (retry_failed and state.state == "failed"))
    ]
    if wanted:
        check_next_run(study, deciding_versions())
    # A process of an earlier call may still train its run, which is therefore taken last.
    wanted.sort(key=lambda state: state.state == "running")

    def on_end(name: str, exit_code: int) -> None:
        run = study.plan.run(name)
        folder = study.run_folder(run)
        state = run_state(run, folder, study.study.reported)
        if exit_code not in (DONE, STOPPED) and not _has_ended(state):
            write_failure(folder, _reason(exit_code))  # as its process could not
        on_run(run_state(run, folder, study.study.reported))

    jobs = [Job(study.path.resolve(), state.run.name) for state in wanted]
    executor.execute(jobs, on_end=on_end)
    return study.states()


def run_until_decided(
    study: StudyFolder,
    executor: Executor,
    *,
    on_run: Callable[[RunState], None],
    on_look: Callable[[Look], None],
) -> list[RunState]:
    """Trains the runs that decide which models differ, and returns the states of all runs.

    Args:
        study: has the seeds of its last look at least (`with_seeds_of_looks`).
        executor: trains the runs.
        on_run: called with the state of each run that has ended.
        on_look: called with the decisions of every look, and the seeds that it asks for.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once every run has saved its state.
    """
    for state in study.states():
        if state.state == "refused":  # perhaps its cause is gone
            (state.folder / FAILURE_FILE).unlink()
    while True:
        progress = study_progress(study)
        on_look(progress)
        if not progress.wanted:
            return study.states()
        seeds = study.study.seeds
        names = {
            run.name
            for run in study.plan.runs
            if seeds.index(run.seed) < progress.wanted.get(run.model, 0)
        }
        if not any(state.run.name in names and not _has_ended(state) for state in study.states()):
            return study.states()  # all of them failed
        run_study(study, executor, only=names, on_run=on_run)


def _has_ended(state: RunState) -> bool:
    return state.finished or state.state == "refused"


def with_seeds_of_looks(study: StudyFolder) -> StudyFolder:
    """Returns the study with as many seeds as its last look needs; it is written to its folder.

    Raises:
        ConfigError: the study varies settings.
    """
    study = read_study_folder(study.path)
    if study.study.factors:
        raise ConfigError(
            expected="a study that varies nothing but the model to run until it is decided",
            found=", ".join(study.study.factors),
        )
    seeds = list(study.study.seeds)
    missing = study.study.looks[-1] - len(seeds)
    if missing <= 0:
        return study
    more = [seed for seed in range(len(seeds) + study.study.looks[-1]) if seed not in seeds]
    return extend_study(study.path, models=[], seeds=more[:missing])


def study_progress(study: StudyFolder) -> Look:
    """Returns the decisions from the finished runs, and the seeds that models need next."""
    config = study.study
    states = study.states()
    if not any(state.state == "done" for state in states):
        return Look((), dict.fromkeys(config.models, config.looks[0]))
    results = load_study(study)
    values = results.values("ap")
    resampled, left_out = next((own.resampled, own.left_out) for own in values.values())
    nothing = Values(np.empty(0), resampled[:0], left_out[:0], len(results.index))
    runs = {}
    for model in config.models:
        done = [run.state.run.seed for run in results.runs_by_model.get(model, ())]
        lost = [s.run.seed for s in results.states if s.run.model == model and _has_ended(s)]
        runs[model] = SeededValues(
            values.get(model, nothing),
            positions=tuple(config.seeds.index(seed) for seed in done),
            failed=frozenset(config.seeds.index(seed) for seed in {*lost} - {*done}),
        )
    return decide(runs, looks=config.looks, margin=config.margin)


def _reason(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}; worker.log has its last output"
    memory = ", often for lack of memory" if exit_code == -9 else ""
    return f"its process was ended by signal {-exit_code}{memory}; worker.log has its last output"


def epochs_trained(study: StudyFolder) -> float:
    """Returns the number of epochs trained in all runs; fast, since nothing is verified."""
    return sum(
        float(run.config.train.epochs)
        if (study.run_folder(run) / RECORD_FILE).exists()
        else read_progress(study.run_folder(run))
        for run in study.plan.runs
    )


def seconds_left(states: Sequence[RunState]) -> float | None:
    """Returns the estimated training time of unfinished runs, None if no run has finished.

    A model without a finished run is assumed to need the average time of the others.
    """
    spent: dict[tuple[str, str], list[float]] = {}
    for state in states:
        if state.state == "done" and state.record is not None:
            seconds = sum(state.record.times.values()) / state.run.config.train.epochs
            spent.setdefault(_kind(state), []).append(seconds)
    if not spent:
        return None
    per_epoch = {kind: fmean(seconds) for kind, seconds in spent.items()}
    average = fmean(per_epoch.values())
    return sum(
        (state.run.config.train.epochs - state.epochs_done) * per_epoch.get(_kind(state), average)
        for state in states
        if not state.finished
    )


def _kind(state: RunState) -> tuple[str, str]:
    """Returns what decides the time of a run: its model and its varied settings."""
    return state.run.model, str(state.run.varied)
