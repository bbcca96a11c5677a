"""The training loop: what happens to a batch, an epoch, a run, from top to bottom."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossa.allocator import keep_freed_memory
from ossa.config import RunConfig
from ossa.data.cache import CachePlace
from ossa.data.dataset import TrainingDataset
from ossa.data.loader import training_loader
from ossa.errors import OssaError, RunFailed
from ossa.evaluate.evaluator import Evaluation, evaluate
from ossa.files import held
from ossa.models.detector import with_weights_settings
from ossa.train.autobatch import largest_batch
from ossa.train.callbacks import Callback
from ossa.train.checkpoint import Progress
from ossa.train.diagnostics import (
    FirstBatch,
    ended_if_not_all_start,
    first_bad_layer,
    wrap_errors,
)
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext, StopRequest
from ossa.train.optim import set_hyperparameters, set_training
from ossa.train.run import Run, begin
from ossa.train.schedule import hyperparameters_at
from ossa.train.setup import prepare
from ossa.train.step import StepResult
from ossa.types import Batch, Record

_MOST_SKIPPED = 20
"""Batches that a run leaves out with `on_nan: skip` before it gives up."""


def train(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    cache: CachePlace = "none",
    resume: bool = False,
    strict: bool = False,
    allow_unlabeled: bool = False,
    callback: Callback | None = None,
    save_minutes: float = 15.0,
    processes: DistributedContext = SINGLE_PROCESS,
) -> Record:
    """Trains a detector and returns the record that it also writes.

    Args:
        config: everything that decides what is computed.
        folder: of the run; must exist, and be empty unless `resume`. It is this training's alone
            until it ends: a second one in it is refused.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images; they change the speed, never the result.
        cache: where images are kept decoded, 'auto' (in memory, while they fit), 'disk' or 'none';
            changes the speed, never the result.
        resume: go on from the state in `folder`.
        strict: stop at the first fault of the data instead of leaving it out.
        allow_unlabeled: train where more than half of the training images have no label, too; a run
            that is resumed has been allowed to.
        callback: is told how it goes; of several processes, that of the first.
        save_minutes: the state is saved within an epoch so often, and at the end of an epoch
            that is over a minute after the last time.
        processes: that share every batch.

    Raises:
        OssaError: bad input, or a run that could not go on.
    """
    keep_freed_memory()
    callback = (callback or Callback()) if processes.is_main else Callback()
    device = torch.device(device)
    config = config.model_copy(update={"model": with_weights_settings(config.model)})
    with ExitStack() as owned:
        processes.on_main(lambda: owned.enter_context(held(folder)))
        parts = prepare(
            config,
            device=device,
            callback=callback,
            strict=strict,
            allow_unlabeled=allow_unlabeled or resume,
            cache=cache,
            processes=processes,
        )

        def fitting_batch() -> int | None:
            return largest_batch(config, num_classes=len(parts.train_index.names), device=device)

        with (
            wrap_errors(batch=config.train.batch, fitting_batch=fitting_batch),
            _deterministic(config.train.deterministic),
        ):
            run = begin(
                config,
                parts,
                folder,
                device=device,
                resume=resume,
                callback=callback,
                processes=processes,
                save_minutes=save_minutes,
            )
            with _failure_recorded(run):
                return _train_and_finish(run, workers=workers)


@contextmanager
def _failure_recorded(run: Run) -> Iterator[None]:
    """Writes the record of a run that fails."""
    try:
        yield
    except OssaError as failure:
        with suppress(OssaError):  # the disk may be what is full
            record = run.record(status="failed", reason=str(failure))
            run.callback.on_end(run.files.fail(record))
        raise


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Has torch choose kernels that always give the same bits, where there are any."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _train_and_finish(run: Run, *, workers: int) -> Record:
    """Trains to the end or to a stop, and writes what a run leaves behind."""
    config = run.config
    plain = config.augment.plain_epochs
    dataset = TrainingDataset(
        run.parts.train_index,
        imgsz=config.train.imgsz,
        augment=config.augment,
        seed=config.seed,
        plain_from_epoch=config.train.epochs - plain if plain else None,
        pixels=run.parts.train_pixels,
    )
    # The workers start here, before Ctrl-C and the like get another meaning.
    with ended_if_not_all_start():
        loader = iter(
            training_loader(
                dataset, run.batches, workers=workers, pin_memory=run.device.type == "cuda"
            )
        )
    evaluation: Evaluation | None = None
    with StopRequest() as request:
        while not run.over and not run.stop:
            evaluation = _train_epoch(run, loader, request)
    if not run.over:
        record = run.record(status="stopped")
    else:
        if evaluation is None:  # resumed when all epochs were done
            epochs_done = run.progress.batch_number // run.batches.batches_per_epoch
            evaluation = _evaluate(run, epoch=epochs_done - 1)
        record = run.files.finish(
            run.record(status="done"), run.parts.val_index, evaluation.detections
        )
    run.callback.on_end(record)
    return record


def _train_epoch(run: Run, loader: Iterator[Batch], request: StopRequest) -> Evaluation | None:
    """Trains to the epoch's end, evaluates and saves; None where it was stopped before the end."""
    epoch = run.progress.batch_number // run.batches.batches_per_epoch
    _train_to_epoch_end(run, loader, request)
    if run.progress.batch_number % run.batches.batches_per_epoch:  # stopped within the epoch
        run.save()
        return None
    evaluation = _evaluate(run, epoch=epoch)
    row = _close_epoch(run, evaluation, epoch=epoch)
    run.progress.rows.append(row)
    run.files.log(run.progress.rows)
    run.files.save_weights(
        run.parts.average.network,
        metrics=run.progress.metrics["last"],
        initial_weights=run.parts.initial_weights,
        best=run.progress.best_epoch == epoch,
    )
    run.save_at_epoch_end()
    run.callback.on_epoch_end(row, evaluation)
    if run.over and epoch + 1 < run.config.train.epochs:
        patience = run.config.train.patience
        run.callback.note(f"no better epoch than {run.progress.best_epoch + 1} for {patience}")
    return evaluation


