"""Pictures of cases: the image, or the part of it that matters, with the boxes in question.

Images are uint8 (H, W, 3) RGB.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.data.check import Check
from ossa.data.check_figures import figures_of
from ossa.data.check_images import with_boxes
from ossa.data.decode import decode_image, open_image
from ossa.data.issue_kinds import IssueKind, Severity
from ossa.data.issues import Box, ImageBoxes, Issue, IssueGroup
from ossa.data.letterbox import FILL
from ossa.data.statistics import SIZE_NAMES, Statistics, boxes_per_image
from ossa.errors import DataError
from ossa.files import read_regular, write_text_atomically
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

_SIDE: Final = 300
"""Pixels of the longer side of a picture; what lies outside the image is grey."""
_IN_A_ROW: Final = 4
_INK: Final = (213, 94, 0)
_HALO: Final = (255, 255, 255)
_SMALL: Final = 0.05
"""Boxes whose longer side is a smaller part of the image are shown enlarged."""
_CONTEXT: Final = 8
"""Sides of such a box that the enlarged part measures."""
_LEAST_WINDOW: Final = 48
_MOST_BEYOND: Final = 0.5
"""Of the image's longer side: how far around it a picture reaches for boxes outside."""

_MOST_BYTES: Final = 2_000_000_000
_END_OF_JPEG: Final = b"\xff\xd9"


@dataclass(frozen=True)
class CasePicture:
    """One picture of several cases."""

    image: NDArray[np.uint8]
    numbers: tuple[int, ...]
    """Which cases it shows, counted from 1, row by row."""

    @property
    def caption(self) -> str:
        """Which rows of a table of the cases stand where in the picture."""
        *others, last = map(str, self.numbers)
        if not others:
            return f"Case {last} of the table."
        return f"Cases {', '.join(others)} and {last} of the table, row by row."


def picture_of_cases(cases: Sequence[Issue], *, most: int) -> CasePicture | None:
    """Returns one picture of the first cases that images show, or None without any.

    Four a row; the two images of a case stand one above the other. What cannot be decoded at all
    is left out.

    Args:
        cases: worst first.
        most: cases that are drawn.
    """
    drawn: dict[int, list[NDArray[np.uint8]]] = {}
    for number, case in enumerate(cases[:most], start=1):
        pictures = [picture for picture in map(_draw, case.images) if picture is not None]
        if pictures and len(pictures) == len(case.images):
            drawn[number] = pictures
    if not drawn:
        return None
    rows = []
    columns = list(drawn.values())
    blank = np.full((1, 1, 3), 255, np.uint8)
    for start in range(0, len(columns), _IN_A_ROW):
        together = columns[start : start + _IN_A_ROW]
        for line in range(max(map(len, together))):
            rows.append([one[line] if line < len(one) else blank for one in together])
    return CasePicture(picture_grid(rows), tuple(drawn))


def _draw(shown: ImageBoxes) -> NDArray[np.uint8] | None:
    """Returns a picture whose longer side is `_SIDE`, or None where nothing can be decoded."""
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
    grey = (FILL, FILL, FILL)
    picture = cv2.warpAffine(image, matrix, size_wh, flags=method, borderValue=grey)
    for box_xyxy in shown.boxes_xyxy:
        _draw_box(picture, (np.array(box_xyxy).reshape(2, 2) - (left, top)) * scale)
    return np.asarray(picture, np.uint8)


def _draw_box(picture: cv2.typing.MatLike, corners: NDArray[np.float64]) -> None:
    """Draws a box with corners (2, 2) in pixels of the picture onto it, in place."""
    far = 4 * _SIDE  # OpenCV draws no line to a point that is very far away
    low, high = np.rint(np.clip(corners, -far, far)).astype(int).tolist()
    for colour, thickness in ((_HALO, 4), (_INK, 2)):
        cv2.rectangle(picture, low, high, colour, thickness, cv2.LINE_AA)


