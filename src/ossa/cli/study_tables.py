"""What `ossa study plan` and `ossa study status` print."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ossa.cli.console import duration, fraction, new_table, print_table, with_unit
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.study.folder import RunState, StudyFolder
    from ossa.study.measure import Estimate
    from ossa.study.plan import DatasetSummary, Plan


_LAST_BATCH_OF_ONE = (
    "1 image; batch norms that have one value per channel of it use their running statistics"
)


def plan_rows(
    plan: "Plan", prospect: "DatasetSummary", estimates: "Mapping[str, Estimate | str]"
) -> list[dict[str, Any]]:
    """Returns one flat object a planned run; null where nothing was measured."""
    rows = []
    for run in plan.runs:
        estimate = estimates.get(run.model)
        row: dict[str, Any] = {
            "run": run.name,
            "model": run.model,
            "family": run.family,
            "seed": run.seed,
            **run.varied,
            "neck": run.config.model.neck,
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
                train_images=prospect.train_images,
                val_images=prospect.val_images,
            )
        rows.append(row)
    return rows


def print_plan(
    plan: "Plan", prospect: "DatasetSummary", rows: Sequence[Mapping[str, Any]], *, jobs: int
) -> None:
    """Prints a line a model, the time of all, and what the runs share."""
    table = new_table(
        "model",
        *("family", "neck", "initial weights", "parameters", "FLOPs", "MACs"),
        *("a run takes", "memory"),
    )
    models = {row["model"]: row for row in reversed(rows)}
    for model in plan.study.models:
        row = models[model]
        measured = row["seconds"] is not None
        figures = [with_unit(row[key]) for key in ("params", "flops", "macs")] if measured else ()
        last = (duration(row["seconds"]), with_unit(row["peak_bytes"]) + "B") if measured else ()
        problem = ("cannot be trained",) if row["problem"] else ()
        weights = row["initial_weights"]
        table.add_row(model, row["family"], row["neck"], weights, *problem, *figures, *last)
    print_table(table)
    print_line()
    for model, row in models.items():
        if row["problem"]:
            print_line(f"{model}: {row['problem']}")
    study = plan.study
    variations = len(plan.runs) // len(study.models) // len(study.seeds)
    varied = f" x {variations} settings" if variations > 1 else ""
    print_line(
        f"{len(plan.runs)} runs: {len(study.models)} models x {len(study.seeds)} seeds{varied}"
        + _time_of_all(rows, jobs)
    )
    _print_conditions(plan, prospect)


def _time_of_all(rows: Sequence[Mapping[str, Any]], jobs: int) -> str:
    seconds = [row["seconds"] for row in rows]
    known = [value for value in seconds if value is not None]
    if not known:
        return ""
    rest = f", {len(seconds) - len(known)} runs apart" if len(known) < len(seconds) else ""
    at_once = f", {jobs} at a time" if jobs > 1 else ", one after the other"
    return f"; about {duration(sum(known) / jobs)}{at_once}{rest} (without reading images)"


def _print_conditions(plan: "Plan", prospect: "DatasetSummary") -> None:
    """Prints what is the same for all runs, and what is not."""
    study, conditions = plan.study, plan.conditions
    sources = {run.model: run.weights.pretraining for run in plan.runs}
    common = next(iter(sources.values())) if len(set(sources.values())) == 1 else None
    last_is_one = prospect.last_batch(plan) == 1 != conditions.get("train.batch")
    print_line()
    print_line(f"the same for all runs ({len(conditions)} settings):")
    for name, value in (
        ("recipe", f"{study.recipe.base}, hash {plan.recipe_hash[:16]}"),
        ("epochs, batch", f"{conditions['train.epochs']}, {conditions['train.batch']}"),
        ("last batch", _LAST_BATCH_OF_ONE if last_is_one else None),
        ("image side", f"{conditions['train.imgsz']} px"),
        ("neck", conditions.get("model.neck")),
        ("initial weights", common),
        ("data", f"{prospect.train_images:,} and {prospect.val_images:,} images, fingerprint "
                 f"{prospect.data_fingerprint[:16]}"),
        ("reported", f"{study.reported.weights} weights on {study.reported.split}"),
    ):  # fmt: skip
        if value is not None:
            print_line(f"  {name:16} {value}")
    print_line("what differs: the backbone, the seed" + "".join(f", {key}" for key in study.vary))
    for key, values in plan.exceptions.items():
        each = ", ".join(f"{model} {value}" for model, value in values.items())
        print_line(f"  declared: {key} ({each})")
    if common is None:
        each = ", ".join(f"{model} {source}" for model, source in sources.items())
        print_line(f"  declared: weights of different data ({each})")


def status_rows(states: "Sequence[RunState]") -> list[dict[str, Any]]:
    """Returns one flat object a run."""
    return [
        {
            "run": state.run.name,
            "model": state.run.model,
            "seed": state.run.seed,
            **state.run.varied,
            "state": state.state,
            "epochs_done": state.epochs_done,
            "epochs": state.run.config.train.epochs,
            "ap": state.record.metrics["last"]["ap"]
            if state.state == "done" and state.record
            else None,
            "reason": state.reason,
            "folder": str(state.folder),
        }
        for state in states
    ]


def print_status(study: "StudyFolder", states: "Sequence[RunState]") -> None:
    """Prints how many runs are in which state, the time left, what failed, and the ranking."""
    from ossa.study.runner import seconds_left

    counts = {state.state: 0 for state in states}
    for state in states:
        counts[state.state] += 1
    print_line(f"{study.path}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    for state in states:
        if state.state in ("running", "interrupted"):
            epochs = state.run.config.train.epochs
            print_line(f"  {state.run.name}: {state.state}, epoch {state.epochs_done} of {epochs}")
        elif state.reason:
            print_line(f"  {state.run.name}: {state.state}: {state.reason}")
    left = seconds_left(states)
    if left:
        print_line(
            f"{duration(left)} of training are left, on one machine as that of the finished runs"
        )
    _print_ranking(study, states)


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
    table = new_table("ranking so far, last weights on val", "AP50-95", "runs")
    for model, found in sorted(values.items(), key=lambda item: -fmean(item[1])):
        table.add_row(model, fraction(fmean(found)), str(len(found)))
    print_table(table)
