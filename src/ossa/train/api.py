"""Training from Python with a name, a data set and a few settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ossa.config import RunConfig, build_config, merge
from ossa.data.cache import CachePlace
from ossa.errors import ConfigError
from ossa.models.detector import PRESETS
from ossa.recipes import load_recipe
from ossa.train.callbacks import Callback
from ossa.train.loop import train
from ossa.types import Record


def run_config(
    *,
    data: Path | str,
    model: str,
    recipe: str = "yolov5-low",
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Returns the checked configuration of a run.

    Args:
        data: a data.yaml, or the folder that holds one.
        model: a preset (`yolov5n` to `yolov5x`), which brings its own neck, or any backbone,
            which gets YOLOv5's neck of scale s unless the settings name another.
        recipe: a shipped recipe, or the path of a YAML file.
        settings: laid over the recipe, such as {'train': {'epochs': 50}, 'seed': 1}.

    Raises:
        ConfigError: no such recipe, or a setting that is misspelt or out of range.
    """
    neck = "own" if model in PRESETS else "s"
    basis = {"data": str(data), "recipe": recipe, "model": {"name": model, "neck": neck}}
    return build_config(merge(merge(load_recipe(recipe), basis), settings or {}))


def train_detector(
    *,
    data: Path | str,
    model: str,
    folder: Path | str,
    recipe: str = "yolov5-low",
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    cache: CachePlace = "auto",
    callback: Callback | None = None,
) -> Record:
    """Trains a detector and returns its record; the weights lie in `folder`, best.safetensors.

    Args:
        data: a data.yaml, or the folder that holds one.
        model: a preset (`yolov5n` to `yolov5x`), or any backbone.
        recipe: a shipped recipe, or the path of a YAML file.
        settings: laid over the recipe, such as {'train': {'epochs': 50}, 'seed': 1}.
        folder: of the run; a new or an empty one.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images; they change the speed, never the result.
        cache: where images are kept decoded, 'auto' (in memory, while they fit), 'disk' or 'none';
            changes the speed, never the result.
        callback: is told how it goes.

    Raises:
        ConfigError: settings as for `run_config`, or a folder that holds something.
        OssaError: as `ossa.train.loop.train`.

    Example:
        >>> import ossa
        >>> settings = {"train": {"epochs": 1, "imgsz": 64, "batch": 2}}
        >>> record = ossa.train_detector(
        ...     data="scenes", model="yolov5n", recipe="quick", folder="run", settings=settings
        ... )
        >>> record.status
        'done'
    """
    config = run_config(data=data, model=model, recipe=recipe, settings=settings)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected a new or empty folder for the run, found {folder} in use")
    folder.mkdir(parents=True, exist_ok=True)
    return train(config, folder, device=device, workers=workers, cache=cache, callback=callback)
