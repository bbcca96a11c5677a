"""How a command tells on stderr what it is doing: one calm live line, and a line an epoch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ossa.cli.output import TerminalConsole, duration, fraction
from ossa.escaping import escape_terminal
from ossa.train.callbacks import Callback

if TYPE_CHECKING:  # a command that trains nothing need not wait for torch
    from ossa.config import RunConfig
    from ossa.data.annotations import IndexReport
    from ossa.evaluate.evaluator import Evaluation
    from ossa.train.callbacks import RunStart
    from ossa.types import Record

_REFRESHES_PER_SECOND = 4
_BAR_WIDTH = 24
_PROBLEMS_SHOWN = 5


class Console(Callback):
    """A callback of trainings (`ossa.train.callbacks.Callback`) that writes to the terminal.

    Where stderr is no terminal there is no live line and no control code. Leaving the `with`
    takes the live line away; so does the end of a training.
    """

    def __init__(self, place: str = "") -> None:
        """`place` is told when a training starts, such as 'in runs/yolov5n on cpu'."""
        self._place = place
        self._err = TerminalConsole(stderr=True, soft_wrap=True)
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._epochs = 0
        self._batches_per_epoch = 0
        self._pace: _Pace | None = None
        self._loss = ""
        self._ap = ""
        self._best = 0.0
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def note(self, sentence: str) -> None:
        """Prints a line, above the live one."""
        self._err.print(escape_terminal(sentence))

    def problems(self, problems: Sequence[object]) -> None:
        """Prints the first faults of a data set, and how many more there are."""
        for problem in problems[:_PROBLEMS_SHOWN]:
            self.note(str(problem))
        if len(problems) > _PROBLEMS_SHOWN:
            self.note(f"{len(problems) - _PROBLEMS_SHOWN} more problems of the data")

    def faults(self, report: "IndexReport") -> None:
        """Prints what a split leaves out by its data.yaml, and the first of its faults."""
        for note in report.notes:
            if note not in self._told:  # those on the data.yaml come with each split
                self.note(note)
        self._told.update(report.notes)
        self.problems(report.problems)

    @contextmanager
    def progress(
        self, doing: str, *, of_bytes: bool = False
    ) -> Iterator[Callable[[int, int], None]]:
        """Yields a function of the number done and the number in all, shown while it is called.

        Numbers `of_bytes` are shown with their unit, their rate and the time left.
        """
        if not self._err.is_interactive:
            self.note(doing)
        try:
            yield lambda done, total: self._show(doing, done=done, total=total, of_bytes=of_bytes)
        finally:
            self._close()

    def on_prepare(self, doing: str, *, done: int, total: int) -> None:
        self._show(doing, done=done, total=total)

    def on_start(self, start: "RunStart") -> None:
        self._epochs = start.config.train.epochs
        self._batches_per_epoch = start.batches_per_epoch
        what = " ".join(filter(None, ("training", start.config.model.name, self._place)))
        self.note(f"{what} (epochs: {self._epochs}, batches in each: {start.batches_per_epoch})")
        for line in resolved(start.config):
            self.note(line)
        self._pace, self._loss, self._ap, self._best = None, "", "", 0.0

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        position = epoch + batch / self._batches_per_epoch
        self._pace = self._pace or _Pace(position)
        left = self._pace.seconds_left(position, self._epochs)
        self._loss = f"loss {loss:.4f}"
        told = (self._loss, self._ap, "" if left is None else f"{duration(left)} left")
        self._show(
            f"epoch {epoch + 1}/{self._epochs} training",
            done=batch,
            total=self._batches_per_epoch,
            detail="  ".join(filter(None, told)),
        )

    def on_evaluate(self, *, epoch: int, done: int, total: int) -> None:
        self._show(
            f"epoch {epoch + 1}/{self._epochs} evaluating",
            done=done,
            total=total,
            detail="  ".join(filter(None, (self._loss, self._ap))),
        )

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: "Evaluation") -> None:
        loss, val_loss = (
            sum(row[f"{split}_{name}"] for name in ("box", "objectness", "classes"))
            for split in ("train", "val")
        )
        self._best = max(self._best, row["ap"] or 0.0)
        self._ap = f"best AP {fraction(self._best)}"
        number = str(row["epoch"] + 1).rjust(len(str(self._epochs)))
        self.note(
            f"epoch {number}/{self._epochs}  loss {loss:.4f}  val loss {val_loss:.4f}  "
            f"AP {fraction(row['ap'])}  AP50 {fraction(row['ap50'])}  "
            f"{duration(row['train_seconds'] + row['evaluate_seconds'])}"
        )

    def on_end(self, record: "Record") -> None:
        self._close()

    def _show(
        self, doing: str, *, done: int, total: int, detail: str = "", of_bytes: bool = False
    ) -> None:
        if not self._err.is_interactive:
            return
        if self._live is None:
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(_BAR_WIDTH),
                *(_columns_of_bytes() if of_bytes else (MofNCompleteColumn(),)),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._err,
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
            )
            self._task = self._live.add_task(doing, total=total, detail=detail)
            self._live.start()
        self._live.update(self._task, description=doing, completed=done, total=total, detail=detail)

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _columns_of_bytes() -> tuple[ProgressColumn, ...]:
    return DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()


def resolved(config: "RunConfig") -> list[str]:
    """Returns the settings that a run trains by, a line a section, with what follows from them."""
    from ossa.train.schedule import full_accumulation

    sections = config.model_dump(mode="json", exclude={"model": {"anchors_wh"}})
    lines = [
        f"  {name}: " + ", ".join(f"{key} {value}" for key, value in section.items())
        for name, section in sections.items()
        if isinstance(section, dict)
    ]
    batches = full_accumulation(config.train)
    return [
        f"  recipe {config.recipe}, seed {config.seed}, settings {config.digest()[:12]}; "
        f"a step of the optimiser after {batches} {'batch' if batches == 1 else 'batches'}, "
        f"{batches * config.train.batch} images",
        *lines,
    ]


class _Pace:
    """How fast a training advances, in epochs, since it was first asked."""

    def __init__(self, position: float) -> None:
        self._start = position
        self._started = time.monotonic()

    def seconds_left(self, position: float, epochs: int) -> float | None:
        """Returns the seconds to the end at the pace so far; None where nothing is known yet."""
        if position <= self._start:
            return None
        pace = (time.monotonic() - self._started) / (position - self._start)
        return pace * (epochs - position)
