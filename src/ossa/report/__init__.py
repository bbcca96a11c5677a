"""Pictures, figures and pages from plain tables."""

from ossa.report.drawing import draw_boxes, encode_jpeg, encode_png, picture_grid, stack_above
from ossa.report.figures import Line, figure_svg, line_figure, save_figure
from ossa.report.page import (
    Column,
    FigureBlock,
    KeyValues,
    LiveBlock,
    Page,
    PictureBlock,
    Section,
    Table,
    TextBlock,
    Written,
    render_page,
    write_page,
)

__all__ = [
    "Column",
    "FigureBlock",
    "KeyValues",
    "Line",
    "LiveBlock",
    "Page",
    "PictureBlock",
    "Section",
    "Table",
    "TextBlock",
    "Written",
    "draw_boxes",
    "encode_jpeg",
    "encode_png",
    "figure_svg",
    "line_figure",
    "picture_grid",
    "render_page",
    "save_figure",
    "stack_above",
    "write_page",
]
