"""Tables of the report: on the page, and as CSV, Markdown and LaTeX files.

CSV has unrounded numbers, with means and standard deviations in separate columns; in the other
formats, numbers are formatted.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from ossa.escaping import escape_latex, escape_markdown, write_csv
from ossa.files import write_atomically, write_text_atomically
from ossa.study.report.figures import HOVER
from ossa.study.report.text import mean_and_deviation
from ossa.viz import page
from ossa.viz.plots import figure_png, figure_svg

DEVIATION = "_std"
"""Suffix of a mean's standard-deviation key."""
CURVE = "_curve"
"""Suffix of the key of a small curve, heights 0 to 1, that the page shows in place of a number."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    """Key of the value in the rows."""
    heading: str = ""
    """The title; by default the key."""
    decimals: int | None = None
    """Decimals; shown as mean ± std if present."""
    write: Callable[[Any], str] | None = None
    """Formats other numbers; the table still sorts by their values."""
    best: Literal["highest", "lowest"] | None = None
    note: str = ""
    bar: bool = False
    """Whether the page shows a bar behind the number."""
    minor: bool = False
    """Not shown on a phone."""

    @property
    def title(self) -> str:
        """The title of the column."""
        return self.heading or self.key

    def text(self, row: Mapping[str, Any]) -> str:
        """Returns the formatted cell of a row."""
        value = row.get(self.key)
        if isinstance(value, str):
            return value
        number = _number(value)
        if number is None:
            return "–"
        if self.write is not None:
            return self.write(value)
        if self.decimals is not None:
            deviation = row.get(self.key + DEVIATION)
            return mean_and_deviation(number, deviation, decimals=self.decimals)
        return f"{number:,g}".replace("-", "−")

    def cell(self, row: Mapping[str, Any], *, longest: float) -> page.Cell:
        """Returns the cell of a row for the page; `longest` is the number with the longest bar."""
        value = row.get(self.key)
        number = _number(value)
        if number is None:
            return value if isinstance(value, str) else None
        bar = number / longest if self.bar and longest > 0 else None
        return page.Written(number, self.text(row), bar, row.get(self.key + CURVE, ()))


def interval_columns(heading: str = "95% CI", **style: Any) -> list[Column]:
    """Returns the columns `low` and `high` of an interval."""
    return [Column("low", f"{heading} low", **style), Column("high", f"{heading} high", **style)]


@dataclass(frozen=True)
class ReportTable:
    """A named table; None and NaN are missing values."""

    name: str
    """Name of its files, without a suffix."""
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    """Rows may have keys without a column."""
    caption: str = ""
    note: str = ""
    """Shown in small print below the table."""
    in_files: Sequence[str] = ()
    """Keys of further columns of the CSV."""

    def as_block(self, *, folded: bool = False) -> page.Table:
        """Returns the table as a block of the page."""
        longest = {
            c.key: max([_number(row.get(c.key)) or 0 for row in self.rows], default=0)
            for c in self.columns
        }
        return page.Table(
            columns=[
                page.Column(c.title, best=c.best, note=c.note, minor=c.minor) for c in self.columns
            ],
            rows=[[c.cell(row, longest=longest[c.key]) for c in self.columns] for row in self.rows],
            caption=self.caption,
            note=self.note,
            folded=folded,
        )

    def csv(self) -> str:
        """Returns unrounded numbers as CSV; missing values are empty."""
        own = [key for c in self._in_texts for key in (c.key, c.key + DEVIATION)]
        known = {key for row in self.rows for key in row} | {c.key for c in self._in_texts}
        keys = [key for key in dict.fromkeys([*own, *self.in_files]) if key in known]
        text = io.StringIO()
        write_csv(text, [keys, *([_plain(row.get(key)) for key in keys] for row in self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        """Returns the table as GitHub-flavoured Markdown."""
        rows = [
            [column.title for column in self._in_texts],
            ["---:" if self._is_number(column) else "---" for column in self._in_texts],
            *self._texts(),
        ]
        lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]
        note = ["", self.note] if self.note else []
        return "\n".join([*lines, *note, ""])

    def latex(self) -> str:
        """Returns the table as a LaTeX tabular with booktabs rules."""
        alignment = "".join("r" if self._is_number(column) else "l" for column in self._in_texts)
        rows = [[column.title for column in self._in_texts], *self._texts()]
        head, *body = [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
        begin, end = rf"\begin{{tabular}}{{{alignment}}}", r"\end{tabular}"
        return "\n".join(
            [begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end, ""],
        )

    def save(self, folder: Path) -> None:
        """Writes the table as NAME.csv, NAME.md and NAME.tex.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        texts = {"csv": self.csv(), "md": self.markdown(), "tex": self.latex()}
        for suffix, text in texts.items():
            write_text_atomically(folder / f"{self.name}.{suffix}", text)

    @cached_property
    def _in_texts(self) -> list[Column]:
        """The columns of the files: a small curve has no text."""
        return [c for c in self.columns if not any(c.key + CURVE in row for row in self.rows)]

    def _texts(self) -> list[list[str]]:
        return [[column.text(row) for column in self._in_texts] for row in self.rows]

    def _is_number(self, column: Column) -> bool:
        return all(not isinstance(row.get(column.key), str) for row in self.rows)


def _number(value: Any) -> float | None:
    """Returns a number, None for text and missing values."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


class ReportFiles:
    """Saves figures as SVG and PNG, and tables in three formats, and returns them as blocks."""

    def __init__(
        self,
        folder: Path,
        on_figure: Callable[[int], None] | None = None,
        *,
        mark: Callable[[str], str] = str,
    ) -> None:
        """Creates the folders `figures` and `tables`.

        Args:
            folder: of the report.
            on_figure: called with the number of figures.
            mark: returns the name of a model as all tables show it.
        """
        self._figures, self._tables = folder / "figures", folder / "tables"
        for path in (self._figures, self._tables):
            path.mkdir(parents=True, exist_ok=True)
        self._on_figure = on_figure
        self._mark = mark
        self._num_figures = 0

    def table(self, table: ReportTable, *, folded: bool = False) -> page.Table:
        """Writes the files of a table and returns its block."""
        table = self.marked(table)
        table.save(self._tables)
        return table.as_block(folded=folded)

    def marked(self, table: ReportTable) -> ReportTable:
        """Returns a table in which the names of models are marked, alone or in a list."""
        rows = [
            {
                key: ", ".join(map(self._mark, value.split(", ")))
                if isinstance(value, str)
                else value
                for key, value in row.items()
            }
            for row in table.rows
        ]
        return replace(table, rows=rows)

    def figure(self, name: str, figure: Figure) -> page.FigureBlock:
        """Writes the files of a figure and returns its block.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        svg = svg_of(figure)
        write_text_atomically(self._figures / f"{name}.svg", svg)
        write_atomically(self._figures / f"{name}.png", figure_png(figure))
        self._num_figures += 1
        if self._on_figure is not None:
            self._on_figure(self._num_figures)
        return page.FigureBlock(svg)


def svg_of(figure: Figure) -> str:
    """Returns the figure as <svg>, with the texts that stand under the pointer as titles."""
    return re.sub(rf'<g id="{HOVER}([^"]*)">', r"<g><title>\1</title>", figure_svg(figure))


def bullets(heading: str, sentences: Iterable[str]) -> page.TextBlock:
    """Returns a bulleted list of sentences under a heading."""
    return page.TextBlock("\n\n".join(sentences), heading=heading, listed=True)
