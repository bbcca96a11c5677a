"""`ossa pretrain`: a backbone learns to tell classes of images apart."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.cli.train import EPOCHS, IMGSZ, SEED
from ossa.config import RunConfig
from ossa.errors import ConfigError


@command(IMGSZ, EPOCHS, SEED, schema=RunConfig)
def pretrain(
    *,
    model: Annotated[options.Name, "Any timm architecture."],
    data: Annotated[Path, "Holds train and val, in each a folder per class."],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors"), "New weights file."],
    recipe: Annotated[str, "convnext, or a YAML file."] = "convnext",
    settings: dict[str, Any],
    batch: Annotated[int | None, typer.Option(metavar="N"), "Images in a step."] = None,
    lr: Annotated[float | None, typer.Option(metavar="RATE"), "For this batch."] = None,
    device: options.Device = None,
    workers: options.Workers = None,
    as_json: options.AsJson = False,
) -> None:
    """Pretrain a backbone from random weights, as a classifier of a folder of images.

    After every epoch the running average of the weights is scored and written, as a file that
    ossa train --backbone-weights takes. One seed and number of workers give one result on a CPU.

    [bold]Example[/bold]

      ossa pretrain --model roadmap_patchify --data imagenet --out patchify.safetensors
    """
    from ossa.cli.console import Console, duration, print_json, row_of
    from ossa.train import pretrain as training

    if out.suffix != ".safetensors" or out.exists() or not out.parent.is_dir():
        found = f"{out}, which exists" if out.exists() else out
        raise ConfigError(f"expected --out with a new .safetensors file in a folder, found {found}")
    given = {**settings.pop("train", {}), **settings, "batch": batch, "lr": lr}
    changes = {key: value for key, value in given.items() if value is not None}
    plan = training.read_recipe(recipe, changes)
    device = options.choose_device(device)
    machine = {"device": device, "workers": options.choose_workers(workers, device=device)}
    rows = []
    with Console() as console:
        for row in training.pretrain(model, data, out, recipe=plan, **machine):
            rows.append(row)
            console.note(
                f"epoch {row['epoch']}/{plan['epochs']}  loss {row['train_loss']:.4f}  "
                f"top-1 {row['top1']:.4f}  lr {row['lr']:.2e}  {duration(row['seconds'])}"
            )
        console.note(f"next: ossa train --model {model} --backbone-weights {out} --data DATA")
    if as_json:
        seconds = sum(row["seconds"] for row in rows)
        known = {"model": model, "imgsz": plan["imgsz"], "train_seconds": seconds}
        print_json(row_of({**known, "top1": rows[-1]["top1"], "epochs": rows, "file": str(out)}))
