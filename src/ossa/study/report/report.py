"""The report of a study: one self-contained page, with its figures and tables as files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ossa.errors import DataError
from ossa.escaping import escape_markdown
from ossa.files import write_text_atomically
from ossa.study.analysis import Relation
from ossa.study.pack import Machine
from ossa.study.report.across import machines_section
from ossa.study.report.answers import budgets_table, main_measure, sentences
from ossa.study.report.conditions import conditions_section, total_times
from ossa.study.report.figures import models_outside, relation_figure
from ossa.study.report.fits import prediction_section, relations_section
from ossa.study.report.sections import (
    curves_section,
    detection_sections,
    models_table,
    pairs_section,
    variations_section,
)
from ossa.study.report.tables import ReportFiles, ReportTable, bullets, svg_of
from ossa.study.report.text import counted, duration, listed
from ossa.study.results import StudyResults
from ossa.viz.page import Block, FigureBlock, Page, Section, Switch, write_page

SUMMARY_FILE = "summary.md"
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
    if not results.runs_by_model or not results.is_known("ap"):
        raise DataError(
            expected="finished runs of the base recipe, on a split with objects",
            path=results.folder.path,
            advice="train them with 'ossa study run'",
        )
    files = ReportFiles(folder, on_figure, mark=results.folder.plan.marked)
    models = files.marked(models_table(results))
    here = files.table(models)
    others = {m.name: files.marked(models_table(results, m.relation)).as_block() for m in machines}
    sections = [
        _first_section(results, machines, files),
        Section("", [_by_machine(here, others)]),
        pairs_section(results, files),
        relations_section(results, files),
        machines_section(machines, files),
        prediction_section(results, files),
        variations_section(results, files),
        curves_section(results, files),
        *(detection_sections(results, files) if detections else []),
        conditions_section(results, files),
    ]
    record = results.runs[0].state.record
    version = record.environment.get("ossa", "") if record else ""
    known = [section for section in sections if section]
    page = Page(
        title=results.study.name,
        subtitle=one_line(results),
        sections=known,
        footer=f"Ossa {version} · hash of the shared settings "
        f"{results.folder.plan.shared_settings_hash[:16]} · figures as SVG and PNG and tables as "
        "CSV, Markdown and LaTeX are in the folder of this page",
        wide=True,
    )
    write_text_atomically(folder / SUMMARY_FILE, summary(results, models, known))
    return write_page(page, folder / "index.html")


def one_line(results: StudyResults) -> str:
    """Returns what was compared."""
    study, index = results.study, results.index
    text = (
        f"{counted(len(results.names), 'backbone')}, {counted(len(study.seeds), 'seed')}, "
        f"{len(index):,} images with {len(index.labels):,} objects of {study.data}"
    )
    unfinished = sum(state.state != "done" for state in results.states)
    if unfinished:
        text += f"; {unfinished} of {counted(len(results.states), 'run')} have no result"
    return f"{study.description} ({text})" if study.description else f"{text}."


def _first_section(
    results: StudyResults, machines: Sequence[Machine], files: ReportFiles
) -> Section:
    """Returns the main figure, for each machine, beside the answers."""
    here = _main_figure(results, results.relation("ap", main_measure(results)), files, "first")
    others = {m.name: _main_figure(results, m.relation, files, f"first-{m.name}") for m in machines}
    files.table(budgets_table(results))
    return Section("", [_by_machine(here, others), bullets("", sentences(results))], beside=True)


def _by_machine(here: Block, others: Mapping[str, Block]) -> Block:
    """Returns a switch between what was measured here and on other machines."""
    if not others:
        return here
    titles = {"": "this study", **{name: name for name in others}}
    blocks: dict[tuple[str, ...], Block] = {("",): here}
    return Switch({"times of": titles}, blocks | {(name,): other for name, other in others.items()})


def _main_figure(
    results: StudyResults, relation: Relation, files: ReportFiles, name: str
) -> FigureBlock:
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
    return replace(files.figure(name, broad), caption=caption, narrow_svg=svg_of(narrow))


def summary(results: StudyResults, models: ReportTable, sections: Sequence[Section]) -> str:
    """Returns the sentences and the main table of the page as Markdown."""
    times = " and ".join(f"{duration(seconds)} of {name}" for name, seconds in total_times(results))
    lines = [f"# {escape_markdown(results.study.name)}", "", escape_markdown(one_line(results)), ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in sentences(results)]
    lines += ["", models.markdown()]
    for section in sections:
        if section.text:
            lines += [f"**{section.heading}.** {escape_markdown(section.text)}", ""]
    return "\n".join([*lines, f"All runs together: {times}.", ""])
