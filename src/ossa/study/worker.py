"""The process that trains one run of a study: `python -m ossa.study.worker STUDY_FOLDER RUN`.

Executors may start it more than once: a finished run is left unchanged, and an interrupted run is
resumed from its last checkpoint. Exit codes: 0 for done, 1 for failed, and 3 for stopped by Ctrl-C
or SIGTERM with everything saved.
"""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from ossa.data.cache import CachePlace
from ossa.errors import OssaError, RunFailed
from ossa.escaping import print_line
from ossa.evaluate.evaluator import Evaluation
from ossa.files import held
from ossa.study.config import Reported
from ossa.study.environments import check_next_run
from ossa.study.executors import DONE, FAILED, STOPPED
from ossa.study.folder import FAILURE_FILE, read_study_folder, write_failure, write_progress
from ossa.study.plan import PlannedRun
from ossa.study.reported import (
    detections_file,
    ensure_resampled,
    is_reported,
    read_reported_split,
    write_reported,
)
from ossa.train.callbacks import Callback, RunStart
from ossa.train.loop import train
from ossa.train.provenance import provenance
from ossa.train.resume import STATE_FILE
from ossa.train.run_folder import RECORD_FILE, read_record
from ossa.types import Record

_SAVE_MINUTES = 5.0
_PARENT_SECONDS = 2.0
_PROGRESS_SECONDS = 2.0


def train_run(
    run: PlannedRun,
    folder: Path,
    *,
    reported: Reported,
    device: str,
    workers: int,
    cache: CachePlace = "auto",
) -> int:
    """Trains a run from its last checkpoint to its end; returns the exit code of its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, on_wait=lambda owner: print_line(f"waiting for {owner}")):
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        try:
            record = _finished(folder) or train(
                run.config,
                folder,
                device=device,
                workers=workers,
                cache=cache,
                resume=(folder / STATE_FILE).exists(),
                allow_unlabeled=True,  # checked when the study was started
                callback=_Log(folder),
                save_minutes=_SAVE_MINUTES,
            )
            if record.status != "done":
                return STOPPED
            if not is_reported(folder, reported):
                write_reported(folder, reported, device=device, workers=workers, cache=cache)
            ensure_resampled(
                detections_file(folder, reported),
                read_reported_split(folder, run.config.data, reported),
            )
        except KeyboardInterrupt:
            return STOPPED
        except Exception as failure:
            traceback.print_exc()
            known = isinstance(failure, OssaError)
            reason = str(failure) if known else f"{type(failure).__name__}: {failure}"
            if not (folder / RECORD_FILE).exists():
                refused = known and not isinstance(failure, RunFailed)
                write_failure(folder, " ".join(reason.split()), refused=refused)
            return FAILED
    return DONE


def _finished(folder: Path) -> Record | None:
    if not (folder / RECORD_FILE).exists():
        return None
    record = read_record(folder)
    return record if record.status == "done" else None


class _Log(Callback):
    """Prints one line per epoch into the log and writes the progress file of the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start: RunStart | None = None
        self._written_at = 0.0

    def on_start(self, start: RunStart) -> None:
        self._start = start
        print_line(f"training {start.config.model.name}, {start.epochs_done} epochs done")

    def note(self, sentence: str) -> None:
        print_line(sentence)

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        assert self._start is not None
        now = time.monotonic()
        if now - self._written_at > _PROGRESS_SECONDS:
            self._written_at = now
            write_progress(self._folder, epoch + batch / self._start.batches_per_epoch)

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
        assert self._start is not None
        epochs = self._start.config.train.epochs
        seconds = row["train_seconds"] + row["evaluate_seconds"]
        ap = "" if evaluation is None else f"AP {row['ap']}  "
        print_line(f"epoch {row['epoch'] + 1}/{epochs}  {ap}{seconds:.1f} s")


def stop_when(ended: Callable[[], object]) -> None:
    """Stops this process by SIGTERM when `ended` returns, by which a thread waits for the study."""

    def watch() -> None:
        ended()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_end_of(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the run named by the arguments, by default the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="The process of one run of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cache", choices=get_args(CachePlace), default="auto")
    parser.add_argument("--parent", type=int, help="stop when this process is gone")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        stop_when(lambda: _wait_for_end_of(options.parent))
    study = read_study_folder(options.study)
    run = study.plan.run(options.run)
    folder = study.run_folder(run)
    if not (folder / RECORD_FILE).exists():
        try:
            check_next_run(study, provenance(run.config, torch.device(options.device)))
        except OssaError as refusal:
            print_line(str(refusal))
            write_failure(folder, str(refusal), refused=True)
            return FAILED
    return train_run(
        run,
        folder,
        reported=study.study.reported,
        device=options.device,
        workers=options.workers,
        cache=options.cache,
    )


if __name__ == "__main__":
    sys.exit(main())
