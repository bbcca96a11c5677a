"""What commands print: JSON and tables on stdout; notes, a live line and epochs on stderr."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.table import Table

from ossa.escaping import escape_terminal, print_line
from ossa.train.callbacks import Callback
from ossa.types import sum_of_losses

if TYPE_CHECKING:  # a command that trains nothing need not wait for torch
    from ossa.config import RunConfig
    from ossa.data.annotations import IndexReport
    from ossa.evaluate.evaluator import Evaluation
    from ossa.train.callbacks import RunStart
    from ossa.types import Record

_ISSUES_SHOWN = 5
_WIDTH_OF_FILES = 160
_WORTH_TELLING = 60.0
"""Seconds that a training has to go."""

KEYS: Final = (
    *("model", "imgsz"),
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100"),
    *("precision", "recall", "params", "flops", "macs"),
    *("ms_per_image", "images_per_second", "train_seconds"),
)
"""The keys of every object with metrics; null where undefined. Metrics are fractions in 0..1, FLOPs
and MACs are those of one image of `imgsz` x `imgsz` pixels."""

_MOST_CLASSES: Final = 20
"""In a table; of more only both ends are shown."""


def row_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all of `KEYS`, None where unknown, and behind them whatever else is known."""
    return {**dict.fromkeys(KEYS), **known}


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout; NaN and infinities, for which it has no word, as null."""
    print(json.dumps(plain(value), indent=2))  # noqa: T201 - JSON, whose escapes are its own


def plain(value: Any) -> Any:
    """Returns what JSON can say of `value`: NaN and infinities become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def with_unit(number: float) -> str:
    """Returns three significant digits with a unit: 1,872,157 is '1.87 M', 4.468e9 is '4.47 G'."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # Rounded first, so that 999,999 becomes 1.00 M and not 1000 k.
        if float(f"{number:.3g}") >= factor:
            return f"{number / factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """Returns '12.3 s', '4 min 05 s' or '2 h 07 min'."""
    if seconds < 59.95:  # what would be rounded to 60.0 s is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def fraction(value: float | None) -> str:
    """Returns three decimals, a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def print_metrics_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as `row_of` makes them on stdout: one line per figure, one column per model.

    Figures that no row knows are left out.
    """
    from ossa.evaluate.metrics import METRIC_TITLES

    metrics = [key for key in METRIC_TITLES if key in KEYS or key.startswith("voc")]
    lines: list[tuple[str, str, Callable[[Any], str]]] = [
        ("imgsz", "image side", lambda pixels: f"{pixels} px"),
        *((key, METRIC_TITLES[key], fraction) for key in metrics),
        ("params", "parameters", with_unit),
        ("flops", "FLOPs", with_unit),
        ("macs", "MACs", with_unit),
        ("ms_per_image", "per image", lambda milliseconds: f"{milliseconds:.1f} ms"),
        ("images_per_second", "images per second", lambda rate: f"{rate:.1f}"),
        ("train_seconds", "training", duration),
    ]
    table = new_table("", *(str(row["model"]) for row in rows))
    for key, title, write in lines:
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            table.add_row(title, *("–" if value is None else write(value) for value in values))
    print_table(table)


def new_table(first: str, *others: str) -> Table:
    """Returns an empty table: a column of names, and columns of figures aligned to the right."""
    table = _EscapedTable(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(escape_terminal(first), overflow="fold")
    for title in others:
        table.add_column(escape_terminal(title), justify="right", overflow="fold")
    return table


def print_classes(classes: Mapping[str, Mapping[str, int]], splits: Iterable[str]) -> None:
    """Prints the boxes of every class by split; of many classes those with most and fewest."""
    rows = list(classes.items())
    if len(rows) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        rows = sorted(rows, key=lambda row: -sum(row[1].values()))
        print_line(f"{len(rows)} classes; the {half} with most boxes and the {half} with fewest:")
        rows = [*rows[:half], *rows[-half:]]
    table = new_table("class", *(f"boxes in {split}" for split in splits))
    for name, counts in rows:
        table.add_row(name, *(f"{number:,}" for number in counts.values()))
    print_table(table)


def print_table(table: Table) -> None:
    """Prints a table on stdout, wide enough for its contents where stdout is a file or a pipe."""
    console = TerminalConsole()
    if not console.is_terminal:
        console = TerminalConsole(width=_WIDTH_OF_FILES)
    console.print(table)


class _EscapedTable(Table):
    """A table whose cells are as wide as what is printed of them."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        escaped = (escape_terminal(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*escaped, **options)


class TerminalConsole(RichConsole):
    """A console of rich whose texts are shown as they are, and escaped for a terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        """Yields what is printed; only rich's own control codes are left in it."""
        for segment in super().render(*args, **options):
            lines = segment.text.split("\n")
            text = segment.text if segment.control else "\n".join(map(escape_terminal, lines))
            yield Segment(text, segment.style, segment.control)


