"""`ossa train`: one detector, one data set, one folder."""

import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ossa.cli import options
from ossa.cli import train_options as opt
from ossa.cli.train_settings import configuration
from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.train.callbacks import Callback
    from ossa.train.distributed import DistributedContext
    from ossa.train.trackers import Tracker
    from ossa.types import Record

_TRACKING = {"track", "track_weights", "track_project"}
_WITH_RESUME = {
    *("resume", "device", "workers", "threads", "cache", "save_minutes", "no_figures", "as_json"),
    *_TRACKING,
}


def train(
    call: typer.Context,
    data: opt.Data = None,
    model: opt.Model = None,
    neck: opt.Neck = None,
    context: opt.Context = None,
    strides: opt.Strides = None,
    fit_anchors: opt.FitAnchors = False,
    pretrained: opt.Pretrained = False,
    backbone_weights: opt.BackboneWeights = None,
    backbone_mean: opt.BackboneMean = None,
    backbone_std: opt.BackboneStd = None,
    backbone_args: opt.BackboneArgs = None,
    weights: opt.Weights = None,
    recipe: opt.Recipe = None,
    imgsz: opt.Imgsz = None,
    batch: opt.BatchSize = None,
    epochs: opt.Epochs = None,
    seed: opt.Seed = None,
    optimizer: opt.Optimizer = None,
    cos_lr: opt.CosLr = False,
    patience: opt.Patience = None,
    freeze: opt.Freeze = None,
    precision: opt.Precision = None,
    compile_: opt.Compile = False,
    sync_bn: opt.SyncBn = False,
    on_nan: opt.OnNan = None,
    set_: opt.Set = None,
    strict: opt.Strict = False,
    allow_unlabeled: opt.AllowUnlabeled = False,
    name: opt.Name = None,
    project: opt.Project = None,
    resume: opt.Resume = None,
    save_minutes: opt.SaveMinutes = None,
    no_figures: opt.NoFigures = False,
    track: opt.Track = None,
    track_weights: opt.TrackWeights = False,
    track_project: opt.TrackProject = None,
    exist_ok: opt.ExistOk = False,
    device: options.Device = None,
    workers: options.Workers = None,
    threads: options.Threads = None,
    cache: options.Cache = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a detector and score it after every epoch.

    Settings come from the recipe, then from the options, then from --set.

    [bold]Examples[/bold]

      ossa train --data bccd --model yolov5n --imgsz 320 --epochs 60

      ossa train --data bccd --model convnext_tiny --pretrained --recipe adamw

      ossa train --data bccd --weights yolov5n.pt --set train.lr=0.005

      ossa train --resume runs/yolov5n
    """
    from ossa.train.distributed import joined_processes

    # So many options are told apart by a table of their names, not one by one.
    given = {key: value for key, value in call.params.items() if _was_given(value)}
    options.set_threads(threads)
    with joined_processes(options.choose_device(given.get("device"))) as processes:
        record, folder = (_start if resume is None else _resume)(given, processes)
        if processes.is_main:
            _report(record, folder, as_json=as_json)
    if record.status != "done":
        raise typer.Exit(1)


def _was_given(value: Any) -> bool:
    # 0 is a value (workers, seed); '' is how YOLOv5's users say none.
    return value is not None and value is not False and value not in ("", [], ())


def _start(given: Mapping[str, Any], processes: "DistributedContext") -> tuple["Record", Path]:
    """Trains in a new folder; returns the record and the folder."""
    from ossa.train.loop import train as run_training

    trackers = _trackers(given) if processes.is_main else []
    # What the first process chose holds for all: a batch that fits, a folder that is free.
    config = processes.on_main(lambda: configuration(given))
    wanted = given.get("project", Path("runs")) / given.get("name", config.model.name)
    with (
        _run_folder(wanted, processes) as folder,
        _watcher(folder, given, trackers, processes) as callback,
    ):
        record = run_training(
            config,
            folder,
            strict="strict" in given,
            allow_unlabeled="allow_unlabeled" in given,
            callback=callback,
            processes=processes,
            **_machine(given),
        )
    return record, folder


def _resume(given: Mapping[str, Any], processes: "DistributedContext") -> tuple["Record", Path]:
    """Goes on in the folder of a run; returns the record and the folder."""
    from ossa.train.finished import what_is_missing, why_not_of
    from ossa.train.loop import train as run_training
    from ossa.train.run_folder import RECORD_FILE, read_config, read_record

    others = _option_names(key for key in given if key not in _WITH_RESUME)
    if others:
        raise ConfigError(
            "--resume goes on with the settings that the run started with, found also "
            f"{', '.join(others)}: leave them out, or start a new run without --resume"
        )
    trackers = _trackers(given) if processes.is_main else []
    folder: Path = given["resume"]
    config = read_config(folder)
    with _watcher(folder, given, trackers, processes) as callback:
        if (folder / RECORD_FILE).is_file():
            record = read_record(folder)
            if why := what_is_missing(record) or why_not_of(record, config):
                raise DataError(f"{folder / RECORD_FILE} {why}: remove it to go on with the run")
            if record.status == "done":
                callback.note(f"the run in {folder} is already done")
                return record, folder
            callback.note(f"going on behind the last checkpoint; {record.reason}")
        record = run_training(
            config, folder, resume=True, callback=callback, processes=processes, **_machine(given)
        )
    return record, folder


@contextmanager
def _watcher(
    folder: Path,
    given: Mapping[str, Any],
    trackers: "list[Tracker]",
    processes: "DistributedContext",
) -> "Iterator[Callback]":
    """Yields who is told of the run: the console, its figures and trackers; or nobody.

    Of several processes the first speaks.
    """
    from ossa.cli.console import Console
    from ossa.train.callbacks import Callback, CallbackList
    from ossa.train.figures import RunFigures
    from ossa.train.trackers import tracked

    if not processes.is_main:
        yield Callback()
        return
    with Console(f"in {folder} on {_machine(given)['device']}") as console:
        figures = [] if "no_figures" in given else [RunFigures(console.note)]
        callbacks = CallbackList([console, *figures])
        with tracked(trackers, callbacks, weights="track_weights" in given) as callback:
            yield callback


def _machine(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides how a run is computed and not what."""
    from ossa.train.distributed import device_of_process

    device = device_of_process(options.choose_device(given.get("device")))
    workers = options.choose_workers(given.get("workers"), device=device)
    machine = {"device": device, "workers": workers, "cache": given.get("cache", "auto")}
    return machine | {key: given[key] for key in ("save_minutes",) if key in given}


def _trackers(given: Mapping[str, Any]) -> "list[Tracker]":
    """Returns the trackers of --track, which look on and change nothing of what is computed."""
    from ossa.train.trackers import create_trackers

    others = _option_names(key for key in given if key in _TRACKING)
    if others and "track" not in given:
        raise ConfigError(
            f"expected --track with the names of trackers beside {', '.join(others)}, found none"
        )
    names = [name for names in given.get("track", []) for name in names.split(",")]
    return create_trackers(names, project=given.get("track_project"))


def _option_names(arguments: Iterable[str]) -> list[str]:
    return ["--" + argument.strip("_").replace("_", "-") for argument in arguments]


@contextmanager
def _run_folder(path: Path, processes: "DistributedContext") -> Iterator[Path]:
    """Yields a new folder for a run, and takes it away again if nothing was trained in it."""
    from ossa.files import new_folder
    from ossa.train.checkpoint import STATE_FILE
    from ossa.train.run_folder import LAST_WEIGHTS

    missing = [parent for parent in path.parents if not parent.exists()]
    folder = processes.on_main(lambda: new_folder(path))
    try:
        yield folder
    finally:
        nothing = not any((folder / name).exists() for name in (STATE_FILE, LAST_WEIGHTS))
        if processes.is_main and nothing:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another run may have moved in
                for parent in missing:
                    parent.rmdir()


def _report(record: "Record", folder: Path, *, as_json: bool) -> None:
    """Prints the last metrics on stdout, and on stderr where everything is and what comes next."""
    from ossa.cli.console import Console
    from ossa.cli.output import fraction, print_json, print_metrics_table
    from ossa.train.run_folder import BEST_WEIGHTS, FIGURES_FOLDER

    row = _row(record, folder)
    if as_json:
        print_json(row)
    elif record.metrics:
        print_metrics_table([row])
    console = Console()
    if (folder / FIGURES_FOLDER).is_dir():
        console.note(f"figures: {_quoted(folder / FIGURES_FOLDER)}")
    if record.status != "done":
        console.note(f"stopped; go on with: ossa train --resume {_quoted(folder)}")
        return
    best = _quoted(folder / BEST_WEIGHTS)
    console.note(f"best epoch {row['best_epoch'] + 1}, AP {fraction(row['best_ap'])}: {best}")
    console.note(f"next: ossa val --weights {best} --data {_quoted(record.config['data'])}")
    console.note(f"      ossa predict --weights {best} PICTURES")


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def _row(record: "Record", folder: Path) -> dict[str, Any]:
    """Returns the flat object of --json."""
    from ossa.cli.output import row_of
    from ossa.train.run_folder import read_log

    last, best = record.metrics.get("last", {}), record.metrics.get("best", {})
    images = sum(row.get("images") or 0 for row in read_log(folder))
    seconds = record.times["train"]
    return row_of(
        {
            "model": record.model,
            "imgsz": record.config["train"]["imgsz"],
            **last,
            **{key: record.cost[key] for key in ("params", "flops", "macs")},
            "images_per_second": images / seconds if seconds else None,
            "train_seconds": seconds,
            **{f"best_{key}": best.get(key) for key in ("ap", "ap50", "epoch")},
            "status": record.status,
            "seed": record.seed,
            "folder": str(folder),
        }
    )
