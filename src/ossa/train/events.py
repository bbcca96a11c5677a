"""What a training tells those who watch it."""

from typing import Any, Protocol


class Watcher(Protocol):
    """Is told how a training goes; the terminal's view is one, a silent one another."""

    def started(self, *, model: str, epochs: int, batches_per_epoch: int) -> None: ...

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None: ...

    def evaluating(self, *, epoch: int, done: int, total: int) -> None: ...

    def epoch_done(self, row: dict[str, Any]) -> None:
        """Args:
        row: the line that `log.jsonl` received.
        """
        ...

    def note(self, sentence: str) -> None:
        """Something worth reading: problems of the data, weights left out, where things are."""
        ...


class Silence:
    """A watcher that does nothing."""

    def started(self, *, model: str, epochs: int, batches_per_epoch: int) -> None:
        pass

    def batch_done(self, *, epoch: int, batch: int, loss: float) -> None:
        pass

    def evaluating(self, *, epoch: int, done: int, total: int) -> None:
        pass

    def epoch_done(self, row: dict[str, Any]) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass
