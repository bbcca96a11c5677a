"""`ossa data`: getting, converting, splitting, checking and showing data sets."""

import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import data_split, options
from ossa.cli.command import command
from ossa.cli.train import HOW_PANEL, IMGSZ, RECIPE, SEED, configuration
from ossa.config import RunConfig
from ossa.errors import ConfigError, DataError
from ossa.escaping import print_line
from ossa.machine import count_processors

if TYPE_CHECKING:
    from ossa.data.annotations import DatasetIndex, IndexReport
    from ossa.data.check import Check
    from ossa.types import Batch

_ROOT_VARIABLE = "OSSA_DATA_ROOT"
_EXAMPLES_SHOWN = 3

split = data_split.split
"""The command of this name."""


@command()
def get(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME"), "coco, voc or voc0712-seedB."],
    root: Annotated[
        options.Folder,
        typer.Option(envvar=_ROOT_VARIABLE),
        "Folder of all data sets. Nothing is written outside it.",
    ] = Path("data"),
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL"),
        "Address that stands for the official one. The files must be the official ones.",
    ] = None,
    keep_archives: Annotated[bool, "Keep them in FOLDER/downloads."] = False,
) -> None:
    """Get a public data set from its official address, checked, unpacked and with a data.yaml.

    coco is COCO 2017. voc is PASCAL VOC 2007 and 2012 trainval, voc0712-seedB their train alone,
    both scored on the test of 2007. Interrupted at any point and started again, it goes on where it
    was; the parts that two data sets share are fetched once.

    [bold]Example[/bold]

      ossa data get coco --root /data --keep-archives
    """
    from ossa.cli.console import Console
    from ossa.data.download import download_dataset
    from ossa.data.public_datasets import dataset_info

    info = dataset_info(name)
    with Console() as console:
        console.note(
            f"{info.title}, in {root.absolute()} (--root or {_ROOT_VARIABLE} names another folder)"
        )
        try:
            data_yaml = download_dataset(
                info,
                root,
                mirror=mirror,
                keep_archives=keep_archives,
                progress=partial(console.progress, of_bytes=True),
            )
        except KeyboardInterrupt:
            console.note("stopped; the same command goes on from here")
            raise typer.Exit(1) from None
        console.note(
            f"next: ossa train --data {shlex.quote(str(data_yaml.parent))} --model yolov5n"
        )


