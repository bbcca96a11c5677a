"""What the page of a check shows: figures of a data set, and images that show its issues.

Images are uint8 (H, W, 3) RGB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.check import Check
from ossa.data.decode import decode_image, open_image
from ossa.data.issues import Box, ImageBoxes, Issue
from ossa.data.letterbox import FILL
from ossa.data.statistics import SIZE_LIMITS, SIZE_NAMES, aspect_ratios, box_sides, boxes_per_image
from ossa.errors import DataError
from ossa.escaping import escape_figure
from ossa.files import read_regular
from ossa.viz.draw import picture_grid
from ossa.viz.plots import (
    LINE_COLOURS,
    MUTED,
    add_legend,
    fix_layout,
    line_style,
    style_axes,
    write_in_the_middle,
)

_MAX_CLASSES: Final = 30
_MAX_POINTS: Final = 4000
_BINS: Final = 40
_PLAIN: Final = FuncFormatter(lambda value, _: f"{value:g}")


def check_figures(check: Check) -> dict[str, Figure]:
    """Returns figures by name: classes, sizes, boxes-per-image, aspect-ratios, anchors."""
    splits = check.indexes.items()
    sides = {split: box_sides(index, check.imgsz)[~index.crowd] for split, index in splits}
    ratios = {split: aspect_ratios(index) for split, index in splits}
    figures = {
        "classes": _class_figure(check),
        "sizes": _size_figure(sides, check.imgsz),
        "boxes-per-image": _count_figure({split: boxes_per_image(one) for split, one in splits}),
        "aspect-ratios": _histogram_figure(
            ratios,
            x_label="width over height",
            y_label="fraction of the boxes",
            title="Aspect ratios",
        )[0],
        "anchors": _anchor_figure(check),
    }
    for figure in figures.values():
        fix_layout(figure)
    return figures


def _class_figure(check: Check) -> Figure:
    """Returns bars of the boxes of the most frequent classes, on a logarithmic scale."""
    splits = list(check.statistics)
    rows = sorted(check.classes.items(), key=lambda row: -sum(row[1].values()))[:_MAX_CLASSES]
    left_out = len(check.classes) - len(rows)
    title = "Boxes by class" + (f", {left_out} rarer classes left out" if left_out else "")
    height = 1.5 + 0.2 * len(rows) * max(1.0, 0.5 * len(splits))
    figure, axes = _new(height, x_label="boxes that train", y_label="", title=title)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    thickness = 0.8 / len(splits)
    for number, split in enumerate(splits):
        offsets = np.arange(len(rows)) + (number - (len(splits) - 1) / 2) * thickness
        counts = [row[1][split] for row in rows]
        colour = LINE_COLOURS[number]
        axes.barh(offsets, np.maximum(counts, 0.7), thickness * 0.9, 0.7, color=colour, label=split)
    axes.set_xscale("log")
    axes.set_xlim(left=0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_yticks(range(len(rows)), [escape_figure(name, longest=24) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if len(splits) > 1:
        add_legend(axes)
    return figure


def _size_figure(sides: Mapping[str, NDArray[np.float64]], imgsz: int) -> Figure:
    """Returns histograms of the sides, with COCO's limits of small, medium and large."""
    x_label = f"side in pixels of the network input, {imgsz} px (square root of the area)"
    figure, axes = _histogram_figure(
        sides, x_label=x_label, y_label="fraction of the boxes", title="Sizes"
    )
    if not sum(map(len, sides.values())):
        return figure
    low, high = axes.get_xlim()
    top = 1.1 * axes.get_ylim()[1]  # room for the names
    axes.set_ylim(top=top)
    edges = [low, *SIZE_LIMITS, high]
    for limit in SIZE_LIMITS:
        axes.axvline(limit, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for name, start, end in zip(SIZE_NAMES, edges[:-1], edges[1:], strict=True):
        if low <= np.sqrt(start * end) <= high:
            axes.text(np.sqrt(start * end), top, name, ha="center", va="top", color=MUTED)
    return figure


def _count_figure(counts: Mapping[str, NDArray[np.int64]]) -> Figure:
    most = max(int(one.max(initial=0)) for one in counts.values())
    step = max(1, -(-most // _BINS))
    figure, axes = _histogram_figure(
        counts,
        edges=np.arange(-0.5, most + step + 0.5, step),
        x_label="boxes in an image",
        y_label="fraction of the images",
        title="Boxes per image",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _anchor_figure(check: Check) -> Figure:
    """Returns widths and heights of the boxes of train, or of the first split, and the anchors."""
    split = "train" if "train" in check.reports else next(iter(check.reports))
    index = check.reports[split].index
    sizes_wh = sizes_at_input_wh(index, check.imgsz)[index.trains]
    sizes_wh = sizes_wh[(sizes_wh > 0).all(axis=1)]
    x_label, title = "width in pixels of the network input", f"Boxes of {split} and anchors"
    figure, axes = _new(5.2, x_label=x_label, y_label="height", title=title)
    if not len(sizes_wh):
        write_in_the_middle(axes, "no boxes")
        return figure
    if len(sizes_wh) > _MAX_POINTS:
        drawn = np.random.default_rng(0).choice(len(sizes_wh), _MAX_POINTS, replace=False)
        sizes_wh = sizes_wh[drawn]
    axes.scatter(*sizes_wh.T, s=5, color=LINE_COLOURS[0], alpha=0.25, linewidths=0, label="box")
    widths, heights = check.anchors_wh.reshape(-1, 2).T
    style = {"s": 60, "marker": "s", "edgecolor": "white", "color": LINE_COLOURS[1]}
    axes.scatter(widths, heights, label="anchor", **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
    add_legend(axes)
    return figure


def _new(height: float, **labels: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, height), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.add_subplot()
    style_axes(axes, **labels)
    return figure, axes


def _histogram_figure(
    values: Mapping[str, NDArray[Any]], *, edges: NDArray[np.float64] | None = None, **labels: str
) -> tuple[Figure, Axes]:
    """Returns a histogram of each split as steps; logarithmic where no edges are given."""
    figure, axes = _new(3.6, **labels)
    joined = np.concatenate([one if edges is not None else one[one > 0] for one in values.values()])
    if not len(joined):
        write_in_the_middle(axes, "no boxes")
        return figure, axes
    bins = edges
    if bins is None:
        bins = np.geomspace(joined.min() * 0.99, joined.max() * 1.01, _BINS + 1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_PLAIN)
    for number, (split, one) in enumerate(values.items()):
        counts, found = np.histogram(one, bins=bins)
        fractions = counts / max(counts.sum(), 1)
        axes.stairs(fractions, found, label=split, linewidth=1.6, baseline=0, **line_style(number))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    if len(values) > 1:
        add_legend(axes)
    return figure, axes


_SIDE: Final = 300
"""Pixels of the longer side of an image on the page; outside the image it is grey."""
_COLUMNS: Final = 4
_INK: Final = (213, 94, 0)
_HALO: Final = (255, 255, 255)
_SMALL: Final = 0.05
"""Boxes whose longer side is a smaller fraction of the image's are enlarged."""
_CONTEXT: Final = 8
"""Sides of such a box that the enlarged part measures."""
_MIN_WINDOW: Final = 48
_MAX_BEYOND: Final = 0.5
"""How far around the image boxes outside are shown, in longer sides of the image."""
_MAX_BYTES: Final = 2_000_000_000
_END_OF_JPEG: Final = b"\xff\xd9"


@dataclass(frozen=True)
class ExampleGrid:
    """One image of several issues."""

    image: NDArray[np.uint8]
    numbers: tuple[int, ...]
    """The issues it shows, counted from 1, row by row."""

    @property
    def caption(self) -> str:
        *others, last = map(str, self.numbers)
        if not others:
            return f"Row {last} of the table."
        return f"Rows {', '.join(others)} and {last} of the table."


def example_grid(issues: Sequence[Issue], *, most: int) -> ExampleGrid | None:
    """Returns one image of the first issues that images show, or None without any.

    There are four in a row; two images of an issue stand above one another. An issue is left out
    if one of its images cannot be decoded at all.

    Args:
        issues: worst first.
        most: issues that are drawn.
    """
    drawn: dict[int, list[NDArray[np.uint8]]] = {}
    for number, issue in enumerate(issues[:most], start=1):
        images = [image for image in map(_draw, issue.images) if image is not None]
        if images and len(images) == len(issue.images):
            drawn[number] = images
    if not drawn:
        return None
    columns = list(drawn.values())
    blank = np.full((1, 1, 3), 255, np.uint8)
    rows = [
        [one[line] if line < len(one) else blank for one in columns[start : start + _COLUMNS]]
        for start in range(0, len(columns), _COLUMNS)
        for line in range(max(map(len, columns[start : start + _COLUMNS])))
    ]
    return ExampleGrid(picture_grid(rows), tuple(drawn))


def _draw(shown: ImageBoxes) -> NDArray[np.uint8] | None:
    """Returns an image with boxes, its longer side `_SIDE`; None if it cannot be decoded."""
    image = _decoded(Path(shown.image))
    if image is None:
        return None
    height, width = image.shape[:2]
    left, top, right, bottom = _window(shown.boxes_xyxy, (width, height))
    scale = _SIDE / max(right - left, bottom - top)
    size_wh = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    method = cv2.INTER_NEAREST if scale > 2 else cv2.INTER_LINEAR
    if scale < 0.5:  # warping would leave pixels out
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    zoom_xy = scale * width / image.shape[1], scale * height / image.shape[0]
    matrix = np.array([[zoom_xy[0], 0, -scale * left], [0, zoom_xy[1], -scale * top]])
    canvas = cv2.warpAffine(image, matrix, size_wh, flags=method, borderValue=(FILL, FILL, FILL))
    far = 4 * _SIDE  # OpenCV draws no line to a point that is very far away
    for box_xyxy in shown.boxes_xyxy:
        corners = (np.array(box_xyxy).reshape(2, 2) - (left, top)) * scale
        low, high = np.rint(np.clip(corners, -far, far)).astype(int).tolist()
        for colour, thickness in ((_HALO, 4), (_INK, 2)):
            cv2.rectangle(canvas, low, high, colour, thickness, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def _window(boxes_xyxy: Sequence[Box], size_wh: tuple[int, int]) -> Box:
    """Returns the part of the plane to show: all boxes, and the image if they are large."""
    width, height = size_wh
    if not boxes_xyxy:
        return 0.0, 0.0, float(width), float(height)
    corners = np.array(boxes_xyxy)
    x0, y0 = corners[:, :2].min(axis=0).tolist()
    x1, y1 = corners[:, 2:].max(axis=0).tolist()
    longest = max(x1 - x0, y1 - y0)
    if longest < _SMALL * max(size_wh):
        reach = max(_CONTEXT * longest, _MIN_WINDOW) / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return x - reach, y - reach, x + reach, y + reach
    beyond = _MAX_BEYOND * max(size_wh)
    return (
        max(min(x0, 0.0), -beyond),
        max(min(y0, 0.0), -beyond),
        min(max(x1, float(width)), width + beyond),
        min(max(y1, float(height)), height + beyond),
    )


def _decoded(path: Path) -> NDArray[np.uint8] | None:
    """Returns the image, of a truncated one what there is."""
    try:
        return decode_image(path)
    except DataError:
        try:
            # With an end, the decoder fills the rest of a JPEG with grey.
            data = read_regular(path, most_bytes=_MAX_BYTES)
            with open_image(BytesIO(data + _END_OF_JPEG)) as image:
                return np.array(image.convert("RGB"))
        except Exception:  # on damaged files Pillow raises errors of a dozen kinds
            return None
