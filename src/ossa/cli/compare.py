"""`ossa compare`: which of several detectors is better, and how sure that is."""

from collections.abc import Sequence
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError, DataError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.data.annotations import DatasetIndex
    from ossa.evaluate.matching import Matches
    from ossa.evaluate.statistics import Comparison, Interval
    from ossa.train.run_folder import FinishedRun


@command()
def compare(
    *,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL"),
        "The folder of a run, or a COCO results file. Several seeds of a model: separated by "
        "commas, or a quoted pattern. The others are compared with the first.",
    ],
    data: Annotated[options.DataPath | None, options.shown("that of the runs")] = None,
    split: Annotated[str, "Of results files: val, test or train."] = "val",
    metric: Annotated[
        str,
        options.NAMES,
        "ap, ap50, ap75, ar_100, or ap_ with small to large or isolated to crowded.",
    ] = "ap,ap50,ap75",
    resamples: Annotated[
        options.Count, typer.Option(min=100, max=100_000), "How often the images are drawn anew."
    ] = 2000,
    seed: Annotated[options.Natural, "Of these draws."] = 0,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Tell how good a detector is, or which beat the first one, with 95% intervals.

    The images are drawn anew with replacement, the same draws for all models, and the metrics
    computed from the detections that lie there; no model is run. With three runs a model, the
    verdict is about other seeds, too. It is never 'equal': differences are found or not found.

    [bold]Examples[/bold]

      ossa compare 'runs/yolov5n-seed*' 'runs/convnext_atto-seed*' --metric ap

      ossa compare ours.json theirs.json.gz --data coco --split val

      ossa compare runs/yolov5n
    """
    from ossa.cli.console import Console, print_json
    from ossa.evaluate.bootstrap import check_metrics, needs_bins
    from ossa.evaluate.object_bins import bins_of
    from ossa.evaluate.statistics import compare_models

    metrics = list(dict.fromkeys(name.strip() for name in metric.split(",")))
    check_metrics(metrics)
    sources = [_read_sources(model) for model in models]
    with Console() as console:
        index = _read_index(sources, data=data, split=split, console=console)
        _note_environments(sources, console)
        differing = _differing_settings(sources, console)
        matches = [[_match(source, index) for source in model] for model in sources]
        with console.progress("resampling") as on_run:
            rows = compare_models(
                matches,
                metrics=metrics,
                bins=partial(bins_of, index) if needs_bins(metrics) else None,
                resamples=resamples,
                seed=seed,
                groups=index.groups,
                on_run=on_run,
            )
    if as_json:
        shared: dict[str, Any] = {"images": len(index), "resamples": resamples, "seed": seed}
        shared["differing_settings"] = differing
        print_json([{**_flat(row, models, len(matches[row.model])), **shared} for row in rows])
    else:
        _print_tables(rows, models)
        images = f"{len(index)} images"
        if index.groups is not None:
            images += f" in {index.num_units} groups"
        _print_notes(rows, matches, images=images, resamples=resamples)


def _read_sources(model: str) -> "list[FinishedRun | Path]":
    """Returns the runs, and the paths of results files, of one argument."""
    from ossa.train.run_folder import FinishedRun, check_seeds, read_finished_run

    sources: list[FinishedRun | Path] = []
    for part in map(str.strip, model.split(",")):
        pattern = has_magic(part) and not Path(part).exists()
        paths = sorted(glob(part)) if pattern else [part]
        if not paths:
            raise DataError(expected=f"runs or results files like {part}")
        for path in map(Path, paths):
            if not path.exists():
                raise DataError(expected="the folder of a run or a COCO results file", path=path)
            sources.append(read_finished_run(path) if path.is_dir() else path)
    if runs := [source for source in sources if isinstance(source, FinishedRun)]:
        check_seeds(runs)
    return sources


def _read_index(
    sources: "Sequence[Sequence[FinishedRun | Path]]",
    *,
    data: str | None,
    split: str,
    console: "Console",
) -> "DatasetIndex":
    """Returns the images and objects that all models were scored on."""
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.train.run_folder import FinishedRun, same_images

    runs = [source for model in sources for source in model if isinstance(source, FinishedRun)]
    if not runs:
        if data is None:
            raise ConfigError(
                expected="--data beside results files, which do not name their images"
            )
        report = read_index(read_description(data, annotations_only=True), split)
        console.faults(report)
        return report.index
    if split != "val":
        raise ConfigError(expected="--split val for runs", found=split)
    first = runs[0]
    index = _val_split(data or first.config.data, first, console)
    for run in runs:
        if run.val_fingerprint == index.fingerprint():
            if not same_images(run.val_images, first.val_images):
                raise DataError(
                    expected="models scored on the same images",
                    found=f"other pixels for {run.folder} than for {first.folder}",
                    advice="train one of them anew",
                )
        elif run is first or data is not None:
            raise DataError(
                expected=f"the val split that {run.folder} was scored on",
                found="another",
                path=data or run.config.data,
                advice="give the data as they were with --data",
            )
        else:
            other = _val_split(run.config.data, run, console)
            what = "other objects in the same images"
            if index.names != other.names:
                what = f"other classes: {', '.join(index.names)} and {', '.join(other.names)}"
            elif index.file_names.tolist() != other.file_names.tolist():
                what = f"other images: {len(index)} and {len(other)}"
            found = f"in {first.folder} and {run.folder} {what}"
            raise DataError(expected="models scored on one split", found=found)
    return index


def _note_environments(
    sources: "Sequence[Sequence[FinishedRun | Path]]", console: "Console"
) -> None:
    """Says in one line where the environments of the runs differ."""
    from ossa.study.environments import find_differences
    from ossa.train.run_folder import FinishedRun

    runs = [source for model in sources for source in model if isinstance(source, FinishedRun)]
    different = find_differences(None, {str(run.folder): run.record.environment for run in runs})
    if different:
        console.note(f"the runs were not all computed alike: {'; '.join(map(str, different))}")


def _differing_settings(
    sources: "Sequence[Sequence[FinishedRun | Path]]", console: "Console"
) -> list[str]:
    """Returns the settings in which the models were trained differently, and says so in a line."""
    from ossa.train.run_folder import FinishedRun, differing_settings

    firsts = [model[0] for model in sources]
    found = differing_settings([one for one in firsts if isinstance(one, FinishedRun)])
    if found:
        console.note(f"the trainings differ in: {'; '.join(found)}")
    return found


def _val_split(data: str, run: "FinishedRun", console: "Console") -> "DatasetIndex":
    """Returns a split; its images need not be decoded where the fingerprint says they could be."""
    from ossa.data.description import read_description
    from ossa.data.reading import drop_corrupt_images, read_index

    report = read_index(read_description(data), "val")
    if report.index.fingerprint() == run.val_fingerprint:
        return report.index
    with console.progress("checking images") as on_image:
        report = drop_corrupt_images(report, on_image=on_image)
    console.faults(report)
    return report.index


def _match(source: "FinishedRun | Path", index: "DatasetIndex") -> "Matches":
    from ossa.evaluate.coco import read_coco_results
    from ossa.evaluate.matching import match

    if isinstance(source, Path):
        return match(index, read_coco_results(source, index))
    return match(index, source.val_detections(index))


def _flat(row: "Comparison", models: Sequence[str], runs: int) -> dict[str, Any]:
    """Returns the object of --json."""
    known: dict[str, Any] = {"model": models[row.model], "runs": runs, "metric": row.metric}
    for prefix, estimate in (("", row.estimate), ("difference_", row.difference)):
        known[prefix.rstrip("_") or "value"] = estimate and estimate.value
        for kind in ("images", "seeds"):
            low, high = (estimate and getattr(estimate, kind)) or (None, None)
            known |= {f"{prefix}{kind}_low": low, f"{prefix}{kind}_high": high}
        if not prefix:
            known["reference"] = models[0]
    known["p"] = row.difference and row.difference.p
    return known | {"p_adjusted": row.p_adjusted, "verdict": row.verdict}


def _print_tables(rows: "Sequence[Comparison]", models: Sequence[str]) -> None:
    """Prints a table for every metric."""
    from ossa.cli.console import fraction, new_table, print_table
    from ossa.evaluate.metrics import METRIC_TITLES

    def text(interval: "Interval | None", sign: str = "+") -> str:
        if interval is None:
            return "no seed interval"
        return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"

    if len(models) == 1:
        table = new_table(models[0], "value", "over images", "and seeds")
        for row in rows:
            found, title = row.estimate, METRIC_TITLES[row.metric]
            intervals = text(found.images, "-"), text(found.seeds, "-")
            table.add_row(title, fraction(found.value), *intervals)
        print_table(table)
        print_line()
        return
    for metric in dict.fromkeys(row.metric for row in rows):
        titles = ("value", "difference", "over images", "and seeds", "p", "verdict")
        table = new_table(METRIC_TITLES[metric], *titles)
        for row in rows:
            if row.metric != metric:
                continue
            name, value = models[row.model], fraction(row.estimate.value)
            if row.difference is None or row.p_adjusted is None:
                table.add_row(name, value, "reference")
                continue
            table.add_row(
                name,
                value,
                f"{row.difference.value:+.3f}",
                text(row.difference.images),
                text(row.difference.seeds),
                "< 0.001" if row.p_adjusted < 0.001 else f"{row.p_adjusted:.3f}",
                row.verdict,
            )
        print_table(table)
        print_line()


def _print_notes(
    rows: "Sequence[Comparison]",
    matches: "Sequence[Sequence[Matches]]",
    *,
    images: str,
    resamples: int,
) -> None:
    """Prints what the intervals and verdicts are about."""
    from ossa.evaluate.statistics import FEWEST_RUNS

    runs = ", ".join(str(len(model)) for model in matches)
    several = len(matches) > 1
    seeds = [row.difference.seeds for row in rows if row.difference is not None]
    if not several:
        seeds = [row.estimate.seeds for row in rows]
    print_line(
        "Over images, 95%: these weights (of a run, its last) on other images "
        f"({images}, drawn {resamples:,} times)."
    )
    if any(interval is not None for interval in seeds):
        print_line(
            f"And seeds, 95%: other seeds, too ({runs} runs)"
            + ("; p and verdict are about these." if several else ".")
        )
    if None in seeds:
        of, subject = (" of both models", "verdict") if several else ("", "interval")
        print_line(
            f"No seed interval under {FEWEST_RUNS} runs{of} (found {runs}): the {subject} is about "
            "these weights, not about training again."
        )
    if several and len(seeds) > 1:
        print_line(f"p is corrected by Holm for {len(seeds)} comparisons; intervals are not.")
