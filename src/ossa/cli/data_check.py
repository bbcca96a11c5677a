"""`ossa data check`: what is wrong, strange and notable in a data set."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.output import check_new
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.data.annotations import DatasetIndex
    from ossa.data.check import Check

_FAULTS_FOUND = 1
_CASES_SHOWN = 3
_MOST_CLASSES = 20
"""In the table; of more the ends alone are named."""


def check(
    data: Annotated[
        str, typer.Argument(help="data.yaml, or the folder that holds one.", show_default=False)
    ],
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Read every image, too: unreadable, cut short, turned by EXIF, exact copies, "
            "training images in val or test.",
        ),
    ] = False,
    imgsz: Annotated[
        int,
        typer.Option(
            *options.IMGSZ_NAMES,
            min=1,
            metavar="PIXELS",
            help="Side of the square training input, at which sizes and anchors are judged.",
        ),
    ] = 640,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page, index.html, with figures and pictures of the worst cases.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Look for what is wrong in a data set, and describe the rest.

    Exit codes: 0 where nothing or only remarks are found, 1 where there are faults, 2 where the
    data set cannot be read at all.

    [bold]Faults[/bold]: images missing, unreadable, cut short, of another size than annotated, or
    in val or test and in train; boxes of no area, outside their image, not numbers, stated twice,
    of an unknown class; labels without image, at two places, of two images, unreadable labels, VOC
    images without XML; classes that are evaluated and not trained; and whatever 'ossa train' would
    stop for: no split val, other classes in it, no box that trains, most images without labels.

    [bold]Remarks[/bold]: images turned by EXIF, copies within a split, shared by val and test,
    listed twice, without labels; boxes tiny, covering all, reaching out; classes unused, rare, not
    evaluated; anchors that do not fit.

    [bold]Examples[/bold]

      ossa data check bccd

      ossa data check data/coco --images --report pages/coco --json > check.json
    """
    from ossa.cli.console import Console
    from ossa.cli.output import print_json
    from ossa.data.check import check_data
    from ossa.data.description import read_description
    from ossa.models.head import default_anchors_wh

    description = read_description(data)
    if report is not None:
        check_new("--report", report)
    with Console() as console:
        with console.progress("checking") as on_image:
            found = check_data(
                description,
                imgsz=imgsz,
                anchors_wh=default_anchors_wh((8, 16, 32)).numpy(),
                images=images,
                threads=os.cpu_count() or 1,
                crowding_of=_crowding,
                on_image=on_image,
            )
        for note in dict.fromkeys(note for one in found.reports.values() for note in one.notes):
            console.note(note)
        if not as_json:
            _print(found)
        if report is not None:
            with console.progress("writing the report"):
                page = _write_page(found, report)
            console.note(f"report: {page}")
    if as_json:
        print_json(found.as_dict())
    if found.num_faults:
        raise typer.Exit(_FAULTS_FOUND)


def _crowding(index: "DatasetIndex") -> Mapping[str, int]:
    """Returns the boxes by how they stand, as evaluation tells them apart."""
    import numpy as np

    from ossa.evaluate.metrics import KINDS
    from ossa.evaluate.object_bins import surroundings_of_gt

    kinds = surroundings_of_gt(index).kinds[~index.crowd]
    return dict(zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True))


def _name(data_yaml: Path) -> str:
    """Returns what people call a data set: its folder, or the yaml where that has a name."""
    return data_yaml.parent.name if data_yaml.stem == "data" else data_yaml.stem


def _write_page(found: "Check", folder: Path) -> Path:
    from ossa import __version__
    from ossa.data.check_page import write_check_page

    title = f"Check of {_name(found.description.file)}"
    return write_check_page(found, folder, title=title, facts={"Ossa": __version__})


def _print(found: "Check") -> None:
    """Prints findings with their first cases, the figures of every split, and the classes."""
    from rich.table import Table

    from ossa.cli.output import print_table

    root = found.description.root
    if found.findings:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("")
        table.add_column("count", justify="right")
        table.add_column("split")
        table.add_column("", overflow="fold")
        for one in found.findings:
            count = f"{one.count:,}"
            table.add_row(str(one.sort.severity), count, one.split or "all", one.title)
            for case in one.cases[:_CASES_SHOWN]:
                table.add_row("", "", "", f"  {case.place(root)}: {case.what}")
        print_table(table)
        print_line()
    print_table(_table_of_splits(found))
    print_line()
    _print_classes(found)
    print_line()
    read = f"{len(found.images):,} images read" if found.images else "images not read (--images)"
    faults = _counted(found.num_faults, "fault")
    if found.num_stops:
        faults += f" ({found.num_stops:,} of them would stop a training)"
    print_line(f"{faults}, {_counted(found.num_remarks, 'remark')}; {read}")


def _table_of_splits(found: "Check") -> Any:
    from ossa.cli.output import fraction, new_table

    splits = found.statistics
    table = new_table("", *splits)

    def add(title: str, told: Callable[[Any], str]) -> None:
        table.add_row(title, *(told(one) for one in splits.values()))

    add("images", lambda one: f"{one.num_images:,}")
    add("of these background", lambda one: f"{one.num_background:,}")
    add("boxes", lambda one: f"{one.num_boxes:,}")
    if any(one.num_crowd or one.num_difficult for one in splits.values()):
        add("crowd regions", lambda one: f"{one.num_crowd:,}")
        add("difficult boxes", lambda one: f"{one.num_difficult:,}")
    for name, limits in (("small", "under 32²"), ("medium", "to 96²"), ("large", "over")):
        title = f"{name} at {found.imgsz} px ({limits})"
        add(title, lambda one, name=name: _share(one.sizes[name], one.num_boxes))
    add("boxes an image, mean", lambda one: f"{one.boxes_per_image['mean']:.1f}")
    add("boxes an image, most", lambda one: f"{one.boxes_per_image['max']:.0f}")
    for kind in next(iter(splits.values())).crowding:
        add(kind, lambda one, kind=kind: _share(one.crowding[kind], one.num_boxes))
    add("width over height, 5 to 95 %", lambda one: _span(one.aspect_ratios))
    add("anchors' best possible recall", lambda one: fraction(one.best_possible_recall))
    return table


def _print_classes(found: "Check") -> None:
    from ossa.cli.output import new_table, print_table

    rows = list(found.classes.items())
    if len(rows) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        rows.sort(key=lambda row: -sum(row[1].values()))
        print_line(f"{len(rows)} classes; the {half} with most boxes and the {half} with fewest:")
        rows = rows[:half] + rows[-half:]
    table = new_table("class", *(f"boxes in {split}" for split in found.statistics))
    for name, counts in rows:
        table.add_row(name, *(f"{number:,}" for number in counts.values()))
    print_table(table)


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "–"


def _span(quantiles: Mapping[str, float]) -> str:
    return f"{quantiles['p5']:.2f} to {quantiles['p95']:.2f}" if quantiles else "–"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
