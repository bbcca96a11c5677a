"""`ossa study`: train and compare many backbones under identical conditions."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from ossa.cli import options, study_folders, study_publish
from ossa.cli.command import command
from ossa.cli.study_publish import Study, StudyFolderArgument
from ossa.errors import ConfigError
from ossa.escaping import print_line

_Root: TypeAlias = Annotated[options.Folder | None, options.shown("the folder of the file")]
DataRoot = Annotated[
    _Root, typer.Option(envvar="OSSA_DATA_ROOT"), "Folder of the data sets of studies."
]
WeightsRoot = Annotated[_Root, "Folder of the weights and recipes of the study."]
Output = Annotated[
    options.Folder | None, options.shown("runs/NAME"), "Folder of the runs, records and report."
]
_MACHINE = typer.Option(rich_help_panel=options.MACHINE_PANEL)
Executor = Annotated[options.Name | None, _MACHINE, "local, ray or slurm; overrides the file."]
Jobs = Annotated[options.Count | None, _MACHINE, "Concurrent runs; one per GPU or one on the CPU."]
verify, publish = study_publish.verify, study_publish.publish
AllowUnlabeled = Annotated[bool, "Allow more than half of the training images to have no label."]


@command()
def plan(
    study: Study,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    no_measure: Annotated[bool, "Do not measure seconds and memory."] = False,
    detect: Annotated[
        float | None,
        typer.Option(min=0.001, max=1.0, metavar="AP"),
        "Say how many seeds find this difference between two models.",
    ] = None,
    power: Annotated[
        float, typer.Option(min=0.5, max=0.99, metavar="P"), "With which probability."
    ] = 0.8,
    pilot: Annotated[
        options.Folder | None,
        options.shown("the study itself"),
        "The folder of a study with finished runs, for the deviations of --detect.",
    ] = None,
    allow_unlabeled: AllowUnlabeled = False,
    executor: Executor = None,
    jobs: Jobs = None,
    device: options.Device = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Show every run of a study, its cost, and the settings that all runs share.

    Seconds and memory are estimated from a few steps of each model here. Nothing is written.

    [bold]Example[/bold]

      ossa study plan studies/bccd-320.yaml --data-root data

      ossa study plan studies/bccd-320.yaml --data-root data --detect 0.02 --pilot runs/bccd-224
    """
    from ossa.cli.console import Console, print_json
    from ossa.cli.study_output import plan_rows, print_plan, print_seeds_needed
    from ossa.models.detector import check_name
    from ossa.study.measure import estimate_models
    from ossa.study.plan import summarize_data

    written: dict[str, Any] = {}
    plans = study_folders.plans_of(study, data_root=data_root, weights_root=weights_root)
    for model in dict.fromkeys(name for planned in plans.values() for name in planned.study.models):
        check_name(model)
    for data, planned in plans.items():
        chosen = study_folders.executor_config(planned.study, executor, jobs=jobs, device=device)
        with Console() as console:
            with console.progress("checking images"):
                summary = summarize_data(planned, allow_unlabeled=allow_unlabeled, callback=console)
            seeds = None
            if detect is not None:
                from_pilot = (planned, pilot or study, console, detect, power)
                seeds = study_folders.seeds_from_pilot(*from_pilot)
            estimates = {}
            if not no_measure:
                with console.progress("measuring a few steps of each model") as on_model:
                    here = {"device": options.choose_device(device), "threads": chosen.threads or 1}
                    here |= {"num_classes": summary.num_classes, "on_model": on_model}
                    estimates = estimate_models(planned, **here)
        rows = plan_rows(planned, summary, estimates)
        found = {"detect": asdict(seeds)} if seeds else {}
        written[data] = {"runs": rows, **summary.flat(planned), **found}
        if not as_json:
            if data:
                print_line(f"data set {data}")
            print_plan(planned, summary, rows, jobs=chosen.jobs or 1)
            if seeds:
                print_seeds_needed(seeds)
    if as_json:
        print_json(written.get("", {"data_sets": written}))


