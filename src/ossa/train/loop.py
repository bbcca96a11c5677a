"""The training loop: `fit` has every step of a training, from the first batch to the last."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ossa.config import RunConfig, TrainConfig
from ossa.data.cache import CachePlace
from ossa.data.loader import training_loader
from ossa.errors import ConfigError, RunFailed
from ossa.evaluate.evaluator import Evaluation, evaluate
from ossa.files import held
from ossa.machine import keep_freed_memory
from ossa.models.detector import with_weights_settings
from ossa.models.head import Terms
from ossa.models.norms import PreciseNorms
from ossa.train.autobatch import largest_batch
from ossa.train.callbacks import Callback
from ossa.train.diagnostics import (
    ended_if_not_all_start,
    first_bad_layer,
    reporting_levels,
    wrap_errors,
)
from ossa.train.distributed import (
    SINGLE_PROCESS,
    AsyncMetricReader,
    DistributedContext,
    StopRequest,
)
from ossa.train.optim import optimizer_step, set_hyperparameters, set_training
from ossa.train.schedule import hyperparameters_at
from ossa.train.setup import init_run, resume_run, run_config
from ossa.train.splits import training_dataset
from ossa.train.state import TrainState
from ossa.types import Batch, RawPredictions, Record, sum_of_losses

_MAX_SKIPPED = 20
"""Batches that may be skipped with `on_nan: skip` before the run fails."""
_SAVE_SECONDS = 60.0
"""Minimum time between two saves of the state at epoch ends."""

Network: TypeAlias = Callable[[Tensor], RawPredictions]


class _BatchInfo(NamedTuple):
    """A batch whose losses are not read yet."""

    number: int
    """Counted over the whole training."""
    images: int
    """Number of images over all ranks."""
    batch: Batch
    """This rank's share."""
    lr: float


def train_detector(
    *,
    data: Path | str,
    model: str,
    folder: Path | str,
    recipe: str = "yolov5-low",
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    cache: CachePlace = "auto",
    callback: Callback | None = None,
) -> Record:
    """Trains a detector and returns its record; its weights are `best.safetensors` in `folder`.

    Args:
        data: a data.yaml, or the folder of a data set.
        model: a preset (`yolov5n` to `yolov5x`), or any backbone.
        folder: of the run; a new or an empty one.
        recipe: a shipped recipe, or the path of a YAML file.
        settings: laid over the recipe, such as {'train': {'epochs': 50}, 'seed': 1}.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images; they change the speed, never the result.
        cache: where images are kept decoded, 'auto' (in memory, while they fit), 'disk' or 'none';
            changes the speed, never the result.
        callback: its hooks are called while the training runs.

    Raises:
        ConfigError: settings that are misspelt or out of range, or a folder that is not empty.
        OssaError: other bad input, or a run that could not go on.

    Examples:
        >>> import ossa
        >>> settings = {"train": {"epochs": 1, "imgsz": 64, "batch": 2}}
        >>> record = ossa.train_detector(
        ...     data="scenes", model="yolov5n", recipe="quick", folder="run", settings=settings
        ... )
        >>> record.status
        'done'
    """
    config = run_config(data=data, model=model, recipe=recipe, settings=settings)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected a new or empty folder for the run, found {folder} in use")
    folder.mkdir(parents=True, exist_ok=True)
    return train(config, folder, device=device, workers=workers, cache=cache, callback=callback)


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
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Record:
    """Trains a detector and returns its record, which is written if the run is done or has failed.

    Args:
        config: everything that decides what is computed.
        folder: of the run; must exist, and be empty unless `resume`. It is locked for this
            training until it ends.
        device, workers, cache: as for `train_detector`.
        resume: go on from the state in `folder`.
        strict: stop at the first problem of the data instead of leaving it out.
        allow_unlabeled: train also where more than half of the training images have no label, as
            a run that is resumed does.
        callback: its hooks are called in the main process.
        save_minutes: how often the state is saved within an epoch. It is also saved at the end of
            an epoch, unless that was done in the minute before.
        distributed: rank and world size; all ranks share every batch.

    Raises:
        OssaError: bad input, or a run that could not go on.
    """
    keep_freed_memory()
    device = torch.device(device)
    config = config.model_copy(update={"model": with_weights_settings(config.model)})
    with ExitStack() as owned:
        distributed.on_main(lambda: owned.enter_context(held(folder)))
        state = init_run(
            config,
            folder,
            device=device,
            callback=(callback if distributed.is_main else None) or Callback(),
            strict=strict,
            allow_unlabeled=allow_unlabeled or resume,
            cache=cache,
            distributed=distributed,
        )
        num_classes = len(state.train.index.names)
        owned.enter_context(
            wrap_errors(
                batch=config.train.batch,
                fitting_batch=lambda: largest_batch(config, num_classes=num_classes, device=device),
            )
        )
        owned.enter_context(_deterministic(config.train.deterministic))
        if resume:
            resume_run(state)
        state.start()
        owned.enter_context(state.failure_recorded())
        begins = state.is_whole and state.progress.batch_number == 0
        if begins and (ap := _evaluate(state, 0).metrics.ap) is not None:
            state.callback.note(f"AP before the training, on val: {ap:.3f}")
        return fit(state, workers=workers, save_seconds=60.0 * save_minutes)


