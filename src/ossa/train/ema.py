"""The running average of weights and buffers, which evaluation uses."""

import copy
import math
from collections.abc import Collection
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class ModelAverage(Generic[Network]):
    """An exponential moving average of a network, counted in optimiser steps.

    The decay grows as decay x (1 - exp(-updates / ramp)), so that early averages follow quickly.
    """

    def __init__(
        self, network: Network, *, decay: float, ramp: float, frozen: Collection[str] = ()
    ) -> None:
        """`frozen`: keys of the state dict of what never changes, and is not touched."""
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.frozen = frozen
        self.updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Moves the average towards the network; integer buffers are copied."""
        self.updates += 1
        decay = self.decay * (1.0 - math.exp(-self.updates / self.ramp))
        averages, values = [], []
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            if name in self.frozen:  # -0.0 averaged with itself would become 0.0
                continue
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, values, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
