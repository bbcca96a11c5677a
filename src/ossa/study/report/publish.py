"""Publishes a study: a folder small enough to be committed, from which all figures are computed.

It is the folder of a study as any other, with records, logs and the detections that the study
reports on, but without weights, states and what is drawn from these; so `ossa study verify` and
`ossa study report` work on it. Detections below a score are left out, and the metrics are those of
the others; `published.json` of each run has the metrics of all, and so what this changes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ossa.errors import ConfigError, DataError
from ossa.files import write_json_atomically, write_text_atomically
from ossa.study.folder import (
    FAILURE_FILE,
    MEASUREMENTS_FILE,
    STUDY_FILE,
    RunState,
    StudyFolder,
    read_study_folder,
)
from ossa.study.report.report import PAGE_FILE, SUMMARY_FILE, write_study_report
from ossa.study.reported import (
    PUBLISHED_FILE,
    RESAMPLED_FILE,
    Publication,
    read_publication,
    read_reported,
    read_reported_split,
    write_thinned,
)
from ossa.study.results import load_study
from ossa.train.run_folder import LOG_FILE, RECORD_FILE, Numbers

REPORT_FILE, SENTENCES_FILE = "report.html", "README.md"


class Published(NamedTuple):
    """What was published."""

    runs: int
    change: float
    """The largest change of AP by leaving out detections, with its sign."""
    size: int
    """Bytes of all files."""


def publish_study(
    study: StudyFolder,
    folder: Path,
    *,
    least_score: float = 0.01,
    pictures: bool = False,
    on_run: Callable[[int, int], None] | None = None,
) -> Published:
    """Writes the finished runs of a study into a folder, with the report and its sentences.

    Args:
        study: to publish; nothing of it is changed.
        folder: a new or empty one.
        least_score: of the detections that are kept.
        pictures: whether the page shows images of the data set, which its licence must allow.
        on_run: called with the number of runs written and their total.

    Raises:
        ConfigError: the study reports on val, or the folder is in use.
        DataError: no run is finished, or files of one are missing or damaged.
    """
    reported = study.study.reported
    if reported.split == "val":
        raise ConfigError(
            f"{study.path} reports on val, whose detections belong to the records: publish a study "
            "with 'reported: {split: test}'"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(expected="a new or empty folder", found="one in use", path=folder)
    states = study.states()
    done = [state for state in states if state.state == "done"]
    if not done:
        raise DataError(expected="finished runs", path=study.path, advice="ossa study run")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (STUDY_FILE, MEASUREMENTS_FILE):
        if (study.path / name).exists():
            shutil.copyfile(study.path / name, folder / name)
    published = StudyFolder(folder, study.plan)
    for state in states:
        if state.state == "failed":
            _copy_run(state, published.run_folder(state.run), least_score, {})
    changes = []
    for number, state in enumerate(done, start=1):
        changes.append(_publish_run(state, published, least_score=least_score))
        if on_run is not None:
            on_run(number, len(done))
    change = max(changes, key=abs)
    _write_report(published, least_score, change, pictures=pictures)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Published(len(done), change, size)


def _publish_run(state: RunState, published: StudyFolder, *, least_score: float) -> float:
    """Writes a finished run, and returns how leaving out detections changes its AP."""
    reported, to = published.study.reported, published.run_folder(state.run)
    earlier = read_publication(state.folder)  # where a published study is published again
    before = earlier.metrics if earlier else read_reported(state.folder, reported)
    _copy_run(state, to, least_score, before)
    index = read_reported_split(state.folder, state.run.config.data, reported)
    write_thinned(state.folder, to, reported, index, least_score=least_score)
    return (read_reported(to, reported)["ap"] or 0.0) - (before["ap"] or 0.0)


def _copy_run(state: RunState, to: Path, least_score: float, metrics: Numbers) -> None:
    """Writes what a run has beside its detections, and the metrics that it had with all of them."""
    to.mkdir(parents=True)
    for name in (RECORD_FILE, LOG_FILE, FAILURE_FILE):
        if (state.folder / name).exists():
            shutil.copyfile(state.folder / name, to / name)
    files = state.record.files if state.record else {}
    left_out = tuple(sorted(name for name in files if not (to / name).exists()))
    publication = Publication(least_score=least_score, left_out=left_out, metrics=metrics)
    write_json_atomically(to / PUBLISHED_FILE, publication.model_dump())


def _write_report(
    published: StudyFolder, least_score: float, change: float, *, pictures: bool
) -> None:
    """Writes page and sentences from the files of the published study alone."""
    folder, temporary = published.path, published.path / "report"
    places = published.plan.runs[0].config.data
    results = load_study(read_study_folder(folder, data=Path(places)))
    write_study_report(results, temporary, detections=pictures)
    title, rest = (temporary / SUMMARY_FILE).read_text().split("\n", 1)
    (temporary / PAGE_FILE).replace(folder / REPORT_FILE)
    shutil.rmtree(temporary)
    for file in folder.rglob(RESAMPLED_FILE):
        file.unlink()
    about = f"""
`ossa study publish` has written this folder from {len(results.runs)} finished runs: the
[page]({REPORT_FILE}), and records, logs and detections of {published.study.reported.split}.
`ossa study verify {folder.name} --data FOLDER` computes all figures from these files again.
Detections with a score below {least_score:g} are left out: AP changes by {change:+.1e} at most.
"""
    write_text_atomically(folder / SENTENCES_FILE, f"{title}\n{about}{rest}")
