"""`ossa data split`: dividing a data set into splits, and removing copies between them."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line
from ossa.machine import count_processors

if TYPE_CHECKING:
    from ossa.data.split import Copies, DataSplit


@command()
def split(
    *,
    data: options.DataArgument = "",
    val: Annotated[
        float | None, typer.Option(metavar="SHARE"), "Share of the images for val, such as 0.2."
    ] = None,
    test: Annotated[
        float | None, typer.Option(metavar="SHARE"), "Share of the images for test."
    ] = None,
    seed: Annotated[options.Natural, "Another one gives another division."] = 0,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT", show_default="near-duplicates, and groups where the data.yaml has any"
        ),
        "What stays together: near-duplicates, groups (of the data.yaml), a pattern on file names "
        "such as '(*)_*.jpg', or images for nothing; repeat it for several.",
    ] = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="NAME", show_default="train"),
        "The split whose images are divided; repeat it to pool several.",
    ] = None,
    remove_duplicates: Annotated[
        bool, "Leave out exact copies of images, within a split and between splits."
    ] = False,
    output: Annotated[
        options.Folder | None,
        options.shown("split beside data.yaml, NAME-split beside NAME.yaml"),
        "Folder of the new lists and data.yaml.",
    ] = None,
    overwrite: Annotated[bool, "Replace the files of an earlier split."] = False,
    data_option: options.DataOption = "",
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Divide a data set into train, val and test, by lists: no image is copied or moved.

    Every class has its share in each split, as far as there are enough images of it, and images
    that are much alike, such as the frames of one video, stay in one split. The same data and
    --seed give the same files.

    [bold]Examples[/bold]

      ossa data split cells --val 0.2

      ossa data split cells --val 0.15 --test 0.15 --by '(*)_*.jpg' --output cells-by-flight

      ossa data split cells --remove-duplicates
    """
    from ossa.cli.console import Console, print_json
    from ossa.data.description import read_description
    from ossa.data.split import split_data
    from ossa.data.split_files import check_output, default_output, write_split
    from ossa.train.schedule import FEW_IMAGES

    shares = {name: share for name, share in (("val", val), ("test", test)) if share is not None}
    if not shares and not remove_duplicates:
        raise ConfigError(expected="--val, such as --val 0.2, --test or --remove-duplicates")
    description = read_description(data)
    output = output or default_output(description)
    options.check_writable("--output", output)
    check_output(description, ("train", *shares), output, overwrite=overwrite)
    with Console() as console:
        with console.progress("comparing images") as on_image:
            found = split_data(
                description,
                shares,
                seed=seed,
                by=tuple(by or ()),
                sources=tuple(from_ or ("train",)),
                remove_duplicates=remove_duplicates,
                threads=count_processors(),
                on_image=on_image,
            )
        for report in found.reports.values():
            console.faults(report)
        data_yaml, notes = write_split(found, output, overwrite=overwrite)
        if not as_json:
            _print_split(found)
            if remove_duplicates:
                print_line(_left_out(found.copies))
        for note in (*found.notes, *notes):
            console.note(note)
        train = sum(map(len, found.chosen["train"].values()))
        few = " --recipe quick --imgsz 320 --epochs 60" if train < FEW_IMAGES else ""
        console.note(f"next: ossa train --data {shlex.quote(str(output))} --model yolov5n{few}")
    if as_json:
        print_json({**found.as_dict(), "output": str(data_yaml)})


def _print_split(found: "DataSplit") -> None:
    """Prints images, groups and boxes by split, and what was left out."""
    from ossa.cli.console import new_table, print_classes, print_table

    total = sum(found.num_images.values())
    table = new_table("", *found.num_images)
    table.add_row("images", *(f"{number:,}" for number in found.num_images.values()))
    table.add_row("of all", *(f"{number / total:.1%}" for number in found.num_images.values()))
    if found.num_groups:
        counts = (found.num_groups.get(name) for name in found.num_images)
        table.add_row("groups", *("–" if number is None else f"{number:,}" for number in counts))
    print_table(table)
    print_line()
    print_classes(found.classes, found.num_images)
    print_line()
    if found.num_groups:
        largest = f"the largest has {found.largest_group:,} image{'s' * (found.largest_group != 1)}"
        print_line(f"groups by {' and '.join(found.by)}; {largest}")


def _left_out(copies: "Copies") -> str:
    counts = f"{copies.duplicates:,} duplicates, {copies.leaks:,} leaks between splits"
    others = f" ({copies.relabelled:,} of them with other boxes)" if copies.relabelled else ""
    return f"left out: {counts}{others}"
