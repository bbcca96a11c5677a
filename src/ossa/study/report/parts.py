"""The figures and tables of a report, as they come to be: each is saved, and most are shown."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from ossa.files import write_atomically, write_text_atomically
from ossa.report.figures import figure_png, figure_svg
from ossa.report.page import FigureBlock
from ossa.study.report.tables import ReportTable, save_tables

FIGURES_FOLDER, TABLES_FOLDER = "figures", "tables"


@dataclass
class Parts:
    """What is saved beside the page, by the names of the files."""

    on_figure: Callable[[int], None] | None = None
    """Called with the number of figures drawn."""
    drawings: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """SVG and PNG."""
    tables: dict[str, ReportTable] = field(default_factory=dict)

    def figure(self, name: str, figure: Figure) -> FigureBlock:
        """Draws a figure, keeps it and returns its block of the page."""
        svg = figure_svg(figure)
        self.drawings[name] = svg, figure_png(figure)
        if self.on_figure is not None:
            self.on_figure(len(self.drawings))
        return FigureBlock(svg)

    def table(self, table: ReportTable) -> ReportTable:
        """Keeps a table and returns it."""
        self.tables[table.name] = table
        return table

    def save(self, folder: Path) -> None:
        """Writes figures/*.svg and *.png, tables/*.csv, *.md and *.tex.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        save_tables(list(self.tables.values()), folder / TABLES_FOLDER)
        (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
        for name, (svg, png) in self.drawings.items():
            write_text_atomically(folder / FIGURES_FOLDER / f"{name}.svg", svg)
            write_atomically(folder / FIGURES_FOLDER / f"{name}.png", png)
