"""The training loop: what happens to a batch, an epoch, a run, from top to bottom."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossa.config import RunConfig
from ossa.data.dataset import TrainingDataset
from ossa.data.loader import EpochBatches, training_loader
from ossa.errors import RunFailed
from ossa.evaluate.run import Evaluation, evaluate
from ossa.models.build import with_weights_settings
from ossa.train.checkpoint import Progress, load_state, save_state
from ossa.train.events import RunStart, Silence, Watcher
from ossa.train.freeze import set_training
from ossa.train.interrupt import StopRequest
from ossa.train.optim import apply_settings, clip_and_step
from ossa.train.outputs import RunFolder
from ossa.train.record import RECORD_SCHEMA, environment
from ossa.train.schedule import settings_at
from ossa.train.setup import Parts, prepare
from ossa.types import Batch, Record


def train(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    resume: bool = False,
    strict: bool = False,
    watcher: Watcher | None = None,
) -> Record:
    """Trains a detector and returns the record that it also writes.

    Args:
        config: everything that decides what is computed.
        folder: of the run; must exist, and be empty unless `resume`.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images; they change the speed, never the result.
        resume: go on from the state in `folder`.
        strict: stop at the first fault of the data instead of leaving it out.
        watcher: is told how it goes.

    Raises:
        OssaError: bad input, or a run that could not go on.
    """
    watcher = watcher or Silence()
    device = torch.device(device)
    config = config.model_copy(update={"model": with_weights_settings(config.model)})
    parts = prepare(config, device=device, watcher=watcher, strict=strict)
    run = _begin(config, parts, folder, device=device, resume=resume, watcher=watcher)
    dataset = TrainingDataset(
        parts.train_index, imgsz=config.train.imgsz, augment=config.augment, seed=config.seed
    )
    # The workers start here, before Ctrl-C and the like get another meaning.
    loader = iter(
        training_loader(dataset, run.batches, workers=workers, pin_memory=device.type == "cuda")
    )
    with StopRequest() as stop:
        status, evaluation = _train_epochs(run, loader, stop)
    record = _record(run, status=status)
    if status == "done":
        if evaluation is None:  # resumed when all epochs were done
            evaluation = _evaluate(run, epoch=config.train.epochs - 1)
        record = run.files.finish(record, parts.val_index, evaluation.detections)
    watcher.finished(record)
    return record


@dataclass(frozen=True)
class _Run:
    """What the steps of a training share. Its parts and progress change as it goes."""

    config: RunConfig
    parts: Parts
    batches: EpochBatches
    progress: Progress
    files: RunFolder
    watcher: Watcher
    device: torch.device
    identity: dict[str, str]
    """Hashes of what must be the same when the run is resumed."""

    def save(self) -> None:
        """Writes the state from which the run can go on."""
        save_state(
            self.files.folder,
            progress=self.progress,
            detector=self.parts.detector,
            optimizer=self.parts.optimizer,
            average=self.parts.average,
            identity=self.identity,
        )


def _begin(
    config: RunConfig,
    parts: Parts,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    watcher: Watcher,
) -> _Run:
    """Returns a run at its first batch or, resumed, at the one behind the last."""
    identity = {"settings": config.digest(), "data": parts.data_fingerprint}
    progress = Progress()
    if resume:
        progress = load_state(
            folder,
            detector=parts.detector,
            optimizer=parts.optimizer,
            average=parts.average,
            identity=identity,
        )
    batches = EpochBatches(
        len(parts.train_index),
        batch=config.train.batch,
        seed=config.seed,
        epochs=config.train.epochs,
        start_batch=progress.batch_number,
    )
    files = RunFolder(folder, config=config, names=parts.train_index.names)
    epochs_done = progress.batch_number // batches.batches_per_epoch
    files.start(epochs_kept=epochs_done)
    watcher.started(
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
    return _Run(config, parts, batches, progress, files, watcher, device, identity)


def _train_epochs(
    run: _Run, loader: Iterator[Batch], stop: StopRequest
) -> tuple[str, Evaluation | None]:
    """Trains, evaluates and saves epoch by epoch to the end, or until patience or a stop ends it.

    Returns 'done' or 'stopped', and the evaluation of the last epoch done in this call.
    """
    settings, progress = run.config.train, run.progress
    evaluation: Evaluation | None = None
    while progress.batch_number < settings.epochs * run.batches.batches_per_epoch:
        epoch = progress.batch_number // run.batches.batches_per_epoch
        _train_to_epoch_end(run, loader, stop)
        if progress.batch_number % run.batches.batches_per_epoch:  # stopped within the epoch
            run.save()
            return "stopped", evaluation
        evaluation = _evaluate(run, epoch=epoch)
        row = _close_epoch(run, evaluation, epoch=epoch)
        run.files.log(row)
        run.files.save_weights(
            run.parts.average.network,
            row=row,
            initial_weights=run.parts.initial_weights,
            best=progress.best_epoch == epoch,
        )
        run.save()
        run.watcher.epoch_done(row, evaluation)
        if epoch - progress.best_epoch >= settings.patience:
            run.watcher.note(f"no better epoch than {progress.best_epoch} for {settings.patience}")
            break
        if stop.requested and epoch + 1 < settings.epochs:
            return "stopped", evaluation
    return "done", evaluation


def _train_to_epoch_end(run: _Run, loader: Iterator[Batch], stop: StopRequest) -> None:
    """Trains batch by batch, one at least, until the epoch ends or a stop is requested."""
    progress, batches_per_epoch = run.progress, run.batches.batches_per_epoch
    set_training(run.parts.detector, run.parts.frozen)
    while True:
        started = time.perf_counter()
        batch = next(loader).to(run.device)
        terms = _train_batch(run, batch)
        for name, value in terms.items():
            progress.loss_sums[name] += value * len(batch.image_ids)
        progress.images_seen += len(batch.image_ids)
        progress.batch_number += 1
        progress.epoch_seconds += time.perf_counter() - started
        number_in_epoch = progress.batch_number % batches_per_epoch
        run.watcher.batch_done(
            epoch=(progress.batch_number - 1) // batches_per_epoch,
            batch=number_in_epoch or batches_per_epoch,
            loss=sum(progress.loss_sums.values()) / progress.images_seen,
        )
        if number_in_epoch == 0:
            # Gradients that wait for more batches are dropped at an epoch's end, as YOLOv5 does.
            run.parts.optimizer.zero_grad(set_to_none=True)
            return
        if stop.requested:
            return


def _train_batch(run: _Run, batch: Batch) -> dict[str, float]:
    """Does forward, backward and, when due, a step; returns the batch's three losses."""
    config, parts, number = run.config, run.parts, run.progress.batch_number
    settings = settings_at(config.train, number, run.batches.batches_per_epoch)
    apply_settings(parts.optimizer, settings)
    # Dropout and drop path depend on (seed, step) alone, so that a resumed run draws the same.
    torch.manual_seed(int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0]))
    terms = parts.loss(parts.detector(batch.images), batch)
    values = torch.stack(terms).detach().tolist()
    if not np.isfinite(values).all():
        raise RunFailed(
            f"the loss is not finite at batch {number} (box, objectness, classes: {values}, "
            f"lr {settings.lr:.2g}, images {list(batch.image_ids)[:4]}, ...): lower train.lr; "
            "the last good checkpoint is untouched"
        )
    loss: Tensor = terms.total() * len(batch.image_ids)
    loss.backward()
    if number - run.progress.last_step_batch >= settings.accumulate:
        clip_and_step(parts.optimizer, parts.detector, clip_norm=config.train.clip_norm)
        parts.average.update(parts.detector)
        run.progress.last_step_batch = number
    return dict(zip(terms._fields, values, strict=True))


