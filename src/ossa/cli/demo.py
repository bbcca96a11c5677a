"""`ossa demo`: two backbones learn the same scenes, and a page shows what each buys and costs."""

from pathlib import Path
from typing import Annotated

import typer

from ossa.cli import options

_MODELS = ("cspdarknet_n", "resnet10t")
_NECK = "n"
_SETTINGS = {"train": {"epochs": 16, "imgsz": 160}}


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the data set, the runs and the page.")
    ] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a quick look.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and of both runs.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Draw a data set, train two small detectors on it, compare them on one page.

    Takes about four minutes on two cores and needs no network. Everything is written into one
    folder; an existing one is never overwritten.
    """
    from ossa.cli.console import Console
    from ossa.cli.output import print_json, print_metrics_table, row_of
    from ossa.config import ModelConfig, merge
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.data.scenes import write_scenes
    from ossa.files import new_folder
    from ossa.study.pages import write_comparison
    from ossa.study.run import run_models

    folder = new_folder(output)
    settings = merge(_SETTINGS, {"train": {"epochs": epochs}} if epochs else {})
    with Console() as console:
        with console.progress("drawing scenes") as on_image:
            data = write_scenes(folder / "scenes", seed=seed, on_image=on_image)
        runs = run_models(
            [ModelConfig(name=name, neck=_NECK) for name in _MODELS],
            folder / "runs",
            data=str(data),
            recipe="quick",
            settings=settings,
            seed=seed,
            watcher=console,
        )
    page = write_comparison(
        runs,
        read_index(read_description(data), "val").index,
        folder / "index.html",
        title="Two backbones, the same conditions",
        subtitle=f"{' and '.join(_MODELS)} learn to tell shapes apart in generated scenes.",
    )
    rows = [row_of(run.row()) for run in runs]
    if as_json:
        print_json(rows)
    else:
        print_metrics_table(rows)
    console.note(f"page with curves and pictures: {page}")
