"""The HTML page of a check: its issues with images that show them, and what the data set is like.

Images are uint8 (H, W, 3) RGB.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.data.check import SIZE_NAMES, Check, Statistics, boxes_per_image
from ossa.data.check_figures import check_figures
from ossa.data.check_issues import with_boxes
from ossa.data.decode import decode_image
from ossa.data.issues import Box, ImageBoxes, IssueGroup, Severity
from ossa.data.letterbox import FILL
from ossa.errors import DataError
from ossa.files import write_text_atomically
from ossa.viz.draw import encode_jpeg, picture_grid
from ossa.viz.page import (
    Block,
    Cell,
    Column,
    FigureBlock,
    Page,
    PictureBlock,
    Section,
    Table,
    TextBlock,
    write_page,
)
from ossa.viz.plots import figure_svg

_MAX_DRAWN: Final = 8
_MAX_CROWDED: Final = 4
_HEADINGS: Final = {
    Severity.ERROR: "Errors",
    Severity.WARNING: "Warnings",
    Severity.INFO: "Information",
}
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


def write_check_page(check: Check, folder: Path, *, title: str, facts: Mapping[str, str]) -> Path:
    """Writes index.html, and check.json as `--json` prints it; returns the page.

    The folder is made if missing; `facts`, such as versions, are for the footer.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(check.as_dict(), indent=2)
    write_text_atomically(folder / "check.json", text + "\n")
    subtitle = f"{check.description.file}, {check.description.format.upper()}, {check.imgsz} px"
    footer = " · ".join(f"{name} {value}" for name, value in facts.items())
    page = Page(title, _sections(check), subtitle, footer)
    return write_page(page, folder / "index.html")


def _sections(check: Check) -> list[Section]:
    figures = {name: FigureBlock(figure_svg(one)) for name, one in check_figures(check).items()}
    crowding: list[Block] = [figures["boxes-per-image"], _crowding_table(check)]
    crowded = [(image,) for image in _most_crowded(check)]
    crowding += _picture(crowded, "The images with the most boxes.")
    number = check.num_images_read
    read = f"Images read: {number:,}." if number else "The images were not read."
    counts = f"Errors: {check.num_errors:,}. Warnings: {check.num_warnings:,}. {read}"
    sections = [Section("Summary", [_summary(check)] if check.issues else [], text=counts)]
    for severity, heading in _HEADINGS.items():
        groups = [one for one in check.issues if one.kind.severity is severity]
        blocks = [block for one in groups for block in _issue_blocks(one, check.description.root)]
        sections += [Section(heading, blocks)] if blocks else []
    return [
        *sections,
        Section("Splits", [_split_table(check)]),
        Section("Classes", [figures["classes"], _class_table(check)]),
        Section(
            "Sizes",
            [figures["sizes"], _size_table(check)],
            text="Small ends at 32² pixels and large begins at 96², as in COCO. COCO's AP "
            "measures sizes in the original images; a network sees them at its input.",
        ),
        Section("Crowding", crowding),
        Section(
            "Shapes and anchors",
            [figures["aspect-ratios"], figures["anchors"], _shape_table(check)],
            text="Best possible recall: the fraction of the boxes that train whose width and "
            "height both differ from an anchor's by less than a factor of "
            f"{check.anchor_ratio:g}. A detector with these anchors cannot learn from the others.",
        ),
    ]


def _summary(check: Check) -> Table:
    rows: list[list[Cell]] = [
        [one.kind.severity.value, one.title, one.split or "all", one.count, one.kind.advice]
        for one in check.issues
    ]
    headings = ("", "issue", "split", "count", "what to do")
    columns = [Column(name, ",d" if name == "count" else "") for name in headings]
    return Table(columns, rows, wide=True)


def _issue_blocks(group: IssueGroup, root: Path) -> list[Block]:
    where = f" in {group.split}" if group.split else ""
    heading = f"{group.title[0].upper()}{group.title[1:]}: {group.count:,}{where}"
    advice = f"{group.kind.advice[0].upper()}{group.kind.advice[1:]}."
    blocks: list[Block] = [TextBlock(advice, heading=heading)]
    blocks += _picture([issue.images for issue in group.examples[:_MAX_DRAWN]])
    rows: list[list[Cell]] = [
        [number, issue.location(root), issue.message]
        for number, issue in enumerate(group.examples, start=1)
    ]
    more = group.count - len(rows)
    note = f"and {more:,} more" if more > 0 else ""
    blocks.append(Table([Column("", "d"), Column("where"), Column("what")], rows, note=note))
    return blocks


def _by_split(
    check: Check,
    columns: Sequence[Column],
    cells: Callable[[Statistics], Iterable[Cell]],
    **options: Any,
) -> Table:
    """Returns a table with a row for each split."""
    rows = [[split, *cells(one)] for split, one in check.statistics.items()]
    return Table([Column("split"), *columns], rows, **options)


