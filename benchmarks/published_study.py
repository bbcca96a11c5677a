"""The published sentences of the study of ten backbones, from its records.

    python benchmarks/published_study.py

Reads `results/bccd-160-2core-amd-epyc` (records, logs and measurements), and writes with the code
of `ossa study report` the page beside them, the summary `results/bccd-160-2core-amd-epyc.md`, and
the sentence between the marks in `docs/reproduction.md`. The detections are not published: the
intervals are over seeds, on the images of val, and the page has neither detections nor confusion
matrices.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.bootstrap import RESAMPLED_METRICS, RESAMPLES, num_parts
from ossa.study.config import read_study
from ossa.study.folder import RunState, StudyFolder
from ossa.study.plan import make_plan
from ossa.study.report.answers import sentences
from ossa.study.report.report import SUMMARY_FILE, write_study_report
from ossa.study.results import StudyResults, StudyRun, run_row
from ossa.train.run_folder import LOG_FILE, RECORD_FILE, read_log, read_record

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "bccd-160-2core-amd-epyc"
PUBLISHED = RESULTS.with_suffix(".md")
REPRODUCTION = ROOT / "docs" / "reproduction.md"
_MARKED = re.compile("(<!-- bccd-160 -->).*(<!-- end -->)")
_HEAD = """
205 images for training; from scratch, 40 epochs; two cores of an AMD EPYC (virtual machine). The
[page](bccd-160-2core-amd-epyc/report.html), [records](bccd-160-2core-amd-epyc/records/) and
[logs](bccd-160-2core-amd-epyc/logs/). `benchmarks/published_study.py` has written this file.
"""


def published_results(temporary: Path) -> StudyResults:
    """Returns the results of the published study; `temporary` gets copies of its records."""
    study = read_study(ROOT / "studies" / "bccd-160.yaml")
    plan = make_plan(study, data=Path("bccd"), folder=RESULTS, conditions_version=1)
    measurements = json.loads((RESULTS / "measurements.json").read_text())
    runs, index = [], None
    for run in plan.runs:
        folder = temporary / run.name
        folder.mkdir(parents=True)
        shutil.copy(RESULTS / "records" / f"{run.name}.json", folder / RECORD_FILE)
        shutil.copy(RESULTS / "logs" / f"{run.name}.jsonl", folder / LOG_FILE)
        record, log = read_record(folder), read_log(folder)
        metrics = record.metrics["last"]
        index = index or _split_of(metrics)
        weightings = 1 + RESAMPLES + num_parts(len(index))
        state = RunState(run, folder, "done", record, epochs_done=len(log))
        known = {name: metrics.get(name, np.nan) for name in RESAMPLED_METRICS}
        same = {name: np.full(weightings, float(value)) for name, value in known.items()}
        row = run_row(
            state,
            log,
            {"ap_crowded": np.nan, **metrics},
            measurements.get("models", {}).get(state.run.model, {}),
        )
        runs.append(StudyRun(state, tuple(log), same, row))
    assert index is not None
    states = tuple(run.state for run in runs)
    folder = StudyFolder(temporary, plan)
    return StudyResults(folder, states, tuple(runs), index, measurements)


def _split_of(metrics: dict[str, Any]) -> DatasetIndex:
    """Returns a split with as many images and objects, of which nothing else is known."""
    images = int(metrics["num_images"])
    objects = int(metrics["num_gt"] if "num_gt" in metrics else metrics["num_truths"])
    offsets = np.full(images + 1, objects)
    offsets[0] = 0
    return DatasetIndex(
        root=Path(),
        names=("not published",),
        category_ids=np.array([1]),
        file_names=np.array([str(number) for number in range(images)]),
        image_ids=np.arange(images),
        sizes_wh=np.ones((images, 2), np.int32),
        gt_offsets=offsets,
        boxes_xyxy=np.zeros((objects, 4)),
        labels=np.zeros(objects, np.int64),
        areas=np.zeros(objects),
        crowd=np.zeros(objects, bool),
        difficult=np.zeros(objects, bool),
        annotation_ids=np.arange(objects),
    )


def published_texts(results: StudyResults, folder: Path) -> tuple[str, str]:
    """Returns the summary and the text of docs/reproduction.md; the page is written to a folder."""
    write_study_report(results, folder, detections=False)
    title, rest = (folder / SUMMARY_FILE).read_text().split("\n", 1)
    sentence = f"{sentences(results)[0]} [More](../results/{PUBLISHED.name})"
    reproduction = _MARKED.sub(rf"\1{sentence}\2", REPRODUCTION.read_text())
    return f"{title}\n{_HEAD}{rest}", reproduction


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        results = published_results(Path(temporary) / "runs")
        summary, reproduction = published_texts(results, Path(temporary) / "report")
        shutil.copy(Path(temporary) / "report" / "index.html", RESULTS / "report.html")
    PUBLISHED.write_text(summary)
    REPRODUCTION.write_text(reproduction)


if __name__ == "__main__":
    main()
