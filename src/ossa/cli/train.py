"""`ossa train`: one detector, one data set, one folder."""

import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import Setting, command, parse_value, was_given
from ossa.config import RunConfig, TrainConfig, build_config, merge, parse_settings
from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.train.callbacks import Callback
    from ossa.train.distributed import DistributedContext
    from ossa.types import Record

_MODEL, HOW_PANEL = "What is trained", "How it is trained"
_WITH_RESUME = {
    *("resume", "device", "workers", "threads", "cache", "save_minutes", "no_figures", "as_json"),
    *("track", "track_weights", "track_project"),
}
"""Parameters that may be given beside --resume."""


def _model_name(text: str) -> str:
    """Returns 'yolov5s' for 'models/yolov5s.yaml', as users of YOLOv5 write --cfg."""
    return Path(text).stem if text.endswith((".yaml", ".yml")) else text


def _model(key: str, metavar: str | None = None, *names: str, **more: Any) -> Setting:
    return Setting(f"model.{key}", names, metavar, _MODEL, **more)


def _train(key: str, metavar: str | None = None, *names: str, **more: Any) -> Setting:
    return Setting(f"train.{key}", names, metavar, HOW_PANEL, shown="the recipe's", **more)


RECIPE = Setting(
    *("recipe", ("--recipe", "--hyp"), "NAME", HOW_PANEL),
    note="yolov5-low (for every model), yolov5-high (YOLOv5's own for m, l and x), adamw, quick, "
    "yolov5-voc320, yolov5-voc320-onecycle or convnext-coco50.",
)
IMGSZ = _train("imgsz", "PIXELS", *options.IMGSZ_NAMES)
EPOCHS = _train("epochs", "N")
SEED = Setting("seed", (), "N", HOW_PANEL)
SETTINGS = (
    Setting("data", (), "PATH"),
    _model("name", "NAME", "--model", "--cfg", parse=_model_name, note="Of --weights if left out."),
    _model("neck"),
    _model("neck_type"),
    _model("context"),
    _model("head"),
    _model("end_to_end"),
    _model("pretrained"),
    _model("backbone_weights", "FILE"),
    _model("backbone_mean", "R,G,B"),
    _model("backbone_std", "R,G,B"),
    _model("backbone_args", "JSON"),
    _model("strides", "S,S,...", note="Other than the default they need --fit-anchors."),
    _model("weights", "FILE", note="'' for none."),
    RECIPE,
    IMGSZ,
    _train("tiles", "PIXELS"),
    _train("overlap", "FRACTION"),
    _train("batch", "N", *options.BATCH_NAMES, parse=parse_value, note="auto for what fits a GPU."),
    EPOCHS,
    SEED,
    _train("optimizer"),
    _train("schedule", None, "--cos-lr", const="cosine", note="Here along a cosine."),
    _train("patience", "N"),
    _train("evaluate_every", "N"),
    _train("freeze", "MODULE,..."),
    _train("precision"),
    _train("compile"),
    _train("sync_batchnorm", None, "--sync-bn"),
    _train("on_nan"),
)
"""What is trained and how, as far as options say it; --set sets any other key."""


