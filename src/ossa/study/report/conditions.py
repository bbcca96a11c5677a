"""Under which conditions the runs were trained, what failed, and the hashes to check them by."""

from collections.abc import Mapping
from typing import Any

from ossa.report.page import KeyValues
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView
from ossa.study.report.words import compact, duration, listed

_TOLD = ("epochs", "imgsz", "batch", "nominal_batch", "optimizer", "lr", "schedule", "precision")
"""Settings of `train` that are told at once; the others are in the table of conditions."""
_ENVIRONMENT = ("ossa", "torch", "timm", "opencv", "python", "cpu", "cpu_count", "threads", "gpu")


def conditions_block(view: StudyView) -> KeyValues:
    """Returns what the runs share, at a glance."""
    results = view.results
    plan, index = results.folder.plan, results.index
    records = [run.state.record for run in results.runs]
    fingerprint = records[0].data_fingerprint if records[0] else ""
    train = plan.conditions
    seconds = sum(sum(record.times.values()) for record in records if record)
    pairs: list[tuple[str, str | int | float | None]] = [
        ("recipe", results.study.recipe.base),
        *((name, _as_text(train.get(f"train.{name}"))) for name in _TOLD),
        ("neck", results.study.neck),
        ("seeds", listed([str(seed) for seed in results.study.seeds])),
        ("initial weights", listed(view.policies)),
        ("reported", f"{results.study.reported.weights} weights on {results.study.reported.split}"),
        ("evaluated on", f"{len(index):,} images, {len(index.labels):,} objects"),
        ("classes", listed(list(index.names), most=8)),
        ("all training together", duration(seconds)),
        ("conditions, sha256", plan.recipe_hash[:16]),
        ("data fingerprint", "-".join(part[:12] for part in fingerprint.split("-"))),
    ]
    return KeyValues(pairs)


def _as_text(value: Any) -> str | int | float | None:
    return value if isinstance(value, str | int | float) or value is None else str(value)


def conditions_table(view: StudyView) -> ReportTable:
    """Returns every setting that all runs share, and those that differ by declaration."""
    plan = view.results.folder.plan
    rows: list[Mapping[str, Any]] = [
        {"setting": key, "value": _written(value)} for key, value in sorted(plan.conditions.items())
    ]
    rows += [
        {"setting": f"{key}, of {model}", "value": _written(value)}
        for key, models in plan.exceptions.items()
        for model, value in models.items()
    ]
    rows += [
        {"setting": f"{key}, varied", "value": ", ".join(map(str, values))}
        for key, values in view.results.study.vary.items()
    ]
    columns = [TableColumn("setting", "setting"), TableColumn("value", "value")]
    return ReportTable("conditions", columns, rows, caption="All settings")


def _written(value: Any) -> str:
    return "not set" if value is None else str(value)


def environments_table(view: StudyView) -> ReportTable:
    """Returns a row an environment in which runs were trained, and that of the measurements."""
    counts: dict[tuple[str, ...], int] = {}
    for run in view.results.runs:
        if run.state.record is not None:
            found = tuple(run.state.record.environment.get(key, "") for key in _ENVIRONMENT)
            counts[found] = counts.get(found, 0) + 1
    rows: list[Mapping[str, Any]] = [
        {"of": f"{count} runs" if count > 1 else "1 run", **_by_name(found)}
        for found, count in counts.items()
    ]
    measured = view.results.measurements
    if measured:
        found = tuple(str(measured.get("environment", {}).get(key, "")) for key in _ENVIRONMENT)
        device = measured.get("device", "")
        rows.append({"of": f"milliseconds, on {device}", **_by_name(found)})
    columns = [TableColumn("of", "of"), *(TableColumn(key, key) for key in _ENVIRONMENT)]
    return ReportTable("environments", columns, rows, caption="Environment and hardware")


def _by_name(found: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(_ENVIRONMENT, found, strict=True))


def missing_table(view: StudyView) -> ReportTable:
    """Returns the planned runs that have no numbers in this report, and why."""
    rows: list[Mapping[str, Any]] = [
        {
            "run": state.run.name,
            "model": state.run.model,
            "policy": state.run.weights.policy,
            "seed": state.run.seed,
            "state": state.state,
            "epochs": state.epochs_done,
            "reason": state.reason or "",
        }
        for state in view.results.states
        if state.state != "done"
    ]
    columns = [
        TableColumn("run", "run"),
        TableColumn("state", "state"),
        TableColumn("epochs", "epochs done", write=str),
        TableColumn("reason", "why"),
    ]
    return ReportTable("missing", columns, rows, caption="Runs without numbers")


def runs_table(view: StudyView) -> ReportTable:
    """Returns a row a finished run: its metrics, costs, seconds and hashes."""
    rows: list[Mapping[str, Any]] = []
    for run in view.results.runs:
        record = run.state.record
        if record is None:
            continue
        hashes = {f"sha256 of {name}": digest for name, digest in record.files.items()}
        rows.append({**run.row, "config_hash": record.config_hash, **hashes})
    files = dict.fromkeys(key for row in rows for key in row if key.startswith("sha256 of "))
    varied = list(view.results.study.vary)
    columns = [
        *(TableColumn(key, key) for key in ("run", "model", "family", "policy")),
        TableColumn("seed", "seed", write=str),
        *(TableColumn(key, key, write=str) for key in varied),
        *(TableColumn(key, title, decimals=3) for key, title in view.qualities.items()),
        TableColumn("params", "parameters", write=compact),
        TableColumn("flops", "FLOPs", write=compact),
        TableColumn("train_seconds", "training", write=duration),
        TableColumn("config_hash", "settings, sha256"),
        *(TableColumn(key, key) for key in files),
    ]
    return ReportTable("runs", columns, rows, caption="Every finished run")