@command()
def run(
    study: Study,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    output: Output = None,
    executor: Executor = None,
    jobs: Jobs = None,
    device: options.Device = None,
    workers: options.Workers = None,
    cache: options.Cache = None,
    retry_failed: Annotated[bool, "Train failed runs again."] = False,
    until: Annotated[
        Literal["done", "decided"],
        typer.Option(metavar="WHEN"),
        "done: every run. decided: look after 3, 5 and 8 seeds (`looks` of the study) and train "
        "more seeds only of models that are neither different nor practically the same.",
    ] = "done",
    allow_unlabeled: AllowUnlabeled = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Train every run of a study that is not finished.

    The command can be interrupted at any point and started again to resume the study. A run that
    fails is listed with its reason and does not stop the others.

    [bold]Examples[/bold]

      ossa study run studies/bccd-320.yaml --data-root data

      ossa study run runs/bccd-320 --jobs 2

      ossa study run studies/bccd-320.yaml --data-root data --until decided
    """
    from ossa.cli.console import Console
    from ossa.cli.study_run import run_here

    roots = {"data_root": data_root, "weights_root": weights_root}
    if until == "decided" and retry_failed:
        raise ConfigError("--retry-failed trains every failed run: leave out --until decided")
    opened = study_folders.open_studies(study, **roots, output=output, begin=True)
    machine = {"jobs": jobs, "device": device, "workers": workers, "cache": cache}
    how = {"until": until, "retry_failed": retry_failed, "allow_unlabeled": allow_unlabeled}
    folder = shlex.quote(str(opened.path))
    states = []
    with Console() as console:
        for note in opened.notes:
            console.note(note)
        for one in opened.studies.values():
            chosen = study_folders.executor_config(one.study, executor, **machine)
            try:
                states += run_here(one, chosen, console, device=device, **how)
            except KeyboardInterrupt:
                console.note(f"stopped; go on with: ossa study run {folder}")
                raise typer.Exit(1) from None
    needless = ("done", "waiting") if until == "decided" else ("done",)
    unfinished = [state for state in states if state.state not in needless]
    done = sum(state.state == "done" for state in states)
    console.note(f"{done} of {len(states)} runs are done")
    console.note(f"next: ossa study report {folder}")
    if unfinished:
        raise typer.Exit(1)


@command()
def status(study: Study, output: Output = None, as_json: options.AsJson = False) -> None:
    """Show the progress of a study, the time left and the ranking so far.

    [bold]Example[/bold]

      ossa study status runs/bccd-320
    """
    from ossa.cli.console import print_json
    from ossa.cli.study_output import print_status, status_rows

    rows = []
    for data, one in study_folders.open_studies(study, output=output).studies.items():
        states = one.states()
        rows += [({"data": data} if data else {}) | row for row in status_rows(one, states)]
        if not as_json:
            print_status(one, states)
    if as_json:
        print_json(rows)


@command()
def add(
    study: Annotated[Study, "The folder of a study that was started."],
    model: Annotated[list[str] | None, typer.Option(metavar="NAME"), "A model to add."] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, metavar="N"), "A seed to add, for all models."
    ] = None,
) -> None:
    """Add models and seeds to a study; 'ossa study run' then trains the new runs.

    [bold]Example[/bold]

      ossa study add runs/bccd-320 --model convnext_nano --seed 3
    """
    from ossa.cli.console import Console
    from ossa.study.datasets import extend_studies, is_study_set
    from ossa.study.folder import extend_study

    if not model and not seed:
        raise ConfigError("expected --model or --seed, found neither")
    more = {"models": model or [], "seeds": seed or []}
    several = is_study_set(study)
    extended = extend_studies(study, **more) if several else (extend_study(study, **more),)
    states = [state for one in extended for state in one.states()]
    waiting = sum(state.state == "waiting" for state in states)
    console = Console()
    console.note(f"{study}: {len(states)} runs, {waiting} of them are waiting")
    console.note(f"next: ossa study run {shlex.quote(str(study))}")


@command()
def report(
    study: StudyFolderArgument,
    output: Annotated[
        options.Folder | None,
        options.shown("STUDY/report"),
        "Folder of the page, its figures and tables.",
    ] = None,
    measurements: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE"),
        "A measurements-NAME.json of another machine (see pack); may be repeated.",
    ] = None,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write the report: the best model per budget, table, pairs, fits, detections, conditions.

    The page is one self-contained HTML file, summary.md has its sentences. Every figure is also SVG
    and PNG, every table CSV, Markdown and LaTeX. Missing and failed runs are listed, not imputed.

    [bold]Examples[/bold]

      ossa study report runs/bccd-320

      ossa study report runs/bccd-320 --measurements measurements-laptop.json
    """
    from ossa.cli.console import Console
    from ossa.study.pack import machines_by_data
    from ossa.study.report.across import write_studies_report
    from ossa.study.report.report import write_study_report

    if output is not None:
        options.check_writable("--output", output)
    opened = study_folders.open_studies(study)
    output = output or opened.path / "report"
    with Console() as console:
        results = {
            data: study_folders.read_results(one.path, console)
            for data, one in opened.studies.items()
        }
        machines = machines_by_data(results, measurements or [])
        with console.progress("drawing") as on_figure:
            options_of_page: dict[str, Any] = {"on_figure": lambda n: on_figure(n, max(n, 34))}
            if len(results) > 1:
                notes = opened.notes
                page = write_studies_report(
                    results, output, machines=machines, notes=notes, **options_of_page
                )
            else:
                ((data, one),) = results.items()
                page = write_study_report(one, output, machines=machines[data], **options_of_page)
    print_line(page)


@command()
def pack(
    study: StudyFolderArgument,
    output: Annotated[
        options.Folder | None, options.shown("STUDY/pack"), "A new folder to carry elsewhere."
    ] = None,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Export the models of a study, to be timed on another machine without torch and ossa.

    The folder has the models with NMS, a script that needs numpy and onnxruntime or openvino alone,
    and a sheet of what to do. 'ossa study report --measurements' reads what the script writes.

    [bold]Example[/bold]

      ossa study pack runs/bccd-320 --output pack
    """
    from ossa.cli.console import Console
    from ossa.study.folder import read_study_folder
    from ossa.study.pack import write_pack

    folder = study_folders.folder_of(study)
    output = output or folder / "pack"
    options.check_writable("--output", output)
    with Console() as console:
        with console.progress("exporting models") as on_model:
            left_out = write_pack(read_study_folder(folder), output, on_model=on_model)
        for model, reason in left_out.items():
            console.note(f"left out: {model}: {reason}")
        console.note(f"next: copy {shlex.quote(str(output))} to the other machine; see README.md")


@command()
def predict(
    study: StudyFolderArgument,
    model: Annotated[
        options.Name | None, "A backbone that was not trained; its cost is computed."
    ] = None,
    flops: Annotated[
        float | None, typer.Option(metavar="X"), "FLOPs per image, such as 4.5e9."
    ] = None,
    params: Annotated[
        float | None, typer.Option(metavar="X"), "Parameters of the detector, such as 7.2e6."
    ] = None,
    quality: Annotated[
        options.Name, "ap, ap50, ap_small, ap_crowded, recall or inverse_loss."
    ] = "ap",
    complexity: Annotated[
        Literal["params", "flops", "macs"] | None,
        typer.Option(metavar="NAME", show_default="params"),
        "With --model: the measure to predict from, params, flops or macs.",
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Predict the quality of a model that was not trained, with an 80% interval.

    From the form of law that predicts best (at least 8 models), with a CV+ interval. Without
    --model, the model is of a new family. The output includes a test of such predictions, in which
    models and families of the study are left out.

    [bold]Examples[/bold]

      ossa study predict runs/bccd-320 --model resnet26

      ossa study predict runs/bccd-320 --flops 4.5e9 --quality recall
    """
    from ossa.cli.console import Console, print_json
    from ossa.cli.study_output import print_prediction
    from ossa.study.measure import cost_in_study
    from ossa.study.prediction import predict_quality

    given = [name for name in (model, flops, params) if name is not None]
    if len(given) != 1:
        raise ConfigError(f"expected one of --model, --flops and --params, found {len(given)}")
    if complexity is not None and model is None:
        raise ConfigError("--complexity needs --model: --flops and --params set the measure")
    folder = study_folders.folder_of(study)
    with Console() as console:
        results = study_folders.read_results(folder, console)
        if model is not None:
            measure = complexity or "params"
            cost = cost_in_study(results.folder, model, num_classes=len(results.index.names))
            at = float(getattr(cost, measure))
        else:
            measure, at = ("flops", flops) if flops is not None else ("params", params)
        family = None if model is None else results.study.family(model)
        predicted = predict_quality(
            results, at or 0.0, quality=quality, complexity=measure, family=family
        )
    if as_json:
        print_json({"study": results.study.name, "model": model, **predicted.flat()})
    else:
        print_prediction(results, predicted, model)