def _split_table(check: Check) -> Table:
    names = ("images", "background", "boxes", "crowd", "difficult")
    columns = [Column(name, ",d") for name in names]
    return _by_split(check, columns, lambda one: [getattr(one, f"num_{name}") for name in names])


def _class_table(check: Check) -> Table:
    return Table(
        [Column("class"), *(Column(split, ",d") for split in check.statistics)],
        [[name, *counts.values()] for name, counts in check.classes.items()],
        caption="Boxes of each class that train",
        folded=len(check.classes) > 30,
    )


def _size_table(check: Check) -> Table:
    frames = (f"at {check.imgsz} px", "in the files")
    columns = [Column(f"{name} {frame}", ".1%") for frame in frames for name in SIZE_NAMES]
    return _by_split(
        check,
        columns,
        lambda one: [
            sizes[name] / max(one.num_boxes, 1)
            for sizes in (one.sizes, one.sizes_in_files)
            for name in SIZE_NAMES
        ],
    )


def _crowding_table(check: Check) -> Table:
    kinds = list(next(iter(check.statistics.values())).crowding)
    quantiles = {"mean": "mean boxes", "median": "median", "p95": "95%", "max": "maximum"}
    columns = [Column(name, ",.4g", note="boxes in an image") for name in quantiles.values()]
    columns += [Column(kind, ".1%") for kind in kinds]
    note = (
        "Crowded: IoU above 0.2 with another object, or three centres within twice the box's side. "
        "Isolated: no overlap, and no centre within 1.5 sides. Touching: the rest."
    )
    return _by_split(
        check,
        columns,
        lambda one: [
            *(one.boxes_per_image.get(key) for key in quantiles),
            *(one.crowding[kind] / max(one.num_boxes, 1) for kind in kinds),
        ],
        note=note if kinds else "",
    )


def _shape_table(check: Check) -> Table:
    quantiles = {"min": "minimum", "p5": "5%", "median": "median", "p95": "95%", "max": "maximum"}
    columns = [Column(name, ".2f") for name in quantiles.values()]
    return _by_split(
        check,
        [*columns, Column("best possible recall", ".4f")],
        lambda one: [*map(one.aspect_ratios.get, quantiles), one.best_possible_recall],
        caption="Width over height, and best possible recall of anchors",
    )


def _most_crowded(check: Check) -> list[ImageBoxes]:
    """Returns the images with the most boxes of all splits, each once."""
    candidates = {}
    for index in check.indexes.values():
        counts = boxes_per_image(index)
        for position in np.argsort(-counts, kind="stable")[:_MAX_CROWDED].tolist():
            candidates[index.image_path(position)] = with_boxes(index, position)
    crowded = sorted(candidates.values(), key=lambda image: -len(image.boxes_xyxy))
    return [image for image in crowded[:_MAX_CROWDED] if image.boxes_xyxy]


def _picture(examples: Sequence[Sequence[ImageBoxes]], caption: str = "") -> list[PictureBlock]:
    """Returns a picture of issues; its caption states the rows of the table if not given."""
    grid = example_grid(examples)
    if grid is None:
        return []
    image, numbers = grid
    *others, last = map(str, numbers)
    rows = f"Rows {', '.join(others)} and {last}" if others else f"Row {last}"
    return [PictureBlock(encode_jpeg(image), caption=caption or f"{rows} of the table.")]


def example_grid(
    examples: Sequence[Sequence[ImageBoxes]],
) -> tuple[NDArray[np.uint8], list[int]] | None:
    """Returns one image of issues, and the numbers from 1 of those it shows; None without any.

    There are four in a row; two images of an issue stand above one another. An issue is left out
    if one of its images cannot be decoded.
    """
    drawn: dict[int, list[NDArray[np.uint8]]] = {}
    for number, shown in enumerate(examples, start=1):
        images = [image for image in map(_draw, shown) if image is not None]
        if images and len(images) == len(shown):
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
    return picture_grid(rows), list(drawn)


def _draw(shown: ImageBoxes) -> NDArray[np.uint8] | None:
    """Returns an image with boxes, its longer side `_SIDE`; None if it cannot be decoded."""
    try:
        image = decode_image(Path(shown.image))
    except DataError:
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
    corners = np.array(boxes_xyxy, np.float64).reshape(-1, 2, 2)
    image = np.array([(0, 0), size_wh], np.float64)
    low, high = corners.min(axis=(0, 1), initial=np.inf), corners.max(axis=(0, 1), initial=-np.inf)
    longest = float((high - low).max())
    if 0 <= longest < _SMALL * max(size_wh):
        reach = max(_CONTEXT * longest, _MIN_WINDOW) / 2
        middle = (low + high) / 2
        return *(middle - reach).tolist(), *(middle + reach).tolist()
    beyond = _MAX_BEYOND * max(size_wh)
    low = np.maximum(np.minimum(low, image[0]), image[0] - beyond)
    high = np.minimum(np.maximum(high, image[1]), image[1] + beyond)
    return *low.tolist(), *high.tolist()
