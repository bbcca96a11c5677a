"""Learning rate, momentum and accumulation as pure functions of the batch number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ossa.config import TrainConfig

_ONE_CYCLE_END = 1e-4
FEW_IMAGES = 1000
"""Of a training, below which the recipe for few is named."""
_FEW_STEPS = 500
"""From so many on, their number is not given as the reason why nothing was learned."""


class Hyperparameters(NamedTuple):
    """What holds while one batch is processed."""

    lr: float
    """Of weights and norms."""
    bias_lr: float
    momentum: float
    accumulate: int
    """Batches whose gradients are summed before a step."""


def full_accumulation(config: TrainConfig) -> int:
    """Returns the batches to a step after the warm-up."""
    return max(round(config.nominal_batch / config.batch), 1)


def warmup_batches(config: TrainConfig, batches_per_epoch: int) -> int:
    """Returns the length of the warm-up in batches; 0 when the recipe has none."""
    if config.warmup_epochs == 0:
        return 0
    wanted = max(round(config.warmup_epochs * batches_per_epoch), config.warmup_min_batches)
    if config.warmup_limit is None:
        return wanted
    return min(wanted, int(config.warmup_limit * config.epochs * batches_per_epoch))


def warmup_note(config: TrainConfig, *, images: int) -> str | None:
    """Returns a note where the learning rate never leaves the warm-up with so many images."""
    batches_per_epoch = -(-images // config.batch)
    warmup, batches = warmup_batches(config, batches_per_epoch), batches_per_epoch * config.epochs
    if not 0 < batches <= warmup:
        return None
    return (
        f"the learning rate never leaves the warm-up, which takes {warmup} batches of {batches}: "
        "train longer, or --set train.warmup_limit=0.1"
    )


def few_images_note(config: TrainConfig, *, images: int) -> str | None:
    """Returns a note where so few images are trained with a step after several batches."""
    if images >= FEW_IMAGES or full_accumulation(config) == 1:
        return None
    steps = optimizer_steps(config, images=images)
    return (
        f"{images} images give {steps:,} optimizer steps in {config.epochs} epochs: --recipe quick "
        "steps after every batch"
    )


def optimizer_steps(config: TrainConfig, *, images: int) -> int:
    """Returns the steps of a whole training on so many images, skipped ones included."""
    batches_per_epoch = -(-images // config.batch)
    batches = batches_per_epoch * config.epochs
    begun = min(warmup_batches(config, batches_per_epoch) + 1, batches)
    steps, waiting = 0, 0
    for number in range(begun):  # the accumulation grows in the warm-up alone
        waiting += 1
        if waiting >= hyperparameters_at(config, number, batches_per_epoch).accumulate:
            steps, waiting = steps + 1, 0
    return steps + (waiting + batches - begun) // full_accumulation(config)


def why_ap_is_zero(config: TrainConfig, log: Sequence[Mapping[str, Any]]) -> str:
    """Returns the likeliest reason for a finished training that finds nothing, and what to do.

    Args:
        config: settings of the training.
        log: its epochs, as `ossa.train.run_folder.read_log` returns them.
    """
    images = max(int(row.get("images") or 0) for row in log)
    steps, skipped = (
        optimizer_steps(config, images=images),
        sum(row.get("skipped") or 0 for row in log),
    )
    first, last = (
        sum(row[key] or 0.0 for key in row if key.startswith("train_") and key != "train_seconds")
        for row in (log[0], log[-1])
    )
    if warmup := warmup_note(config, images=images):
        return warmup
    if skipped > steps / 10:
        return (
            f"{skipped} of {steps} steps were left out, for their gradients were not finite: "
            "a lower --set train.lr, or --precision fp32"
        )
    if steps < _FEW_STEPS:
        quick = "--recipe quick, which steps after every batch; " * (full_accumulation(config) > 1)
        return (
            f"{steps} optimizer steps are few: more --epochs; a smaller --batch; {quick}"
            "or --pretrained"
        )
    if last > 0.95 * first:
        return (
            f"the loss did not fall ({first:.3g} to {last:.3g}): another --set train.lr, and look "
            "at the labels with ossa data show"
        )
    return (
        "the loss fell, but not far enough: more --epochs; look at the labels with ossa data show"
    )


def lr_of_epoch(config: TrainConfig, epoch: int) -> float:
    """Returns the learning rate of an epoch (counted from 0), warm-up apart.

    Linear: lr x ((1 - e/E)(1 - f) + f). Cosine: the same with (1 + cos(pi e/E)) / 2 for 1 - e/E.
    """
    progress = epoch / config.epochs
    if config.schedule == "cosine":
        remaining = (1.0 + math.cos(math.pi * progress)) / 2.0
    else:
        remaining = 1.0 - progress
    return config.lr * (remaining * (1.0 - config.final_lr_fraction) + config.final_lr_fraction)


def one_cycle_lr(config: TrainConfig, batch_number: int, batches: int) -> float:
    """Returns the learning rate of a batch, counted from 0, of so many in the whole training.

    From `lr` to `peak_lr` by half a cosine over the first `peak_at`, then down by half a cosine to
    a ten-thousandth of `lr`. Source: Smith and Topin, 2018, as torch's OneCycleLR counts the
    steps; the momentum does not cycle.
    """
    assert config.peak_lr is not None  # the schema's promise
    peak, last = config.peak_at * batches - 1.0, batches - 1.0
    if batch_number < peak:
        return _half_cosine(config.lr, config.peak_lr, batch_number / peak)
    done = (batch_number - peak) / (last - peak)
    return _half_cosine(config.peak_lr, config.lr * _ONE_CYCLE_END, done)


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * done)) / 2.0


def hyperparameters_at(
    config: TrainConfig, batch_number: int, batches_per_epoch: int
) -> Hyperparameters:
    """Returns the settings of a batch, counted from 0 over the whole training.

    The warm-up is linear in the batch number: the learning rate from 0 (biases from
    `warmup_bias_lr`), the momentum from `warmup_momentum`, the accumulation from 1. With
    `schedule_lag` every epoch whose first batch is behind the warm-up has the learning rate of the
    epoch before it.
    """
    if config.schedule == "one-cycle":
        lr = one_cycle_lr(config, batch_number, batches_per_epoch * config.epochs)
        return Hyperparameters(lr, lr, config.momentum, full_accumulation(config))
    epoch = batch_number // batches_per_epoch
    warmup = warmup_batches(config, batches_per_epoch)
    lags = config.schedule_lag and epoch * batches_per_epoch > warmup
    lr = lr_of_epoch(config, epoch - 1 if lags else epoch)
    if batch_number > warmup or warmup == 0:
        return Hyperparameters(lr, lr, config.momentum, full_accumulation(config))
    done = batch_number / warmup

    def between(start: float, end: float) -> float:
        return start + (end - start) * done

    return Hyperparameters(
        lr=between(0.0, lr),
        bias_lr=between(config.warmup_bias_lr, lr),
        momentum=between(config.warmup_momentum, config.momentum),
        accumulate=max(round(between(1.0, config.nominal_batch / config.batch)), 1),
    )
