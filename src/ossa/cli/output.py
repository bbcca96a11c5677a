"""Folders that commands write into, looked at before the work rather than after it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.segment import Segment
from rich.table import Table

from ossa.errors import ConfigError
from ossa.escaping import escape_terminal


def check_writable(option: str, folder: Path) -> None:
    """Looks whether a folder can be made, or written into where it is there.

    Raises:
        ConfigError: it cannot.
    """
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        found = f"{nearest}, which is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        found = f"{nearest} without the permission to write"
    else:
        return
    raise ConfigError(f"expected a folder that can be written for {option}, found {found}")


def check_new(option: str, folder: Path) -> None:
    """Looks whether a folder is empty or can be made.

    Raises:
        ConfigError: it is neither.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"expected a new or empty folder for {option}, found {folder} in use: name another"
        )
    check_writable(option, folder)


KEYS: Final = (
    "model",
    "imgsz",
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "precision",
    "recall",
    "params",
    "flops",
    "macs",
    "ms_per_image",
    "images_per_second",
    "train_seconds",
)
"""Of every object that states metrics; null where undefined. Metrics are fractions in 0..1, FLOPs
and MACs are those of one image of `imgsz` x `imgsz` pixels."""

_WIDTH_OF_FILES = 160


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
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        # Rounded first, so that 999,999 becomes 1.00 M and not 1000 k.
        if float(f"{number:.3g}") >= factor:
            return f"{_three_digits(number / factor)}{unit}"
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
    """Prints rows as `row_of` makes them on stdout: a line a figure, a column a model.

    Figures that no row knows are left out.
    """
    table = new_table("", *(str(row["model"]) for row in rows))
    for key, title, told in _FIGURES:
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            table.add_row(title, *("–" if value is None else told(value) for value in values))
    print_table(table)


def new_table(first: str, *others: str) -> Table:
    """Returns an empty table: a column of names, and columns of figures aligned to the right."""
    table = _EscapedTable(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(escape_terminal(first), overflow="fold")
    for title in others:
        table.add_column(escape_terminal(title), justify="right", overflow="fold")
    return table


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


class TerminalConsole(Console):
    """A console of rich whose texts are shown as they are, and escaped for a terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render(self, *args: Any, **options: Any) -> Iterator[Segment]:
        """Yields what is printed; only rich's own control codes are left in it."""
        for segment in super().render(*args, **options):
            lines = segment.text.split("\n")
            text = segment.text if segment.control else "\n".join(map(escape_terminal, lines))
            yield Segment(text, segment.style, segment.control)


def _three_digits(number: float) -> str:
    decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{decimals}f}"


_FIGURES: Final[tuple[tuple[str, str, Callable[[Any], str]], ...]] = (
    ("imgsz", "image side", lambda pixels: f"{pixels} px"),
    ("ap", "AP50-95", fraction),
    ("ap50", "AP50", fraction),
    ("ap75", "AP75", fraction),
    ("ap_small", "AP small", fraction),
    ("ap_medium", "AP medium", fraction),
    ("ap_large", "AP large", fraction),
    ("ar_100", "AR, 100 boxes", fraction),
    ("voc2007_ap50", "AP50 of VOC 2007", fraction),
    ("voc2010_ap50", "AP50 of VOC 2010", fraction),
    ("precision", "precision", fraction),
    ("recall", "recall", fraction),
    ("params", "parameters", with_unit),
    ("flops", "FLOPs", with_unit),
    ("macs", "MACs", with_unit),
    ("ms_per_image", "per image", lambda milliseconds: f"{milliseconds:.1f} ms"),
    ("images_per_second", "images per second", lambda rate: f"{rate:.1f}"),
    ("train_seconds", "training", duration),
)
