"""`ossa study`: many backbones under identical conditions, from the plan to the report."""

import os
import shlex
import signal
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ossa.cli.console import Console
    from ossa.study.config import ExecutorConfig, StudyConfig
    from ossa.study.folder import RunState, StudyFolder

from ossa.cli.study_report import predict, report  # noqa: F401

_TELL_SECONDS = 1.0

Study = Annotated[
    Path,
    typer.Argument(
        help="The file of a study, or the folder of one that was begun.", metavar="STUDY"
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data sets which studies name.",
        metavar="FOLDER",
        envvar="OSSA_DATA_ROOT",
        show_default="the folder of the file",
    ),
]
WeightsRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the weights and recipes which the study names.",
        metavar="FOLDER",
        show_default="the folder of the file",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the study: its runs, records and report.",
        metavar="FOLDER",
        show_default="runs/NAME",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        help="local, ray or slurm, over what the file says.",
        metavar="KIND",
        rich_help_panel=options.MACHINE_PANEL,
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs at a time. One a GPU, or one on the CPU.",
        metavar="N",
        rich_help_panel=options.MACHINE_PANEL,
        show_default=False,
    ),
]


AllowUnlabeled = Annotated[
    bool,
    typer.Option(
        "--allow-unlabeled",
        help="Go on also where more than half of the training images have no label.",
    ),
]


@command()
def plan(
    study: Study,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Train no steps to tell seconds and memory.")
    ] = False,
    allow_unlabeled: AllowUnlabeled = False,
    executor: Executor = None,
    jobs: Jobs = None,
    device: options.Device = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Show every run of a study, what it costs, and that all are trained alike.

    Seconds and memory are those of a few steps of each model on this machine. Nothing is written.

    [bold]Example[/bold]

      ossa study plan studies/bccd-320.yaml --data-root data
    """
    from ossa.cli.console import Console, print_json
    from ossa.cli.study_tables import plan_rows, print_plan
    from ossa.study.measure import estimate_models
    from ossa.study.plan import make_plan, summarize_data

    if study.is_dir():
        planned = _open(study).plan
    else:
        from ossa.study.config import read_study

        config = read_study(study)
        data, folder = _data_of(config, study, data_root), weights_root or study.parent
        planned = make_plan(config, data=data, folder=folder)
    chosen = _executor_config(planned.study, executor, jobs=jobs, device=device)
    with Console() as console:
        with console.progress("checking images"):
            prospect = summarize_data(planned, allow_unlabeled=allow_unlabeled, callback=console)
        estimates = {}
        if not no_measure:
            with console.progress("measuring a few steps of each model") as on_model:
                estimates = estimate_models(
                    planned,
                    num_classes=prospect.num_classes,
                    device=options.choose_device(device),
                    threads=chosen.threads or 1,
                    on_model=on_model,
                )
    rows = plan_rows(planned, prospect, estimates)
    if as_json:
        print_json({"runs": rows, **prospect.flat(planned)})
    else:
        print_plan(planned, prospect, rows, jobs=chosen.jobs or 1)


@command()
def run(
    study: Study,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    output: Output = None,
    executor: Executor = None,
    jobs: Jobs = None,
    device: options.Device = None,
    workers: options.Workers = None,
    cache: options.Cache = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Train those again that failed.")
    ] = False,
    allow_unlabeled: AllowUnlabeled = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Train every run of a study that is not finished.

    Interrupted at any point and started again, it goes on where it was. A run that fails stays in
    the tables with its reason and does not stop the others.

    [bold]Examples[/bold]

      ossa study run studies/bccd-320.yaml --data-root data

      ossa study run runs/bccd-320 --jobs 2
    """
    from ossa.cli.console import Console
    from ossa.data.reading import labels_sentence
    from ossa.study.executors import create_executor
    from ossa.study.measure import is_measured, measure_models
    from ossa.study.runner import run_study
    from ossa.train.setup import read_trainable

    roots = {"data_root": data_root, "weights_root": weights_root}
    opened = _open(study, **roots, output=output, begin=True)
    chosen = _executor_config(
        opened.study, executor, jobs=jobs, device=device, workers=workers, cache=cache
    )
    folder = shlex.quote(str(opened.path))
    with Console() as console:
        before = opened.states()
        done = sum(state.state == "done" for state in before)
        console.note(f"{opened.path}: {done} of {len(before)} runs are done")
        if done < len(before):
            config = max((state.run.config for state in before), key=lambda one: one.train.imgsz)
            console.note(labels_sentence(read_trainable(config, allow_unlabeled=allow_unlabeled)))
        try:
            kept = _images_kept(opened, chosen, before, callback=console)
            with _stoppable(), kept, told_live(console, opened):
                states = run_study(
                    opened,
                    create_executor(chosen),
                    retry_failed=retry_failed,
                    on_run=lambda state: console.note(ending(state)),
                )
        except KeyboardInterrupt:
            console.note(f"stopped; go on with: ossa study run {folder}")
            raise typer.Exit(1) from None
        if not is_measured(opened, states):
            with console.progress("timing all models turn by turn"):
                measure_models(opened, states, device=options.choose_device(device))
    unfinished = [state for state in states if state.state != "done"]
    console.note(f"{len(states) - len(unfinished)} of {len(states)} runs are done")
    console.note(f"next: ossa study report {folder}")
    if unfinished:
        raise typer.Exit(1)


