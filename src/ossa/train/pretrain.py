"""Pretraining of a backbone as a classifier; its parts are timm's."""

import json
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.data import Mixup, create_dataset, create_loader  # pyright: ignore[reportPrivateImportUsage]
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import SoftTargetCrossEntropy  # pyright: ignore[reportPrivateImportUsage]
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler import create_scheduler_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.utils import ModelEmaV3, random_seed  # pyright: ignore[reportPrivateImportUsage]

from ossa.config import merge
from ossa.errors import ConfigError, DataError, RunFailed, suggestion
from ossa.files import write_atomically
from ossa.models.backbones.timm import known_architectures
from ossa.recipes import load_recipe


def read_recipe(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `recipes/pretrain/NAME.yaml` or a YAML file over convnext's, `changes` over both.

    The warm-up changes in proportion to the epochs; a changed `lr` is that of the batch itself.
    """
    folder = Path(str(resources.files("ossa"))) / "recipes" / "pretrain"
    shipped = {file.stem: str(file) for file in folder.glob("*.yaml")}
    if name not in shipped and not Path(name).is_file():
        raise ConfigError(f"no recipe {name!r} and no such YAML file.{suggestion(name, shipped)}")
    known = load_recipe(shipped["convnext"])
    recipe = merge(known, load_recipe(shipped.get(name, name)))
    for key in recipe.keys() - known.keys():
        raise ConfigError(f"recipe {name}: there is no setting {key!r}.{suggestion(key, known)}")
    warmup = recipe["schedule"]["warmup_epochs"] / recipe["epochs"]
    recipe = merge(recipe, changes)
    if "lr" in changes:
        recipe["lr_batch"] = recipe["batch"]
    return merge(recipe, {"schedule": {"warmup_epochs": warmup * recipe["epochs"]}})


def pretrain(
    model: str, data: Path, out: Path, *, recipe: Mapping[str, Any], device: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Trains timm's `model`; after every epoch writes the average of its weights, yields a row.

    A row has epoch (from 1), train_loss, top1 (of the average, on val), lr and seconds.

    Raises:
        ConfigError, DataError, RunFailed: naming what does not fit, or a loss that is no number.
    """
    random_seed(recipe["seed"])  # timm's parts draw from the global generators
    train, val = _splits(data)
    classes, batch = len(train.reader.class_to_idx), recipe["batch"]
    if batch % 2 or batch > len(train) or recipe["epochs"] < 1:  # mixup takes images in pairs
        expected = f"an even --batch, no more than {len(train)} images, and --epochs from 1 on"
        raise ConfigError(f"expected {expected}, found {batch} and {recipe['epochs']}")
    how = {"num_workers": workers, "device": torch.device(device), **recipe["augment"]}
    try:
        network, build_args = _classifier(model, recipe, classes)
        loader = create_loader(train, recipe["imgsz"], batch, is_training=True, **how)
        val_loader = create_loader(val, recipe["imgsz"], batch, **how)
        mixup = Mixup(num_classes=classes, **recipe["mixup"])
        average = ModelEmaV3(network.to(device), **recipe["average"])
        lr = recipe["lr"] * batch / recipe["lr_batch"]
        optimizer = create_optimizer_v2(network, lr=lr, **recipe["optimizer"])
        steps = {"step_on_epochs": False, "updates_per_epoch": len(loader), **recipe["schedule"]}
        scheduler: Any = create_scheduler_v2(optimizer, num_epochs=recipe["epochs"], **steps)[0]
    except (TypeError, ValueError, AssertionError) as problem:
        raise ConfigError(f"timm does not take these settings: {problem}") from None
    metadata = {
        "architecture": model,
        "mean": json.dumps(IMAGENET_DEFAULT_MEAN),
        "std": json.dumps(IMAGENET_DEFAULT_STD),
        "model_args": json.dumps(build_args),
        "pretraining": f"{data.resolve().name} ({classes} classes, {len(train)} images)",
        "license": "unknown",
        "recipe_sha256": sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
    }
    for epoch in range(1, recipe["epochs"] + 1):
        started, losses = time.monotonic(), []
        network.train()
        for step, pair in enumerate(loader, start=(epoch - 1) * len(loader)):
            scheduler.step_update(step)
            images, targets = mixup(*pair)
            loss = SoftTargetCrossEntropy()(network(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network, step + 1)
            losses.append(loss.detach())
        train_loss = torch.stack(losses).mean()
        if not train_loss.isfinite():
            raise RunFailed(f"the loss of epoch {epoch} is {train_loss}: try a smaller --lr")
        tensors = {key: value.contiguous() for key, value in average.module.state_dict().items()}
        metadata["epoch"] = f"{epoch} of {recipe['epochs']}"
        write_atomically(out, save(tensors, metadata))
        scores = {"train_loss": train_loss.item(), "top1": _top1(average.module, val_loader)}
        lr, seconds = optimizer.param_groups[0]["lr"], time.monotonic() - started
        yield {"epoch": epoch, **scores, "lr": lr, "seconds": seconds}


def _splits(data: Path) -> tuple[Any, Any]:
    """Returns timm's data sets of train and val, in which each folder of images is a class."""
    splits = []
    for name in ("train", "validation" if (data / "validation").is_dir() else "val"):
        try:
            splits.append(create_dataset("", str(data / name), search_split=False))
        except (AssertionError, RuntimeError):  # no such folder, or no images in it
            raise DataError(f"expected images in {data / name}/CLASS/, found none") from None
    train, val = (split.reader.class_to_idx.keys() for split in splits)
    if len(train) < 2 or train != val:
        found = f"{data}, found {len(train)} and {len(val)}, not in both {sorted(train ^ val)[:3]}"
        raise DataError(f"expected the same classes, 2 or more, in train and val of {found}")
    return splits[0], splits[1]


def _classifier(name: str, recipe: Mapping[str, Any], classes: int) -> tuple[torch.nn.Module, Any]:
    """Returns timm's `name`, and of its arguments those that decide the shapes of its weights."""
    if not timm.is_model(name):
        hint = suggestion(name, known_architectures())
        raise ConfigError(f"timm has no model named {name!r}.{hint}")
    known = timm.get_pretrained_cfg(name)
    size = {"img_size": recipe["imgsz"]} if known and known.fixed_input_size else {}
    build_args = {"num_classes": classes, **size}
    drop_path = recipe["drop_path"].get(name.split(".")[0], recipe["drop_path"]["other"])
    # timm leaves out what is None: some models know no drop path.
    return timm.create_model(name, drop_path_rate=drop_path or None, **build_args), build_args


@torch.no_grad()
def _top1(network: torch.nn.Module, loader: Any) -> float:
    """Returns the share of the images whose most probable class is theirs."""
    hits = [(network(images).argmax(1) == labels).sum() for images, labels in loader]
    return torch.stack(hits).sum().item() / len(loader.dataset)