def _window(boxes_xyxy: Sequence[Box], size_wh: tuple[int, int]) -> Box:
    """Returns the part of the plane to be shown: all boxes, and the image where they are large."""
    width, height = size_wh
    if not boxes_xyxy:
        return 0.0, 0.0, float(width), float(height)
    corners = np.array(boxes_xyxy)
    x0, y0 = corners[:, :2].min(axis=0).tolist()
    x1, y1 = corners[:, 2:].max(axis=0).tolist()
    longest = max(x1 - x0, y1 - y0)
    if longest < _SMALL * max(size_wh):
        reach = max(_CONTEXT * longest, _LEAST_WINDOW) / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return x - reach, y - reach, x + reach, y + reach
    beyond = _MOST_BEYOND * max(size_wh)
    return (
        max(min(x0, 0.0), -beyond),
        max(min(y0, 0.0), -beyond),
        min(max(x1, float(width)), width + beyond),
        min(max(y1, float(height)), height + beyond),
    )


def _decoded(path: Path) -> NDArray[np.uint8] | None:
    """Returns the image, as far as it goes where it is cut short."""
    try:
        return decode_image(path)
    except DataError:
        try:
            # With an end, the decoder fills the rest of a JPEG with grey.
            data = read_regular(path, most_bytes=_MOST_BYTES)
            with open_image(BytesIO(data + _END_OF_JPEG)) as image:
                return np.array(image.convert("RGB"))
        except Exception:  # on damaged files Pillow raises errors of a dozen kinds
            return None


_PICTURES: Final = 8
_MOST_CROWDED: Final = 4


