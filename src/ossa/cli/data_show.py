"""`ossa data show`: a page to look at a data set before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli import train_options as train
from ossa.cli.output import check_writable
from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ossa.config import RunConfig
    from ossa.data.annotations import DatasetIndex, IndexReport
    from ossa.types import Batch

_ANY_MODEL = "yolov5n"
"""The schema of a training has one; batches do not depend on it."""


def show(
    data: Annotated[
        str, typer.Argument(help="data.yaml, or the folder that holds one.", show_default=False)
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Splits to show, one --split each; all where there is none.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    number: Annotated[
        int,
        typer.Option("--number", "-n", min=1, max=200, help="Images of each split.", metavar="N"),
    ] = 12,
    batches: Annotated[
        int,
        typer.Option(min=0, max=20, help="Augmented batches of the training split.", metavar="N"),
    ] = 2,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page, an HTML file; written anew where there is one.",
            metavar="FILE",
            show_default="NAME-shown.html",
        ),
    ] = None,
    recipe: train.Recipe = None,
    imgsz: train.Imgsz = None,
    batch: Annotated[
        int | None,
        typer.Option(
            *train.BATCH_NAMES,
            min=1,
            metavar="N",
            help="Images in one.",
            show_default="the recipe's",
        ),
    ] = None,
    seed: train.Seed = None,
    set_: train.Set = None,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write a page with images and their boxes, and with augmented batches as training makes them.

    The batches are those that `ossa train` begins with, given the same data, recipe, --imgsz,
    --batch, --seed and --set.

    [bold]Examples[/bold]

      ossa data show data/voc

      ossa data show cells.yaml --recipe yolov5-high --imgsz 320 --set augment.mixup=0.5

      ossa data show data/coco --split val --number 40 --output val.html
    """
    from ossa import __version__
    from ossa.cli.console import Console
    from ossa.data.description import SPLITS, read_description
    from ossa.data.reading import read_index
    from ossa.data.show import sample_images, write_sample_page

    options.check_words("--split", split or (), SPLITS)
    config = _configuration(
        data=data,
        recipe=recipe,
        imgsz=imgsz,
        batch=None if batch is None else str(batch),
        seed=seed,
        set_=set_,
    )
    description = read_description(data)
    name = _name(description.file)
    output = output or Path(f"{name}-shown.html")
    if output.is_dir():
        raise ConfigError(f"expected --output with an HTML file, found the folder {output}")
    check_writable("--output", output.parent)
    with Console() as console:
        reports = {one: read_index(description, one) for one in split or description.splits}
        for report in reports.values():
            console.faults(report)
        with console.progress("drawing"):
            made = _batches(reports.get("train"), config, number=batches)
            page = write_sample_page(
                output,
                title=f"A look at {name}",
                samples={
                    one: sample_images(report.index, number=number, seed=config.seed)
                    for one, report in reports.items()
                },
                batches=made,
                config=config,
                facts={"Ossa": __version__, "data": str(description.file)},
            )
        console.note(f"page: {page}")


def _configuration(**settings: Any) -> "RunConfig":
    """Returns the settings of a training with these options."""
    from ossa.cli.train_settings import configuration

    given = {key: value for key, value in settings.items() if value is not None}
    return configuration({"model": _ANY_MODEL} | given)


def _batches(
    report: "IndexReport | None", config: "RunConfig", *, number: int
) -> "dict[int, list[Batch]]":
    """Returns the first batches of the training split, by epoch; none without that split."""
    from ossa.data.show import augmented_batches
    from ossa.train.callbacks import Callback
    from ossa.train.setup import training_index

    if report is None or not number:
        return {}
    # The last is another kind where it is without mosaic and mixup.
    epochs = {0, config.train.epochs - 1} if config.augment.plain_epochs else {0}

    def made(index: "DatasetIndex") -> "dict[int, list[Batch]]":
        return {
            epoch: augmented_batches(index, config, number=number, epoch=epoch)
            for epoch in sorted(epochs)
        }

    if config.train.fraction == 1:
        try:
            return made(report.index)
        except DataError:
            pass  # an image is damaged: training looks for all such before it begins
    return made(training_index(config, callback=Callback(), strict=False))


def _name(data_yaml: Path) -> str:
    """Returns what people call a data set: its folder, or the yaml where that has a name."""
    return data_yaml.parent.name if data_yaml.stem == "data" else data_yaml.stem