@command(
    *SETTINGS,
    schema=RunConfig,
    panels={
        _MODEL: "fit_anchors",
        HOW_PANEL: "set_ strict allow_unlabeled",
        "Where it is written": "name project resume save_minutes no_figures track track_weights "
        "track_project",
    },
)
def train(
    *,
    call: typer.Context,
    settings: dict[str, Any],
    fit_anchors: Annotated[bool, "Fit the anchors to the training boxes."] = False,
    set_: options.Set = None,
    strict: Annotated[bool, "Stop at the first issue of the data; do not leave it out."] = False,
    allow_unlabeled: Annotated[
        bool, "Allow more than half of the training images to have no label."
    ] = False,
    name: Annotated[
        options.Name | None, options.shown("the model's name"), "Folder of the run; never reused."
    ] = None,
    project: Annotated[options.Folder | None, options.shown("runs"), "Folder of runs."] = None,
    resume: Annotated[
        options.Folder | None, "Go on with the run in this folder, as if it had not stopped."
    ] = None,
    save_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="M", show_default="15"),
        "The state is saved so often within an epoch.",
    ] = None,
    no_figures: Annotated[bool, "Leave out the folder 'figures'."] = False,
    track: Annotated[
        list[str] | None, options.NAMES, "Also log to comet, mlflow, tensorboard or wandb."
    ] = None,
    track_weights: Annotated[bool, "Upload best.safetensors to comet and wandb."] = False,
    track_project: Annotated[
        options.Name | None, options.shown("their environment's"), "Project of comet and wandb."
    ] = None,
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

      ossa train --data bccd --model convnext_tiny --pretrained --recipe adamw

      ossa train --data bccd --weights yolov5n.pt --set train.lr=0.005

      ossa train --resume runs/yolov5n
    """
    from ossa.train.distributed import joined_processes

    given = {key: value for key, value in call.params.items() if was_given(value)}
    options.set_threads(threads)
    with joined_processes(options.choose_device(device)) as processes:
        if resume is None:
            record, folder = _start(given, settings, processes)
        else:
            options_given = {one.name: one.opts[0] for one in call.command.params}
            others = [options_given[name] for name in given if name not in _WITH_RESUME]
            if others:
                raise ConfigError(
                    expected="no settings beside --resume, which goes on with those of the run",
                    found=", ".join(others),
                )
            record, folder = _resume(resume, given, processes), resume
        if processes.is_main:
            _report(record, folder, as_json=as_json)
    if record.status != "done":
        raise typer.Exit(1)


def configuration(
    settings: Mapping[str, Any],
    *,
    set_: Iterable[str] = (),
    fit_anchors: bool = False,
    device: str | None = None,
) -> RunConfig:
    """Returns the checked settings: the recipe's, the options' over them, then --set."""
    from ossa.models.checkpoint import read_checkpoint
    from ossa.models.detector import PRESETS
    from ossa.recipes import load_recipe
    from ossa.train.splits import with_fitted_anchors

    if "data" not in settings:
        raise ConfigError(expected="--data with a data.yaml or its folder")
    recipe = settings.get("recipe", RunConfig.model_fields["recipe"].default)
    model = settings.get("model", {})
    any_batch = settings.get("train", {}).get("batch") in ("auto", -1)
    under: dict[str, Any] = {}
    if any_batch:
        settings = merge(settings, {"train": {"batch": 1}})
    over = merge(settings, parse_settings(set_))
    if "weights" in model and "name" not in model:
        brought = read_checkpoint(model["weights"]).model
        left_out = {"pretrained", "backbone_weights"}
        if over["model"].get("head", brought.head) != brought.head:
            left_out |= {"anchors_wh", "reg_max", "end_to_end"}
        under = {"model": brought.model_dump(exclude=left_out)}
    merged = merge(merge(load_recipe(recipe), under), over)
    name = model.get("name") if isinstance(model := merged.get("model", {}), Mapping) else model
    if not name:
        raise ConfigError(
            expected="--model (such as yolov5n, resnet50 or convnext_tiny) or --weights with a "
            "whole detector",
            found="neither",
        )
    config = build_config(merge({"model": {"neck": "own"}}, merged) if name in PRESETS else merged)
    if fit_anchors:
        # A detector that training starts from may bring anchors; those are the ones to replace.
        if config.model.anchors_wh is not None and config.model.weights is None:
            raise ConfigError(expected="--fit-anchors or model.anchors_wh", found="both")
        if config.model.head != "anchor":
            raise ConfigError(
                expected="--fit-anchors with the head that has anchors",
                found=f"--head {config.model.head}",
                advice="leave --fit-anchors out",
            )
        config = with_fitted_anchors(config)
    return _with_largest_batch(config, options.choose_device(device)) if any_batch else config


def _with_largest_batch(config: RunConfig, device: str) -> RunConfig:
    """Returns the settings with the largest batch that the GPU has room for."""
    import torch

    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.train.autobatch import largest_batch

    names = read_index(read_description(config.data), "train").index.names
    batch = largest_batch(config, num_classes=len(names), device=torch.device(device))
    if batch is None:
        raise ConfigError(
            expected=f"memory on {device} for --batch auto",
            found=f"too little for one image of {config.train.imgsz} pixels",
            advice="take a smaller --imgsz",
        )
    return config.model_copy(update={"train": config.train.model_copy(update={"batch": batch})})


def _start(
    given: Mapping[str, Any], settings: Mapping[str, Any], processes: "DistributedContext"
) -> tuple["Record", Path]:
    """Trains in a new folder; returns the record and the folder."""
    from ossa.train.loop import train as run_training

    # What the first process chose holds for all: a batch that fits, a folder that is free.
    more = {key: given[key] for key in ("set_", "fit_anchors", "device") if key in given}
    config = processes.on_main(lambda: configuration(settings, **more))
    wanted = given.get("project", Path("runs")) / given.get("name", config.model.name)
    machine = _machine(given)
    with (
        _run_folder(wanted, processes) as folder,
        _callback(folder, given, processes) as callback,
    ):
        record = run_training(
            config,
            folder,
            strict="strict" in given,
            allow_unlabeled="allow_unlabeled" in given,
            callback=callback,
            distributed=processes,
            **machine,
        )
    return record, folder


def _resume(folder: Path, given: Mapping[str, Any], processes: "DistributedContext") -> "Record":
    """Goes on in the folder of a run; returns the record."""
    from ossa.machine import count_processors
    from ossa.train.loop import train as run_training
    from ossa.train.run_folder import RECORD_FILE, read_config, read_record, why_not_of

    config, file = read_config(folder), folder / RECORD_FILE
    more = {**_machine(given), "distributed": processes}
    with _callback(folder, given, processes) as callback:
        if file.is_file():
            record = read_record(folder)
            if why := why_not_of(record, config):
                raise DataError(f"{file} {why}: remove it to go on with the run")
            if record.status == "done":
                callback.note(f"the run in {folder} is already done")
                return record
            callback.note(f"going on behind the last checkpoint; {record.reason}")
            threads = record.environment.get("threads", "")
            if "threads" not in given and threads.isdecimal() and processes.world_size == 1:
                options.set_threads(min(int(threads), count_processors()))
        return run_training(config, folder, resume=True, callback=callback, **more)


@contextmanager
def _callback(
    folder: Path, given: Mapping[str, Any], processes: "DistributedContext"
) -> "Iterator[Callback]":
    """Yields the console, figures and loggers of a run; of several processes the first's."""
    from ossa.cli.console import Console
    from ossa.train.callbacks import Callback, CallbackList
    from ossa.train.figures import RunFigures
    from ossa.train.loggers import LoggerCallback, create_loggers

    if not processes.is_main:
        yield Callback()
        return
    for key in ("track_weights", "track_project"):
        if key in given and "track" not in given:
            option = "--" + key.replace("_", "-")
            raise ConfigError(expected=f"--track with the names of loggers beside {option}")
    names = [name for names in given.get("track", []) for name in names.split(",")]
    loggers = create_loggers(names, project=given.get("track_project"))
    with Console(f"in {folder} on {_machine(given)['device']}") as console:
        figures = [] if "no_figures" in given else [RunFigures(console.note)]
        log_weights = "track_weights" in given
        with LoggerCallback(loggers, console.note, log_weights=log_weights) as logging:
            yield CallbackList([console, *figures, logging])  # figures are drawn, then logged