def fit(state: TrainState, *, workers: int = 0, save_seconds: float = 900.0) -> Record:
    """Trains to the last epoch or until a stop is requested, and returns the record.

    Args:
        state: of a new or a resumed run; changed.
        workers: processes that load images.
        save_seconds: how often the state is saved within an epoch.
    """
    config, train = state.config, state.config.train
    progress, callback = state.progress, state.callback
    detector, optimizer, ema, distributed = (
        state.detector,
        state.optimizer,
        state.ema,
        state.distributed,
    )
    network: Network = torch.compile(detector) if train.compile else detector
    loss = state.loss.with_all_reduce(distributed.sum)
    criterion: Callable[[RawPredictions, Batch], Terms]
    criterion = torch.compile(loss) if train.compile else loss
    per_epoch, skip_nan = state.batches.batches_per_epoch, train.on_nan == "skip"
    reader = AsyncMetricReader[_BatchInfo](state.device)
    loader = _open_loader(state, workers=workers)
    evaluation: Evaluation | None = None

    with StopRequest() as request:
        while not state.finished and not state.stop:
            epoch = state.epochs_done
            set_training(detector, state.frozen)
            for number in range(progress.batch_number, (epoch + 1) * per_epoch):
                started = time.perf_counter()
                batch = next(loader).to(state.device)  # this rank's share
                images = state.batches.images_of(number)  # over all ranks
                hyperparameters = hyperparameters_at(train, number, per_epoch)
                set_hyperparameters(optimizer, hyperparameters)
                _seed_step(config.seed, number, distributed.rank)

                saved_buffers = (
                    [buffer.clone() for buffer in detector.buffers()] if skip_nan else []
                )
                with _first_batch_reported(state, batch) if number == 0 else nullcontext():
                    if batch.image_ids:
                        terms = criterion(forward(network, batch.images, train), batch)
                    else:
                        terms = loss.without_images(state.device)
                    # One sum over all ranks: the losses, a stop request, the age of the state.
                    age = time.monotonic() - state.saved_at if distributed.is_main else 0.0
                    losses = torch.stack(tuple(terms)).detach()
                    flags = losses.new_tensor((float(request.requested), age))
                    totals = distributed.sum(torch.cat((losses, flags)))
                    if skip_nan and not totals[: len(losses)].isfinite().all():
                        torch._foreach_copy_(list(detector.buffers()), saved_buffers)  # pyright: ignore[reportPrivateImportUsage]
                    elif batch.image_ids:
                        (terms.total() * images).backward()

                gradient_norm = totals.new_zeros(())
                if number - progress.last_step_batch >= hyperparameters.accumulate:
                    gradient_norm = optimizer_step(detector, optimizer, ema, train, distributed)
                    progress.last_step_batch = number
                progress.batch_number = number + 1
                at_end = progress.batch_number % per_epoch == 0
                if at_end:  # gradients that wait for more batches are dropped, as YOLOv5 does
                    optimizer.zero_grad(set_to_none=True)

                info = _BatchInfo(number, images, batch, hyperparameters.lr)
                ready = reader.put(info, torch.cat((totals, gradient_norm[None])))
                for result in ready + (reader.drain() if at_end else []):
                    _add_losses(state, *result)
                progress.epoch_seconds += time.perf_counter() - started
                if progress.images_seen:
                    mean = sum_of_losses(progress.loss_sums) / progress.images_seen
                    callback.on_batch_end(epoch=epoch, batch=number % per_epoch + 1, loss=mean)
                if at_end or state.stop:
                    break
                if state.state_age > save_seconds:
                    _add_remaining_losses(state, reader)
                    state.save()
            _add_remaining_losses(state, reader)
            if progress.batch_number % per_epoch:  # stopped within the epoch
                state.save()
                break

            evaluation = _evaluate(state, epoch) if state.is_evaluated(epoch) else None
            row = state.close_epoch(evaluation)
            # The state may be far larger than the weights, so it is not saved after every epoch.
            is_old = epoch == 0 or state.state_age > min(save_seconds, _SAVE_SECONDS)
            if is_old or state.stop or state.finished:
                state.save()
            callback.on_epoch_end(row, evaluation)
            if state.finished and epoch + 1 < train.epochs:
                callback.note(f"stopped early: no better epoch than {progress.best_epoch + 1}")

    if not state.finished:
        record = state.record(status="stopped")
    else:
        evaluation = evaluation or _evaluate(state, state.epochs_done - 1)  # resumed at the end
        record = state.finish(evaluation)
    callback.on_end(record)
    return record


