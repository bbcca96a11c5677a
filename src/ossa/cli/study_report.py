"""`ossa study report` and `ossa study predict`: what the runs of a study tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.prediction import StudyPrediction
    from ossa.study.results import StudyResults

Study = Annotated[
    Path,
    typer.Argument(
        help="The folder of a study, or its file where the folder is runs/NAME.", metavar="STUDY"
    ),
]


@command()
def report(
    study: Study,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the page, its figures and tables.",
            metavar="FOLDER",
            show_default="STUDY/report",
        ),
    ] = None,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write the page of a study: tables, curves, laws, frontier, pictures, answers, conditions.

    One HTML file that needs nothing beside it. Every figure is also written as SVG and PNG, every
    table as CSV, Markdown and LaTeX. Runs that are missing or failed are listed, never filled in.

    [bold]Examples[/bold]

      ossa study report runs/bccd-320

      ossa study report runs/bccd-320 --output site
    """
    from ossa.cli.console import Console
    from ossa.cli.options import check_writable
    from ossa.study.report.report import write_study_report

    folder = _folder_of(study)
    output = output or folder / "report"
    check_writable("--output", output)
    with Console() as console:
        results = _read(folder, console)
        with console.progress("drawing") as on_figure:
            page = write_study_report(
                results,
                output,
                on_figure=lambda done: on_figure(done, max(done, _ABOUT_FIGURES)),
            )
    print_line(page)


_ABOUT_FIGURES = 34
"""In a report of everything that can be measured."""


@command()
def predict(
    study: Study,
    model: Annotated[
        str | None,
        typer.Option(help="A backbone that was not trained; its cost is counted.", metavar="NAME"),
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="FLOPs of one image, such as 4.5e9.", metavar="X")
    ] = None,
    params: Annotated[
        float | None, typer.Option(help="Parameters of the detector, such as 7.2e6.", metavar="X")
    ] = None,
    quality: Annotated[
        str,
        typer.Option(
            help="ap, ap50, ap_small, ap_crowded, recall or inverse_loss.", metavar="NAME"
        ),
    ] = "ap",
    complexity: Annotated[
        str | None,
        typer.Option(
            help="With --model: params, flops or macs, from which it is predicted.",
            metavar="NAME",
            show_default="params",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell the quality to expect of a model that was not trained, with an interval of 80 %.

    From the law of the study's models, eight at least, and jackknife+; with the test of such
    predictions, in which models and families of the study are left out.

    [bold]Examples[/bold]

      ossa study predict runs/bccd-320 --model resnet26

      ossa study predict runs/bccd-320 --flops 4.5e9 --quality recall
    """
    from ossa.cli.console import Console, print_json
    from ossa.study.prediction import cost_in_study, predict_quality

    given = [name for name in (model, flops, params) if name is not None]
    if len(given) != 1:
        raise ConfigError(f"expected one of --model, --flops and --params, found {len(given)}")
    if complexity is not None and model is None:
        raise ConfigError("--complexity goes with --model: --flops and --params say what they are")
    if complexity not in (None, "params", "flops", "macs"):
        raise ConfigError(f"expected --complexity params, flops or macs, found {complexity!r}")
    folder = _folder_of(study)
    with Console() as console:
        results = _read(folder, console)
        if model is not None:
            measure = complexity or "params"
            classes = len(results.index.names)
            cost = cost_in_study(results.folder, model, num_classes=classes)
            at = float(getattr(cost, measure))
        else:
            measure, at = ("flops", flops) if flops is not None else ("params", params)
        found = predict_quality(results, at or 0.0, quality=quality, complexity=measure)
    if as_json:
        print_json({"study": results.study.name, "model": model, **found.flat()})
    else:
        _print(results, found, model)


def _print(results: "StudyResults", found: "StudyPrediction", model: str | None) -> None:
    from ossa.cli.console import with_unit
    from ossa.study.results import COMPLEXITIES, QUALITIES
    from ossa.study.scaling import InsufficientData

    prediction, quality = found.prediction, QUALITIES[found.quality]
    size = f"{with_unit(prediction.complexity)} {COMPLEXITIES[found.complexity]}"
    print_line(
        f"{model + ', ' if model else ''}{size}: {quality} {prediction.expected:.3f} to expect, "
        f"80 %: {prediction.low:.3f} to {prediction.high:.3f} (from {prediction.num_models} models)"
    )
    if not prediction.inside:
        print_line("Extrapolated: no model of the study is as small, or as large.")
    if model in results.study.models:
        print_line(f"{model} is a model of the study: the report has what it reached.")
    for left_out, test in found.validations.items():
        without = "without the model itself" if left_out == "model" else "without its whole family"
        if isinstance(test, InsufficientData):
            print_line(f"Test {without}: none, {test.reason}.")
            continue
        low, high = test.coverage_interval
        print_line(
            f"Test {without}: mean absolute error {test.mean_absolute_error:.3f}, {test.coverage} "
            f"intervals hold (95 %: {low:.0%} to {high:.0%})."
        )


def _folder_of(study: Path) -> Path:
    """Returns the folder of a study, named by itself or by its file."""
    from ossa.study.config import read_study

    return Path("runs") / read_study(study).name if study.is_file() else study


def _read(folder: Path, console: "Console") -> "StudyResults":
    from ossa.study.folder import read_study_folder
    from ossa.study.results import load_study

    opened = read_study_folder(folder)
    with console.progress("reading runs") as on_run:
        return load_study(opened, on_run=on_run)
