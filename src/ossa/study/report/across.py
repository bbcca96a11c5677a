"""The page of a study on several data sets: what holds over them, and each by a switch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ossa.escaping import escape_figure
from ossa.study.environments import check_environments, environments_of
from ossa.study.pack import Machine
from ossa.study.ranks import FEWEST_NEW, MEAN, Ranking, rank_intervals, rank_models
from ossa.study.report.figures import HOVER
from ossa.study.report.report import (
    MOST_TABS,
    PAGE_FILE,
    footer,
    one_line,
    write_study_sections,
)
from ossa.study.report.tables import (
    Column,
    ReportFiles,
    ReportTable,
    bullets,
    interval_columns,
    svg_of,
)
from ossa.study.report.text import counted, signed
from ossa.study.results import StudyResults
from ossa.viz.page import Block, Group, Page, PictureBlock, Section, Switch, TextBlock, write_page
from ossa.viz.plots import INK, LINE_COLOURS, MUTED, RULE, style_axes

_ROUNDED: Any = {"decimals": 3}
_CHANCE: Any = {"decimals": 2}
_TABLES: Mapping[str, tuple[str, str, Sequence[Column]]] = {
    "ranks": (
        "Ranks by data set",
        "A model may have any rank of its interval; all intervals of a data set hold together.",
        (
            *(Column("data", "data set"), Column("model"), Column("ap", "AP50-95", **_ROUNDED)),
            *(Column("rank"), Column("rank_low", "from"), Column("rank_high", "to")),
            Column("over", "interval covers"),
        ),
    ),
    "best": (
        "Best where",
        "On which data sets a model may be the best, by comparisons with the best.",
        (
            *(Column("model"), Column("verdict", "may be the best")),
            Column("may_be_best", "data sets"),
            Column("measured_best_on", "measured best on"),
            Column("certainly_best_on", "certainly best on"),
        ),
    ),
    "new": (
        "The best against the others on other data sets",
        "Differences on other data sets, if these are a sample of such.",
        (
            *(Column("model"), Column("reference"), Column("difference", write=signed)),
            *interval_columns(write=signed),
            Column("better_on", "better on"),
        ),
    ),
    "left-out": (
        "Ranks predicted from the other data sets",
        "How far the mean ranks on all other data sets are off on the one that was left out.",
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
        "Whether a model better than its parameters explain on one data set is so on another.",
        (
            *(Column("data", "data set"), Column("other"), Column("correlation", **_CHANCE)),
            *interval_columns(**_CHANCE),
            Column("models"),
        ),
    ),
}


def write_studies_report(
    results: Mapping[str, StudyResults],
    folder: Path,
    *,
    machines: Mapping[str, Sequence[Machine]] | None = None,
    detections: bool = True,
    notes: Sequence[str] = (),
    on_figure: Callable[[int], None] | None = None,
) -> Path:
    """Writes one page on all data sets, with a switch between them, and returns it.

    Args:
        results: of the study of each data set.
        folder: of the page; page, figures and tables of each data set are in a folder below it.
        machines: other machines on which the models were timed, by data set.
        detections: whether to show detections and confusion matrices, which need the images.
        notes: sentences on data sets that are reported otherwise than the rest.
        on_figure: called with the number of figures of a data set drawn so far.

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
    groups: dict[tuple[str, ...], Block] = {("",): Group(_over_data(ranking, files, notes))}
    for data, one in results.items():
        sections = write_study_sections(
            one,
            folder / data,
            machines=(machines or {}).get(data, ()),
            detections=detections,
            on_figure=on_figure,
        )
        groups[(data,)] = Group([Section("", [TextBlock(one_line(one))]), *_light(sections)])
    titles = {"": f"all {len(results)}", **{data: data for data in results}}
    page = Page(
        title=first.study.name.removesuffix(f"-{next(iter(results))}"),
        subtitle=f"{counted(len(ranking.models), 'backbone')} on {len(results)} data sets: "
        f"{', '.join(results)}.",
        sections=[
            Section("", [Switch({"data set": titles}, groups, tabs=len(titles) <= MOST_TABS)])
        ],
        footer=f"{footer(first)}; those of a data set, and its page with example detections, are "
        "in the folder of its name",
        wide=True,
    )
    return write_page(page, folder / PAGE_FILE)


def _light(sections: Sequence[Section]) -> list[Section]:
    """Returns the sections without pictures: those of all data sets would make a page too large."""
    return [
        section
        for section in sections
        if not any(isinstance(block, PictureBlock) for block in section.blocks)
    ]


def _over_data(ranking: Ranking, files: ReportFiles, notes: Sequence[str]) -> list[Section]:
    """Returns what holds over the data sets: ranks beside sentences, a table, all else folded."""
    broad, narrow = (ranks_figure(ranking, size_inches=size) for size in ((8.0, 5.5), (4.0, 5.0)))
    caption = (
        "Dots: ranks, 1 is the best. Bars: simultaneous 95% intervals over all models of a data "
        "set, and of the mean over these data sets."
    )
    if len(ranking.models) > _MOST_DRAWN:
        caption += f" The best {_MOST_DRAWN} of {len(ranking.models)} models."
    figure = replace(files.figure("ranks", broad), caption=caption, narrow_svg=svg_of(narrow))
    rows_of = {
        "ranks": ranking.rank_rows(),
        "best": ranking.best_rows(),
        "new": ranking.new_rows(),
        "left-out": ranking.left_out_rows(),
        "correlations": ranking.correlation_rows(),
    }
    folded = [
        Section(
            caption,
            [files.table(ReportTable(name, columns, rows_of[name], caption=""))],
            text=reading,
            folded=True,
        )
        for name, (caption, reading, columns) in _TABLES.items()
        if rows_of[name]
    ]
    answers = bullets("", [*ranking_sentences(ranking), *notes])
    return [
        Section("", [figure, answers], beside=True),
        Section("", [files.table(means_table(ranking))]),
        *folded,
    ]


