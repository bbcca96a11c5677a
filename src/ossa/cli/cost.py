"""`ossa cost`: what detectors cost, without building them in memory."""

from typing import TYPE_CHECKING, Annotated

import typer

from ossa.cli import options

if TYPE_CHECKING:
    from ossa.models.count import DetectorCost

_LARGEST_STRIDE = 32


def _checked_side(imgsz: int) -> int:
    if imgsz % _LARGEST_STRIDE:
        below = imgsz // _LARGEST_STRIDE * _LARGEST_STRIDE
        raise typer.BadParameter(
            f"{imgsz} is no multiple of {_LARGEST_STRIDE}, the largest stride: "
            f"use {below} or {below + _LARGEST_STRIDE}"
        )
    return imgsz


def cost(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x, or any timm architecture.",
            show_default=False,
        ),
    ],
    imgsz: Annotated[
        int,
        typer.Option(
            *options.IMGSZ_NAMES,
            min=_LARGEST_STRIDE,
            metavar="PIXELS",
            callback=_checked_side,
            help="Side of the square input in pixels.",
        ),
    ] = 640,
    classes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes.")] = 80,
    neck: Annotated[
        options.NeckScale, typer.Option(help="Scale of the neck behind a backbone.")
    ] = "s",
    as_json: options.AsJson = False,
) -> None:
    """Count parameters, FLOPs and MACs of detectors, split by part.

    One multiply-add is one MAC and two FLOPs; convolutions and matrix products count. Nothing is
    downloaded. A preset (yolov5n to yolov5x) always brings its own neck.

    [bold]Examples[/bold]

      ossa cost yolov5n yolov5s

      ossa cost convnext_tiny resnet50 --neck s --imgsz 320 --json
    """
    import torch

    from ossa.cli.output import print_json
    from ossa.models.build import create_detector
    from ossa.models.count import count_cost

    costs = []
    for model in models:
        with torch.device("meta"):
            detector = create_detector(model, num_classes=classes, neck=neck, imgsz=imgsz)
        costs.append((model, count_cost(detector, imgsz)))
    if as_json:
        rows = [{"model": model, "imgsz": imgsz, **cost.flat()} for model, cost in costs]
        print_json(rows)
    else:
        _print_table(costs)


def _print_table(costs: "list[tuple[str, DetectorCost]]") -> None:
    from ossa.cli.output import new_table, print_table, with_unit

    parts = ("total", "backbone", "lateral", "neck", "head")
    table = new_table("model", "", *parts)
    for model, cost in costs:
        for title, key in (("parameters", "params"), ("FLOPs", "flops"), ("MACs", "macs")):
            figures = [with_unit(getattr(getattr(cost, part), key)) for part in parts]
            table.add_row(model if key == "params" else "", title, *figures)
    print_table(table)
