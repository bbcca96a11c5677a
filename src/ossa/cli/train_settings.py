"""From the options of `ossa train` to the settings of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.cli import options
from ossa.errors import ConfigError, legible

if TYPE_CHECKING:
    from ossa.config import RunConfig

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
    "precision": "train.precision",
    "compile_": "train.compile",
    "sync_bn": "train.sync_batchnorm",
    "on_nan": "train.on_nan",
}
"""The key of the configuration that each option sets, by the option's argument."""


def configuration(given: Mapping[str, Any]) -> "RunConfig":
    """Returns the checked settings: the recipe's, those of the options over them, then --set."""
    from ossa.config import RunConfig, build_config, merge, parse_settings
    from ossa.models.detector import PRESETS
    from ossa.recipes import load_recipe

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
    if "fit_anchors" in given:
        config = _with_fitted_anchors(config, given)
    return _with_fitting_batch(config, given) if _wants_any_batch(given) else config


def _with_fitted_anchors(config: "RunConfig", given: Mapping[str, Any]) -> "RunConfig":
    """Returns the settings with anchors fitted to the training split."""
    from ossa.train.setup import with_fitted_anchors

    # A detector that training starts from may bring anchors; those are the ones to replace.
    if config.model.anchors_wh is not None and "weights" not in given:
        raise ConfigError(
            "--fit-anchors takes the place of model.anchors_wh, which is set: leave one of them out"
        )
    return with_fitted_anchors(config)


def _wants_any_batch(given: Mapping[str, Any]) -> bool:
    return given.get("batch") in ("auto", "-1")


def _with_fitting_batch(config: "RunConfig", given: Mapping[str, Any]) -> "RunConfig":
    """Returns the settings with the largest batch that the GPU has room for."""
    import torch

    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.train.autobatch import largest_batch

    device = options.choose_device(given.get("device"))
    names = read_index(read_description(config.data), "train").index.names
    batch = largest_batch(config, num_classes=len(names), device=torch.device(device))
    if batch is None:
        raise ConfigError(
            f"--batch auto: {device} has no memory for even one image of {config.train.imgsz} "
            "pixels: take a smaller --imgsz"
        )
    return config.model_copy(update={"train": config.train.model_copy(update={"batch": batch})})


def _settings_of_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections that the options set, on top of the model that --weights holds."""
    from ossa.config import merge
    from ossa.models.checkpoint import read_checkpoint

    settings: dict[str, Any] = {}
    if "weights" in given and "model" not in given:
        model = read_checkpoint(given["weights"]).model
        settings["model"] = model.model_dump(exclude={"pretrained", "backbone_weights"})
    for argument, key in _SETTINGS.items():
        if argument in given and not (argument == "batch" and _wants_any_batch(given)):
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
    from ossa.safe_yaml import parse_yaml

    return parse_yaml(text, where=f"'{legible(text)}'")


_READ: Mapping[str, Callable[[Any], Any]] = {
    "model": _model_name,
    "strides": lambda text: _yaml(f"[{text}]"),
    "freeze": lambda text: text.split(","),
    "backbone_mean": lambda text: _yaml(f"[{text}]"),
    "backbone_std": lambda text: _yaml(f"[{text}]"),
    "backbone_args": _yaml,
    "batch": _yaml,
    "cos_lr": lambda _: "cosine",
}
"""How the values of some options are read, by the option's argument; others stay as they are."""
