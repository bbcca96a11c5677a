"""The state of a training: everything that the loop needs and changes."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from ossa.config import RunConfig
from ossa.data.loader import EpochBatches
from ossa.errors import OssaError
from ossa.evaluate.evaluator import Evaluation
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import Detector
from ossa.models.head import Criterion
from ossa.train.callbacks import Callback, RunStart
from ossa.train.distributed import DistributedContext
from ossa.train.optim import EMA, FrozenPart
from ossa.train.provenance import OWN_CODE, continued, provenance
from ossa.train.resume import Progress, save_state
from ossa.train.run_folder import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    RECORD_SCHEMA,
    finish_folder,
    start_folder,
    write_log,
    write_record,
)
from ossa.train.schedule import hyperparameters_at
from ossa.train.splits import Split
from ossa.types import Record

_KEPT_METRICS = ("ap", "ap50", "precision", "recall", "best_confidence")
"""In the weights: what they reached on val, and the confidence that predictions start at."""


@dataclass
class TrainState:
    """Everything that a training needs, and what changes as it goes on."""

    config: RunConfig
    device: torch.device
    distributed: DistributedContext
    callback: Callback
    folder: Path
    """Of the run; only the main process writes to it."""
    train: Split
    val: Split
    batches: EpochBatches
    detector: Detector
    frozen: FrozenPart
    ema: EMA[Detector]
    optimizer: Optimizer
    loss: Criterion
    initial_weights: dict[str, Any]
    """What the record says of them."""
    is_whole: bool
    """Whether they are those of a whole detector of the classes of the data."""
    cost: dict[str, int]
    identity: dict[str, str]
    """Hashes of settings, data and images, which must be the same when the run is resumed."""
    progress: Progress
    saved_at: float = field(default_factory=time.monotonic)
    state_age: float = 0.0
    """Seconds since the state was saved, the same on all ranks: they save together or not."""
    stop: bool = False
    """Whether any rank was asked to stop, the same on all ranks."""

    @property
    def epochs_done(self) -> int:
        return self.progress.batch_number // self.batches.batches_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has ended the run."""
        train, done = self.config.train, self.epochs_done
        if done == 0 or self.progress.batch_number % self.batches.batches_per_epoch:
            return False
        if done == train.epochs:
            return True
        waited = done - 1 - self.progress.best_epoch
        return self.is_evaluated(done - 1) and waited >= train.patience

    def is_evaluated(self, epoch: int) -> bool:
        """Returns whether val is evaluated after an epoch, counted from 0."""
        train = self.config.train
        return (epoch + 1) % train.evaluate_every == 0 or epoch + 1 == train.epochs

    def save(self) -> None:
        """Writes the state from which the run can go on."""
        save_state(
            self.folder,
            progress=self.progress,
            detector=self.detector,
            optimizer=self.optimizer,
            ema=self.ema,
            identity=self.identity,
            distributed=self.distributed,
        )
        self.saved_at, self.state_age = time.monotonic(), 0.0

    def start(self) -> None:
        """Writes the configuration and the log so far, and calls the callbacks."""
        progress, now = self.progress, provenance(self.config, self.device)
        begun = progress.batch_number > 0
        threads = progress.environment.get("threads", now["threads"])
        if begun and threads != now["threads"]:
            self.callback.note(
                f"threads {threads} until now, {now['threads']} from here on: the result is not "
                "the same bit by bit"
            )
        progress.environment = continued(progress.environment, now) if begun else now
        if self.distributed.is_main:
            start_folder(self.folder, self.config)
            write_log(progress.rows, self.folder)
        self.callback.on_start(
            RunStart(
                config=self.config,
                folder=self.folder,
                train_index=self.train.index,
                val_index=self.val.index,
                batches_per_epoch=self.batches.batches_per_epoch,
                epochs_done=self.epochs_done,
                cost=self.cost,
            )
        )

    def close_epoch(self, evaluation: Evaluation | None) -> dict[str, Any]:
        """Adds an epoch to the progress, writes log and weights, and returns its row of the log.

        Without an evaluation, metrics and losses on val are None.
        """
        progress, per_epoch = self.progress, self.batches.batches_per_epoch
        epoch = self.epochs_done - 1
        metrics = {} if evaluation is None else evaluation.metrics.flat()
        val_losses = {} if evaluation is None else evaluation.losses or {}
        seen = progress.images_seen or math.nan  # all skipped
        row = {
            "epoch": epoch,
            **{f"train_{name}": total / seen for name, total in progress.loss_sums.items()},
            **{f"val_{name}": val_losses.get(name) for name in progress.loss_sums},
            **{key: metrics.get(key) for key in ("ap", "ap50", "ap75", "precision", "recall")},
            "lr": hyperparameters_at(self.config.train, progress.batch_number - 1, per_epoch).lr,
            "images": progress.images_seen,
            "skipped": progress.skipped,
            "train_seconds": progress.epoch_seconds,
            "evaluate_seconds": 0.0 if evaluation is None else evaluation.seconds,
        }
        progress.close_epoch(row, metrics)
        if self.distributed.is_main:
            write_log(progress.rows, self.folder)
            kept = {key: metrics.get(key) for key in _KEPT_METRICS}
            self._save_weights(LAST_WEIGHTS, epoch=epoch, metrics=kept)
            if progress.best_epoch == epoch:
                self._save_weights(BEST_WEIGHTS, epoch=epoch, metrics=kept)
        return row

    def _save_weights(self, name: str, *, epoch: int, metrics: dict[str, Any]) -> None:
        config = self.config
        save_checkpoint(
            self.folder / name,
            self.ema.network,
            model=config.model,
            names=self.train.index.names,
            imgsz=config.train.imgsz,
            details={
                "run": config.model_dump(mode="json"),
                "epoch": epoch,
                "metrics": metrics,
                "pretraining": self.initial_weights["pretraining"],
                "licence": self.initial_weights["licence"],
                "backbone_code": self.progress.environment.get(OWN_CODE + config.model.name),
            },
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
            initial_weights=self.initial_weights,
            cost=dict(self.cost),
            metrics=asdict(progress)["metrics"],
            times={"train": progress.train_seconds, "evaluate": progress.evaluate_seconds},
            environment=dict(progress.environment),
            data_fingerprint=self.identity["data"],
            image_fingerprint=self.identity["images"],
        )

    def finish(self, evaluation: Evaluation) -> Record:
        """Writes the detections of the last evaluation and the record of a run that is done."""
        record = self.record(status="done")
        if not self.distributed.is_main:
            return record
        return finish_folder(record, self.folder, self.val.index, evaluation.detections)

    @contextmanager
    def failure_recorded(self) -> Iterator[None]:
        """Writes the record of a run that fails."""
        try:
            yield
        except OssaError as failure:
            with suppress(OssaError):  # if the disk is full, it cannot be written
                record = self.record(status="failed", reason=str(failure))
                if self.distributed.is_main:
                    write_record(record, self.folder)
                self.callback.on_end(record)
            raise
