"""`ossa train`: one detector, one data set, one folder."""

import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ossa.cli import options
from ossa.cli import train_options as opt
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from ossa.config import RunConfig
    from ossa.train.trackers import Tracker
    from ossa.types import Record

_SETTINGS = {
    "data": "data",
    "recipe": "recipe",
    "seed": "seed",
    "model": "model.name",
    "neck": "model.neck",
    "context": "model.context",
    "strides": "model.strides",
    "pretrained": "model.pretrained",
    "backbone_weights": "model.backbone_weights",
    "backbone_mean": "model.backbone_mean",
    "backbone_std": "model.backbone_std",
    "backbone_args": "model.backbone_args",
    "weights": "model.weights",
    "imgsz": "train.imgsz",
    "batch": "train.batch",
    "epochs": "train.epochs",
    "optimizer": "train.optimizer",
    "cos_lr": "train.schedule",
    "patience": "train.patience",
    "freeze": "train.freeze",
}
"""The key of the configuration that each option sets, by the option's argument."""

_TRACKING = {"track", "track_weights", "track_project"}
_WITH_RESUME = {"resume", "device", "workers", "as_json", *_TRACKING}


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
    set_: opt.Set = None,
    strict: opt.Strict = False,
    name: opt.Name = None,
    project: opt.Project = None,
    resume: opt.Resume = None,
    track: opt.Track = None,
    track_weights: opt.TrackWeights = False,
    track_project: opt.TrackProject = None,
    exist_ok: opt.ExistOk = False,
    device: options.Device = None,
    workers: options.Workers = None,
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
    # So many options are told apart by a table of their names, not one by one.
    given = {key: value for key, value in call.params.items() if _was_given(value)}
    record, folder = (_start if resume is None else _resume)(given)
    _report(record, folder, as_json=as_json)
    if record.status != "done":
        raise typer.Exit(1)


def _was_given(value: Any) -> bool:
    # 0 is a value (workers, seed); '' is how YOLOv5's users say none.
    return value is not None and value is not False and value not in ("", [], ())


def _start(given: Mapping[str, Any]) -> tuple["Record", Path]:
    """Trains in a new folder; returns the record and the folder."""
    from ossa.cli.console import Console
    from ossa.train.loop import train as run_training
    from ossa.train.trackers import tracked

    trackers = _trackers(given)
    config = _configuration(given)
    machine = _machine(given)
    folder = given.get("project", Path("runs")) / given.get("name", config.model.name)
    with (
        _run_folder(folder) as folder,
        Console(f"in {folder} on {machine['device']}") as console,
        tracked(trackers, console, weights="track_weights" in given) as watcher,
    ):
        record = run_training(config, folder, strict="strict" in given, watcher=watcher, **machine)
    return record, folder


def _resume(given: Mapping[str, Any]) -> tuple["Record", Path]:
    """Goes on in the folder of a run; returns the record and the folder."""
    from ossa.cli.console import Console
    from ossa.train.loop import train as run_training
    from ossa.train.outputs import read_config
    from ossa.train.record import RECORD_FILE, read_record
    from ossa.train.trackers import tracked

    others = _option_names(key for key in given if key not in _WITH_RESUME)
    if others:
        raise ConfigError(
            "--resume goes on with the settings that the run started with, found also "
            f"{', '.join(others)}: leave them out, or start a new run without --resume"
        )
    trackers = _trackers(given)
    folder: Path = given["resume"]
    config = read_config(folder)
    machine = _machine(given)
    with (
        Console(f"in {folder} on {machine['device']}") as console,
        tracked(trackers, console, weights="track_weights" in given) as watcher,
    ):
        if (folder / RECORD_FILE).is_file():
            console.note(f"the run in {folder} is already done")
            return read_record(folder), folder
        record = run_training(config, folder, resume=True, watcher=watcher, **machine)
    return record, folder


