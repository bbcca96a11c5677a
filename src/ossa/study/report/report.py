"""The report of a study: one self-contained page, with its figures and tables as files."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ossa.errors import DataError
from ossa.escaping import escape_markdown
from ossa.files import write_text_atomically
from ossa.study.pack import Machine
from ossa.study.report.answers import budgets_table, main_measure, sentences, timing_note
from ossa.study.report.conditions import conditions_section, total_times
from ossa.study.report.factors import factors_section
from ossa.study.report.figures import models_outside, relation_figure
from ossa.study.report.fits import prediction_section, relations_section
from ossa.study.report.sections import (
    curves_section,
    detection_sections,
    models_table,
    pairs_section,
)
from ossa.study.report.tables import ReportFiles, bullets, svg_of
from ossa.study.report.text import counted, duration, listed
from ossa.study.results import StudyResults
from ossa.viz.page import Block, FigureBlock, Group, Page, Section, Switch, TextBlock, write_page

PAGE_FILE, SUMMARY_FILE = "index.html", "summary.md"
MOST_TABS = 8
"""Of a switch; more choices are in a list that opens."""
_BROAD, _NARROW = (8.0, 5.5), (4.0, 4.2)
"""Inches of the first figure on a screen and on a phone."""


def write_study_report(
    results: StudyResults,
    folder: Path,
    *,
    machines: Sequence[Machine] = (),
    detections: bool = True,
    on_figure: Callable[[int], None] | None = None,
) -> Path:
    """Writes index.html, summary.md, figures/*.svg and *.png, tables/*.csv, *.md and *.tex.

    Args:
        results: the results of a study with at least one finished run.
        folder: created if it is missing; files of the same names are replaced.
        machines: other machines on which the models were timed.
        detections: whether to show detections and confusion matrices, which need the images.
        on_figure: called with the number of figures drawn so far.

    Returns:
        The page.

    Raises:
        DataError: no finished run of the base recipe, missing detections, or an image that cannot
            be decoded.
        CheckpointError: the disk is full or cannot be written.
    """
    write_study_sections(
        results, folder, machines=machines, detections=detections, on_figure=on_figure
    )
    return folder / PAGE_FILE


def write_study_sections(
    results: StudyResults,
    folder: Path,
    *,
    machines: Sequence[Machine],
    detections: bool,
    on_figure: Callable[[int], None] | None,
) -> list[Section]:
    """Writes what `write_study_report` does and returns the sections of the page."""
    if not results.runs_by_model or not results.is_known("ap"):
        raise DataError(
            expected="finished runs of the base recipe, on a split with objects",
            path=results.folder.path,
            advice="train them with 'ossa study run'",
        )
    files = ReportFiles(folder, on_figure, mark=results.folder.plan.marked)
    found = [
        *_first_sections(results, machines, files),
        pairs_section(results, files),
        relations_section(results, files),
        prediction_section(results, files),
        factors_section(results, files),
        curves_section(results, files),
        *(detection_sections(results, files) if detections else []),
        conditions_section(results, files),
    ]
    sections = [section for section in found if section]
    page = Page(
        title=results.study.name,
        subtitle=one_line(results),
        sections=sections,
        footer=footer(results),
        wide=True,
    )
    write_text_atomically(folder / SUMMARY_FILE, summary(results, files, sections))
    write_page(page, folder / PAGE_FILE)
    return sections


def footer(results: StudyResults) -> str:
    """Returns what made the page, from which settings."""
    record = results.runs[0].state.record
    version = record.environment.get("ossa", "") if record else ""
    return (
        f"Ossa {version} · hash of the shared settings "
        f"{results.folder.plan.shared_settings_hash[:16]} · figures as SVG and PNG and tables as "
        "CSV, Markdown and LaTeX are in the folder of this page"
    )


def one_line(results: StudyResults) -> str:
    """Returns what was compared."""
    study, index = results.study, results.index
    varied = "".join(f"{len(each)} values of {key}, " for key, each in study.factors.items())
    text = (
        f"{counted(len(results.names), 'backbone')}, {varied}{counted(len(study.seeds), 'seed')}, "
        f"{len(index):,} images with {len(index.labels):,} objects of {study.data}"
    )
    unfinished = sum(state.state != "done" for state in results.states)
    if unfinished:
        text += f"; {unfinished} of {counted(len(results.states), 'run')} have no result"
    return f"{study.description} ({text})" if study.description else f"{text}."


def _first_sections(
    results: StudyResults, machines: Sequence[Machine], files: ReportFiles
) -> list[Section]:
    """Returns the main figure beside the answers, and the table; for each machine, by a switch."""
    here = _answered(results, files)
    if not machines:
        return here
    groups: dict[tuple[str, ...], Block] = {("",): Group(here)}
    for machine in machines:
        answered = _answered(machine.results, files, f"-{machine.name}")
        groups[(machine.name,)] = Group([Section("", [TextBlock(machine.sentence())]), *answered])
    titles = {"": "this study", **{machine.name: machine.name for machine in machines}}
    return [Section("", [Switch({"times of": titles}, groups, tabs=len(titles) <= MOST_TABS)])]


def _answered(results: StudyResults, files: ReportFiles, suffix: str = "") -> list[Section]:
    figure = _main_figure(results, files, f"first{suffix}")
    files.table(budgets_table(results, f"budgets{suffix}"))
    table = files.table(models_table(results, f"models{suffix}"))
    answers = Section("", [figure, bullets("", sentences(results))], beside=True)
    return [answers, Section("", [table])]


def _main_figure(results: StudyResults, files: ReportFiles, name: str) -> FigureBlock:
    relation = results.relation("ap", main_measure(results))
    broad, narrow = (
        relation_figure(results, relation, size_inches=size, with_fit=False)
        for size in (_BROAD, _NARROW)
    )
    reasons = {state.run.model: state.reason for state in results.states if state.reason}
    for model in results.names:
        reasons[model] = "AP50-95 is 0" if not results.number(model, "ap") else "not measured"
    outside = [
        f"{model} ({reasons.get(model, 'not run')})" for model in models_outside(results, relation)
    ]
    caption = "Filled: the Pareto set. Bars: 95% intervals, not adjusted for the number of models."
    if outside:
        caption += f" Outside the axes: {listed(outside, most=6)}."
    if relation.complexity == "ms_per_image" and (busy := timing_note(results)):
        caption += f" {busy}"
    return replace(files.figure(name, broad), caption=caption, narrow_svg=svg_of(narrow))


def summary(results: StudyResults, files: ReportFiles, sections: Sequence[Section]) -> str:
    """Returns the sentences and the main table of the page as Markdown."""
    times = " and ".join(f"{duration(seconds)} of {name}" for name, seconds in total_times(results))
    lines = [f"# {escape_markdown(results.study.name)}", "", escape_markdown(one_line(results)), ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in sentences(results)]
    lines += ["", files.marked(models_table(results)).markdown()]
    for section in sections:
        if section.text:
            lines += [f"**{section.heading}.** {escape_markdown(section.text)}", ""]
    return "\n".join([*lines, f"All runs together: {times}.", ""])
