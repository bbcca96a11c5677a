"""The health of a training: a first and a bad batch, single values, failures from outside."""

import errno
import multiprocessing
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ossa.config import RunConfig
from ossa.errors import ConfigError, RunFailed
from ossa.models.detector import Detector
from ossa.models.head import Criterion
from ossa.models.norms import single_value_norms
from ossa.types import Batch, RawPredictions

_DEAD_SCALE = 1e-6


class LevelHealth(NamedTuple):
    """What one level of the backbone did in a batch."""

    stride: int
    feature_scale: float
    """Standard deviation over the backbone's feature map."""
    gradient_norm: float | None
    """Of the mean loss of an image, with respect to that map; None for a frozen backbone."""
    positives: int
    """Predictions that are assigned to a ground-truth box."""

    def __str__(self) -> str:
        gradient = "frozen" if self.gradient_norm is None else f"{self.gradient_norm:.2g}"
        return (
            f"stride {self.stride}: features {self.feature_scale:.2g}, gradient {gradient}, "
            f"{self.positives} positives{'; this level is dead' if self.dead else ''}"
        )

    @property
    def dead(self) -> bool:
        """Whether nothing arrives at this level, or nothing comes back from it."""
        alive = self.feature_scale > _DEAD_SCALE
        return not (alive and (self.gradient_norm is None or self.gradient_norm > 0))


@contextmanager
def reporting_levels(
    detector: Detector, batch: Batch, *, loss: Criterion, report: Callable[[LevelHealth], object]
) -> Iterator[None]:
    """Calls `report` with each level, fine to coarse, after the passes of a batch done within.

    Nothing is reported of a share without images. `loss` is that of the detector's head.
    """
    maps: list[Tensor] = []
    raws: list[RawPredictions] = []

    def keep_maps(_: nn.Module, __: Any, features: tuple[Tensor, ...]) -> None:
        for level in features:
            if level.requires_grad:
                level.retain_grad()
        maps.extend(features)

    def keep_raw(_: nn.Module, __: Any, raw: RawPredictions) -> None:
        raws.append(detector.head.read(tuple(level.detach() for level in raw.logits)))

    with (
        detector.get_submodule("backbone").register_forward_hook(keep_maps),
        detector.register_forward_hook(keep_raw),
    ):
        yield
    for raw in raws:
        positives = loss.positives(raw, batch)
        for stride, level, count in zip(raw.strides, maps, positives, strict=True):
            scale, gradient = level.detach().float().std(), level.grad
            norm = None
            if gradient is not None:
                norm = float(gradient.float().norm()) / len(batch.image_ids)
            report(LevelHealth(stride, float(scale), norm, count))


def check_single_values(
    detector: Detector,
    config: RunConfig,
    *,
    images: int,
    frozen: Collection[str] = (),
    processes: int = 1,
) -> str | None:
    """Returns a note where an epoch's last batch leaves batch norms one value per channel.

    These use their running statistics in that batch. Norms that have one value in every batch
    would have no statistics to use.

    Args:
        detector: on any device.
        config: of the run.
        images: that train.
        frozen: keys of the state dict of what does not train.
        processes: that share every batch.

    Raises:
        ConfigError: norms have one value in every batch; or in the last one, which is compiled.
    """
    train = config.train
    full, last = min(train.batch, images), images % train.batch
    always, in_last = (1 in (batch // processes, -(-batch // processes)) for batch in (full, last))
    if not always and not in_last:
        return None
    norms = single_value_norms(detector, train.imgsz)
    norms = [name for name in norms if f"{name}.running_mean" not in frozen]
    if not norms:
        return None
    found = f"{len(norms)} batch norms of {config.model.name} (such as {norms[0]})"
    if always:
        enough = images >= 2 * processes
        advice = f"take --batch {2 * processes}" if enough else f"train on {2 * processes} images"
        raise ConfigError(
            "expected two images or more in each process's share of a batch, found one: "
            f"{full} over {processes} {'process' if processes == 1 else 'processes'}. At "
            f"{train.imgsz} px that leaves {found} one value per channel, which has no deviation; "
            f"{advice} or more"
        )
    if train.compile:
        raise ConfigError(
            f"expected two images or more in the last batch of an epoch, found {last} of {images}: "
            f"it leaves {found} one value per channel, which compiled code refuses; take another "
            "--batch, or leave --compile out"
        )
    return (
        f"the last batch of an epoch has {last} of {images} images, which leaves {found} one value "
        "per channel: they use their running statistics there"
    )


def first_bad_layer(detector: nn.Module, run: Callable[[], Tensor]) -> str:
    """Returns which layer's activations, or else gradients, are the first that are not finite.

    `run` does the forward pass and returns the loss. The gradients of the detector are lost.
    """
    bad: list[str] = []

    def check(name: str, value: Any) -> None:
        tensors = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(t, Tensor) and not t.isfinite().all() for t in tensors):
            bad.append(name)

    with ExitStack() as hooks:
        for name, module in detector.named_modules():
            if not list(module.children()):
                hook = module.register_forward_hook(lambda *call, name=name: check(name, call[-1]))
                hooks.enter_context(hook)
        loss = run()
    if bad:
        return f"the activations of {bad[0]} went bad first"
    if not loss.isfinite():
        return "all activations are finite, the losses are not"
    with ExitStack() as hooks:
        for name, parameter in detector.named_parameters():
            if parameter.requires_grad:
                hook = parameter.register_hook(lambda gradient, name=name: check(name, gradient))
                hooks.enter_context(hook)
        loss.backward()
    detector.zero_grad(set_to_none=True)
    if bad:
        return f"the gradient of {bad[0]} went bad first"
    return "done again, the batch gives finite losses and gradients"


_AFTERWARDS = "the last checkpoint is untouched: go on with --resume"


@contextmanager
def wrap_errors(*, batch: int, fitting_batch: Callable[[], int | None]) -> Iterator[None]:
    """Turns failures of memory and of worker processes into `RunFailed`.

    Args:
        batch: images of this process in a batch.
        fitting_batch: finds a number of images that the GPU has room for, None where not even
            one; called when memory has run out.

    Raises:
        RunFailed: in the place of what was raised.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        fitting = fitting_batch()
        advice = "not even a batch of 1 fits" if fitting is None else f"--batch {fitting} fits"
        raise RunFailed(
            f"the GPU has no memory for a batch of {batch} images: {advice}; {_AFTERWARDS}"
        ) from None
    except (MemoryError, OSError, EOFError, RuntimeError) as error:
        message = str(error)
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in message:
            raise RunFailed(
                f"the machine has no memory for a batch of {batch} images: take a smaller --batch "
                f"or fewer --workers; {_AFTERWARDS}"
            ) from None
        # The loader's pipe to a worker that is gone ends, or is reset.
        if isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in message:
            reason = (message or type(error).__name__).splitlines()[0]
            raise RunFailed(
                f"a process that loads images died ({reason}): if the machine ran out of memory "
                f"take fewer --workers; {_AFTERWARDS}"
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunFailed(
                "the system does not let this process open more files: take fewer --workers, or "
                "allow more with 'ulimit -n 1024'"
            ) from None
        raise


@contextmanager
def ended_if_not_all_start() -> Iterator[None]:
    """Ends the processes that were started, where another one of them could not be.

    Otherwise Python waits for them for ever when it ends.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except OSError:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
