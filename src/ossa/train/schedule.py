"""Learning rate, momentum and accumulation as pure functions of the batch number."""

import math
from typing import NamedTuple

from ossa.config import TrainConfig


class StepSettings(NamedTuple):
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
    return max(round(config.warmup_epochs * batches_per_epoch), config.warmup_min_batches)


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


def settings_at(config: TrainConfig, batch_number: int, batches_per_epoch: int) -> StepSettings:
    """Returns the settings of a batch, counted from 0 over the whole training.

    The warm-up is linear in the batch number: the learning rate from 0 (biases from
    `warmup_bias_lr`), the momentum from `warmup_momentum`, the accumulation from 1.
    """
    lr = lr_of_epoch(config, batch_number // batches_per_epoch)
    warmup = warmup_batches(config, batches_per_epoch)
    if batch_number > warmup or warmup == 0:
        return StepSettings(lr, lr, config.momentum, full_accumulation(config))
    done = batch_number / warmup

    def between(start: float, end: float) -> float:
        return start + (end - start) * done

    return StepSettings(
        lr=between(0.0, lr),
        bias_lr=between(config.warmup_bias_lr, lr),
        momentum=between(config.warmup_momentum, config.momentum),
        accumulate=max(round(between(1.0, config.nominal_batch / config.batch)), 1),
    )
