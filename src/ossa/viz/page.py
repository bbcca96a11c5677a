"""Pages of tables, figures and images: one self-contained HTML file each.

A page loads nothing: styles, figures and images are inside, and its content security policy
forbids the rest. It prints, fits a phone, and follows the reader's light or dark mode.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from jinja2 import Environment, StrictUndefined, Template

from ossa.files import write_text_atomically


@dataclass(frozen=True)
class Written:
    """A number written in a way of its own, such as '0.512 ± 0.004'; it sorts by its value."""

    value: float
    text: str
    bar: float | None = None
    """Length of a bar behind the text, as a fraction of the cell."""
    curve: Sequence[float] = ()
    """Heights, 0 to 1, of a small curve that stands in place of the text."""

    @property
    def curve_points(self) -> str:
        """The curve as points of an SVG polyline, 60 wide and 16 high."""
        step = 60 / max(len(self.curve) - 1, 1)
        return " ".join(f"{i * step:.1f},{15 - 14 * y:.1f}" for i, y in enumerate(self.curve))


Cell = str | int | float | Written | None


@dataclass(frozen=True)
class Column:
    """How one column of a table is headed and written."""

    heading: str
    format: str = ""
    """Format specification of its numbers, such as '.3f' or ',d'; text is written as it is."""
    best: Literal["highest", "lowest"] | None = None
    """Which number is set in bold."""
    note: str = ""
    """Shown when the pointer rests on the heading."""
    minor: bool = False
    """Not shown on a phone."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a click on a heading sorts by it. None is written as a dash."""

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    note: str = ""
    """Small print below."""
    wide: bool = False
    """May be wider than the text, where the screen is."""
    folded: bool = False
    """Only its caption is seen until a click on it."""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"expected {len(self.columns)} cells, one per column, in every row of "
                    f"'{self.caption}', found {len(row)} in row {number}"
                )


@dataclass(frozen=True)
class FigureBlock:
    """A drawing from `ossa.viz.plots.figure_svg`, the one thing that is not escaped."""

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str = ""
    narrow_svg: str = ""
    """Drawn for a phone, and shown there in place of `svg`."""


@dataclass(frozen=True)
class PictureBlock:
    """The bytes of a PNG or JPEG file."""

    kind: ClassVar[str] = "picture"
    data: bytes
    caption: str = ""
    alt: str = ""
    """Description for readers who do not see the image; the caption if empty."""

    @property
    def data_uri(self) -> str:
        """The image as a data URI."""
        mime = "image/png" if self.data.startswith(b"\x89PNG") else "image/jpeg"
        return f"data:{mime};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class TextBlock:
    """Plain text; a blank line begins a new paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    heading: str = ""
    """Above the text, smaller than a section's."""
    listed: bool = False
    """Each paragraph is a point of a list."""

    @property
    def paragraphs(self) -> list[str]:
        """The text, cut at blank lines."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class KeyValues:
    """Terms and what they are, such as the settings of a run."""

    kind: ClassVar[str] = "key_values"
    pairs: Sequence[tuple[str, str | int | float | None]]
    caption: str = ""


@dataclass(frozen=True)
class Grid:
    """Small blocks beside each other, as many as fit."""

    kind: ClassVar[str] = "grid"
    blocks: "Sequence[Block]"


@dataclass(frozen=True)
class Switch:
    """One of several blocks, chosen by one value or more.

    Switches of a page that have a choice in common follow each other.
    """

    kind: ClassVar[str] = "switch"
    axes: Mapping[str, Mapping[str, str]]
    """By the name of a choice, its values with their titles."""
    blocks: "Mapping[tuple[str, ...], Block]"
    """One for each combination of values, in the order of the axes."""
    tabs: bool = False
    """Whether all values are seen, as tabs, instead of the chosen one alone."""


@dataclass(frozen=True)
class Group:
    """Whole sections as one block, so that a switch can choose between them."""

    kind: ClassVar[str] = "group"
    sections: "Sequence[Section]"


Block = Table | FigureBlock | PictureBlock | TextBlock | KeyValues | Grid | Switch | Group


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it."""

    heading: str
    blocks: Sequence[Block]
    text: str = ""
    """Plain text before the blocks; a blank line begins a new paragraph."""
    folded: bool = False
    """Only heading and text are seen until a click on them."""
    beside: bool = False
    """The first block stands beside the others, where the screen is wide."""


@dataclass(frozen=True)
class Page:
    """A page to show others."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    footer: str = ""
    """Small print at the end: what made the page, from which data."""
    wide: bool = False
    """For a large figure and table: wider than is good for text."""


def render_page(page: Page) -> str:
    """Returns the page as HTML; all its text is escaped."""
    text = _template().render(page=page, rendered=_rendered, TextBlock=TextBlock)
    # Names of files need not be UTF-8: Python holds the odd bytes as lone surrogates.
    return text.encode(errors="backslashreplace").decode()


def write_page(page: Page, path: Path) -> Path:
    """Writes the page to `path` in one step, so that readers never see half a page; returns it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, render_page(page))
    return path


class _RenderedCell(NamedTuple):
    text: str
    sort_key: str
    """A plain number for numbers, so that '1,000' sorts after '9'; '' for what is missing."""
    is_number: bool
    is_best: bool = False
    written: Written | None = None


def _rendered(table: Table) -> dict[str, Any]:
    """Returns each column with whether it has numbers only, and the cells of each row."""
    # Column by column, since what is best is known only from the whole column.
    cells = [
        _rendered_column(column, [row[i] for row in table.rows])
        for i, column in enumerate(table.columns)
    ]
    numeric = [all(cell.is_number for cell in column) for column in cells]
    headings = list(zip(table.columns, numeric, strict=True))
    return {"headings": headings, "rows": list(zip(*cells, strict=True))}


def _rendered_column(column: Column, cells: Sequence[Cell]) -> list[_RenderedCell]:
    """Returns the cells of one column; the best are marked where there is a choice.

    All that are written like the best are best: a difference that is not shown is none.
    """
    values = [value for value in map(_value, cells) if value is not None]
    best_text = None
    if column.best is not None and len(set(values)) > 1:
        best = max(values) if column.best == "highest" else min(values)
        best_text = next(_text(cell, column) for cell in cells if _value(cell) == best)
    rendered = []
    for cell in cells:
        value, text = _value(cell), _text(cell, column)
        if isinstance(cell, str):
            rendered.append(_RenderedCell(text, cell, is_number=False))
        else:
            key = "" if value is None else repr(value)
            is_best = value is not None and text == best_text
            written = cell if isinstance(cell, Written) else None
            rendered.append(_RenderedCell(text, key, True, is_best, written))
    return rendered


def _value(cell: Cell) -> float | None:
    """Returns the number in a cell; None for text and for what is missing (None, NaN)."""
    value = cell.value if isinstance(cell, Written) else cell
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)


def _text(cell: Cell, column: Column) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or _value(cell) is None:
        return "–"
    if isinstance(cell, Written):
        return cell.text
    return format(cell, column.format).replace("-", "−")  # a true minus sign


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("ossa.viz").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)
