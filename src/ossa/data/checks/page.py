"""One page on a check: what is wrong, with pictures of the worst cases, and what the data are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ossa.data.checks.figures import figures_of
from ossa.data.checks.findings import Case, Finding, Severity
from ossa.data.checks.images import with_boxes
from ossa.data.checks.pictures import picture_of_cases
from ossa.data.checks.run import Check
from ossa.data.checks.statistics import SIZE_NAMES, Statistics, boxes_per_image
from ossa.files import write_text_atomically
from ossa.report.drawing import encode_jpeg
from ossa.report.figures import figure_svg
from ossa.report.page import (
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
        *_sections_of_findings(check),
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
    found = f"Faults: {check.num_faults:,}. Remarks: {check.num_remarks:,}."
    if check.images:
        return f"{found} Images read: {len(check.images):,}."
    return f"{found} The images were not read (--images does)."


def _summary(check: Check) -> list[Block]:
    if not check.findings:
        return []
    columns = [Column(""), Column("what"), Column("split"), Column("count", ",d"), Column("to do")]
    rows: list[list[Cell]] = [
        [str(one.sort.severity), one.title, one.split or "all", one.count, one.sort.advice]
        for one in check.findings
    ]
    return [Table(columns, rows, wide=True)]


def _sections_of_findings(check: Check) -> list[Section]:
    """Returns a section of the faults and one of the remarks, where there are any."""
    headings = {Severity.FAULT: "Faults", Severity.REMARK: "Remarks"}
    sections = []
    for severity, heading in headings.items():
        found = [one for one in check.findings if one.sort.severity is severity]
        blocks = [block for one in found for block in _blocks_of(one, check.description.root)]
        if blocks:
            sections.append(Section(heading, blocks))
    return sections


def _blocks_of(finding: Finding, root: Path) -> list[Block]:
    where = f" in {finding.split}" if finding.split else ""
    heading = f"{finding.title[0].upper()}{finding.title[1:]}: {finding.count:,}{where}"
    advice = f"{finding.sort.advice[0].upper()}{finding.sort.advice[1:]}."
    blocks: list[Block] = [TextBlock(advice, heading=heading)]
    picture = picture_of_cases(finding.cases, most=_PICTURES)
    if picture is not None:
        data = encode_jpeg(picture.image)
        blocks.append(PictureBlock(data, caption=picture.caption, alt=finding.title))
    rows: list[list[Cell]] = [
        [number, case.place(root), case.what] for number, case in enumerate(finding.cases, start=1)
    ]
    more = finding.count - len(rows)
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


def _most_crowded(check: Check) -> list[Case]:
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
        Case(path, "", shown=(with_boxes(index, position),))
        for path, (_, index, position) in ordered
    ]
