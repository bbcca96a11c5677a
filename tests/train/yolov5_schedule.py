"""The order in which YOLOv5 sets learning rates and steps, as plain loops over an epoch's batches.

Written from the facts of that loop with torch's own scheduler, and with nothing of the code under
test.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

LR, MOMENTUM = 0.01, 0.937


class Turn(NamedTuple):
    """What holds for one batch."""

    lr: float
    bias_lr: float
    momentum: float
    steps: bool
    """Whether the optimizer steps behind it."""
    waiting: int
    """Batches whose gradients then wait for a step."""


def yolov5_turns(
    *,
    epochs: int,
    batches: int,
    batch: int,
    final: float,
    cosine: bool = False,
    nominal: int = 64,
    warmup: int | None = None,
) -> Iterator[Turn]:
    """Yields every batch of a training of so many epochs of so many batches.

    `warmup` is in batches, YOLOv5's where it is None.
    """
    warmup = max(round(3 * batches), 100) if warmup is None else warmup

    def factor(epoch: int) -> float:
        progress = (1 - np.cos(np.pi * epoch / epochs)) / 2 if cosine else epoch / epochs
        return (1 - progress) * (1 - final) + final

    weights, biases = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [weights]}, {"params": [biases]}], lr=LR)
    scheduler = LambdaLR(optimizer, lr_lambda=factor)
    scheduler.last_epoch = -1  # one back, before the first epoch
    last_step, accumulate, momentum = -1, max(round(nominal / batch), 1), MOMENTUM
    for epoch in range(epochs):
        waiting = 0  # what was left is dropped
        for number in range(epoch * batches, (epoch + 1) * batches):
            if number <= warmup:
                ends = [0, warmup]
                accumulate = max(1, round(np.interp(number, ends, [1, nominal / batch])))
                for group, start in zip(optimizer.param_groups, (0.0, 0.1), strict=True):
                    group["lr"] = np.interp(number, ends, [start, LR * factor(epoch)])
                momentum = np.interp(number, ends, [0.8, MOMENTUM])
            waiting += 1
            steps = number - last_step >= accumulate
            if steps:
                last_step, waiting = number, 0
            lr, bias_lr = (group["lr"] for group in optimizer.param_groups)
            yield Turn(lr, bias_lr, momentum, steps, waiting)
        optimizer.step()  # so that the scheduler does not complain
        scheduler.step()
