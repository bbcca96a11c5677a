"""The HTML page of a check: its issues with examples, and what the data set is like."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ossa.data.check import Check
from ossa.data.check_figures import check_figures, example_grid
from ossa.data.check_images import with_boxes
from ossa.data.issue_kinds import IssueKind, Severity
from ossa.data.issues import Issue, IssueGroup
from ossa.data.statistics import SIZE_NAMES, boxes_per_image
from ossa.files import write_text_atomically
from ossa.viz.draw import encode_jpeg
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


def write_check_page(check: Check, folder: Path, *, title: str, facts: Mapping[str, str]) -> Path:
    """Writes index.html, and check.json as `--json` prints it; returns the page.

    Args:
        check: of a data set.
        folder: made if missing; files of the same names are replaced.
        title: of the page, such as the data set's name.
        facts: for the footer, such as versions.

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
    crowded = example_grid(_most_crowded(check), most=_MAX_CROWDED)
    if crowded is not None:
        caption = "The images with the most boxes."
        crowding.append(PictureBlock(encode_jpeg(crowded.image), caption=caption))
    read = f"Images read: {len(check.images):,}." if check.images else "The images were not read."
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
    grid = example_grid(group.examples, most=_MAX_DRAWN)
    if grid is not None:
        blocks.append(PictureBlock(encode_jpeg(grid.image), caption=grid.caption, alt=group.title))
    rows: list[list[Cell]] = [
        [number, issue.location(root), issue.message]
        for number, issue in enumerate(group.examples, start=1)
    ]
    more = group.count - len(rows)
    note = f"and {more:,} more" if more > 0 else ""
    blocks.append(Table([Column("", "d"), Column("where"), Column("what")], rows, note=note))
    return blocks


def _split_table(check: Check) -> Table:
    columns = ("images", "background", "boxes", "crowd", "difficult")
    rows = [
        [split, *(getattr(one, f"num_{name}") for name in columns)]
        for split, one in check.statistics.items()
    ]
    return Table([Column("split"), *(Column(name, ",d") for name in columns)], rows)


def _class_table(check: Check) -> Table:
    return Table(
        [Column("class"), *(Column(split, ",d") for split in check.statistics)],
        [[name, *counts.values()] for name, counts in check.classes.items()],
        caption="Boxes of each class that train",
        folded=len(check.classes) > 30,
    )


def _size_table(check: Check) -> Table:
    rows: list[list[Cell]] = []
    for split, one in check.statistics.items():
        total = max(one.num_boxes, 1)
        at_input = f"at the input, {check.imgsz} px"
        for frame, sizes in ((at_input, one.sizes), ("in the files", one.sizes_in_files)):
            rows.append([split, frame, *(sizes[name] / total for name in SIZE_NAMES)])
    return Table([Column("split"), Column(""), *(Column(name, ".1%") for name in SIZE_NAMES)], rows)


def _crowding_table(check: Check) -> Table:
    kinds = list(next(iter(check.statistics.values())).crowding)
    quantiles = {"mean": "mean boxes", "median": "median", "p95": "95%", "max": "maximum"}
    columns = [
        Column("split"),
        *(Column(name, ",.4g", note="boxes in an image") for name in quantiles.values()),
        *(Column(kind, ".1%") for kind in kinds),
    ]
    rows: list[list[Cell]] = [
        [
            split,
            *(one.boxes_per_image.get(key) for key in quantiles),
            *(one.crowding[kind] / max(one.num_boxes, 1) for kind in kinds),
        ]
        for split, one in check.statistics.items()
    ]
    note = (
        "Crowded: IoU above 0.2 with another object, or three centres within twice the box's side. "
        "Isolated: no overlap, and no centre within 1.5 sides. Touching: the rest."
    )
    return Table(columns, rows, note=note if kinds else "")


def _shape_table(check: Check) -> Table:
    quantiles = {"min": "minimum", "p5": "5%", "median": "median", "p95": "95%", "max": "maximum"}
    columns = [
        Column("split"),
        *(Column(name, ".2f") for name in quantiles.values()),
        Column("best possible recall", ".4f"),
    ]
    rows: list[list[Cell]] = [
        [split, *(one.aspect_ratios.get(key) for key in quantiles), one.best_possible_recall]
        for split, one in check.statistics.items()
    ]
    return Table(columns, rows, caption="Width over height, and best possible recall of anchors")


def _most_crowded(check: Check) -> list[Issue]:
    """Returns the images with the most boxes of all splits, each once."""
    candidates = {}
    for index in check.indexes.values():
        counts = boxes_per_image(index)
        for position in np.argsort(-counts, kind="stable")[:_MAX_CROWDED].tolist():
            if counts[position]:
                candidates[index.image_path(position)] = int(counts[position]), index, position
    ordered = sorted(candidates.items(), key=lambda item: -item[1][0])
    return [
        Issue(IssueKind.IMAGE_BACKGROUND, path, None, "", images=(with_boxes(index, position),))
        for path, (_, index, position) in ordered
    ]
