"""What an experiment tracker is told of a run, and the callback that tells it."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ossa.evaluate.evaluator import Evaluation
from ossa.files import write_text_atomically
from ossa.train.callbacks import Callback, CallbackList, RunStart
from ossa.train.run_folder import BEST_WEIGHTS, FIGURES_FOLDER
from ossa.types import Record

CONFUSION_FILE = "confusion.json"
"""Among the figures: {"names": K + 1, "matrix": K + 1 rows of truths}, the background last."""
_KEY_FILE = "tracking-key"
_FIGURES_EVERY = 10


class Tracker(Protocol):
    """Takes a run to where it is looked at. Called in the order of the methods.

    Whatever a method raises ends the tracking of the run and never the run.
    """

    @property
    def name(self) -> str:
        """As the user calls it, such as 'comet'."""
        ...

    def begin(self, start: RunStart) -> str:
        """Opens the run, or goes on with it, and returns a sentence on where it can be seen."""
        ...

    def epoch(self, row: Mapping[str, Any]) -> None:
        """`row` is the line that `log.jsonl` received; values can be None."""
        ...

    def figure(self, name: str, path: Path, *, epoch: int) -> None:
        """A PNG, new or in place of the last of its name ('curves', 'predictions', ...)."""
        ...

    def confusion(
        self, names: Sequence[str], counts: Sequence[Sequence[int]], *, epoch: int
    ) -> None:
        """How often truths of each class (rows) were found as each (columns); background last."""
        ...

    def weights(self, path: Path) -> None:
        """The checkpoint of the best epoch. Called only where the user wants it uploaded."""
        ...

    def end(self, record: Record | None) -> None:
        """The run is over; `record` is None where it broke off without one."""
        ...


@contextmanager
def tracked(
    trackers: Sequence[Tracker], callback: Callback | None = None, *, weights: bool = False
) -> Iterator[Callback]:
    """Yields a callback that tells `callback`, then the trackers, which are ended when it is left.

    Args:
        trackers: see `create_trackers`.
        callback: is told first (so that the pictures it draws are there to be sent), and reads the
            notes of the trackers.
        weights: upload the checkpoint of the best epoch when the run is over.
    """
    callback = callback or Callback()
    tracking = [TrackerCallback(tracker, callback.note, weights=weights) for tracker in trackers]
    try:
        yield CallbackList([callback, *tracking])
    finally:
        for each in tracking:
            each.close()


class TrackerCallback(Callback):
    """Tells a tracker of a run: every epoch's row, and now and then what lies in `figures/`.

    A tracker that fails is not called again, which is said once; the run goes on.
    """

    def __init__(
        self,
        tracker: Tracker,
        note: Callable[[str], None],
        *,
        weights: bool = False,
        figures_every: int = _FIGURES_EVERY,
    ) -> None:
        """
        Args:
            tracker: is called from this process only, between two batches.
            note: is given the sentences that the user should read.
            weights: whether the tracker is given the checkpoint of the best epoch.
            figures_every: epochs after which pictures are sent where they have changed.
        """
        self._tracker = tracker
        self._note = note
        self._weights = weights
        self._figures_every = figures_every
        self._listening = False
        self._folder = Path()
        self._epoch = 0
        self._sent: dict[Path, int] = {}

    def on_start(self, start: RunStart) -> None:
        self._folder, self._epoch = start.folder, max(0, start.epochs_done - 1)
        self._listening, self._sent = True, {}
        self._tell(lambda: self._note(f"{self._tracker.name}: {self._tracker.begin(start)}"))

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation) -> None:
        self._epoch = row["epoch"]
        self._tell(lambda: self._tracker.epoch(row))
        if self._epoch % self._figures_every == 0:
            self._send_figures()

    def on_end(self, record: Record) -> None:
        self._send_figures()
        best = self._folder / BEST_WEIGHTS
        if self._weights and best.is_file():
            self._tell(lambda: self._tracker.weights(best))
        self._end(record)

    def close(self) -> None:
        """Ends a tracker whose run never finished: it was interrupted, or failed unforeseen."""
        self._end(None)

    def _end(self, record: Record | None) -> None:
        self._tell(lambda: self._tracker.end(record))
        self._listening = False

    def _send_figures(self) -> None:
        folder = self._folder / FIGURES_FOLDER
        for path in sorted(folder.glob("*.png")):
            if self._has_changed(path):
                self._tell(lambda path=path: self._send_figure(path))
        confusion = folder / CONFUSION_FILE
        if confusion.is_file() and self._has_changed(confusion):
            self._tell(lambda: self._send_confusion(confusion))

    def _has_changed(self, path: Path) -> bool:
        """Whether a file is not the one that was sent last."""
        written = path.stat().st_mtime_ns
        changed = self._sent.get(path) != written
        self._sent[path] = written
        return changed

    def _send_figure(self, path: Path) -> None:
        self._tracker.figure(path.stem, path, epoch=self._epoch)

    def _send_confusion(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self._tracker.confusion(content["names"], content["matrix"], epoch=self._epoch)

    def _tell(self, tell: Callable[[], None]) -> None:
        if not self._listening:
            return
        try:
            tell()
        except Exception as failure:
            self._listening = False
            reason = " ".join(str(failure).split()) or "no further word"
            self._note(
                f"{self._tracker.name} is told no more of this run, which goes on: "
                f"{type(failure).__name__}: {reason}"
            )


def settings_and_cost(start: RunStart) -> dict[str, str | int | float]:
    """Returns the resolved configuration, flat ('train.lr', ...), and 'cost.params' and the like.

    What is neither text nor number (None, anchors) is told as JSON.
    """
    nested = {**start.config.model_dump(mode="json"), "cost": dict(start.cost)}
    return {
        key: value if isinstance(value, str | int | float) else json.dumps(value)
        for key, value in _flat(nested)
    }


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns what can be drawn as a curve: no None (a metric without truths), no text."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def outcome(record: Record) -> dict[str, str]:
    """Returns how a run ended and in which environment: hardware and versions, no paths."""
    hashes = {"config_hash": record.config_hash, "data_fingerprint": record.data_fingerprint}
    ending = {"status": record.status, "reason": record.reason or ""}
    return {**ending, **hashes, **record.environment}


def tracking_key(folder: Path) -> str:
    """Returns the 32 hexadecimal digits by which trackers know a run again when it is resumed.

    They are drawn at the first call and kept in the folder of the run.
    """
    file = folder / _KEY_FILE
    if not file.is_file():
        write_text_atomically(file, secrets.token_hex(16) + "\n")
    return file.read_text().strip()