def forward(network: Network, images: Tensor, config: TrainConfig) -> RawPredictions:
    """Runs a network on images (B, 3, H, W) in the precision of the training."""
    # torch.compile generates its own norm kernels.
    norms = nullcontext() if config.compile else PreciseNorms()
    bf16 = config.precision == "bf16"
    with norms, torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        return network(images)


def _seed_step(seed: int, batch_number: int, rank: int) -> None:
    """Seeds dropout and drop path by (seed, step, rank), so that a resumed run draws the same."""
    entropy = (seed, batch_number, *([rank] if rank else []))
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _first_batch_reported(state: TrainState, batch: Batch) -> AbstractContextManager[None]:
    return reporting_levels(
        state.detector,
        batch,
        loss=state.loss,
        report=lambda level: state.callback.note(f"first batch, {level}"),
    )


def _add_remaining_losses(state: TrainState, reader: AsyncMetricReader[_BatchInfo]) -> None:
    for info, values in reader.drain():
        _add_losses(state, info, values)


def _add_losses(state: TrainState, info: _BatchInfo, values: Sequence[float]) -> None:
    """Adds a batch to the epoch's losses, or else skips it or fails.

    Args:
        info: of the batch.
        values: the terms of the loss, stop, age of the state, gradient norm.

    Raises:
        RunFailed: losses or gradients that are not finite, with the layer where it began.
    """
    progress, names = state.progress, state.loss.names
    losses, (stop, state.state_age, norm) = values[: len(names)], values[len(names) :]
    state.stop = state.stop or stop > 0
    if all(map(math.isfinite, (*losses, norm))):
        for name, value in zip(names, losses, strict=True):
            progress.loss_sums[name] += value * info.images
        progress.images_seen += info.images
        return
    what = (
        f"losses or gradients not finite at batch {info.number} ({', '.join(names)}: "
        f"{list(losses)}, gradient norm {norm:.3g}, lr {info.lr:.2g}, images "
        f"{list(info.batch.image_ids)})"
    )
    if state.config.train.on_nan == "skip":
        progress.skipped += 1
        state.callback.note(f"skipped, {what}")
        if progress.skipped > _MAX_SKIPPED:
            raise RunFailed(f"{progress.skipped} batches had {what}")
        return
    layer = "run it in one process to see the layer"
    if state.distributed.world_size == 1:

        def loss() -> Tensor:
            raw = forward(state.detector, info.batch.images, state.config.train)
            return state.loss(raw, info.batch).total()

        layer = first_bad_layer(state.detector, loss)
    raise RunFailed(
        f"{what}; {layer}: lower train.lr, or go on with --on-nan skip; the last good checkpoint "
        "is untouched"
    )


def _evaluate(state: TrainState, epoch: int) -> Evaluation:
    """Evaluates the EMA on the val split, with the validation losses."""
    train, network, distributed = state.config.train, state.ema.network, state.distributed
    distributed.broadcast(list(network.buffers()))  # each rank has batch norm statistics of its own
    evaluation = evaluate(
        network,
        state.val.index,
        pixels=state.val.pixels,
        imgsz=train.imgsz,
        tiles=train.windows,
        config=state.config.evaluate,
        batch=train.batch,
        device=state.device,
        loss=state.loss,
        on_images=lambda done, total: state.callback.on_evaluate(
            epoch=epoch, done=done, total=total
        ),
        share=distributed.share,
        gather=distributed.gather,
    )
    losses = evaluation.losses or {}
    if not all(map(math.isfinite, losses.values())):
        raise RunFailed(
            f"the validation losses are not finite after epoch {epoch + 1} ({losses}): lower "
            "train.lr; the last good checkpoint is untouched"
        )
    return evaluation


def _open_loader(state: TrainState, *, workers: int) -> Iterator[Batch]:
    """Returns the batches of the rest of the training; the worker processes start here."""
    dataset = training_dataset(state.config, state.train.index, state.train.pixels)
    pin_memory = state.device.type == "cuda"
    with ended_if_not_all_start():
        loader = training_loader(dataset, state.batches, workers=workers, pin_memory=pin_memory)
        return iter(loader)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Makes torch choose kernels that always give the same bits, where there are any."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
