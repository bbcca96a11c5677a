"""Training the runs of one study from a terminal: what `ossa study run` does for a data set."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ossa.cli import options

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.config import ExecutorConfig
    from ossa.study.folder import RunState, StudyFolder


def run_here(
    study: "StudyFolder",
    chosen: "ExecutorConfig",
    console: "Console",
    *,
    device: str | None,
    until: str,
    retry_failed: bool,
    allow_unlabeled: bool,
) -> "list[RunState]":
    """Trains the runs that are not finished, times all models, and returns the final states.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once every run has saved its state.
    """
    from ossa.cli.study_output import ending, live_epochs, print_look
    from ossa.study.executors import create_executor
    from ossa.study.measure import is_measured, measure_models
    from ossa.study.runner import run_study, run_until_decided, with_seeds_of_looks

    if until == "decided":
        study = with_seeds_of_looks(study)
    before = _states_before(study, console, allow_unlabeled=allow_unlabeled)

    def on_run(state: "RunState") -> None:
        console.note(ending(state))

    kept = _images_kept(study, chosen, before, callback=console)
    with _stoppable(), kept, live_epochs(console, study):
        train = create_executor(chosen)
        if until == "decided":
            states = run_until_decided(study, train, on_run=on_run, on_look=print_look)
        else:
            states = run_study(study, train, retry_failed=retry_failed, on_run=on_run)
    if not is_measured(study, states):
        with console.progress("timing all models in turn"):
            device = options.choose_device(device)
            measure_models(study, states, device=device, callback=console)
    return states


def _images_kept(
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
def _stoppable() -> Iterator[None]:
    """Treats SIGTERM like Ctrl-C, and handles Ctrl-C even if the shell ignores it (background)."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


def _states_before(
    study: "StudyFolder", console: "Console", *, allow_unlabeled: bool
) -> "list[RunState]":
    """Returns the states of all runs, and says how many are done and what its images lack."""
    from ossa.data.description import read_description
    from ossa.data.reading import labels_sentence, read_index, shared_sentences
    from ossa.train.splits import read_trainable

    states = study.states()
    done = sum(state.state == "done" for state in states)
    console.note(f"{study.path}: {done} of {len(states)} runs are done")
    if done < len(states):
        config = max((state.run.config for state in states), key=lambda c: c.train.imgsz)
        reports = read_trainable(config, allow_unlabeled=allow_unlabeled)
        split = study.study.reported.split
        if split not in reports:
            reports[split] = read_index(read_description(config.data), split)
        for note in (labels_sentence(reports), *shared_sentences(reports)):
            console.note(note)
    return states
