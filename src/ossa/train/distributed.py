"""Several processes that train one detector, each on its share of every batch.

Gradients are summed once a step, over all parameters at once, after the last backward pass that
the step waits for. DDP would overlap the sum with the backward pass, but sums after every batch of
an accumulation, and needs every process to have images and every parameter to have a gradient.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ossa.errors import ConfigError, OssaError

Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """Rank and world size of this process. With one process, every method returns its input."""

    rank: int = 0
    """0 for the main process, which writes the files and calls the callbacks."""
    world_size: int = 1
    _learning: list[str] = field(default_factory=list, compare=False)
    """Names of the parameters that have gradients, as found at the first sum."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Rank and world size, as samplers and evaluation take them."""
        return self.rank, self.world_size

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of the tensor over all ranks."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Value) -> list[Value]:
        """Returns the value of every process, in the order of their ranks; it is pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Value | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def on_main(self, make: Callable[[], Value]) -> Value:
        """Calls a function in the main process, and returns its result in all of them.

        Raises:
            OssaError: in every process, where the call raised one in the main process.
        """
        if self.world_size == 1:
            return make()
        made: list[Value | OssaError | None] = [None]
        if self.is_main:
            try:
                made[0] = make()
            except OssaError as error:
                made[0] = error
        dist.broadcast_object_list(made)
        if isinstance(made[0], OssaError):
            raise made[0]
        return made[0]  # type: ignore[return-value]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites the tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum_gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Replaces the gradients by their sums over all ranks.

        A process without images in its share has none and adds nothing. Parameters that have no
        gradient in any process (of a part of the network that is not used) get none.
        """
        if self.world_size == 1:
            return
        if not self._learning or not parameters.keys() >= set(self._learning):  # or another network
            self._learning.clear()
            own = [name for name, parameter in parameters.items() if parameter.grad is not None]
            anywhere = {name for names in self.gather(own) for name in names}
            self._learning.extend(name for name in parameters if name in anywhere)
        learning = [parameters[name] for name in self._learning]
        if not learning:
            return
        own_gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        flat = torch.cat([gradient.flatten() for gradient in own_gradients])
        dist.all_reduce(flat)
        totals = flat.split([parameter.numel() for parameter in learning])
        for parameter, total in zip(learning, totals, strict=True):
            # In the parameter's own memory format, which fused optimizers insist on.
            parameter.grad = torch.empty_like(parameter).copy_(total.view_as(parameter))


SINGLE_PROCESS = DistributedContext()


@contextmanager
def joined_processes(device: str) -> Iterator[DistributedContext]:
    """Yields the context of the processes that torchrun started, or of this one alone.

    They talk by gloo where `device` is 'cpu', else by nccl.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    own = device_of_process(device)
    if own != "cpu":
        torch.cuda.set_device(own)  # on which nccl puts what it sends
    dist.init_process_group("gloo" if own == "cpu" else "nccl")
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def device_of_process(device: str) -> str:
    """Returns the GPU of this process where torchrun started several, else `device`.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    if device == "cpu" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ConfigError(
            expected="a GPU for each process",
            found=f"{gpus} and a process of number {local_rank}",
            advice=f"start torchrun with --nproc-per-node {gpus}",
        )
    return f"cuda:{local_rank}"


class StopRequest:
    """While active, the first Ctrl-C (or SIGTERM) sets `requested`; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread handle signals; elsewhere the caller stops the run.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class AsyncMetricReader(Generic[Value]):
    """Reads values of a device one batch late, so that it always has the next batch to work on.

    On the CPU, which computes synchronously, nothing is late.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._waiting: list[tuple[Value, Tensor, torch.cuda.Event | None]] = []

    def put(self, item: Value, values: Tensor) -> list[tuple[Value, list[float]]]:
        """Takes an item and its values (n,), and returns the items whose values are now known."""
        event = None
        if self._late:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = pinned.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((item, values, event))
        return self._read(keep=1 if self._late else 0)

    def drain(self) -> list[tuple[Value, list[float]]]:
        """Returns the items that are still waiting."""
        return self._read(keep=0)

    def _read(self, *, keep: int) -> list[tuple[Value, list[float]]]:
        known = []
        while len(self._waiting) > keep:
            item, values, event = self._waiting.pop(0)
            if event is not None:
                event.synchronize()
            known.append((item, values.tolist()))
        return known