@command()
def status(study: Study, output: Output = None, as_json: options.AsJson = False) -> None:
    """Show how far the runs of a study are, the time left and the ranking so far.

    [bold]Example[/bold]

      ossa study status runs/bccd-320
    """
    from ossa.cli.console import print_json
    from ossa.cli.study_tables import print_status, status_rows

    opened = _open(study, output=output)
    states = opened.states()
    if as_json:
        print_json(status_rows(states))
    else:
        print_status(opened, states)


@command()
def add(
    study: Annotated[
        Path, typer.Argument(help="The folder of a study that was begun.", metavar="STUDY")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to train beside the others.", metavar="NAME"),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="A seed to train all models with.", metavar="N"),
    ] = None,
) -> None:
    """Add models and seeds to a study; 'ossa study run' then trains what is missing.

    [bold]Example[/bold]

      ossa study add runs/bccd-320 --model convnext_nano --seed 3
    """
    from ossa.cli.console import Console
    from ossa.study.folder import extend_study

    if not model and not seed:
        raise ConfigError("expected --model or --seed of what to add, found neither")
    extended = extend_study(study, models=model or [], seeds=seed or [])
    waiting = sum(state.state == "waiting" for state in extended.states())
    console = Console()
    console.note(f"{study}: {len(extended.plan.runs)} runs, {waiting} of them are waiting")
    console.note(f"next: ossa study run {shlex.quote(str(study))}")


def _executor_config(study: "StudyConfig", kind: str | None, **machine: Any) -> "ExecutorConfig":
    """Returns where the study runs: what its file says under what the options say."""
    from ossa.schema import validated
    from ossa.study.config import ExecutorConfig

    given = {key: value for key, value in machine.items() if value is not None}
    if kind is not None:
        given["kind"] = kind
    where = "the options of the executor"
    return validated(ExecutorConfig, {**study.executor.model_dump(), **given}, where=where)


def _images_kept(
    study: "StudyFolder",
    executor: "ExecutorConfig",
    states: "list[RunState]",
    *,
    callback: "Console",
) -> "AbstractContextManager[None]":
    """Has the images of all unfinished runs decoded before the first, where that is wanted."""
    from ossa.study.runner import images_kept

    runs = [state.run for state in states if not state.finished]
    # On machines of a cluster the first run there decodes what all need.
    if executor.kind != "local":
        return nullcontext()
    splits = ("train", "val", study.study.reported.split)
    return images_kept(runs, executor.cache, splits=splits, callback=callback)


@contextmanager
def _stoppable() -> "Iterator[None]":
    """Has SIGTERM do what Ctrl-C does, and Ctrl-C also where a shell's background ignores it."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)


@contextmanager
def told_live(console: "Console", study: "StudyFolder") -> "Iterator[None]":
    """Shows on the live line how many epochs of the whole study are trained."""
    from ossa.study.runner import epochs_trained

    total = sum(run.config.train.epochs for run in study.plan.runs)
    over = threading.Event()
    with console.progress("epochs of all runs") as on_epochs:

        def tell() -> None:
            while not over.wait(_TELL_SECONDS):
                on_epochs(int(epochs_trained(study)), total)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()


def ending(state: "RunState") -> str:
    """Returns a line on a run that has ended."""
    from ossa.cli.console import duration, fraction

    told = f"{state.state}: {state.reason}" if state.reason else state.state
    if state.state == "done" and state.record is not None:
        seconds = sum(state.record.times.values())
        told = f"AP {fraction(state.record.metrics['last']['ap'])}, {duration(seconds)}"
    return f"{state.run.name}: {told}"


def _open(
    study: Path,
    *,
    data_root: Path | None = None,
    weights_root: Path | None = None,
    output: Path | None = None,
    begin: bool = False,
) -> "StudyFolder":
    """Returns the study of a folder, or of a file, whose folder is made where it is to begin."""
    from ossa.study.config import read_study
    from ossa.study.folder import create_study, read_study_folder

    if study.is_dir():
        given = {
            "--data-root": data_root,
            "--weights-root": weights_root,
            "--output": output,
        }
        for option in (option for option, value in given.items() if value is not None):
            raise ConfigError(f"{study} holds its data's and weights' places: leave {option} out")
        return read_study_folder(study)
    config = read_study(study)
    folder = output or Path("runs") / config.name
    if not begin:
        return read_study_folder(folder)
    data = _data_of(config, study, data_root)
    return create_study(config, folder, data=data, weights_folder=weights_root or study.parent)


def _data_of(study: "StudyConfig", file: Path, root: Path | None) -> Path:
    """Returns the data set of a study, which lies below the data root.

    Raises:
        ConfigError: it does not, or is not there.
    """
    from ossa.recipes import file_below

    place = file_below(root or file.parent, study.data, where=f"{file}: data (--data-root)")
    if os.path.exists(place):
        return place
    raise ConfigError(
        f"{file}: expected the data set {study.data} at {place}, found none: name the folder "
        "that holds it with --data-root"
    )
