"""`ossa cost`: what detectors cost, in the form that is trained and in the form that is used."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line, write_csv

if TYPE_CHECKING:
    from ossa.cost.model_cost import ModelCost


@command(panels={options.MACHINE_PANEL: "as_csv"})
def cost(
    *,
    models: Annotated[list[str], options.ModelArgument],
    imgsz: Annotated[options.Side | None, options.shown("640, of a classifier 224")] = None,
    classes: Annotated[options.Classes | None, options.shown("80")] = None,
    neck: Annotated[options.Neck | None, options.shown("s")] = None,
    neck_type: Annotated[options.NeckType | None, options.shown("pafpn")] = None,
    head: Annotated[options.Head | None, options.shown("anchor")] = None,
    equal_conditions: Annotated[
        bool, "As a study trains it: the same lateral at every level behind every backbone."
    ] = False,
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

      ossa cost convnext_tiny repvgg_a1 --neck s --imgsz 320 --json

      ossa cost resnet50 convnext_tiny --classifier 1000 --imgsz 224
    """
    from ossa.cli.console import print_json
    from ossa.config import check_imgsz
    from ossa.cost.model_cost import cost_classifier, cost_detector

    if as_csv and as_json:
        raise ConfigError(expected="--csv or --json", found="both")
    of_detectors = (classes, neck, neck_type, head, equal_conditions or None)
    if classifier is not None and any(option is not None for option in of_detectors):
        raise ConfigError(
            expected="no --classes, --neck, --neck-type, --head or --equal-conditions beside "
            "--classifier",
            found="one of them",
        )
    models = list(dict.fromkeys(models))
    if classifier is None:
        check_imgsz(imgsz or 640, stride=32)
        settings: dict[str, Any] = {"num_classes": classes or 80, "imgsz": imgsz or 640}
        settings |= {"neck": neck or "s", "neck_type": neck_type or "pafpn"}
        settings |= {"head": head or "anchor", "equal_conditions": equal_conditions}
        costs = [cost_detector(model, **settings, compare=compare) for model in models]
    else:
        settings = {"num_classes": classifier, "imgsz": imgsz or 224}
        costs = [cost_classifier(model, **settings, compare=compare) for model in models]
    rows = [cost.row() for cost in costs]
    if as_json:
        print_json(rows)
    elif as_csv:
        write_csv(sys.stdout, [rows[0].keys(), *(map(_csv_cell, row.values()) for row in rows)])
    else:
        _print_tables(costs)


def _csv_cell(value: Any) -> Any:
    """Returns lists of operations as 'silu 57 11827200; add 7 1177600'."""
    if not isinstance(value, list):
        return value
    return "; ".join(" ".join(map(str, entry.values())) for entry in value)


def _print_tables(costs: "list[ModelCost]") -> None:
    """Prints figures by part, the operations without FLOPs, and the difference of the forms."""
    from ossa.cli.console import new_table, print_table, with_unit

    keys = {"parameters": "params", "FLOPs": "flops", "MACs": "macs", "activations": "activations"}
    figures = new_table("model", "", "total", *costs[0].training.parts)
    titles = ("not counted", "calls", "numbers", "calls, deployed", "numbers, deployed")
    uncounted = new_table("model", *titles)
    for cost in costs:
        name = cost.model
        for form, note in ((cost.training, ""), (cost.fused, ", deployed")):
            columns = (form.total, *form.parts.values())
            for title, key in keys.items():
                texts = [with_unit(getattr(column, key)) for column in columns]
                figures.add_row(name, title + note, *texts)
                name = ""
            peaks = [with_unit(column.peak_bytes) for column in columns]
            peaks = [f"{peak}B" if " " in peak else f"{peak} B" for peak in peaks]
            figures.add_row("", f"peak memory{note}", *peaks)
        name = cost.model
        forms = [
            {entry.operation: (str(entry.calls), with_unit(entry.elements)) for entry in entries}
            for entries in (cost.training.uncounted, cost.fused.uncounted)
        ]
        for operation in {**forms[0], **forms[1]}:
            cells = [cell for form in forms for cell in form.get(operation, ("–", "–"))]
            uncounted.add_row(name, operation, *cells)
            name = ""
    for table in (figures, uncounted):
        print_table(table)
        print_line()
    for cost in costs:
        difference = "the outputs of the two forms were not compared"
        if cost.difference is not None:
            difference = (
                f"the outputs of the two forms differ by {cost.difference.absolute:.1e} at most, "
                f"{cost.difference.relative:.1e} of the largest (rounding of the weights alone "
                f"makes {cost.difference.rounding:.1e})"
            )
        print_line(f"{cost.model}: {difference}")
