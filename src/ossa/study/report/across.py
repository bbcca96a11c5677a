"""Other machines in the report of a study, and the page of a study on several data sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ossa.study.environments import check_environments, environments_of
from ossa.study.pack import Machine
from ossa.study.ranks import FEWEST_NEW, Ranking, rank_intervals, rank_models
from ossa.study.report.tables import (
    Column,
    ReportFiles,
    ReportTable,
    bullets,
    interval_columns,
)
from ossa.study.report.text import counted, probability, signed
from ossa.study.results import StudyResults
from ossa.viz.page import Page, Section, write_page

_MACHINE_COLUMNS = (
    *(Column("machine"), Column("model")),
    Column("ms_per_image", "ms per image, median", write=lambda ms: f"{ms:.2f}", best="lowest"),
    Column("p95_ms", "ms per image, 95% quantile", write=lambda ms: f"{ms:.2f}"),
    Column("ap", "AP50-95", decimals=3, best="highest"),
    Column("probability", "Pareto", write=probability),
)


def machines_section(machines: Sequence[Machine], files: ReportFiles) -> Section | None:
    """Returns quality against time on each other machine, None without any."""
    if not machines:
        return None
    rows = [row for machine in machines for row in machine.rows()]
    table = ReportTable("machines", _MACHINE_COLUMNS, rows, caption="Times on other machines")
    first, *others = [machine.sentence() for machine in machines]
    return Section(
        "Other machines", [bullets("", others), files.table(table)], text=first, folded=True
    )


_ROUNDED: Any = {"decimals": 3}
_CHANCE: Any = {"decimals": 2}
_TABLES: Mapping[str, tuple[str, Sequence[Column]]] = {
    "ranks": (
        "Ranks by data set",
        (
            *(Column("data", "data set"), Column("model"), Column("ap", "AP50-95", **_ROUNDED)),
            *(Column("rank"), Column("rank_low", "from"), Column("rank_high", "to")),
            Column("over", "interval covers"),
        ),
    ),
    "means": (
        "Interquartile mean, and improvement over the best",
        (
            *(Column("model"), Column("mean", **_ROUNDED)),
            Column("iqm", "interquartile mean", **_ROUNDED),
            *(Column("iqm_low", "CI low", **_ROUNDED), Column("iqm_high", "CI high", **_ROUNDED)),
            Column("improvement", "probability of improvement", **_CHANCE),
        ),
    ),
    "best": (
        "Best where",
        (
            *(Column("model"), Column("verdict", "may be the best")),
            Column("may_be_best", "data sets"),
            Column("measured_best_on", "measured best on"),
            Column("certainly_best_on", "certainly best on"),
        ),
    ),
    "new": (
        "The best against the others on other data sets",
        (
            *(Column("model"), Column("reference"), Column("difference", write=signed)),
            *interval_columns(write=signed),
            Column("better_on", "better on"),
        ),
    ),
    "left-out": (
        "Ranks predicted from the other data sets",
        (
            *(Column("data", "data set"), Column("spearman", "rank correlation", **_CHANCE)),
            Column("mean_error", "off by, ranks", **_CHANCE),
            Column("by_chance", "by chance", **_CHANCE),
            Column("best_predicted", "predicted best"),
            Column("best_measured", "measured best"),
        ),
    ),
    "correlations": (
        "What is left at equal cost",
        (
            *(Column("data", "data set"), Column("other"), Column("correlation", **_CHANCE)),
            *interval_columns(**_CHANCE),
            Column("models"),
        ),
    ),
}


def write_ranks_report(
    results: Mapping[str, StudyResults], folder: Path, *, notes: Sequence[str] = ()
) -> Path:
    """Writes the page on the ranks of the models over data sets, with its tables; returns it.

    Args:
        results: of the study of each data set.
        folder: of the page; the page of each data set is in a folder below it.
        notes: sentences on data sets that are reported otherwise than the rest.

    Raises:
        DataError: fewer than two data sets, no model that all of them have, or runs that were not
            computed alike.
        CheckpointError: the disk is full or cannot be written.
    """
    first = next(iter(results.values()))
    environments = {
        f"{data}/{run}": own
        for data, one in results.items()
        for run, own in environments_of(one.states).items()
    }
    check_environments(first.study, environments, folder)
    ranking = rank_models(
        {data: one.values("ap") for data, one in results.items()},
        costs={model: first.number(model, "params") for model in first.names},
        margin=first.study.margin,
    )
    files = ReportFiles(folder, mark=first.folder.plan.marked)
    rows_of = {
        "ranks": ranking.rank_rows(),
        "means": ranking.mean_rows(),
        "best": ranking.best_rows(),
        "new": ranking.new_rows(),
        "left-out": ranking.left_out_rows(),
        "correlations": ranking.correlation_rows(),
    }
    blocks = [
        files.table(ReportTable(name, columns, rows_of[name], caption=caption))
        for name, (caption, columns) in _TABLES.items()
        if rows_of[name]
    ]
    name = first.study.name.removesuffix(f"-{next(iter(results))}")
    page = Page(
        title=name,
        subtitle=f"{counted(len(ranking.models), 'backbone')} on {len(results)} data sets: "
        f"{', '.join(results)}. The page of each is in the folder of its name.",
        sections=[
            Section("Over data sets", [bullets("", [*ranking_sentences(ranking), *notes]), *blocks])
        ],
        footer="Intervals are 95%; those of ranks are simultaneous over all models of a data set.",
    )
    return write_page(page, folder / "index.html")


def ranking_sentences(ranking: Ranking) -> list[str]:
    """Returns a sentence on each of the tables."""
    count, models = ranking.qualities.shape
    sentences = [_mean_sentence(ranking), _best_sentence(ranking)]
    if new := ranking.new_rows():
        ahead = [row["reference"] for row in new if row["low"] > 0]
        sentences.append(
            f"If these {count} data sets are a sample of such, {ranking.models[0]} is ahead of "
            f"{len(ahead)} of {models - 1} models on other ones, too (simultaneous 95% "
            "intervals)."
        )
    else:
        sentences.append(
            f"Nothing is said of other data sets: expected {FEWEST_NEW} at least, found {count}."
        )
    if left_out := ranking.left_out_rows():
        known = [row["spearman"] for row in left_out if row["spearman"] is not None]
        errors = [row["mean_error"] for row in left_out]
        sentences.append(
            f"The ranks on a data set, predicted from the other {count - 1}: off by "
            f"{np.mean(errors):.1f} ranks on average ({left_out[0]['by_chance']:.1f} by "
            f"chance), correlation {min(known):.2f} to {max(known):.2f}."
            if known
            else "All ranks are tied."
        )
    if pairs := ranking.correlation_rows():
        found = [row["correlation"] for row in pairs]
        apart = sum(row["low"] > 0 for row in pairs)
        sentences.append(
            "What is left at equal cost correlates between data sets by "
            f"{np.median(found):.2f} in the median ({min(found):.2f} to {max(found):.2f}); in "
            f"{apart} of {len(pairs)} pairs the 95% interval is above 0."
        )
    return sentences


def _mean_sentence(ranking: Ranking) -> str:
    first, interval = ranking.mean_rows()[0], rank_intervals(ranking.mean)[ranking.models[0]]
    rank = str(interval.low) if interval.width == 1 else f"{interval.low} to {interval.high}"
    return (
        f"Of the mean over these {len(ranking.data)} data sets {first['model']} is the highest "
        f"with {first['mean']:.3f} (rank {rank} of {len(ranking.models)}, simultaneous 95%), "
        f"interquartile mean {first['iqm']:.3f} "
        f"(95% CI {first['iqm_low']:.3f} to {first['iqm_high']:.3f})."
    )


def _best_sentence(ranking: Ranking) -> str:
    by_verdict: dict[str, list[str]] = {}
    for row in ranking.best_rows():
        by_verdict.setdefault(row["verdict"], []).append(row["model"])
    by_verdict.pop("on none", None)
    parts = (f"{verdict}: {', '.join(own)}" for verdict, own in by_verdict.items())
    return f"May be the best {'; '.join(parts)}."