@command()
def convert(
    *,
    data: options.DataArgument = "",
    output: options.OutputArgument = "",
    to: Annotated[Literal["coco", "voc", "yolo"], "The format to write."],
    split: options.Splits = None,
    copy_images: Annotated[bool, "Copy the images, too: the folder needs no other then."] = False,
    data_option: options.DataOption = "",
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write a data set in another format, and say what that format cannot hold.

    Images stay where they are: COCO refers to them, VOC and YOLO get symbolic links. Key 'classes'
    of the data.yaml filters, merges and renames on the way.

    [bold]Example[/bold]

      ossa data convert cells.yaml --to yolo cells-yolo --split val --copy-images
    """
    from ossa.cli.console import Console
    from ossa.data.convert import convert as convert_data
    from ossa.data.description import read_description

    with Console() as console:
        with console.progress("converting") as on_image:
            conversion = convert_data(
                read_description(data),
                output,
                to=to,
                splits=split,
                copy_images=copy_images,
                on_image=on_image,
            )
        console.issues(conversion.issues)
        for note in conversion.notes:
            console.note(note)
        console.note(f"next: ossa train --data {shlex.quote(str(output))} --model yolov5n")


@command()
def check(
    *,
    data: options.DataArgument = "",
    images: Annotated[bool, "Read every image, too, and look for damages and copies."] = False,
    imgsz: Annotated[
        options.Pixels, "Side of the square training input: judges sizes and anchors."
    ] = 640,
    report: Annotated[
        options.Folder | None,
        "Write a page, index.html, with figures and images of the worst cases.",
    ] = None,
    data_option: options.DataOption = "",
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Look for what is wrong in a data set, and describe the rest.

    Exit codes: 0 where nothing or only warnings are found, 1 where there are errors, 2 where the
    data set cannot be read at all.

    [bold]Errors[/bold]: images and labels that are missing, unreadable, damaged or of other sizes,
    boxes that no image can have, images in val or test and in train, classes that are evaluated and
    not trained, and whatever 'ossa train' would stop for.

    [bold]Warnings[/bold]: rotated images, copies, images without labels, boxes that are tiny, cover
    all or reach out, classes that are unused, rare or not evaluated, anchors that do not fit.

    [bold]Example[/bold]

      ossa data check data/coco --images --report pages/coco --json > check.json
    """
    from ossa import __version__
    from ossa.cli.console import Console, print_json
    from ossa.data.check import check_data
    from ossa.data.check_page import write_check_page
    from ossa.data.description import read_description
    from ossa.models.head import default_anchors_wh

    description = read_description(data)
    if report is not None:
        options.check_new("--report", report)
    with Console() as console:
        with console.progress("checking") as on_image:
            found = check_data(
                description,
                imgsz=imgsz,
                anchors_wh=default_anchors_wh((8, 16, 32)).numpy(),
                images=images,
                threads=count_processors(),
                crowding_of=_crowding,
                on_image=on_image,
            )
        for note in dict.fromkeys(note for one in found.reports.values() for note in one.notes):
            console.note(note)
        if not as_json:
            _print_check(found)
        if report is not None:
            with console.progress("writing the report"):
                title = f"Check of {_name(description.file)}"
                page = write_check_page(found, report, title=title, facts={"Ossa": __version__})
            console.note(f"report: {page}")
    if as_json:
        print_json(found.as_dict())
    if found.num_errors:
        raise typer.Exit(1)


@command(RECIPE, IMGSZ, SEED, schema=RunConfig, panels={HOW_PANEL: "set_"})
def show(
    *,
    data: options.DataArgument = "",
    split: options.Splits = None,
    number: Annotated[
        options.Count, typer.Option("--number", "-n", max=200), "Images of each split."
    ] = 12,
    batches: Annotated[
        int, typer.Option(min=0, max=20, metavar="N"), "Augmented batches of the training split."
    ] = 2,
    output: Annotated[
        options.File | None, options.shown("NAME-shown.html"), "The page; may exist."
    ] = None,
    settings: dict[str, Any],
    batch: Annotated[
        int | None,
        typer.Option(*options.BATCH_NAMES, min=1, metavar="N", show_default="the recipe's"),
        "Images in one.",
    ] = None,
    set_: options.Set = None,
    data_option: options.DataOption = "",
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write a page with images and their boxes, and with augmented batches as training makes them.

    The batches are those that `ossa train` begins with, given the same data, recipe, --imgsz,
    --batch, --seed and --set.

    [bold]Examples[/bold]

      ossa data show cells.yaml --recipe yolov5-high --imgsz 320 --set augment.mixup=0.5

      ossa data show data/coco --split val --number 40 --output val.html
    """
    from ossa import __version__
    from ossa.cli.console import Console
    from ossa.config import merge
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.data.show import sample_images, write_sample_page

    # The schema of a training has a model; batches do not depend on it.
    shared = {"data": data, "model": {"name": "yolov5n"}}
    sizes = {} if batch is None else {"train": {"batch": batch}}
    config = configuration(merge(merge(shared, settings), sizes), set_=set_ or ())
    description = read_description(data)
    name = _name(description.file)
    output = output or Path(f"{name}-shown.html")
    if output.is_dir():
        raise ConfigError(expected="--output with an HTML file", found=f"the folder {output}")
    options.check_writable("--output", output.parent)
    with Console() as console:
        reports = {one: read_index(description, one) for one in split or description.splits}
        for report in reports.values():
            console.faults(report)
        with console.progress("drawing"):
            page = write_sample_page(
                output,
                title=f"A look at {name}",
                batches=_first_batches(reports.get("train"), config, number=batches),
                samples={
                    one: sample_images(report.index, number=number, seed=config.seed)
                    for one, report in reports.items()
                },
                config=config,
                facts={"Ossa": __version__, "data": str(description.file)},
            )
        console.note(f"page: {page}")


def _first_batches(
    report: "IndexReport | None", config: RunConfig, *, number: int
) -> "dict[int, list[Batch]]":
    """Returns the first batches of the training split, by epoch; none without that split."""
    from ossa.data.show import augmented_batches
    from ossa.train.callbacks import Callback
    from ossa.train.splits import read_split

    if report is None or not number:
        return {}
    # The last epoch differs where it is without mosaic and mixup.
    epochs = {0, config.train.epochs - 1} if config.augment.plain_epochs else {0}

    def batches_of(index: "DatasetIndex") -> "dict[int, list[Batch]]":
        return {
            epoch: augmented_batches(index, config, number=number, epoch=epoch)
            for epoch in sorted(epochs)
        }

    if config.train.fraction == 1:
        with suppress(DataError):  # an image is damaged: training drops all such before it begins
            return batches_of(report.index)
    return batches_of(read_split(config, "train", callback=Callback()).index)


def _crowding(index: "DatasetIndex") -> Mapping[str, int]:
    """Returns the number of boxes by how crowded they are, as evaluation tells them apart."""
    import numpy as np

    from ossa.evaluate.metrics import KINDS
    from ossa.evaluate.object_bins import surroundings_of_gt

    kinds = surroundings_of_gt(index).kinds[~index.crowd]
    return dict(zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True))


def _name(data_yaml: Path) -> str:
    """Returns what people call a data set: its folder, or the yaml where that has a name."""
    return data_yaml.parent.name if data_yaml.stem == "data" else data_yaml.stem


def _print_check(found: "Check") -> None:
    """Prints issues with their first examples, the figures of every split, and the classes."""
    from ossa.cli.console import new_table, print_classes, print_table

    if found.issues:
        table = new_table("", "count", "split", "")
        for column in table.columns[2:]:
            column.justify = "left"
        for one in found.issues:
            count = f"{one.count:,}"
            table.add_row(one.kind.severity.value, count, one.split or "all", one.title)
            for issue in one.examples[:_EXAMPLES_SHOWN]:
                place = issue.location(found.description.root)
                table.add_row("", "", "", f"  {place}: {issue.message}")
        print_table(table)
        print_line()
    table = new_table("", *found.statistics)
    for title, cells in _split_rows(found).items():
        table.add_row(title, *cells)
    print_table(table)
    print_line()
    print_classes(found.classes, found.statistics)
    print_line()
    number = found.num_images_read
    read = f"{number:,} images read" if number else "images not read (--images)"
    stops = f" ({found.num_stops:,} of them would stop a training)" if found.num_stops else ""
    errors, warnings = found.num_errors, found.num_warnings
    print_line(
        f"{errors:,} error{'s' * (errors != 1)}{stops}, "
        f"{warnings:,} warning{'s' * (warnings != 1)}; {read}"
    )


def _split_rows(found: "Check") -> dict[str, list[str]]:
    """Returns a text for each split by the title of each figure."""
    from ossa.cli.console import fraction

    splits = list(found.statistics.values())

    def each(write: Callable[[Any], str]) -> list[str]:
        return [write(one) for one in splits]

    def shares(count: Callable[[Any], int]) -> list[str]:
        return each(lambda one: f"{count(one) / one.num_boxes:.1%}" if one.num_boxes else "–")

    def span(one: Any) -> str:
        quantiles = one.aspect_ratios
        return f"{quantiles['p5']:.2f} to {quantiles['p95']:.2f}" if quantiles else "–"

    counts = {"images": "num_images", "of these background": "num_background", "boxes": "num_boxes"}
    if any(one.num_crowd or one.num_difficult for one in splits):
        counts |= {"crowd regions": "num_crowd", "difficult boxes": "num_difficult"}
    rows = {title: [f"{getattr(one, key):,}" for one in splits] for title, key in counts.items()}
    for name, limits in (("small", "under 32²"), ("medium", "to 96²"), ("large", "over")):
        title = f"{name} at {found.imgsz} px ({limits})"
        rows[title] = shares(lambda one, name=name: one.sizes[name])
    rows["boxes per image, mean"] = each(lambda one: f"{one.boxes_per_image['mean']:.1f}")
    rows["boxes per image, most"] = each(lambda one: f"{one.boxes_per_image['max']:.0f}")
    for kind in splits[0].crowding:
        rows[kind] = shares(lambda one, kind=kind: one.crowding[kind])
    rows["width over height, 5% to 95%"] = each(span)
    best = each(lambda one: fraction(one.best_possible_recall))
    return {**rows, "anchors' best possible recall": best}
