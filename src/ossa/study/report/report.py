"""The report of a study: one page that needs nothing beside it, its figures and its tables."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ossa.study.report.interactive import scripts
from ossa.study.report.sections import (
    answers_section,
    conditions_section,
    curves_section,
    frontier_section,
    models_section,
    pairs_section,
    prediction_section,
    seen_sections,
)
from ossa.study.report.text import counted
from ossa.study.report.view import Parts, StudyView
from ossa.study.results import StudyResults
from ossa.viz.page import Page, Section, write_page


def write_study_report(
    results: StudyResults,
    folder: Path,
    *,
    on_figure: Callable[[int], None] | None = None,
) -> Path:
    """Writes index.html, figures/*.svg and *.png, tables/*.csv, *.md and *.tex; returns the page.

    Args:
        results: of a study with a finished run at least.
        folder: made where it is not there; files of the same names are replaced.
        on_figure: called with the number of figures drawn.

    Raises:
        DataError: no run of the recipe as it is, detections that are gone, or an image that cannot
            be decoded.
        CheckpointError: the disk is full or cannot be written.
    """
    with _few_collections():
        view, parts = StudyView.of(results), Parts(on_figure)
        sections = [
            answers_section(view, parts),
            models_section(view, parts),
            frontier_section(view, parts),
            prediction_section(view, parts),
            pairs_section(view, parts),
            curves_section(view, parts),
            *seen_sections(view, parts),
            conditions_section(view, parts),
        ]
        parts.save(folder)
    return write_page(_page(view, [one for one in sections if one]), folder / "index.html")


def _page(view: StudyView, sections: list[Section]) -> Page:
    study, index = view.results.study, view.results.index
    seeds = counted(len(study.seeds), "seed")
    told = study.description or (
        f"{counted(len(view.names), 'backbone')} behind the same neck and head, {seeds}, "
        f"evaluated on {len(index):,} images with {len(index.labels):,} objects."
    )
    records = [run.state.record for run in view.results.runs if run.state.record]
    version = records[0].environment.get("ossa", "") if records else ""
    return Page(
        title=study.name,
        subtitle=told,
        sections=sections,
        footer=f"Ossa {version} · conditions {view.results.folder.plan.recipe_hash[:16]} · figures "
        "as SVG and PNG and tables as CSV, Markdown and LaTeX lie beside this page",
        scripts=scripts(),
    )


@contextmanager
def _few_collections() -> Iterator[None]:
    """Takes all that is alive now out of the sight of Python's collector, for as long.

    statsmodels collects garbage at every correction by Holm: 0.7 s each, with PyTorch in memory.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
