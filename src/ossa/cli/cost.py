"""`ossa cost`: what detectors cost, in the form that is trained and in the form that is used."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line, write_csv

if TYPE_CHECKING:
    from rich.table import Table

    from ossa.cost.model_cost import ModelCost

_DETECTOR_IMGSZ, _CLASSIFIER_IMGSZ = 640, 224
_NUM_CLASSES = 80
_FIGURES = (
    *(("parameters", "params", ""), ("FLOPs", "flops", ""), ("MACs", "macs", "")),
    *(("activations", "activations", ""), ("peak memory", "peak_bytes", "B")),
)
"""Title, key and unit of each line of the table."""


@command(panels={options.MACHINE_PANEL: "as_csv"})
def cost(
    *,
    models: Annotated[list[str], options.ModelArgument],
    imgsz: Annotated[
        options.Side | None,
        options.shown(f"{_DETECTOR_IMGSZ}, of a classifier {_CLASSIFIER_IMGSZ}"),
    ] = None,
    classes: Annotated[
        options.Classes | None, options.shown(str(_NUM_CLASSES)), "Number of classes."
    ] = None,
    neck: Annotated[options.Neck | None, options.shown("s")] = None,
    classifier: Annotated[
        options.Classes | None,
        "Cost timm's classifier of N classes instead of a detector, its convolutions and linear "
        "layers only.",
    ] = None,
    compare: Annotated[
        bool, "Compute both forms once, with random weights, and print their difference."
    ] = True,
    as_csv: Annotated[bool, typer.Option("--csv"), "Print CSV on stdout."] = False,
    as_json: options.AsJson = False,
) -> None:
    """Count what detectors cost, split by part, in training form and as deployed.

    Deployed: parallel branches are added up (RepVGG, MobileOne, RepViT, FastViT) and batch norms
    folded into convolutions. One multiply-add is one MAC and two FLOPs; convolutions and matrix
    products count, and whatever else computes is listed. Activations are the numbers that the
    counted operations put out; peak memory is the most that weights, image and intermediate
    results hold at once in float32. Nothing is downloaded. A preset (yolov5n to yolov5x) always
    brings its own neck.

    [bold]Examples[/bold]

      ossa cost yolov5n yolov5s

      ossa cost convnext_tiny repvgg_a1 --neck s --imgsz 320 --json

      ossa cost resnet50 convnext_tiny --classifier 1000 --imgsz 224
    """
    from ossa.cli.console import print_json
    from ossa.config import check_imgsz
    from ossa.cost.model_cost import cost_classifier, cost_detector

    if as_csv and as_json:
        raise ConfigError("expected --csv or --json, found both")
    if classifier is not None and (classes, neck) != (None, None):
        raise ConfigError(
            "a classifier has its own classes and no neck: with --classifier leave --classes and "
            "--neck out"
        )
    models = list(dict.fromkeys(models))
    if classifier is None:
        side = imgsz or _DETECTOR_IMGSZ
        check_imgsz(side, stride=32)
        settings = {"num_classes": classes or _NUM_CLASSES, "neck": neck or "s", "imgsz": side}
        costs = [cost_detector(model, **settings, compare=compare) for model in models]
    else:
        settings = {"num_classes": classifier, "imgsz": imgsz or _CLASSIFIER_IMGSZ}
        costs = [cost_classifier(model, **settings, compare=compare) for model in models]
    rows = [cost.row() for cost in costs]
    if as_json:
        print_json(rows)
    elif as_csv:
        _print_csv(rows)
    else:
        _print_tables(costs)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    """Prints one line a model; lists of operations as 'silu 57 11827200; add 7 1177600'."""

    def cell(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return "; ".join(" ".join(map(str, entry.values())) for entry in value)

    write_csv(sys.stdout, [rows[0].keys(), *(map(cell, row.values()) for row in rows)])


def _print_tables(costs: "list[ModelCost]") -> None:
    from ossa.cli.console import print_table

    print_table(_figures_table(costs))
    print_line()
    print_table(_uncounted_table(costs))
    print_line()
    for cost in costs:
        print_line(f"{cost.model}: {_difference(cost)}")


def _figures_table(costs: "list[ModelCost]") -> "Table":
    from ossa.cli.console import new_table

    table = new_table("model", "", "total", *costs[0].training.parts)
    for cost in costs:
        name = cost.model
        for form, note in ((cost.training, ""), (cost.fused, ", deployed")):
            for title, key, unit in _FIGURES:
                columns = (form.total, *form.parts.values())
                figures = [_figure(getattr(column, key), unit) for column in columns]
                table.add_row(name, title + note, *figures)
                name = ""
    return table


def _figure(number: int, unit: str) -> str:
    """Returns '1.87 M', '30.1 MB', or '0 B'."""
    from ossa.cli.console import with_unit

    text = with_unit(number)
    return text + unit if " " in text or not unit else f"{text} {unit}"


def _uncounted_table(costs: "list[ModelCost]") -> "Table":
    """Returns every operation that has no FLOPs, with its calls and the numbers it puts out."""
    from ossa.cli.console import new_table, with_unit

    table = new_table(
        "model", "not counted", "calls", "numbers", "calls, deployed", "numbers, deployed"
    )
    for cost in costs:
        name = cost.model
        forms = [
            {entry.operation: (str(entry.calls), with_unit(entry.elements)) for entry in entries}
            for entries in (cost.training.uncounted, cost.fused.uncounted)
        ]
        for operation in {**forms[0], **forms[1]}:
            cells = [cell for form in forms for cell in form.get(operation, ("–", "–"))]
            table.add_row(name, operation, *cells)
            name = ""
    return table


def _difference(cost: "ModelCost") -> str:
    if cost.difference is None:
        return "the outputs of the two forms were not compared"
    return (
        f"the outputs of the two forms differ by {cost.difference.absolute:.1e} at most, "
        f"{cost.difference.relative:.1e} of the largest "
        f"(rounding of the weights alone makes {cost.difference.rounding:.1e})"
    )