_MOST_DRAWN, _BOTTOM = 24, 0.5
"""Models in the figure of ranks, and inches below its axes."""


def means_table(ranking: Ranking) -> ReportTable:
    """Returns a row per model: quality and rank over the data sets, and quality on each."""
    ranks = rank_intervals(ranking.mean)
    best = {row["model"]: row["verdict"] for row in ranking.best_rows()}
    each, rows = [f"ap on {data}" for data in ranking.data], []
    for at, row in enumerate(ranking.mean_rows()):
        model = row["model"]
        low, high = ranks[model]
        rows.append(
            dict(zip(each, ranking.qualities[:, at].tolist(), strict=True))
            | {**row, "rank_low": low, "rank_high": high, "rank": _span(low, high)}
            | {"interval": f"{row['iqm_low']:.3f} to {row['iqm_high']:.3f}", "best": best[model]}
        )
    shown = ranking.data if len(ranking.data) <= MOST_TABS else ()
    bar: Any = {"write": "{:.3f}".format, "best": "highest", "bar": True}
    columns = [
        *(Column("model"), Column("mean", "mean AP50-95", **bar)),
        Column("rank", note="of the mean: simultaneous 95% interval"),
        Column("iqm", "interquartile mean", minor=True, **_ROUNDED),
        Column("interval", "95% CI", note="of the interquartile mean", minor=True),
        *(Column(f"ap on {data}", data, best="highest", minor=True, **_ROUNDED) for data in shown),
        Column("improvement", "improves on the best", minor=True, **_CHANCE),
        Column("best", "may be the best", minor=True),
    ]
    note = (
        f"Over these {len(ranking.data)} data sets. Improves on the best: the probability that a "
        f"run of the model scores above one of {ranking.models[0]}."
    )
    in_files = (
        "iqm_low",
        "iqm_high",
        "rank_low",
        "rank_high",
        *(f"ap on {d}" for d in ranking.data),
    )
    return ReportTable("means", columns, rows, note=note, in_files=in_files)


def ranks_figure(ranking: Ranking, *, size_inches: tuple[float, float]) -> Figure:
    """Returns the rank of every model on each data set and of the mean, with their intervals."""
    models = ranking.models[:_MOST_DRAWN]
    width, height = size_inches
    named = len(ranking.data) <= len(LINE_COLOURS)
    columns = 5 if width > 5 else 2
    left = 0.25 + 0.07 * max(map(len, models))
    top = 0.2 + 0.2 * -(-(1 + len(ranking.data)) // columns) if named else 0.4
    figure = Figure(figsize=size_inches, facecolor="white")
    place = (left, _BOTTOM, width - left - 0.15, height - top - _BOTTOM)
    axes = figure.add_axes(tuple(np.divide(place, (width, height) * 2)))
    style_axes(axes, x_label="rank, 1 is the best", y_label="")
    axes.grid(visible=False)
    lanes = {data: LINE_COLOURS[i] if named else MUTED for i, data in enumerate(ranking.data)}
    for lane, (data, colour) in enumerate({MEAN: INK, **lanes}.items()):
        style: dict[str, Any] = {"color": colour, "linewidth": 1.2 + (data == MEAN)}
        below = 0.8 * ((1 + lane) / (2 + len(lanes)) - 0.5)
        for row in ranking.rank_rows():
            if row["data"] == data and row["model"] in models:
                y = models.index(row["model"]) + below
                axes.plot((row["rank_low"], row["rank_high"]), (y, y), **style)
                gid = HOVER + escape_figure(_rank_text(row), longest=300)
                axes.plot(row["rank"], y, "o", markersize=4, color=colour, gid=gid)
        if named or data == MEAN:
            axes.plot(
                [],
                [],
                marker="o",
                label="mean" if data == MEAN else escape_figure(data, longest=24),
                **style,
            )
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1 - top / height)}
    figure.legend(ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK, **where)
    count = len(ranking.models)
    axes.set(xlim=(0.5, count + 0.5), ylim=(len(models) - 0.5, -0.5))
    axes.set_yticks(range(len(models)), [escape_figure(model) for model in models])
    axes.tick_params(axis="y", labelsize=8.5, colors=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    for at in range(1, len(models)):
        axes.axhline(at - 0.5, color=RULE, linewidth=0.8, zorder=0)
    return figure


def _rank_text(row: Mapping[str, Any]) -> str:
    return (
        f"{row['model']}, {row['data']}: rank {row['rank']} "
        f"({_span(row['rank_low'], row['rank_high'])}), AP50-95 {row['ap']:.3f}"
    )


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


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
    rank = _span(*interval)
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
