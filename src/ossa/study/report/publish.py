"""Publishes a study: a folder small enough to be committed, from which all figures are computed.

It is the folder of a study as any other, with records, logs and the detections that the study
reports on, but without weights, states and what is drawn from these; so `ossa study verify` and
`ossa study report` work on it. Detections below a score are left out, and the metrics are those of
the others; `published.json` of each run has the metrics of all, and so what this changes.
"""

import math
import re
import shutil
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from ossa.errors import ConfigError, OssaError, legible
from ossa.files import (
    read_small_file,
    without_nan,
    write_json_atomically,
    write_text_atomically,
)
from ossa.study.folder import (
    FAILURE_FILE,
    MEASUREMENTS_FILE,
    STUDY_FILE,
    RunState,
    StudyFolder,
    read_study_folder,
)
from ossa.study.report.report import PAGE_FILE, SUMMARY_FILE, write_study_report
from ossa.study.report.text import counted, signed
from ossa.study.reported import (
    PUBLISHED_FILE,
    Publication,
    read_publication,
    read_reported,
    read_reported_split,
    write_thinned,
)
from ossa.study.results import StudyResults, StudyRun, load_study
from ossa.study.verify import Mismatch, VerifiedRun
from ossa.train.run_folder import LOG_FILE, RECORD_FILE, Numbers

REPORT_FILE, SENTENCES_FILE = "report.html", "README.md"
_SHOWN: Final[Mapping[str, str]] = {
    **{"ap": "AP50-95", "ap50": "AP50", "ap_small": "S", "ap_medium": "M", "ap_large": "L"},
    "ap_crowded": "crowded",
}
"""The qualities of the table of models, as it calls them."""
_RUNS = re.compile(
    r"^`ossa study publish` has written this folder from (\d[\d,]{0,8}) finished run", re.MULTILINE
)
_WITH_PICTURES = "**Example detections.**"
_MOST_SHOWN = 1000
"""Characters of a line that differs."""


class Published(NamedTuple):
    """What was published."""

    runs: int
    changes: Mapping[str, float]
    """As of `largest_changes`."""
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
        study: to publish; as by a report, the resampled metrics of its runs are stored in it.
        folder: a new or empty one; it is removed again if it cannot be completed.
        least_score: of the detections that are kept.
        pictures: whether the page shows images of the data set, which its licence must allow.
        on_run: called with the number of runs written and their total.

    Raises:
        ConfigError: the study reports on val, the folder is in use, or leaving out detections
            changes the order of the models in AP or the verdict on a pair.
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
    results = load_study(study)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        changes = _publish(results, folder, least_score, pictures=pictures, on_run=on_run)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Published(len(results.runs), changes, size)