def write_check_page(check: Check, folder: Path, *, title: str, facts: Mapping[str, str]) -> Path:
    """Writes index.html, and check.json as `--json` prints it; returns the page.

    Args:
        check: what is told.
        folder: made where it is not there; files of the same names are replaced.
        title: of the page, such as the data set's name.
        facts: what to say at the end, such as versions.

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
    figures = {name: FigureBlock(figure_svg(figure)) for name, figure in figures_of(check).items()}
    crowded = picture_of_cases(_most_crowded(check), most=_MOST_CROWDED)
    crowded_blocks: list[Block] = []
    if crowded is not None:
        caption = "The images with most boxes."
        crowded_blocks.append(PictureBlock(encode_jpeg(crowded.image), caption=caption))
    return [
        Section("What was found", _summary(check), text=_summary_text(check)),
        *_sections_of_issues(check),
        Section("Splits", [_split_table(check)]),
        Section("Classes", [figures["classes"], _class_table(check)]),
        Section(
            "Sizes",
            [figures["sizes"], _size_table(check)],
            text="Small ends at 32² pixels and large begins at 96², as COCO has it. COCO's AP "
            "counts them in the original images; a network sees them at its input.",
        ),
        Section("Crowding", [figures["boxes-per-image"], _crowding_table(check), *crowded_blocks]),
        Section(
            "Shapes and anchors",
            [figures["aspect-ratios"], figures["anchors"], _shape_table(check)],
            text="Best possible recall: the part of the boxes that train whose width and height "
            "both differ from an anchor's by less than a factor of "
            f"{check.anchor_ratio:g}. No detector of these anchors learns from the others.",
        ),
    ]


def _summary_text(check: Check) -> str:
    found = f"Errors: {check.num_errors:,}. Warnings: {check.num_warnings:,}."
    if check.images:
        return f"{found} Images read: {len(check.images):,}."
    return f"{found} The images were not read (--images does)."


def _summary(check: Check) -> list[Block]:
    if not check.issues:
        return []
    columns = [Column(""), Column("what"), Column("split"), Column("count", ",d"), Column("to do")]
    rows: list[list[Cell]] = [
        [one.kind.severity.value, one.title, one.split or "all", one.count, one.kind.advice]
        for one in check.issues
    ]
    return [Table(columns, rows, wide=True)]


def _sections_of_issues(check: Check) -> list[Section]:
    """Returns a section of issues for each severity that there is."""
    headings = {
        Severity.ERROR: "Errors",
        Severity.WARNING: "Warnings",
        Severity.INFO: "Information",
    }
    sections = []
    for severity, heading in headings.items():
        found = [one for one in check.issues if one.kind.severity is severity]
        blocks = [block for one in found for block in _blocks_of(one, check.description.root)]
        if blocks:
            sections.append(Section(heading, blocks))
    return sections


def _blocks_of(group: IssueGroup, root: Path) -> list[Block]:
    where = f" in {group.split}" if group.split else ""
    heading = f"{group.title[0].upper()}{group.title[1:]}: {group.count:,}{where}"
    advice = f"{group.kind.advice[0].upper()}{group.kind.advice[1:]}."
    blocks: list[Block] = [TextBlock(advice, heading=heading)]
    picture = picture_of_cases(group.examples, most=_PICTURES)
    if picture is not None:
        data = encode_jpeg(picture.image)
        blocks.append(PictureBlock(data, caption=picture.caption, alt=group.title))
    rows: list[list[Cell]] = [
        [number, issue.location(root), issue.message]
        for number, issue in enumerate(group.examples, start=1)
    ]
    more = group.count - len(rows)
    note = f"and {more:,} more" if more > 0 else ""
    blocks.append(Table([Column("", "d"), Column("where"), Column("what")], rows, note=note))
    return blocks


def _split_table(check: Check) -> Table:
    told: dict[str, Callable[[Statistics], Cell]] = {
        "images": lambda one: one.num_images,
        "background": lambda one: one.num_background,
        "boxes": lambda one: one.num_boxes,
        "crowd regions": lambda one: one.num_crowd,
        "difficult": lambda one: one.num_difficult,
    }
    columns = [Column("split"), *(Column(name, ",d") for name in told)]
    rows = [
        [split, *(tell(one) for tell in told.values())] for split, one in check.statistics.items()
    ]
    return Table(columns, rows)


def _class_table(check: Check) -> Table:
    splits = list(check.statistics)
    return Table(
        [Column("class"), *(Column(split, ",d") for split in splits)],
        [[name, *counts.values()] for name, counts in check.classes.items()],
        caption="Boxes that train, of every class",
        folded=len(check.classes) > 30,
    )


def _size_table(check: Check) -> Table:
    rows: list[list[Cell]] = []
    for split, one in check.statistics.items():
        for what, sizes in (
            (f"at the input, {check.imgsz} px", one.sizes),
            ("in the files", one.sizes_in_files),
        ):
            total = max(one.num_boxes, 1)
            rows.append([split, what, *(sizes[name] / total for name in SIZE_NAMES)])
    return Table([Column("split"), Column(""), *(Column(name, ".1%") for name in SIZE_NAMES)], rows)


def _crowding_table(check: Check) -> Table:
    kinds = list(next(iter(check.statistics.values())).crowding)
    spread = {"mean": "mean boxes", "median": "median", "p95": "95 %", "max": "most"}
    columns = [
        Column("split"),
        *(Column(name, ",.4g", note="boxes in an image") for name in spread.values()),
        *(Column(kind, ".1%") for kind in kinds),
    ]
    rows: list[list[Cell]] = [
        [
            split,
            *(one.boxes_per_image.get(key) for key in spread),
            *(one.crowding[kind] / max(one.num_boxes, 1) for kind in kinds),
        ]
        for split, one in check.statistics.items()
    ]
    note = (
        "Crowded: IoU above 0.2 with another object, or three centres within twice the box's side. "
        "Isolated: none overlaps it, no centre within 1.5 sides. Touching: the rest."
    )
    return Table(columns, rows, note=note if kinds else "")


def _shape_table(check: Check) -> Table:
    spread = {"min": "narrowest", "p5": "5 %", "median": "median", "p95": "95 %", "max": "widest"}
    columns = [
        Column("split"),
        *(Column(name, ".2f") for name in spread.values()),
        Column("best possible recall", ".4f"),
    ]
    rows: list[list[Cell]] = [
        [split, *(one.aspect_ratios.get(key) for key in spread), one.best_possible_recall]
        for split, one in check.statistics.items()
    ]
    return Table(columns, rows, caption="Width over height, and what the anchors reach")


def _most_crowded(check: Check) -> list[Issue]:
    """Returns the images with most boxes of all splits, as cases."""
    # An image in two splits is shown once.
    candidates = {
        index.image_path(position): (int(counts[position]), index, position)
        for index in check.indexes.values()
        for counts in [boxes_per_image(index)]
        for position in np.argsort(-counts, kind="stable")[:_MOST_CROWDED].tolist()
        if counts[position]
    }
    ordered = sorted(candidates.items(), key=lambda item: -item[1][0])
    return [
        Issue(IssueKind.IMAGE_BACKGROUND, path, None, "", images=(with_boxes(index, position),))
        for path, (_, index, position) in ordered
    ]
