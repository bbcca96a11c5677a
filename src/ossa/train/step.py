"""One step of the training: forward, losses, backward and, when due, the optimiser.

Nothing in here waits for the device, except where a step that went wrong is to be skipped.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ossa.config import TrainConfig
from ossa.models.detector import Detector
from ossa.models.loss import DetectionLoss, LossTerms
from ossa.models.norms import PreciseNorms
from ossa.train.distributed import DistributedContext
from ossa.train.optim import EMA
from ossa.types import Batch, RawPredictions


class StepResult(NamedTuple):
    """What one batch came to."""

    number: int
    """Of the batch, over the whole training."""
    images: int
    """In the batch of all processes."""
    image_ids: tuple[int, ...]
    """Of this process's share."""
    lr: float
    losses: tuple[float, float, float]
    """Box, objectness and classes, of the batch of all processes."""
    gradient_norm: float
    """Before clipping; 0 where the batch waits for others before a step."""
    stop: bool
    """Whether any process was asked to stop."""
    state_age: float
    """Seconds since the state was saved, by the first process's clock."""

    @property
    def finite(self) -> bool:
        return bool(torch.tensor([*self.losses, self.gradient_norm]).isfinite().all())


class Step:
    """Turns batches into gradients, and gradients into steps. Changes detector and optimiser."""

    def __init__(
        self,
        detector: Detector,
        *,
        loss: DetectionLoss,
        optimizer: torch.optim.Optimizer,
        average: EMA[Detector],
        config: TrainConfig,
        device: torch.device,
        processes: DistributedContext,
    ) -> None:
        self.detector = detector
        self.loss = loss
        self.optimizer = optimizer
        self.average = average
        self.config = config
        self.device = device
        self.processes = processes
        self._parameters = {n: p for n, p in detector.named_parameters() if p.requires_grad}
        self._statistics = list(detector.buffers())
        self._network: Callable[[Tensor], RawPredictions] = detector
        self.losses: Callable[[RawPredictions, Batch], LossTerms] = loss
        if config.compile:
            self._network, self.losses = torch.compile(detector), torch.compile(loss)

    def backward(self, batch: Batch, *, images: int) -> Tensor:
        """Adds the gradients of a batch; returns this process's share of its three losses, (3,).

        With `on_nan: skip` a batch whose losses are not finite leaves no trace.

        Args:
            batch: this process's share, on the device.
            images: in the batch of all processes.
        """
        skips = self.config.on_nan == "skip"
        before = [buffer.clone() for buffer in self._statistics] if skips else []
        terms = self.terms(batch) if batch.image_ids else self._no_terms()
        share = torch.stack(terms).detach()
        if skips and not self.processes.sum(share).isfinite().all():
            torch._foreach_copy_(self._statistics, before)  # pyright: ignore[reportPrivateImportUsage]
        elif batch.image_ids:
            (terms.total() * images).backward()
        return share

    def terms(self, batch: Batch) -> LossTerms:
        """Returns the losses of a batch."""
        return self.losses(self.predict(batch.images), batch)

    def predict(self, images: Tensor) -> RawPredictions:
        """Returns what the network says of images (B, 3, H, W), in the training's precision."""
        bf16 = self.config.precision == "bf16"
        # Compiled norms are kernels of the compiler's own.
        norms = nullcontext() if self.config.compile else PreciseNorms()
        with norms, torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self._network(images)

    def _no_terms(self) -> LossTerms:
        """Returns the terms of a share without images: an epoch's last batch may be that small."""
        zero = torch.zeros((), device=self.device)
        self.loss.all_reduce(zero.new_zeros(1 + len(self.loss.balance)))
        return LossTerms(zero, zero, zero)

    def update(self) -> Tensor:
        """Takes a step with the gradients of all processes; returns their norm before clipping.

        Where the norm is not finite, weights, momenta and average stay as they are.
        """
        self.processes.sum_gradients(self._parameters)
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self.config.clip_norm)
        if self.config.on_nan == "skip" and not norm.isfinite():
            self.optimizer.zero_grad(set_to_none=True)
            return norm
        # The fused optimisers of torch look at this flag on the device, so that nobody waits.
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.detector)
        return norm


_ReadOutcome = Callable[[list[float]], StepResult]


class AsyncMetricReader:
    """Reads values of a device one batch late, so that it always has the next batch to work on.

    On the CPU, which computes when it is told to, nothing is late.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._waiting: list[
            tuple[Tensor, torch.cuda.Event | None, Callable[[list[float]], StepResult]]
        ]
        self._waiting = []

    def put(self, values: Tensor, outcome: _ReadOutcome) -> list[StepResult]:
        """Takes the values of a batch, and returns the outcomes that are now known."""
        event = None
        if self._late:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = pinned.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((values, event, outcome))
        return self._read(keep=1 if self._late else 0)

    def rest(self) -> list[StepResult]:
        """Returns what is still waiting."""
        return self._read(keep=0)

    def _read(self, *, keep: int) -> list[StepResult]:
        known = []
        while len(self._waiting) > keep:
            values, event, outcome = self._waiting.pop(0)
            if event is not None:
                event.synchronize()
            known.append(outcome(values.tolist()))
        return known
