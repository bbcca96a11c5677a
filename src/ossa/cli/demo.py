"""`ossa demo`: two backbones learn the same scenes, and a page shows what each buys and costs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import RunFailed
from ossa.machine import count_processors

_STUDY: dict[str, Any] = {
    "name": "demo",
    "description": "Two backbones learn to tell shapes apart in generated scenes.",
    "data": "scenes",
    "models": ["cspdarknet_n", "cs3darknet_focus_s"],
    "neck": "n",
    # Scenes differ in place, size and colour by themselves: a flip is all the change they need.
    "recipe": {
        "base": "quick",
        "epochs": 4,
        "imgsz": 160,
        "train": {"lr": 0.004},
        "augment": {"scale": 0.0, "translate": 0.0, "saturation": 0.3, "value": 0.2},
    },
}
_IMAGES = {"train": 1200, "val": 120}


@command()
def demo(
    *,
    output: Annotated[Path, "Folder for the data set, the runs and the page."] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000), "Fewer for a quick look."
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1), "Of the scenes and of both runs."] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Draw a data set, train two small detectors on it, compare them on one page.

    It is a small study, run like any other ('ossa study'). Takes three to six minutes on two cores
    and needs no network. Everything is written into one folder; an existing one is never
    overwritten.
    """
    from ossa.cli.console import KEYS, Console, print_json, print_metrics_table, row_of
    from ossa.cli.study_output import ending, live_epochs
    from ossa.config import merge
    from ossa.data.synthetic import write_scenes
    from ossa.files import folder_of_results
    from ossa.study.config import ExecutorConfig, check_study
    from ossa.study.executors import create_executor
    from ossa.study.folder import create_study
    from ossa.study.measure import measure_models
    from ossa.study.report.report import write_study_report
    from ossa.study.results import load_study
    from ossa.study.runner import run_study

    settings = {"seeds": [seed], "recipe": {"epochs": epochs}} if epochs else {"seeds": [seed]}
    with Console() as console, folder_of_results(output) as folder:
        with console.progress("drawing scenes") as on_image:
            data = write_scenes(folder / "scenes", images=_IMAGES, seed=seed, on_image=on_image)
        study = create_study(
            check_study(merge(_STUDY, settings), where="the demo"),
            folder / "study",
            data=data.parent,
            weights_folder=folder,
        )
        jobs = min(len(study.plan.runs), count_processors())
        with live_epochs(console, study):
            states = run_study(
                study,
                create_executor(ExecutorConfig(jobs=jobs, device="cpu")),
                on_run=lambda state: console.note(ending(state)),
            )
        for state in states:
            if state.state != "done":
                raise RunFailed(f"{state.run.name} {state.state}: {state.reason}")
        with console.progress("timing both one after the other, in turn"):
            measure_models(study, states, callback=console)
        with console.progress("writing the report"):
            results = load_study(study)
            page = write_study_report(results, folder / "report")
    rows = [row_of({key: run.row.get(key) for key in KEYS}) for run in results.runs]
    if as_json:
        print_json(rows)
    else:
        print_metrics_table(rows)
    console.note(f"page with curves and pictures: {page}")
