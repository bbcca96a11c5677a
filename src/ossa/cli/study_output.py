"""Output of `ossa study`: plan, progress, status and prediction."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ossa.cli.console import duration, fraction, new_table, print_table, with_unit
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.study.environments import Difference
    from ossa.study.folder import RunState, StudyFolder
    from ossa.study.measure import RunEstimate
    from ossa.study.plan import DatasetSummary, Plan
    from ossa.study.prediction import StudyPrediction
    from ossa.study.results import StudyResults
    from ossa.study.sequential import Look, SeedsNeeded
    from ossa.study.verify import VerifiedRun


_LAST_BATCH_OF_ONE = (
    "1 image; batch norms that have one value per channel of it use their running statistics"
)

_MEANINGS = {"foreign": "foreign (settings, files or data are not those of the plan)"}
"""Of states whose name does not say enough."""


def plan_rows(
    plan: "Plan", summary: "DatasetSummary", estimates: "Mapping[str, RunEstimate | str]"
) -> list[dict[str, Any]]:
    """Returns one flat object per planned run; null for values that were not measured."""
    rows = []
    for run in plan.runs:
        detector = plan.detector_of(run)
        estimate = estimates.get(detector)
        row: dict[str, Any] = {
            "run": run.name,
            "model": run.model,
            "detector": detector,
            "family": run.family,
            "seed": run.seed,
            **run.varied,
            "neck": run.config.model.neck,
            "equal_conditions": run.config.model.equal_conditions,
            "initial_weights": run.weights.source,
            "policy": run.weights.pretraining,
            "licence": run.weights.licence,
            "config_hash": run.config.digest(),
            **dict.fromkeys(("params", "flops", "macs", "seconds", "peak_bytes", "problem")),
        }
        if isinstance(estimate, str):
            row["problem"] = estimate
        elif estimate is not None:
            row |= {key: getattr(estimate, key) for key in ("params", "flops", "macs")}
            row["peak_bytes"] = estimate.peak_bytes
            row["seconds"] = estimate.run_seconds(
                run.config,
                train_images=summary.train_images,
                val_images=summary.val_images,
            )
        rows.append(row)
    return rows


def print_plan(
    plan: "Plan", summary: "DatasetSummary", rows: Sequence[Mapping[str, Any]], *, jobs: int
) -> None:
    """Prints one line per detector, the total time, and the shared settings."""
    table = new_table(
        "model",
        *("family", "neck", "initial weights", "parameters", "FLOPs", "MACs"),
        *("time per run", "memory"),
    )
    detectors = {row["detector"]: row for row in rows}
    for row in sorted(detectors.values(), key=lambda row: plan.study.models.index(row["model"])):
        name = plan.marked(row["model"]) + row["detector"].removeprefix(row["model"])
        measured = row["seconds"] is not None
        figures = [with_unit(row[key]) for key in ("params", "flops", "macs")] if measured else ()
        last = (duration(row["seconds"]), with_unit(row["peak_bytes"]) + "B") if measured else ()
        problem = ("cannot be trained",) if row["problem"] else ()
        weights = row["initial_weights"]
        table.add_row(name, row["family"], row["neck"], weights, *problem, *figures, *last)
    print_table(table)
    print_line()
    for detector, row in detectors.items():
        if row["problem"]:
            print_line(f"{detector}: {row['problem']}")
    study = plan.study
    varied = [
        f" x {len(levels)} values of {key} ({', '.join(map(str, levels))})"
        for key, levels in study.factors.items()
    ]
    print_line(
        f"{len(plan.runs)} runs: {len(study.models)} models x {len(study.seeds)} seeds"
        + "".join(varied)
        + _time_of_all(rows, jobs)
    )
    _print_conditions(plan, summary)


def _time_of_all(rows: Sequence[Mapping[str, Any]], jobs: int) -> str:
    seconds = [row["seconds"] for row in rows]
    known = [value for value in seconds if value is not None]
    if not known:
        return ""
    rest = f", without {len(seconds) - len(known)} runs" if len(known) < len(seconds) else ""
    at_once = f", {jobs} at a time" if jobs > 1 else ", one after the other"
    return f"; about {duration(sum(known) / jobs)}{at_once}{rest} (without reading images)"


def _print_conditions(plan: "Plan", summary: "DatasetSummary") -> None:
    """Prints the settings that all runs share, and the differences."""
    study, conditions = plan.study, plan.conditions
    sources = {run.model: run.weights.pretraining for run in plan.runs}
    common = next(iter(sources.values())) if len(set(sources.values())) == 1 else None
    last_is_one = summary.last_batch(plan) == 1 != conditions.get("train.batch")

    test = summary.test_images
    tested = "" if test is None else f", {test:,} images"

    def shared(key: str, unit: str = "") -> str:
        return f"{conditions[key]}{unit}" if key in conditions else "varied"

    print_line()
    print_line(f"the same for all runs ({len(conditions)} settings):")
    for name, value in (
        ("recipe", study.recipe.base),
        ("shared settings", f"hash {plan.shared_settings_hash[:16]}"),
        ("epochs, batch", f"{shared('train.epochs')}, {shared('train.batch')}"),
        ("last batch", _LAST_BATCH_OF_ONE if last_is_one else None),
        ("image side", shared("train.imgsz", " px")),
        ("neck", conditions.get("model.neck")),
        ("neck type, head", f"{shared('model.neck_type')}, {shared('model.head')}"),
        ("initial weights", common),
        ("data", f"{summary.train_images:,} and {summary.val_images:,} images, fingerprint "
                 f"{summary.data_fingerprint[:16]}, of their pixels "
                 f"{summary.image_fingerprint[:16]}"),
        ("reported", f"{study.reported.weights} weights on {study.reported.split}{tested}"),
    ):  # fmt: skip
        if value is not None:
            print_line(f"  {name:16} {value}")
    print_line(plan.equality)
    print_line(
        "what differs: the backbone, the seed" + "".join(f", {key}" for key in study.factors)
    )
    for key, values in plan.exceptions.items():
        each = ", ".join(f"{model} {value}" for model, value in values.items())
        print_line(f"  declared: {key} ({each})")
    if common is None:
        each = ", ".join(f"{model} {source}" for model, source in sources.items())
        print_line(f"  declared: weights of different data ({each})")


@contextmanager
def live_epochs(console: "Console", study: "StudyFolder") -> Iterator[None]:
    """Shows the number of epochs trained in the whole study on the progress line."""
    from ossa.study.runner import epochs_trained

    total = sum(run.config.train.epochs for run in study.plan.runs)
    over = threading.Event()
    with console.progress("epochs of all runs") as on_epochs:

        def show() -> None:
            while not over.wait(1.0):
                on_epochs(int(epochs_trained(study)), total)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def ending(state: "RunState") -> str:
    """Returns a line on the result of a run that has ended."""
    result = f"{state.state}: {state.reason}" if state.reason else state.state
    if state.state == "done" and state.record is not None:
        seconds = sum(state.record.times.values())
        result = f"AP {fraction(state.record.metrics['last']['ap'])}, {duration(seconds)}"
    return f"{state.run.name}: {result}"


def status_rows(study: "StudyFolder", states: "Sequence[RunState]") -> list[dict[str, Any]]:
    """Returns one flat object per run."""
    from ossa.study.environments import environments_of, find_differences

    differences = find_differences(study.study, environments_of(states))
    return [
        {
            "run": state.run.name,
            "model": state.run.model,
            "seed": state.run.seed,
            **state.run.varied,
            "state": state.state,
            "epochs_done": state.epochs_done,
            "epochs": state.run.config.train.epochs,
            "equal_conditions": state.run.config.model.equal_conditions,
            "ap": state.record.metrics["last"]["ap"]
            if state.state == "done" and state.record
            else None,
            "differs_in": sorted(
                difference.key
                for difference in differences
                if state.run.name not in next(iter(difference.runs.values()))
                and state.state == "done"
            ),
            "reason": state.reason,
            "folder": str(state.folder),
        }
        for state in states
    ]


def print_status(study: "StudyFolder", states: "Sequence[RunState]") -> None:
    """Prints the number of runs by state, the time left, failures, and the ranking."""
    from ossa.study.environments import environments_of, find_differences
    from ossa.study.runner import seconds_left

    counts = Counter(state.state for state in states)
    print_line(
        f"{study.path}: "
        + ", ".join(f"{number} {_MEANINGS.get(name, name)}" for name, number in counts.items())
    )
    for state in states:
        if state.state in ("running", "interrupted"):
            epochs = state.run.config.train.epochs
            print_line(f"  {state.run.name}: {state.state}, epoch {state.epochs_done} of {epochs}")
        elif state.reason:
            print_line(f"  {state.run.name}: {state.state}: {state.reason}")
    print_differences(find_differences(study.study, environments_of(states)))
    left = seconds_left(states)
    if left:
        print_line(
            f"{duration(left)} of training are left, on one machine like that of the finished runs"
        )
    _print_ranking(study, states)


def print_differences(differences: "Sequence[Difference]") -> None:
    """Prints what differs between the environments of the finished runs."""
    if not differences:
        return
    table = new_table("environments differ in", "value", "runs", "")
    for difference in differences:
        refused = "refused in a report" if difference.is_refused else ""
        for number, (value, runs) in enumerate(difference.described()):
            first = "" if number else difference.key
            table.add_row(first, value, runs, refused if not number else "")
    print_table(table)


def _print_ranking(study: "StudyFolder", states: "Sequence[RunState]") -> None:
    base = study.plan.base
    values: dict[str, list[float]] = {}
    for state in states:
        if state.state == "done" and state.record is not None and state.run.varied == base:
            ap = state.record.metrics["last"]["ap"]
            if ap is not None:  # a val split without an object
                values.setdefault(state.run.model, []).append(ap)
    if not values:
        return
    where = "".join(f", {key} {value}" for key, value in base.items())
    reported = study.study.reported
    if reported.split != "val":
        where += f" (the report: {reported.weights} weights on {reported.split})"
    table = new_table(f"ranking so far, last weights on val{where}", "AP50-95", "runs")
    for model, scores in sorted(values.items(), key=lambda item: -fmean(item[1])):
        table.add_row(study.plan.marked(model), fraction(fmean(scores)), str(len(scores)))
    print_table(table)


def print_verified(verified: "Sequence[VerifiedRun]", sentences: "VerifiedRun | None") -> None:
    """Prints one line per run and on README.md, and then what differs or could not be verified."""
    table = new_table("run", "numbers recomputed", "files hashed", "verdict")
    for run in verified:
        table.add_row(run.run, str(run.numbers), str(run.files), run.verdict)
    print_table(table)
    print_line("times are measurements and are taken as they are")
    if sentences and sentences.verdict == "agrees":
        print_line("README.md agrees: these files give every line of it")
    for run in (*verified, *([sentences] if sentences else [])):
        for mismatch in run.mismatches:
            print_line(f"{run.run} differs: {mismatch}")
        for sentence in run.unverified:
            print_line(f"{run.run} cannot be verified: {sentence}")


def print_prediction(
    results: "StudyResults", predicted: "StudyPrediction", model: str | None
) -> None:
    """Prints a prediction with its interval and the test of such predictions."""
    from ossa.study.laws import FORMS
    from ossa.study.results import COMPLEXITIES, QUALITIES
    from ossa.study.scaling import InsufficientData

    prediction, quality = predicted.prediction, QUALITIES[predicted.quality]
    interval = prediction.interval
    size = f"{with_unit(prediction.complexity)} {COMPLEXITIES[predicted.complexity]}"
    print_line(
        f"{model + ', ' if model else ''}{size}: predicted {quality} {prediction.expected:.3f}, "
        + (
            "no interval "
            if isinstance(interval, InsufficientData)
            else f"80% interval {interval.low:.3f} to {interval.high:.3f} "
        )
        + f"(from {prediction.num_models} models, {FORMS[prediction.form]})"
    )
    if isinstance(interval, InsufficientData):
        print_line(f"No interval: {interval.reason}.")
    if prediction.new_family:
        print_line("Taken as a model of a new family: families that were left out bound its error.")
    if not prediction.inside:
        print_line("Extrapolated: outside the range of the models of the study.")
    if model in results.study.models:
        print_line(f"{model} is a model of the study: its measured quality is in the report.")
    for left_out, test in predicted.validations.items():
        without = "without the model itself" if left_out == "model" else "without its whole family"
        if isinstance(test, InsufficientData):
            print_line(f"Test {without}: none, {test.reason}.")
            continue
        low, high = test.coverage_interval
        print_line(
            f"Test {without}: mean absolute error {test.mean_absolute_error:.3f}, {test.coverage} "
            f"prediction intervals (80%) contain the measured value "
            f"(95% CI {low:.0%} to {high:.0%})."
        )


def print_look(progress: "Look") -> None:
    """Prints what a look at the results decided, and which models get more seeds."""
    for made in progress.decisions:
        pair = made.comparison
        print_line(
            f"  {pair.model} and {pair.reference}: {pair.difference:+.3f} ({pair.low:+.3f} to "
            f"{pair.high:+.3f}), {pair.verdict}, at {made.seeds} seeds"
        )
    if not progress.learned:
        print_line(
            "nothing was learned: no run is above an AP50-95 of 0, so nothing is decided; train "
            "longer (recipe: epochs) or look at the data with 'ossa data check'"
        )
        return
    still_open = sum(made.is_open for made in progress.decisions)
    if progress.wanted:
        seeds = max(progress.wanted.values())
        print_line(f"up to {seeds} seeds: {', '.join(progress.wanted)}")
    else:
        count = len(progress.decisions)
        print_line(f"{count - still_open} of {count} pairs are decided")


def print_seeds_needed(needed: "SeedsNeeded") -> None:
    """Prints what the planned seeds can find, and how many find the difference asked for."""
    from ossa.evaluate.statistics import FEWEST_RUNS

    chance = f"{needed.power:.0%} of such studies"
    print_line(
        f"Standard deviation of AP50-95 between seeds {needed.seed_deviation:.4f}; of the "
        f"difference between two models, due to the images, {needed.image_deviation:.4f} (medians "
        "of the pilot)."
    )
    if needed.planned < FEWEST_RUNS:
        print_line(f"{needed.planned} seeds say nothing about other seeds: plan {FEWEST_RUNS}.")
    else:
        print_line(f"{needed.planned} seeds find {needed.detectable:.3f} in {chance}.")
    if needed.needed is None:
        print_line(
            f"No number of seeds finds {needed.difference:g}: with these images {needed.floor:.3f} "
            "at best. More or other images for evaluation would help."
        )
    else:
        print_line(f"{needed.needed} seeds find {needed.difference:g} in {chance}.")
