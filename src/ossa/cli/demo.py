"""`ossa demo`: two backbones learn the same scenes, and a page shows what each buys and costs."""

from pathlib import Path
from typing import Annotated

import typer

from ossa.cli import options

_MODELS = ("cspdarknet_n", "cs3darknet_focus_s")
_NECK = "n"
_IMAGES = {"train": 1200, "val": 120}
# Scenes differ in place, size and colour by themselves: a flip is all the augmentation they need.
_SETTINGS = {
    "train": {"epochs": 4, "imgsz": 160, "lr": 0.004},
    "augment": {"scale": 0.0, "translate": 0.0, "saturation": 0.3, "value": 0.2},
}


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the data set, the runs and the page.")
    ] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a quick look.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and of both runs.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Draw a data set, train two small detectors on it, compare them on one page.

    Takes under five minutes on two cores and needs no network. Everything is written into one
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
            data = write_scenes(folder / "scenes", images=_IMAGES, seed=seed, on_image=on_image)
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
