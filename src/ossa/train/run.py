"""A run: all that its steps share, how it begins or goes on, and how it is saved."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ossa.config import RunConfig
from ossa.data.loader import EpochBatches
from ossa.errors import CheckpointError, legible
from ossa.train.callbacks import Callback, RunStart
from ossa.train.checkpoint import STATE_FILE, Progress, load_state, save_state
from ossa.train.distributed import DistributedContext
from ossa.train.run_folder import LOG_FILE, RECORD_SCHEMA, RunFolder, environment, recovered_rows
from ossa.train.setup import Parts
from ossa.train.step import AsyncMetricReader, Step
from ossa.types import Record

_YOUNG_SECONDS = 60.0
"""What a killed run may lose at most, beside an epoch, for not writing the state more often."""


@dataclass
class Run:
    """What the steps of a training share. Its parts and progress change as it goes."""

    config: RunConfig
    parts: Parts
    step: Step
    batches: EpochBatches
    progress: Progress
    files: RunFolder
    callback: Callback
    device: torch.device
    processes: DistributedContext
    identity: dict[str, str]
    """Hashes of what must be the same when the run is resumed."""
    save_seconds: float
    reader: AsyncMetricReader
    saved_at: float = field(default_factory=time.monotonic)
    stop: bool = False
    """Whether a process was asked to stop, as all of them know."""
    state_age: float = 0.0
    """Seconds since the state was saved, as all processes know: they save together or not."""

    def save(self) -> None:
        """Writes the state from which the run can go on."""
        save_state(
            self.files.folder,
            progress=self.progress,
            detector=self.parts.detector,
            optimizer=self.parts.optimizer,
            average=self.parts.average,
            identity=self.identity,
            processes=self.processes,
        )
        self.saved_at, self.state_age = time.monotonic(), 0.0

    def save_at_epoch_end(self) -> None:
        """Saves the state, unless that was done just now: it may be far larger than the weights."""
        first_epoch = self.progress.batch_number == self.batches.batches_per_epoch
        is_old = self.state_age > min(self.save_seconds, _YOUNG_SECONDS)
        if is_old or first_epoch or self.stop or self.over:
            self.save()

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or patience has ended the run."""
        settings, per_epoch = self.config.train, self.batches.batches_per_epoch
        epochs_done, within = divmod(self.progress.batch_number, per_epoch)
        without_better = epochs_done - 1 - self.progress.best_epoch
        return within == 0 and (
            epochs_done == settings.epochs
            or (epochs_done > 0 and without_better >= settings.patience)
        )

    def record(self, *, status: str, reason: str | None = None) -> Record:
        """Returns the record of the run as it stands."""
        config, progress = self.config, self.progress
        return Record(
            schema=RECORD_SCHEMA,
            model=config.model.name,
            status=status,
            reason=reason,
            config=config.model_dump(mode="json"),
            config_hash=config.digest(),
            seed=config.seed,
            initial_weights=self.parts.initial_weights,
            cost=dict(self.parts.cost),
            metrics=asdict(progress)["metrics"],
            times={"train": progress.train_seconds, "evaluate": progress.evaluate_seconds},
            environment=environment(),
            data_fingerprint=self.parts.data_fingerprint,
            image_fingerprint=self.parts.image_fingerprint,
        )


def begin(
    config: RunConfig,
    parts: Parts,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    callback: Callback,
    processes: DistributedContext,
    save_minutes: float,
) -> Run:
    """Returns a run at its first batch or, resumed, at the one behind the last."""
    identity = {
        "settings": config.digest(),
        "data": parts.data_fingerprint,
        "images": parts.image_fingerprint,
    }
    progress = Progress()
    if resume:
        progress = load_state(
            folder,
            detector=parts.detector,
            optimizer=parts.optimizer,
            average=parts.average,
            identity=identity,
            processes=processes,
        )
    batches = EpochBatches(
        len(parts.train_index),
        batch=config.train.batch,
        seed=config.seed,
        epochs=config.train.epochs,
        start_batch=progress.batch_number,
        share=(processes.rank, processes.world_size),
    )
    epochs_done = progress.batch_number // batches.batches_per_epoch
    _check_epochs(progress, epochs_done, config=config, folder=folder)
    files = RunFolder(
        folder, config=config, names=parts.train_index.names, writes=processes.is_main
    )
    if epochs_done and not progress.rows:  # of a state that does not hold them
        progress.rows = _rows_from_log(folder, epochs_done, callback=callback)
    files.start(progress.rows)
    callback.on_start(
        RunStart(
            config=config,
            folder=folder,
            train_index=parts.train_index,
            val_index=parts.val_index,
            batches_per_epoch=batches.batches_per_epoch,
            epochs_done=epochs_done,
            cost=parts.cost,
        )
    )
    return Run(
        config=config,
        parts=parts,
        step=_step_of(parts, config, device=device, processes=processes),
        batches=batches,
        progress=progress,
        files=files,
        callback=callback,
        device=device,
        processes=processes,
        identity=identity,
        save_seconds=60.0 * save_minutes,
        reader=AsyncMetricReader(device),
    )


def _check_epochs(progress: Progress, epochs_done: int, *, config: RunConfig, folder: Path) -> None:
    """Raises CheckpointError where a state is of more epochs than the run has, or lacks metrics."""
    needed = {"epoch", "ap", "ap50"}
    known = [progress.metrics.get(name, {}) for name in ("last", "best")]
    if epochs_done > config.train.epochs or (
        epochs_done and not all(needed <= of.keys() and of["epoch"] is not None for of in known)
    ):
        raise CheckpointError(
            f"{folder / STATE_FILE} is damaged and cannot be resumed from: expected metrics of at "
            f"most {config.train.epochs} epochs, found {epochs_done} epochs and metrics of "
            f"{legible(', '.join(progress.metrics)) or 'none'}; start a new run"
        )


def _rows_from_log(folder: Path, epochs: int, *, callback: Callback) -> list[dict[str, Any]]:
    rows = recovered_rows(folder, epochs)
    if len(rows) < epochs:
        callback.note(
            f"{folder / LOG_FILE} lacks {epochs - len(rows)} of {epochs} epochs, which a state of "
            "this age does not hold: they stay out of it"
        )
    return rows


def _step_of(
    parts: Parts, config: RunConfig, *, device: torch.device, processes: DistributedContext
) -> Step:
    return Step(
        parts.detector,
        loss=parts.loss.with_all_reduce(processes.sum),
        optimizer=parts.optimizer,
        average=parts.average,
        config=config.train,
        device=device,
        processes=processes,
    )