def _machine(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides how a run is computed and not what."""
    from ossa.train.distributed import device_of_process

    device = device_of_process(options.choose_device(given.get("device")))
    workers = options.choose_workers(given.get("workers"), device=device)
    more = {key: given[key] for key in ("cache", "save_minutes") if key in given}
    return {"device": device, "workers": workers, "cache": "auto", **more}


@contextmanager
def _run_folder(path: Path, processes: "DistributedContext") -> Iterator[Path]:
    """Yields a new folder for a run, and removes it again if nothing was trained in it."""
    from ossa.files import new_folder
    from ossa.train.resume import STATE_FILE
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
    from ossa.cli.console import Console, fraction, print_json, print_metrics_table, row_of
    from ossa.train.run_folder import BEST_WEIGHTS, FIGURES_FOLDER, read_log
    from ossa.train.schedule import why_ap_is_zero

    best = record.metrics.get("best", {})
    seconds, log = record.times["train"], read_log(folder)
    images = sum(row.get("images") or 0 for row in log)
    row = row_of(
        {
            "model": record.model,
            "imgsz": record.config["train"]["imgsz"],
            **record.metrics.get("last", {}),
            **{key: record.cost[key] for key in ("params", "flops", "macs")},
            "images_per_second": images / seconds if seconds else None,
            "train_seconds": seconds,
            **{f"best_{key}": best.get(key) for key in ("ap", "ap50", "epoch")},
            "status": record.status,
            "seed": record.seed,
            "folder": str(folder),
        }
    )
    if as_json:
        print_json(row)
    elif record.metrics:
        print_metrics_table([row])
    note, quoted = Console().note, shlex.quote(str(folder))
    if (folder / FIGURES_FOLDER).is_dir():
        note(f"figures: {shlex.quote(str(folder / FIGURES_FOLDER))}")
    if record.status != "done":
        note(f"stopped; go on with: ossa train --resume {quoted}")
        return
    file = shlex.quote(str(folder / BEST_WEIGHTS))
    note(f"best epoch {best['epoch'] + 1}, AP {fraction(best['ap'])}: {file}")
    epochs = record.config["train"]["epochs"]
    if best["epoch"] + 1 == epochs > 1:
        note("the last epoch was the best: more --epochs may give more")
    note(f"next: ossa val --weights {file} --data {shlex.quote(record.config['data'])}")
    note(f"      ossa predict --weights {file} IMAGES")
    if best["ap"] is not None and best["ap"] < 0.0005:
        config = TrainConfig.model_validate(record.config["train"])
        note(f"AP is 0.000: {why_ap_is_zero(config, log)}")
