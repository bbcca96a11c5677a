"""How long the report of a large study takes.

    nice python benchmarks/study_report.py            # 100 models, 3 seeds: some minutes

Writes a study that was never trained (`synthetic_study.py`), reads it, once without and once with
the metrics that are kept beside each run, and writes its report. Prints seconds and sizes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from synthetic_study import supported_models, write_study

from ossa.study.folder import read_study_folder
from ossa.study.report.report import write_study_report
from ossa.study.reported import RESAMPLED_FILE
from ossa.study.results import load_study

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of ossa study report.")
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--false-per-image", type=int, default=60, help="false detections")
    parser.add_argument("--folder", type=Path, help="of the study; kept where it is given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary)
        study = folder / "study"
        if not study.exists():
            write_study(
                folder,
                models=supported_models(options.models),
                seeds=tuple(range(options.seeds)),
                images=options.images,
                false_per_image=options.false_per_image,
            )
        for file in study.glob(f"runs/*/{RESAMPLED_FILE}"):
            file.unlink()
        print("| step | seconds | of processor |\n|---|---:|---:|")
        opened = read_study_folder(study)
        timed("read, resampling every run", lambda: load_study(opened))
        results = timed("read, with kept metrics", lambda: load_study(opened))
        page = timed("report", lambda: write_study_report(results, study / "report"))
        size = page.stat().st_size / 1e6
        print(f"{len(results.runs)} runs; the page has {size:.1f} MB", file=sys.stderr)


def timed(what: str, work: Callable[[], T]) -> T:
    """Returns what `work` returns and prints a row with its time."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor = time.perf_counter() - started, time.process_time() - cpu
    print(f"| {what} | {seconds:.1f} | {processor:.1f} |", flush=True)
    return result


if __name__ == "__main__":
    main()
