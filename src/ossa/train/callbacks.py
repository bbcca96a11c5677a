"""What a training tells those who watch it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ossa.config import RunConfig
from ossa.data.annotations import DatasetIndex
from ossa.evaluate.evaluator import Evaluation
from ossa.types import Record


@dataclass(frozen=True)
class RunStart:
    """What is known when the first batch is about to be trained."""

    config: RunConfig
    folder: Path
    """Of the run."""
    train_index: DatasetIndex
    val_index: DatasetIndex
    batches_per_epoch: int
    epochs_done: int
    """Above 0 for a run that is resumed."""
    cost: Mapping[str, int]
    """Parameters, FLOPs and MACs of the detector, flat, as in the record."""


class Callback(Protocol):
    """Is told how a training goes: the terminal's view, figures, experiment trackers."""

    def started(self, start: RunStart) -> None: ...

    def preparing(self, doing: str, *, done: int, total: int) -> None:
        """Before the start: how much of something long is done, such as decoding for a cache."""
        ...

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None:
        """Args:
        epoch: counted from 0.
        batch: counted from 1 within the epoch.
        loss: mean of the epoch so far.
        """
        ...

    def evaluating(self, *, epoch: int, done: int, total: int) -> None: ...

    def epoch_done(self, row: Mapping[str, Any], evaluation: Evaluation) -> None:
        """Args:
        row: the line that `log.jsonl` received.
        evaluation: of the val split, from which the line's metrics are.
        """
        ...

    def finished(self, record: Record) -> None:
        """The run is done, stopped or failed, as `record.status` says."""
        ...

    def note(self, sentence: str) -> None:
        """Something worth reading: problems of the data, weights left out, where things are."""
        ...


class NullCallback:
    """A callback that does nothing; others need only write what they care for."""

    def started(self, start: RunStart) -> None:
        pass

    def preparing(self, doing: str, *, done: int, total: int) -> None:
        pass

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None:
        pass

    def evaluating(self, *, epoch: int, done: int, total: int) -> None:
        pass

    def epoch_done(self, row: Mapping[str, Any], evaluation: Evaluation) -> None:
        pass

    def finished(self, record: Record) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


class CallbackList:
    """Tells several callbacks in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def started(self, start: RunStart) -> None:
        self._each(lambda callback: callback.started(start))

    def preparing(self, doing: str, *, done: int, total: int) -> None:
        self._each(lambda callback: callback.preparing(doing, done=done, total=total))

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None:
        self._each(lambda callback: callback.batch_done(epoch=epoch, batch=batch, loss=loss))

    def evaluating(self, *, epoch: int, done: int, total: int) -> None:
        self._each(lambda callback: callback.evaluating(epoch=epoch, done=done, total=total))

    def epoch_done(self, row: Mapping[str, Any], evaluation: Evaluation) -> None:
        self._each(lambda callback: callback.epoch_done(row, evaluation))

    def finished(self, record: Record) -> None:
        self._each(lambda callback: callback.finished(record))

    def note(self, sentence: str) -> None:
        self._each(lambda callback: callback.note(sentence))

    def _each(self, tell: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            tell(callback)