def _evaluate(run: _Run, *, epoch: int) -> Evaluation:
    """Scores the average on the val split, with the validation losses."""
    train = run.config.train
    evaluation = evaluate(
        run.parts.average.network,
        run.parts.val_index,
        imgsz=train.imgsz,
        config=run.config.evaluate,
        batch=train.batch,
        device=run.device,
        loss=run.parts.loss,
        on_images=lambda done, total: run.watcher.evaluating(epoch=epoch, done=done, total=total),
    )
    losses = evaluation.losses or {}
    if not all(math.isfinite(value) for value in losses.values()):
        raise RunFailed(
            f"the validation losses are not finite after epoch {epoch} ({losses}): lower "
            "train.lr; the last good checkpoint is untouched"
        )
    return evaluation


def _close_epoch(run: _Run, evaluation: Evaluation, *, epoch: int) -> dict[str, Any]:
    """Returns the log line of an epoch, and sets the progress up for the next."""
    progress, batches_per_epoch = run.progress, run.batches.batches_per_epoch
    metrics = evaluation.metrics.flat()
    last_batch = (epoch + 1) * batches_per_epoch - 1
    train_losses = {n: s / progress.images_seen for n, s in progress.loss_sums.items()}
    row = {
        "epoch": epoch,
        **{f"train_{name}": value for name, value in train_losses.items()},
        **{f"val_{name}": value for name, value in (evaluation.losses or {}).items()},
        **{key: metrics[key] for key in ("ap", "ap50", "ap75", "precision", "recall")},
        "lr": settings_at(run.config.train, last_batch, batches_per_epoch).lr,
        "images": progress.images_seen,
        "train_seconds": progress.epoch_seconds,
        "evaluate_seconds": evaluation.seconds,
    }
    fitness = 0.1 * (metrics["ap50"] or 0.0) + 0.9 * (metrics["ap"] or 0.0)
    progress.metrics["last"] = {"epoch": epoch, **metrics}
    if fitness > progress.best_fitness:
        progress.best_fitness, progress.best_epoch = fitness, epoch
        progress.metrics["best"] = progress.metrics["last"]
    progress.train_seconds += progress.epoch_seconds
    progress.evaluate_seconds += evaluation.seconds
    fresh = Progress()
    progress.epoch_seconds, progress.images_seen = 0.0, 0
    progress.loss_sums = fresh.loss_sums
    return row


def _record(run: _Run, *, status: str) -> Record:
    config, progress = run.config, run.progress
    return Record(
        schema=RECORD_SCHEMA,
        model=config.model.name,
        status=status,
        reason=None,
        config=config.model_dump(mode="json"),
        config_hash=config.digest(),
        seed=config.seed,
        initial_weights=run.parts.initial_weights,
        cost=dict(run.parts.cost),
        metrics=asdict(progress)["metrics"],
        times={"train": progress.train_seconds, "evaluate": progress.evaluate_seconds},
        environment=environment(),
        data_fingerprint=run.parts.data_fingerprint,
    )