class Console(Callback):
    """A callback of trainings that writes to the terminal.

    Where stderr is no terminal there is no live line and no control code. Leaving the `with`
    removes the live line; so does the end of a training.
    """

    def __init__(self, place: str = "") -> None:
        """`place` is shown when a training starts, such as 'in runs/yolov5n on cpu'."""
        self._place = place
        self._err = TerminalConsole(stderr=True, soft_wrap=True)
        self._live: Progress | None = None
        self._epochs = self._batches_per_epoch = 0
        self._since: tuple[float, float] | None = None
        self._loss = self._ap = ""
        self._best = 0.0
        self._first_epoch = True
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def note(self, sentence: str) -> None:
        """Prints a line, above the live one."""
        self._err.print(escape_terminal(sentence))

    def issues(self, issues: Sequence[object]) -> None:
        """Prints the first issues of a data set, and how many more there are."""
        for issue in issues[:_ISSUES_SHOWN]:
            self.note(str(issue))
        if len(issues) > _ISSUES_SHOWN:
            self.note(f"and more issues of the data: {len(issues) - _ISSUES_SHOWN}")

    def faults(self, report: "IndexReport") -> None:
        """Prints what a split leaves out by its data.yaml, and the first of its issues."""
        for note in report.notes:
            if note not in self._noted:  # notes on the data.yaml come with each split
                self.note(note)
        self._noted.update(report.notes)
        self.issues(report.issues)

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
        for line in _settings_lines(start.config):
            self.note(line)
        self._since, self._loss, self._ap, self._best = None, "", "", 0.0
        self._first_epoch = True

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        position, now = epoch + batch / self._batches_per_epoch, time.monotonic()
        # The pace since the first call, from which the rest is estimated.
        self._since = self._since or (position, now)
        first, started = self._since
        left = ""
        if position > first:
            seconds = (now - started) / (position - first) * (self._epochs - position)
            left = f"{duration(seconds)} left"
        self._loss = f"loss {loss:.4f}"
        self._show(
            f"epoch {epoch + 1}/{self._epochs} training",
            *(self._loss, self._ap, left),
            done=batch,
            total=self._batches_per_epoch,
        )

    def on_evaluate(self, *, epoch: int, done: int, total: int) -> None:
        doing = f"epoch {epoch + 1}/{self._epochs} evaluating"
        self._show(doing, self._loss, self._ap, done=done, total=total)

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: "Evaluation | None") -> None:
        number = str(row["epoch"] + 1).rjust(len(str(self._epochs)))
        line = f"epoch {number}/{self._epochs}  loss {_total_loss(row, 'train'):.4f}  "
        if row["val_box"] is not None:  # evaluated after this epoch
            self._best = max(self._best, row["ap"] or 0.0)
            self._ap = f"best AP {fraction(self._best)}"
            line += f"val loss {_total_loss(row, 'val'):.4f}  "
            line += f"AP {fraction(row['ap'])}  AP50 {fraction(row['ap50'])}  "
        seconds = row["train_seconds"] + row["evaluate_seconds"]
        line += duration(seconds)
        to_go = seconds * (self._epochs - row["epoch"] - 1)
        if self._first_epoch and to_go > _WORTH_TELLING:
            line += f" (about {duration(to_go)} to go)"
        self._first_epoch = False
        self.note(line)

    def on_end(self, record: "Record") -> None:
        self._close()

    def _show(
        self, doing: str, *details: str, done: int, total: int, of_bytes: bool = False
    ) -> None:
        if not self._err.is_interactive:
            return
        if self._live is None:
            of_bytes_columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(24),
                *(of_bytes_columns if of_bytes else (MofNCompleteColumn(),)),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._err,
                refresh_per_second=4,
                transient=True,
            )
            self._live.add_task(doing, total=total, detail="")
            self._live.start()
        task, detail = self._live.task_ids[0], "  ".join(filter(None, details))
        self._live.update(task, description=doing, completed=done, total=total, detail=detail)

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _total_loss(row: Mapping[str, Any], split: str) -> float:
    return sum_of_losses(row, f"{split}_")


def _settings_lines(config: "RunConfig") -> list[str]:
    """Returns the settings that a run trains by, one line per section, and what follows of them."""
    from ossa.train.schedule import full_accumulation

    sections = config.model_dump(mode="json", exclude={"model": {"anchors_wh"}})
    of_dense = ("dense_", "reg_max") if config.model.head == "anchor" else ()
    batches = full_accumulation(config.train)
    return [
        f"  recipe {config.recipe}, seed {config.seed}, settings {config.digest()[:12]}; "
        f"a step of the optimizer after {batches} {'batch' if batches == 1 else 'batches'}, "
        f"{batches * config.train.batch} images",
        *(
            f"  {name}: "
            + ", ".join(
                f"{key} {value}"
                for key, value in section.items()
                if value is not None and value is not False and not key.startswith(of_dense)
            )
            for name, section in sections.items()
            if isinstance(section, dict)
        ),
    ]
