"""Names beside the points of a figure, where they cover neither points nor each other."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ossa.escaping import escape_figure

_POINT_RADIUS = 5.0
"""Pixels around the middle of a point that no name may cover."""
_DISTANCES = (7, 12, 18, 26)
"""Points from the middle of a point to its name."""
_SIDES: Sequence[tuple[float, float, str, str]] = (
    (1, 0, "left", "center"),
    (0.7, 0.5, "left", "bottom"),
    (-0.7, 0.5, "right", "bottom"),
    (0.7, -0.5, "left", "top"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (-0.7, -0.5, "right", "top"),
)
"""Direction right and up, and how the name is then aligned; the best looking first."""
_BEFORE = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}
"""Which part of a text lies left of, or below, the place that it is aligned to."""


class _Place(NamedTuple):
    """Of a name, relative to its point."""

    offset_xy: tuple[float, float]
    """In points of 1/72 inch."""
    horizontal: str
    vertical: str

    def box(
        self, point: NDArray[np.float64], size_wh: NDArray[np.float64], *, scale: float
    ) -> NDArray[np.float64]:
        """Returns xyxy in pixels, with `scale` pixels to a point."""
        before = np.array((_BEFORE[self.horizontal], _BEFORE[self.vertical]))
        corner = point + np.array(self.offset_xy) * scale - before * size_wh
        return np.concatenate((corner, corner + size_wh))


def label_points(
    axes: Axes,
    names: Sequence[str],
    *,
    x: Sequence[float],
    y: Sequence[float],
    named: Sequence[str],
    lines: ArrayLike,
    colour: str,
    font_points: float = 8.5,
) -> list[str]:
    """Writes names beside their points and returns those for which there was no room.

    The layout and limits of the axes must be final.

    Args:
        axes: with logarithmic or linear scales.
        names: of all points.
        x: of all points.
        y: of all points.
        named: those to write, the most important first.
        lines: (N, 4) x0 y0 x1 y1 of upright and level lines that names avoid.
        colour: of the text.
        font_points: its size.
    """
    points = axes.transData.transform(np.column_stack((x, y)))
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)
    around_points = np.column_stack((points - _POINT_RADIUS, points + _POINT_RADIUS))
    around_lines = np.column_stack((ends.min(axis=1) - 1, ends.max(axis=1) + 1))
    taken, without = around_points, list(named)
    frame = np.array(axes.get_window_extent().extents)
    scale = axes.get_figure(root=True).dpi / 72  # pyright: ignore[reportOptionalMemberAccess]
    sizes = {name: _size_wh(axes, name, font_points) for name in named}
    for lines_taken in (around_lines, np.empty((0, 4))):  # better across a line than not at all
        for name in tuple(without):
            number = names.index(name)
            obstacles = np.vstack((taken, lines_taken))
            for place in _places():
                box = place.box(points[number], sizes[name], scale=scale)
                if _inside(box, frame) and not _overlaps(box, obstacles):
                    _write(axes, name, (x[number], y[number]), place, colour, font_points)
                    taken = np.vstack((taken, box))
                    without.remove(name)
                    break
    return without


def _places() -> Iterator[_Place]:
    for distance, (right, up, horizontal, vertical) in product(_DISTANCES, _SIDES):
        yield _Place((right * distance, up * distance), horizontal, vertical)


def _size_wh(axes: Axes, name: str, font_points: float) -> NDArray[np.float64]:
    """Returns width and height of a name in pixels."""
    text = axes.text(0, 0, escape_figure(name), fontsize=font_points)
    extent = text.get_window_extent()
    text.remove()
    return np.array((extent.width, extent.height))


def _write(
    axes: Axes,
    name: str,
    point: tuple[float, float],
    place: _Place,
    colour: str,
    font_points: float,
) -> None:
    axes.annotate(
        escape_figure(name),
        point,
        xytext=place.offset_xy,
        textcoords="offset points",
        ha=place.horizontal,
        va=place.vertical,
        fontsize=font_points,
        color=colour,
    )


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Returns whether a box xyxy has a pixel in common with one of others (N, 4)."""
    apart = (
        (box[2] < others[:, 0])
        | (box[0] > others[:, 2])
        | (box[3] < others[:, 1])
        | (box[1] > others[:, 3])
    )
    return not bool(apart.all())


def _inside(box: NDArray[np.float64], frame: NDArray[np.float64]) -> bool:
    return bool((box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all())
