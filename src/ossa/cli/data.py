"""`ossa data`: getting and converting data sets."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ossa.cli import options

_ROOT_VARIABLE = "OSSA_DATA_ROOT"


def get(
    name: Annotated[
        str, typer.Argument(help="coco, voc or voc0712-seedB.", metavar="NAME", show_default=False)
    ],
    root: Annotated[
        Path,
        typer.Option(
            help="Folder of all data sets. Nothing is written outside it.",
            metavar="FOLDER",
            envvar=_ROOT_VARIABLE,
        ),
    ] = Path("data"),
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Address that stands for the official one. The files must be the official ones.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    keep_archives: Annotated[
        bool,
        typer.Option("--keep-archives", help="Keep them in FOLDER/downloads."),
    ] = False,
) -> None:
    """Get a public data set from its official address, checked, unpacked and with a data.yaml.

    coco is COCO 2017. voc is PASCAL VOC 2007 and 2012 trainval, voc0712-seedB their train alone,
    both scored on the test of 2007. Interrupted at any point and started again, it goes on where it
    was; the parts that two data sets share are fetched once.

    [bold]Examples[/bold]

      ossa data get voc0712-seedB

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
        console.note(f"next: ossa train --data {shlex.quote(str(data_yaml.parent))}")


def convert(
    data: Annotated[
        str, typer.Argument(help="data.yaml, or the folder that holds one.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Argument(help="New or empty folder.", metavar="OUTPUT", show_default=False),
    ],
    to: Annotated[
        str, typer.Option(help="coco, voc or yolo.", metavar="FORMAT", show_default=False)
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Splits to write, one --split each; all where there is none.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    copy_images: Annotated[
        bool,
        typer.Option("--copy-images", help="Copy the images, too: the folder needs no other then."),
    ] = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write a data set in another format, and say what that format cannot hold.

    Images stay where they are: COCO refers to them, VOC and YOLO get symbolic links. Key 'classes'
    of the data.yaml filters, merges and renames on the way.

    [bold]Examples[/bold]

      ossa data convert data/voc --to coco voc-as-coco

      ossa data convert cells.yaml --to yolo cells-yolo --split val --copy-images
    """
    from ossa.cli.console import Console
    from ossa.data.convert import FORMATS
    from ossa.data.convert import convert as convert_data
    from ossa.data.description import SPLITS, read_description

    options.check_words("--to", [to], FORMATS)
    options.check_words("--split", split or (), SPLITS)
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
        console.problems(conversion.problems)
        for note in conversion.notes:
            console.note(note)
        console.note(f"next: ossa train --data {shlex.quote(str(output))}")