def _publish(
    results: StudyResults,
    folder: Path,
    least_score: float,
    *,
    pictures: bool,
    on_run: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """Writes everything, and returns the largest changes by leaving out detections."""
    for name in (STUDY_FILE, MEASUREMENTS_FILE):
        if (results.folder.path / name).exists():
            shutil.copyfile(results.folder.path / name, folder / name)
    published = StudyFolder(folder, results.folder.plan)
    for state in results.states:
        if state.state == "failed":
            _copy_run(state, published.run_folder(state.run), least_score, {})
    for number, run in enumerate(results.runs, start=1):
        _publish_run(run, published, least_score=least_score)
        if on_run is not None:
            on_run(number, len(results.runs))
    data = Path(published.plan.runs[0].config.data)
    kept = load_study(read_study_folder(folder, data=data), keep_resampled=False)
    _check_conclusions(results, kept, least_score)
    with TemporaryDirectory() as temporary:
        sentences = _draw(kept, Path(temporary), pictures=pictures)
        shutil.copyfile(Path(temporary) / PAGE_FILE, folder / REPORT_FILE)
    write_text_atomically(folder / SENTENCES_FILE, sentences)
    return largest_changes(kept)


def _publish_run(run: StudyRun, published: StudyFolder, *, least_score: float) -> None:
    """Writes a finished run, with the metrics that it had before detections were left out."""
    state, reported, to = run.state, published.study.reported, published.run_folder(run.state.run)
    before = read_reported(state.folder, reported) | {"ap_crowded": run.row["ap_crowded"]}
    if earlier := read_publication(state.folder):  # a published study is published again
        before = earlier.metrics
    _copy_run(state, to, least_score, without_nan(before))
    index = read_reported_split(state.folder, state.run.config.data, reported)
    write_thinned(state.folder, to, reported, index, least_score=least_score)


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


def _check_conclusions(results: StudyResults, kept: StudyResults, least_score: float) -> None:
    """Raises ConfigError where leaving out detections changes a verdict or the order in AP."""
    before, after = (
        [f"{pair.model} against {pair.reference}: {pair.verdict}" for pair in each]
        for each in (results.comparisons().pairs(), kept.comparisons().pairs())
    )
    for with_all, without in zip(before, after, strict=True):
        if with_all != without:
            raise ConfigError(
                expected=f"'{with_all}', as with all detections",
                found=f"'{without}' without those of a score below {least_score:g}",
                advice="keep detections of lower scores with a smaller --min-score",
            )


def largest_changes(results: StudyResults) -> dict[str, float]:
    """Returns how much leaving out detections changes the qualities of one run at most.

    Args:
        results: of a published study.
    """
    changes: dict[str, float] = {}
    for run in results.runs:
        publication = read_publication(run.state.folder)
        for key, title in _SHOWN.items():
            before = publication.metrics.get(key) if publication else None
            after = run.row[key]
            if before is not None and after is not None and math.isfinite(after):
                changes[title] = max(changes.get(title, 0.0), after - before, key=abs)
    return changes


def changes_in_words(changes: Mapping[str, float]) -> str:
    """Returns changes such as 'AP50-95 −0.0013, S −0.0070'."""
    return ", ".join(f"{title} {signed(by, decimals=4)}" for title, by in changes.items())


def _draw(results: StudyResults, folder: Path, *, pictures: bool) -> str:
    """Draws the page of a published study into a folder, and returns the text of README.md."""
    write_study_report(results, folder, detections=pictures)
    title, rest = (folder / SUMMARY_FILE).read_text(encoding="utf-8").split("\n", 1)
    publications = [read_publication(run.state.folder) for run in results.runs]
    least_score = max((each.least_score for each in publications if each), default=0.0)
    changes = changes_in_words(largest_changes(results))
    about = f"""
`ossa study publish` has written this folder from {counted(len(results.runs), "finished run")}: the
[page]({REPORT_FILE}), and records, logs and detections of {results.study.reported.split}.
`ossa study verify FOLDER --data DATA` computes the metrics, intervals and sentences again from
these files; times are measurements and are taken as they are. `ossa study report FOLDER` draws the
page again.
Detections with a score below {least_score:g} are left out. That changes neither the order of the
models in AP50-95 nor the verdict on a pair, and the qualities of a run by at most: {changes}.
AR, which counts detections of all scores and is shown nowhere, may change more.
"""
    return f"{title}\n{about}{rest}"


def verify_sentences(
    study: StudyFolder, *, on_run: Callable[[int, int], None] | None = None
) -> VerifiedRun | None:
    """Writes README.md of a published study anew from its other files, and compares the two.

    Args:
        study: the folder of a study.
        on_run: called with the number of runs read and their total.

    Returns:
        What was found; None if it is not a published study.
    """
    is_published = any((study.run_folder(run) / PUBLISHED_FILE).exists() for run in study.plan.runs)
    mismatches: list[Mismatch] = []
    unverified: list[str] = []
    try:
        content = read_small_file(study.path / SENTENCES_FILE, what="the published sentences")
        written = content.decode(errors="replace")
        stated = _RUNS.search(written)
        if not is_published and stated is None:
            return None
        done = sum(state.state == "done" for state in study.states())
        if stated and int(stated[1].replace(",", "")) > done:
            reason = f"{stated[1]} were published, {done} are here"
            mismatches.append(Mismatch("finished runs", reason=reason))
        with TemporaryDirectory() as temporary:
            results = load_study(study, keep_resampled=False, on_run=on_run)
            anew = _draw(results, Path(temporary), pictures=_WITH_PICTURES in written)
        mismatches += _first_difference(written, anew)
    except OssaError as problem:
        if not is_published and not mismatches:
            return None
        unverified.append(str(problem))
    return VerifiedRun(SENTENCES_FILE, 0, 0, tuple(mismatches), tuple(unverified))


def _first_difference(written: str, anew: str) -> list[Mismatch]:
    """Returns the first line that differs, in a list, which is empty if none does."""
    lines = zip_longest(written.split("\n"), anew.split("\n"), fillvalue="")
    for number, (there, here) in enumerate(lines, start=1):
        if there != here:
            found = legible(there, _MOST_SHOWN)
            reason = f"'{found}' stands there, these files give '{here}'"
            return [Mismatch(f"line {number}", reason=reason)]
    return []