def _train_to_epoch_end(run: Run, loader: Iterator[Batch], request: StopRequest) -> None:
    """Trains batch by batch, one at least, until the epoch ends or a stop is requested."""
    progress, per_epoch = run.progress, run.batches.batches_per_epoch
    set_training(run.parts.detector, run.parts.frozen)
    while True:
        started = time.perf_counter()
        batch = next(loader).to(run.device)
        known = _train_batch(run, batch, request)
        progress.batch_number += 1
        at_end = progress.batch_number % per_epoch == 0
        if at_end:
            # Gradients that wait for more batches are dropped at an epoch's end, as YOLOv5 does.
            run.parts.optimizer.zero_grad(set_to_none=True)
            known += run.reader.rest()
        for outcome in known:
            _account(run, outcome, batch)
        progress.epoch_seconds += time.perf_counter() - started
        if progress.images_seen:
            run.callback.on_batch_end(
                epoch=(progress.batch_number - 1) // per_epoch,
                batch=progress.batch_number % per_epoch or per_epoch,
                loss=sum(progress.loss_sums.values()) / progress.images_seen,
            )
        if at_end or run.stop:
            break
        if run.state_age > run.save_seconds:
            _account_rest(run, batch)
            run.save()
    _account_rest(run, batch)


def _train_batch(run: Run, batch: Batch, request: StopRequest) -> list[StepResult]:
    """Does forward, backward and, when due, a step; returns what is now known of batches."""
    config, number, processes = run.config, run.progress.batch_number, run.processes
    settings = hyperparameters_at(config.train, number, run.batches.batches_per_epoch)
    set_hyperparameters(run.parts.optimizer, settings)
    # Dropout and drop path depend on (seed, step, process) alone, so that a resumed run draws
    # the same.
    entropy = (config.seed, number, *([processes.rank] if processes.rank else []))
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    images = run.batches.images_of(number)
    share = (
        _first_batch(run, batch, images) if number == 0 else run.step.backward(batch, images=images)
    )
    norm = share.new_zeros(())
    if number - run.progress.last_step_batch >= settings.accumulate:
        norm = run.step.update()
        run.progress.last_step_batch = number
    state_age = time.monotonic() - run.saved_at if processes.is_main else 0.0
    asked = share.new_tensor((float(request.requested), state_age))
    values = torch.cat((processes.sum(torch.cat((share, asked))), norm[None]))

    def outcome(numbers: list[float]) -> StepResult:
        box, objectness, classes, stop, age, gradient_norm = numbers
        losses = (box, objectness, classes)
        return StepResult(
            number, images, batch.image_ids, settings.lr, losses, gradient_norm, stop > 0, age
        )

    return run.reader.put(values, outcome)


