"""The conditions of a study: settings, environments, runs without results, and hashes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ossa.study.environments import (
    MAY_DIFFER,
    MUST_AGREE,
    environments_of,
    find_differences,
    shorten_hash,
)
from ossa.study.report.tables import Column, ReportFiles, ReportTable
from ossa.study.report.text import compact, counted, duration, listed
from ossa.study.results import StudyResults
from ossa.viz.page import Block, Section

_ENVIRONMENT = (*MUST_AGREE, *MAY_DIFFER, "cpu_count")


def conditions_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the shared settings, failed runs, environments, and hashes to verify them."""
    missing = files.marked(missing_table(results))
    files.table(missing)
    begun = replace(missing, rows=[row for row in missing.rows if row["state"] != "waiting"])
    blocks: list[Block] = [begun.as_block()] if begun.rows else []
    blocks += [
        files.table(environments_table(results), folded=True),
        files.table(conditions_table(results), folded=True),
        files.table(runs_table(results), folded=True),
    ]
    planned = counted(len(results.states), "planned run")
    waiting = len(missing.rows) - len(begun.rows)
    text = (
        f"{len(results.runs)} of {planned} are done, {waiting} have not started; missing values "
        f"are left out everywhere. {results.folder.plan.equality}"
    )
    if different := find_differences(results.study, environments_of(results.states)):
        text += f" The runs were not all computed alike: {'; '.join(map(str, different))}."
    return Section("Conditions", blocks, text=text, folded=True)


def total_times(results: StudyResults) -> list[tuple[str, float]]:
    """Returns the seconds of training and of evaluation of all finished runs."""
    names = {"training": "train_seconds", "evaluation": "evaluate_seconds"}
    return [(name, sum(run.row[key] for run in results.runs)) for name, key in names.items()]


def conditions_table(results: StudyResults) -> ReportTable:
    """Returns every setting that all runs share, and the declared differences."""
    plan, study = results.folder.plan, results.study
    record = next((run.state.record for run in results.runs if run.state.record), None)
    settings = {
        "seeds": listed([str(seed) for seed in study.seeds]),
        "initial weights": listed(results.pretraining_sources),
        "reported": f"{study.reported.weights} weights on {study.reported.split}",
        "classes": listed(list(results.index.names), most=8),
        "hash of the shared settings": plan.shared_settings_hash,
        "data fingerprint": record.data_fingerprint if record else None,
        **{f"{name}, all runs": duration(seconds) for name, seconds in total_times(results)},
        **dict(sorted(plan.conditions.items())),
    }
    for key, models in plan.exceptions.items():
        settings |= {f"{key} ({model})": value for model, value in models.items()}
    for key, values in study.factors.items():
        settings[f"{key} (varied)"] = ", ".join(map(str, values))
    rows = [
        {"setting": key, "value": "not set" if value is None else str(value)}
        for key, value in settings.items()
    ]
    return ReportTable("conditions", [Column("setting"), Column("value")], rows, "All settings")


def environments_table(results: StudyResults) -> ReportTable:
    """Returns the environments of the runs and of the measurements."""
    records = [run.state.record for run in results.runs if run.state.record]
    counts = Counter(_environment(record.environment) for record in records)
    rows = [
        {"of": counted(count, "run"), **dict(environment)} for environment, count in counts.items()
    ]
    measured = results.measurements
    if measured:
        environment = _environment(measured.get("environment", {}))
        rows.append({"of": f"latency, on {measured.get('device', '')}", **dict(environment)})
    columns = [Column("of", "applies to"), *map(Column, _ENVIRONMENT)]
    return ReportTable("environments", columns, rows, caption="Environment and hardware")


def _environment(environment: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, shorten_hash(key, str(environment.get(key, "")))) for key in _ENVIRONMENT)


def missing_table(results: StudyResults) -> ReportTable:
    """Returns the planned runs without results, with the reasons."""
    rows = [
        {
            "run": s.run.name,
            "state": s.state,
            "epochs done": s.epochs_done,
            "reason": s.reason or "",
        }
        for s in results.states
        if s.state != "done"
    ]
    columns = [*map(Column, ("run", "state", "epochs done", "reason"))]
    return ReportTable("missing", columns, rows, caption="Runs without results")


def runs_table(results: StudyResults) -> ReportTable:
    """Returns one row per finished run with its metrics, costs, times and hashes."""
    rows: list[Mapping[str, Any]] = []
    for run in results.runs:
        if run.state.record is not None:
            files = run.state.record.files.items()
            hashes = {f"sha256 of {name}": digest for name, digest in files}
            rows.append({**run.row, "config_hash": run.state.record.config_hash, **hashes})
    hashes = dict.fromkeys(key for row in rows for key in row if key.startswith("sha256 of "))
    columns = [
        *map(Column, ("run", "model", "family", "pretraining", "seed", *results.study.factors)),
        *(Column(key, title, decimals=3) for key, title in results.qualities.items()),
        *(Column(key, write=compact) for key in ("params", "flops")),
        Column("train_seconds", "training time", write=duration),
        *(Column("config_hash", "settings, sha256"), *map(Column, hashes)),
    ]
    return ReportTable("runs", columns, rows, caption="Finished runs")