def _machine(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns device and workers, which decide how fast a run is and not what it computes."""
    return {
        "device": options.choose_device(given.get("device")),
        "workers": options.choose_workers(given.get("workers")),
    }


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
def _run_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder for a run, and takes it away again if nothing was trained in it."""
    from ossa.files import new_folder
    from ossa.train.checkpoint import STATE_FILE
    from ossa.train.outputs import LAST_WEIGHTS

    missing = [parent for parent in path.parents if not parent.exists()]
    folder = new_folder(path)
    try:
        yield folder
    finally:
        if not any((folder / name).exists() for name in (STATE_FILE, LAST_WEIGHTS)):
            shutil.rmtree(folder)
            with suppress(OSError):  # another run may have moved in
                for parent in missing:
                    parent.rmdir()


def _configuration(given: Mapping[str, Any]) -> "RunConfig":
    """Returns the checked settings: the recipe's, those of the options over them, then --set."""
    from ossa.config import RunConfig, build_config, load_recipe, merge, parse_settings
    from ossa.models.presets import PRESETS

    if "data" not in given:
        raise ConfigError("expected --data with a data.yaml or its folder, found none")
    recipe = given.get("recipe", RunConfig.model_fields["recipe"].default)
    settings = merge(load_recipe(recipe), _settings_of_options(given))
    settings = merge(settings, parse_settings(given.get("set_", [])))
    model = settings.get("model", {})
    name = model.get("name") if isinstance(model, Mapping) else model
    if not name:
        raise ConfigError(
            "expected --model (such as yolov5n, resnet50 or convnext_tiny) or --weights with a "
            "whole detector, found neither"
        )
    if name in PRESETS:
        settings = merge({"model": {"neck": "own"}}, settings)
    config = build_config(settings)
    return _with_fitted_anchors(config, given) if "fit_anchors" in given else config


def _with_fitted_anchors(config: "RunConfig", given: Mapping[str, Any]) -> "RunConfig":
    """Returns the settings with anchors fitted to the training split."""
    from ossa.train.setup import with_fitted_anchors

    # A detector that training starts from may bring anchors; those are the ones to replace.
    if config.model.anchors_wh is not None and "weights" not in given:
        raise ConfigError(
            "--fit-anchors takes the place of model.anchors_wh, which is set: leave one of them out"
        )
    return with_fitted_anchors(config)


def _settings_of_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections that the options set, on top of the model that --weights holds."""
    from ossa.config import merge
    from ossa.models.weights import read_checkpoint

    settings: dict[str, Any] = {}
    if "weights" in given and "model" not in given:
        model = read_checkpoint(given["weights"]).model
        settings["model"] = model.model_dump(exclude={"pretrained", "backbone_weights"})
    for argument, key in _SETTINGS.items():
        if argument in given:
            value = _READ.get(argument, _as_it_is)(given[argument])
            for part in reversed(key.split(".")):
                value = {part: value}
            settings = merge(settings, value)
    return settings


def _as_it_is(value: Any) -> Any:
    return value


def _model_name(text: str) -> str:
    """Returns 'yolov5s' for 'models/yolov5s.yaml', as YOLOv5's users write --cfg."""
    return Path(text).stem if text.endswith((".yaml", ".yml")) else text


def _yaml(text: str) -> Any:
    # A superset of JSON that leaves wrong types to the schema, which names the key.
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"expected a value in JSON, found {text!r}") from None


_READ: Mapping[str, Callable[[Any], Any]] = {
    "model": _model_name,
    "strides": lambda text: _yaml(f"[{text}]"),
    "freeze": lambda text: text.split(","),
    "backbone_mean": lambda text: _yaml(f"[{text}]"),
    "backbone_std": lambda text: _yaml(f"[{text}]"),
    "backbone_args": _yaml,
    "cos_lr": lambda _: "cosine",
}
"""How the values of some options are read, by the option's argument; others stay as they are."""


def _report(record: "Record", folder: Path, *, as_json: bool) -> None:
    """Prints the last metrics on stdout, and on stderr where everything is and what comes next."""
    from ossa.cli.console import Console
    from ossa.cli.output import fraction, print_json, print_metrics_table
    from ossa.train.outputs import BEST_WEIGHTS

    row = _row(record, folder)
    if as_json:
        print_json(row)
    elif record.metrics:
        print_metrics_table([row])
    console = Console()
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
    from ossa.train.outputs import read_log

    last, best = record.metrics.get("last", {}), record.metrics.get("best", {})
    images = sum(row["images"] for row in read_log(folder))
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
