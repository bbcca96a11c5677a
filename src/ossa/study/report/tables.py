"""Tables for three readers: a program (CSV), a README (Markdown) and a paper (LaTeX).

CSV has every number as it is, a mean and its deviation in two columns; the other two are written
as the page writes them.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ossa.escaping import escape_latex, escape_markdown, write_csv
from ossa.files import write_text_atomically
from ossa.study.report.text import mean_and_deviation
from ossa.viz.page import Cell, Column, Table, Written

DEVIATION = "_std"
"""Ends the key of the deviation that belongs to a mean."""


@dataclass(frozen=True)
class TableColumn:
    """One column of a table."""

    key: str
    """In the rows."""
    heading: str
    decimals: int | None = None
    """Of fractions, which are written with the deviation of `key` + '_std' where a row has it."""
    write: Callable[[Any], str] | None = None
    """How other numbers are written; they sort by their value."""
    best: Literal["highest", "lowest"] | None = None
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table under a name; None and NaN are missing."""

    name: str
    """Of its files, without a suffix."""
    columns: Sequence[TableColumn]
    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    note: str = ""
    """Small print below."""

    def texts(self) -> list[list[str]]:
        """Returns every cell as it is read, row by row."""
        return [[_text(column, row) for column in self.columns] for row in self.rows]

    def as_block(self, *, wide: bool = False, folded: bool = False) -> Table:
        """Returns the table of the page, as `Table` has it."""
        return Table(
            columns=[Column(c.heading, best=c.best, note=c.note) for c in self.columns],
            rows=[[_cell(column, row) for column in self.columns] for row in self.rows],
            caption=self.caption,
            note=self.note,
            wide=wide,
            folded=folded,
        )

    def csv(self) -> str:
        """Returns the plain numbers; what is missing is empty."""
        keys = [
            key
            for column in self.columns
            for key in (column.key, column.key + DEVIATION)
            if key == column.key or any(key in row for row in self.rows)
        ]
        text = io.StringIO()
        write_csv(text, [keys, *([_plain(row.get(key)) for key in keys] for row in self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        """Returns a table of GitHub's Markdown."""
        rows = [
            [column.heading for column in self.columns],
            ["---:" if self._is_number(column) else "---" for column in self.columns],
            *self.texts(),
        ]
        lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]
        note = ["", self.note] if self.note else []
        return "\n".join([*lines, *note, ""])

    def latex(self) -> str:
        """Returns a tabular with the rules of booktabs."""
        alignment = "".join("r" if self._is_number(column) else "l" for column in self.columns)
        head = " & ".join(escape_latex(column.heading) for column in self.columns)
        body = [" & ".join(map(escape_latex, row)) + r" \\" for row in self.texts()]
        lines = [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
        return "\n".join(lines)

    def _is_number(self, column: TableColumn) -> bool:
        return all(not isinstance(row.get(column.key), str) for row in self.rows)


def save_tables(tables: Sequence[ReportTable], folder: Path) -> None:
    """Writes every table as NAME.csv, NAME.md and NAME.tex.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        texts = {"csv": table.csv(), "md": table.markdown(), "tex": table.latex()}
        for suffix, text in texts.items():
            write_text_atomically(folder / f"{table.name}.{suffix}", text)


def _number(value: Any) -> float | None:
    """Returns a number; None for text and for what is missing."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)


def _text(column: TableColumn, row: Mapping[str, Any]) -> str:
    value = row.get(column.key)
    if isinstance(value, str):
        return value
    number = _number(value)
    if number is None:
        return "–"
    if column.write is not None:
        return column.write(value)
    if column.decimals is not None:
        deviation = row.get(column.key + DEVIATION)
        return mean_and_deviation(number, deviation, decimals=column.decimals)
    return f"{number:,g}".replace("-", "−")


def _cell(column: TableColumn, row: Mapping[str, Any]) -> Cell:
    value = row.get(column.key)
    number = _number(value)
    if number is None:
        return value if isinstance(value, str) else None
    return Written(number, _text(column, row))


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
