"""The callbacks of a training: what is called while it runs, and changes nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that the command line can define callbacks without importing torch
    from ossa.config import RunConfig
    from ossa.data.annotations import DatasetIndex
    from ossa.evaluate.evaluator import Evaluation
    from ossa.types import Record


@dataclass(frozen=True)
class RunStart:
    """What is known before the first batch of a run."""

    config: RunConfig
    folder: Path
    """Folder of the run."""
    train_index: DatasetIndex
    val_index: DatasetIndex
    batches_per_epoch: int
    epochs_done: int
    """Above 0 for a run that is resumed."""
    cost: Mapping[str, int]
    """Parameters, FLOPs and MACs of the detector, flat, as in the record."""


class Callback:
    """The hooks of a training, which do nothing here: override those that you need.

    Examples:
        >>> class PrintLoss(Callback):
        ...     def on_batch_end(self, *, epoch, batch, loss):
        ...         print(f"epoch {epoch + 1}, batch {batch}: {loss:.3f}")
        >>> PrintLoss().on_batch_end(epoch=0, batch=1, loss=0.5)
        epoch 1, batch 1: 0.500
    """

    def on_prepare(self, doing: str, *, done: int, total: int) -> None:
        """Called while something long is prepared, such as decoding images for a cache."""

    def on_start(self, start: RunStart) -> None:
        """Called before the first batch."""

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        """Called after a batch.

        Args:
            epoch: counted from 0.
            batch: counted from 1 within the epoch.
            loss: mean of the epoch so far.
        """

    def on_evaluate(self, *, epoch: int, done: int, total: int) -> None:
        """Called while the val split is evaluated, with the number of images that are done."""

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
        """Called after an epoch, with its line of `log.jsonl` and its evaluation on val.

        `evaluation` is None, as are the metrics of the line, after epochs without one
        (`train.evaluate_every`).
        """

    def on_end(self, record: Record) -> None:
        """Called when the run is done, stopped or failed, as `record.status` says."""

    def note(self, sentence: str) -> None:
        """Called with a sentence for the user: problems of the data, weights left out, ..."""


def _call_each(hook: str) -> Callable[..., None]:
    def call(self: CallbackList, *args: Any, **kwargs: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*args, **kwargs)

    return call


class CallbackList(Callback):
    """Calls several callbacks in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    on_prepare = _call_each("on_prepare")
    on_start = _call_each("on_start")
    on_batch_end = _call_each("on_batch_end")
    on_evaluate = _call_each("on_evaluate")
    on_epoch_end = _call_each("on_epoch_end")
    on_end = _call_each("on_end")
    note = _call_each("note")
