"""Under which conditions the runs were trained, what failed, and the hashes to check them by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ossa.evaluate.statistics import FEWEST_RUNS
from ossa.study.report.budgets import answer_budgets, budgets_table
from ossa.study.report.comparisons import compare_models, compare_pairs, contests_table
from ossa.study.report.figures import relation_figure
from ossa.study.report.interactive import (
    confusions_of,
    curves_block,
    curves_figure,
    curves_of,
    curves_table,
    picture_blocks,
    read_detections,
    relations_block,
    seed_told,
    shown_models,
)
from ossa.study.report.scaling import (
    frontier_sentences,
    frontier_table,
    held_out_table,
    law_sentences,
    laws_table,
    measures_of,
    rank_of_measures,
    ranking_sentences,
    run_tests,
    sentences_of_tests,
    tests_figure,
    tests_table,
)
from ossa.study.report.summary import (
    absent_sentences,
    confusions_figure,
    confusions_table,
    main_table,
    pairwise_figure,
    policy_columns,
    read_tuning,
    tuning_sentences,
    tuning_table,
)
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import compact, counted, duration, listed
from ossa.study.report.view import Parts, StudyView
from ossa.viz.page import Block, KeyValues, Section, TextBlock

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


_MOST_MATRICES = 12
_MOST_PAIRED = 120
"""Models that are compared all with all."""


def answers_section(view: StudyView, parts: Parts) -> Section:
    """Returns the answers in words, with the tables they are from."""
    budgets = answer_budgets(view)
    contests = compare_models(view)
    blocks: list[Block] = [
        _list("What should I take?", [answer.sentence for answer in budgets]),
        parts.table(budgets_table(budgets)).as_block(folded=True),
    ]
    if contests:
        blocks += [
            _list("Which one beats which, and on which objects?", [c.sentence for c in contests]),
            parts.table(contests_table(contests)).as_block(folded=True),
        ]
    tuning = read_tuning(view)
    if tuning is not None:
        blocks += [
            _list("Does the ranking change with the recipe?", tuning_sentences(tuning)),
            parts.table(tuning_table(tuning)).as_block(),
        ]
    return Section("Answers", blocks, text=_about_intervals(view))


def _list(heading: str, sentences: Sequence[str]) -> TextBlock:
    return TextBlock("\n\n".join(sentences), heading=heading, listed=True)


def _about_intervals(view: StudyView) -> str:
    fewest = min(len(view.runs_of(model)) for model in view.names)
    text = (
        "Intervals are of 95 %, each for itself; the verdicts are corrected by Holm for all "
        "comparisons of a question, and so may hesitate where an interval does not. 'Not "
        "distinguishable' means that no difference was found, not that there is none."
    )
    if fewest < FEWEST_RUNS:
        return (
            f"{text} No seed interval where a model has fewer than {FEWEST_RUNS} finished runs "
            f"(the fewest: {fewest}): such verdicts are about these weights on other images, not "
            "about training again."
        )
    return f"{text} They are about other images and other seeds."


def models_section(view: StudyView, parts: Parts) -> Section:
    """Returns the main table."""
    table = parts.table(main_table(view)).as_block(wide=True)
    return Section("What each model buys and costs", [table], text=" ".join(absent_sentences(view)))


def curves_section(view: StudyView, parts: Parts) -> Section:
    """Returns the curves over the epochs."""
    curves = curves_of(view)
    parts.table(curves_table(curves))
    figure = parts.figure("curves", curves_figure(view, curves))
    text = "Over the epochs, each model at the mean of its seeds."
    return Section("How they learned", [curves_block(view, curves), figure], text=text)


def frontier_section(view: StudyView, parts: Parts) -> Section:
    """Returns quality against complexity, with laws and frontiers."""
    for quality in view.qualities:
        for measure in measures_of(view):
            name = f"{quality}-{measure}".replace("_", "-")
            parts.figure(name, relation_figure(view, view.relation(quality, measure)))
    parts.table(laws_table(view))
    ranks = rank_of_measures(view)
    relation = view.relation("ap", "params")
    over = f" Probabilities are {relation.drawn_over}." if relation.drawn_over else ""
    return Section(
        "Quality against complexity",
        [
            relations_block(view),
            _list("The law", law_sentences(view)),
            _list("The frontier", frontier_sentences(view)),
            _list("What predicts quality best?", ranking_sentences(view, ranks)),
            parts.table(frontier_table(view, policy_columns(view))).as_block(wide=True),
            parts.tables["laws"].as_block(folded=True),
        ],
        text="A model is one point, at the mean of its seeds. The law is the middle of the models, "
        "the Pareto set their edge: nothing that was trained is better and as cheap, in brackets "
        f"with the probability that it belongs.{over}",
    )


def prediction_section(view: StudyView, parts: Parts) -> Section:
    """Returns the test of the predictions."""
    tests = run_tests(view)
    blocks: list[Block] = [_list("", sentences_of_tests(view, tests))]
    summary = parts.table(tests_table(view, tests))
    held_out = parts.table(held_out_table(view, tests))
    if held_out.rows:
        blocks.append(summary.as_block())
        blocks.append(parts.figure("prediction-test", tests_figure(view, tests)))
        blocks.append(held_out.as_block(folded=True))
    return Section(
        "Do its predictions hold?",
        blocks,
        text="'ossa study predict' gives the quality to expect of a model that was not trained. "
        "Here models that were trained are left out, predicted from the others, and compared.",
    )


def pairs_section(view: StudyView, parts: Parts) -> Section | None:
    """Returns who beats whom in AP50-95, None of a single model."""
    if len(view.names) < 2:
        return None
    best = set(view.best_first[:_MOST_PAIRED])
    values = {model: own for model, own in view.values["ap"].items() if model in best}
    pairwise = compare_pairs("ap", values)
    parts.table(pairwise.as_table())
    figure = parts.figure("pairs", pairwise_figure(pairwise))
    number = counted(len(pairwise.differences), "comparison")
    less = f" Of the {_MOST_PAIRED} best models." if len(view.names) > _MOST_PAIRED else ""
    return Section(
        "Who beats whom",
        [figure],
        text="Blue: the model of the row has the higher AP50-95; orange: the lower; grey: not "
        f"distinguishable (Holm over {number}).{less}",
    )


def seen_sections(view: StudyView, parts: Parts) -> list[Section]:
    """Returns confusion matrices and pictures."""
    shown = shown_models(view)
    detections = read_detections(view, shown)
    matrices = confusions_of(view, detections)
    parts.table(confusions_table(matrices))
    in_figure = shown_models(view, most=_MOST_MATRICES)
    figure = parts.figure("confusions", confusions_figure({m: matrices[m] for m in in_figure}))
    return [
        Section(
            "What is taken for what",
            [figure],
            text=f"Rows are truths, columns predictions, numbers shares of their row. "
            f"{seed_told(view)}{_of_all(view, len(in_figure))}",
        ),
        Section(
            "What they see",
            picture_blocks(view, detections),
            text=f"The same images through every model, above the truth. {seed_told(view)}"
            f"{_of_all(view, len(shown))}",
        ),
    ]


def _of_all(view: StudyView, number: int) -> str:
    if number == len(view.names):
        return ""
    return (
        f" {number} of {len(view.names)} models: the Pareto set of AP50-95 and parameters and the "
        "best others."
    )


def conditions_section(view: StudyView, parts: Parts) -> Section:
    """Returns what was equal, what failed, and the hashes."""
    planned, done = len(view.results.states), len(view.results.runs)
    missing = parts.table(missing_table(view))
    begun = replace(missing, rows=[row for row in missing.rows if row["state"] != "waiting"])
    blocks: list[Block] = [conditions_block(view)]
    if begun.rows:
        blocks.append(begun.as_block())
    blocks += [
        parts.table(environments_table(view)).as_block(wide=True),
        parts.table(conditions_table(view)).as_block(folded=True),
        parts.table(runs_table(view)).as_block(folded=True, wide=True),
    ]
    text = f"{done} of {counted(planned, 'planned run')} {'is' if done == 1 else 'are'} done. "
    waiting = len(missing.rows) - len(begun.rows)
    if waiting:
        text += f"{waiting} {'has' if waiting == 1 else 'have'} not begun. "
    text += (
        "What is missing is left out everywhere; nothing is filled in."
        if missing.rows
        else "Nothing failed and nothing is missing."
    )
    return Section("Conditions", blocks, text=text)
