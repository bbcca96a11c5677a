"""The report of a study: one self-contained page, with its figures and tables as files."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ossa.errors import DataError
from ossa.study.pack import Machine
from ossa.study.report.across import machines_section
from ossa.study.report.answers import answers_section, pairs_section
from ossa.study.report.fits import prediction_section, relations_section
from ossa.study.report.scatter import scripts
from ossa.study.report.sections import (
    conditions_section,
    curves_section,
    detection_sections,
    models_section,
)
from ossa.study.report.tables import ReportFiles
from ossa.study.report.text import counted
from ossa.study.results import StudyResults
from ossa.viz.page import Page, write_page


def write_study_report(
    results: StudyResults,
    folder: Path,
    *,
    machines: Sequence[Machine] = (),
    on_figure: Callable[[int], None] | None = None,
) -> Path:
    """Writes index.html, figures/*.svg and *.png, tables/*.csv, *.md and *.tex; returns the page.

    Args:
        results: the results of a study with at least one finished run.
        folder: created if it is missing; files of the same names are replaced.
        machines: other machines on which the models were timed.
        on_figure: called with the number of figures drawn so far.

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
    with _frozen_garbage_collector():
        sections = [
            answers_section(results, files),
            models_section(results, files),
            relations_section(results, files),
            machines_section(machines, files),
            prediction_section(results, files),
            pairs_section(results, files),
            curves_section(results, files),
            *detection_sections(results, files),
            conditions_section(results, files),
        ]
    study, index = results.study, results.index
    subtitle = study.description or (
        f"{counted(len(results.names), 'backbone')} behind the same neck and head, "
        f"{counted(len(study.seeds), 'seed')}, evaluated on {len(index):,} images with "
        f"{len(index.labels):,} objects."
    )
    record = results.runs[0].state.record
    version = record.environment.get("ossa", "") if record else ""
    page = Page(
        title=study.name,
        subtitle=subtitle,
        sections=[section for section in sections if section],
        footer=f"Ossa {version} · hash of the shared settings "
        f"{results.folder.plan.shared_settings_hash[:16]} · figures as SVG and PNG and tables as "
        "CSV, Markdown and LaTeX are in the folder of this page",
        scripts=scripts(),
    )
    return write_page(page, folder / "index.html")


@contextmanager
def _frozen_garbage_collector() -> Iterator[None]:
    """Excludes all existing objects from garbage collection.

    statsmodels collects garbage at every Holm adjustment, which takes 0.7 s with PyTorch in memory.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
