"""The training loop: what happens to a batch, an epoch, a run, from top to bottom."""

import time
from collections.abc import Iterator
from dataclasses import asdict
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
from ossa.train.checkpoint import Progress, load_state, save_state
from ossa.train.events import Silence, Watcher
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
    parts = prepare(config, device=device, watcher=watcher, strict=strict)
    files = RunFolder(folder, config=config, names=parts.train_index.names)
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
    dataset = TrainingDataset(
        parts.train_index, imgsz=config.train.imgsz, augment=config.augment, seed=config.seed
    )
    batches = EpochBatches(
        len(dataset),
        batch=config.train.batch,
        seed=config.seed,
        epochs=config.train.epochs,
        start_batch=progress.batch_number,
    )
    files.start(epochs_kept=progress.batch_number // batches.batches_per_epoch)
    watcher.started(
        model=config.model.name,
        epochs=config.train.epochs,
        batches_per_epoch=batches.batches_per_epoch,
    )

    def save() -> None:
        save_state(
            folder,
            progress=progress,
            detector=parts.detector,
            optimizer=parts.optimizer,
            average=parts.average,
            identity=identity,
        )

    loader = iter(
        training_loader(dataset, batches, workers=workers, pin_memory=device.type == "cuda")
    )
    evaluation: Evaluation | None = None
    status = "done"
    with StopRequest() as stop:
        while progress.batch_number < config.train.epochs * batches.batches_per_epoch:
            epoch = progress.batch_number // batches.batches_per_epoch
            _train_to_epoch_end(
                parts,
                loader,
                config,
                progress=progress,
                batches=batches,
                watcher=watcher,
                stop=stop,
            )
            if progress.batch_number % batches.batches_per_epoch:  # stopped within the epoch
                save()
                status = "stopped"
                break
            evaluation = _evaluate(parts, config, device=device, epoch=epoch, watcher=watcher)
            row = _close_epoch(progress, evaluation, config=config, epoch=epoch, batches=batches)
            files.log(row)
            files.save_weights(
                parts.average.network,
                row=row,
                initial_weights=parts.initial_weights,
                best=progress.best_epoch == epoch,
            )
            save()
            watcher.epoch_done(row)
            if epoch - progress.best_epoch >= config.train.patience:
                watcher.note(
                    f"no better epoch than {progress.best_epoch} for {config.train.patience}"
                )
                break
            if stop.requested and epoch + 1 < config.train.epochs:
                status = "stopped"
                break

    record = _record(config, parts, progress, status=status)
    if status == "stopped":
        return record
    if evaluation is None:  # resumed when all epochs were done
        evaluation = _evaluate(
            parts, config, device=device, epoch=config.train.epochs - 1, watcher=watcher
        )
    return files.finish(record, parts.val_index, evaluation.detections)


def _train_to_epoch_end(
    parts: Parts,
    loader: Iterator[Batch],
    config: RunConfig,
    *,
    progress: Progress,
    batches: EpochBatches,
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    """Trains batch by batch until the epoch ends or a stop is requested; advances `progress`."""
    device = next(parts.detector.parameters()).device
    parts.detector.train()
    while not stop.requested:
        started = time.perf_counter()
        batch = next(loader).to(device)
        terms = _train_batch(parts, batch, config, progress=progress, batches=batches)
        for name, value in terms.items():
            progress.loss_sums[name] += value * len(batch.image_ids)
        progress.images_seen += len(batch.image_ids)
        progress.batch_number += 1
        progress.epoch_seconds += time.perf_counter() - started
        number_in_epoch = progress.batch_number % batches.batches_per_epoch
        watcher.batch_done(
            epoch=(progress.batch_number - 1) // batches.batches_per_epoch,
            batch=number_in_epoch or batches.batches_per_epoch,
            loss=sum(progress.loss_sums.values()) / progress.images_seen,
        )
        if number_in_epoch == 0:
            # Gradients that wait for more batches are dropped at an epoch's end, as YOLOv5 does.
            parts.optimizer.zero_grad(set_to_none=True)
            return


def _train_batch(
    parts: Parts, batch: Batch, config: RunConfig, *, progress: Progress, batches: EpochBatches
) -> dict[str, float]:
    """Does forward, backward and, when due, a step; returns the batch's three losses."""
    number = progress.batch_number
    settings = settings_at(config.train, number, batches.batches_per_epoch)
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
    if number - progress.last_step_batch >= settings.accumulate:
        clip_and_step(parts.optimizer, parts.detector, clip_norm=config.train.clip_norm)
        parts.average.update(parts.detector)
        progress.last_step_batch = number
    return dict(zip(terms._fields, values, strict=True))


def _evaluate(
    parts: Parts, config: RunConfig, *, device: torch.device, epoch: int, watcher: Watcher
) -> Evaluation:
    """Scores the average on the val split, with the validation losses."""
    return evaluate(
        parts.average.network,
        parts.val_index,
        imgsz=config.train.imgsz,
        config=config.evaluate,
        batch=config.train.batch,
        device=device,
        loss=parts.loss,
        on_images=lambda done, total: watcher.evaluating(epoch=epoch, done=done, total=total),
    )


def _close_epoch(
    progress: Progress,
    evaluation: Evaluation,
    *,
    config: RunConfig,
    epoch: int,
    batches: EpochBatches,
) -> dict[str, Any]:
    """Returns the log line of an epoch, and sets `progress` up for the next."""
    metrics = evaluation.metrics.flat()
    last_batch = (epoch + 1) * batches.batches_per_epoch - 1
    train_losses = {n: s / progress.images_seen for n, s in progress.loss_sums.items()}
    row = {
        "epoch": epoch,
        **{f"train_{name}": value for name, value in train_losses.items()},
        **{f"val_{name}": value for name, value in (evaluation.losses or {}).items()},
        **{key: metrics[key] for key in ("ap", "ap50", "ap75", "precision", "recall")},
        "lr": settings_at(config.train, last_batch, batches.batches_per_epoch).lr,
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


def _record(config: RunConfig, parts: Parts, progress: Progress, *, status: str) -> Record:
    return Record(
        schema=RECORD_SCHEMA,
        model=config.model.name,
        status=status,
        reason=None,
        config=config.model_dump(mode="json"),
        config_hash=config.digest(),
        seed=config.seed,
        initial_weights=parts.initial_weights,
        cost=dict(parts.cost),
        metrics=asdict(progress)["metrics"],
        times={"train": progress.train_seconds, "evaluate": progress.evaluate_seconds},
        environment=environment(),
        data_fingerprint=parts.data_fingerprint,
    )