def _first_batch(run: Run, batch: Batch, images: int) -> torch.Tensor:
    """Does the first forward and backward pass, and tells how the levels fare in it."""
    first = FirstBatch()
    with first.watching(run.parts.detector):
        share = run.step.backward(batch, images=images)
    for level in first.levels(batch, ratio=run.config.loss.anchor_ratio):
        dead = "; this level is dead" if level.dead else ""
        run.callback.note(f"first batch, {level}{dead}")
    return share


def _account_rest(run: Run, batch: Batch) -> None:
    for outcome in run.reader.rest():
        _account(run, outcome, batch)


def _account(run: Run, outcome: StepResult, batch: Batch) -> None:
    """Adds a batch to the epoch's losses, or else skips it or fails.

    Raises:
        RunFailed: losses or gradients that are not finite, with the layer where it began.
    """
    progress = run.progress
    run.stop, run.state_age = run.stop or outcome.stop, outcome.state_age
    if outcome.finite:
        for name, value in zip(progress.loss_sums, outcome.losses, strict=True):
            progress.loss_sums[name] += value * outcome.images
        progress.images_seen += outcome.images
        return
    what = (
        f"not finite at batch {outcome.number} (box, objectness, classes: "
        f"{list(outcome.losses)}, gradient norm {outcome.gradient_norm:.3g}, lr {outcome.lr:.2g}, "
        f"images {list(outcome.image_ids)})"
    )
    if run.config.train.on_nan == "skip":
        progress.skipped += 1
        run.callback.note(f"skipped, losses or gradients {what}")
        if progress.skipped > _MOST_SKIPPED:
            raise RunFailed(f"{progress.skipped} batches had losses or gradients {what}")
        return
    layer = (
        first_bad_layer(run.parts.detector, lambda: run.step.terms(batch).total())
        if run.processes.world_size == 1
        else "run it in one process to see the layer"
    )
    raise RunFailed(
        f"losses or gradients {what}; {layer}: lower train.lr, or go on with --on-nan skip; the "
        "last good checkpoint is untouched"
    )


def _evaluate(run: Run, *, epoch: int) -> Evaluation:
    """Scores the average on the val split, with the validation losses."""
    train, network, processes = run.config.train, run.parts.average.network, run.processes
    # The statistics of batch norms are each process's own.
    processes.broadcast(list(network.buffers()))
    evaluation = evaluate(
        network,
        run.parts.val_index,
        pixels=run.parts.val_pixels,
        imgsz=train.imgsz,
        config=run.config.evaluate,
        batch=train.batch,
        device=run.device,
        loss=run.parts.loss,
        on_images=lambda done, total: run.callback.on_evaluate(epoch=epoch, done=done, total=total),
        share=(processes.rank, processes.world_size),
        gather=processes.gather,
    )
    losses = evaluation.losses or {}
    if not all(np.isfinite(value) for value in losses.values()):
        raise RunFailed(
            f"the validation losses are not finite after epoch {epoch + 1} ({losses}): lower "
            "train.lr; the last good checkpoint is untouched"
        )
    return evaluation


def _close_epoch(run: Run, evaluation: Evaluation, *, epoch: int) -> dict[str, Any]:
    """Returns the log line of an epoch, and sets the progress up for the next."""
    progress, batches_per_epoch = run.progress, run.batches.batches_per_epoch
    metrics = evaluation.metrics.flat()
    last_batch = (epoch + 1) * batches_per_epoch - 1
    seen = progress.images_seen or math.nan  # all skipped
    train_losses = {name: total / seen for name, total in progress.loss_sums.items()}
    row = {
        "epoch": epoch,
        **{f"train_{name}": value for name, value in train_losses.items()},
        **{f"val_{name}": value for name, value in (evaluation.losses or {}).items()},
        **{key: metrics[key] for key in ("ap", "ap50", "ap75", "precision", "recall")},
        "lr": hyperparameters_at(run.config.train, last_batch, batches_per_epoch).lr,
        "images": progress.images_seen,
        "skipped": progress.skipped,
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
