"""PASCAL VOC: lists of stems in ImageSets, boxes in Annotations/*.xml, images in JPEGImages.

Coordinates count pixels from 1 and include the last: a box from `xmin` to `xmax` covers the
pixels xmin..xmax, which is xmin - 1 to xmax in coordinates that count edges from 0. A box whose
corners are one and the same point or line (xmax <= xmin) is no one pixel wide object but a slip
of the mouse, and is reported. Corners may have decimals.

Beside VOC's own tags an object may have COCO's `iscrowd`, 0 or 1, and `area`, in pixels, which
`ossa data convert` writes and other readers pass over.
"""

import functools
import math
import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat

from ossa.data.description import DataDescription
from ossa.data.formats.common import (
    Box,
    Columns,
    is_image,
    names_in,
    size_or_report,
    usable_box,
)
from ossa.data.formats.text import MOST_BYTES_OF_AN_IMAGE, listed_lines
from ossa.data.index import DatasetIndex
from ossa.data.problems import ProblemKind, ProblemLog
from ossa.data.sources import SourceLog
from ossa.errors import DataError, legible, suggestion
from ossa.files import read_regular

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_DEEPEST: Final = 50
"""Elements within elements; VOC's own files have five."""


def read(
    description: DataDescription, split: str, *, log: ProblemLog, sources: SourceLog
) -> DatasetIndex:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    names = description.names or ()
    columns = Columns()
    seen = set()
    for source in description.splits[split].sources:
        sources.add(source)
        root = _voc_root(source, default=description.root)
        sources.add(root / "JPEGImages")
        images = _images_by_stem(root / "JPEGImages")
        for line, stem in _stems(source, images):
            image = images.get(stem) or images.get(os.path.splitext(stem)[0])
            if image is None:
                what = f"no image '{stem}' in {root / 'JPEGImages'}"
                kind = ProblemKind.IMAGE_MISSING
                log.report(source, line, what, action="image left out", kind=kind)
            elif image in seen:
                what, kind = f"'{stem}' is listed twice", ProblemKind.IMAGE_LISTED_TWICE
                log.report(source, line, what, action="read once", kind=kind, image=image)
            else:
                seen.add(image)
                annotation = root / "Annotations" / f"{Path(image).stem}.xml"
                sources.add(image)
                sources.add(annotation)
                _add_image(columns, image, annotation, names=names, log=log)
    return columns.to_index(description.root, names, description.category_ids)


def _voc_root(source: Path, *, default: Path) -> Path:
    if source.is_dir():
        raise DataError(
            f"Expected a list of stems such as ImageSets/Main/train.txt, found the folder {source}."
        )
    root = next((p.parent for p in source.parents if p.name == "ImageSets"), default)
    for folder in ("Annotations", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DataError(f"Expected the folders of PASCAL VOC in {root}, found no {folder}.")
    return root


def _images_by_stem(folder: Path) -> dict[str, str]:
    names = sorted(name for name in names_in(folder) if is_image(name))
    return {os.path.splitext(name)[0]: os.path.join(folder, name) for name in names}


def _stems(source: Path, images: Container[str]) -> Iterator[tuple[int, str]]:
    for line, text in listed_lines(source):
        stem, *flag = text.split()
        # Numbers stand behind the stem in the lists of one class; else a blank is part of a name.
        if text in images or not all(word.lstrip("-").isdecimal() for word in flag):
            yield line, text
        elif flag != ["-1"]:  # which marks the images without that class
            yield line, stem


def _add_image(
    columns: Columns, image: str, file: Path, *, names: tuple[str, ...], log: ProblemLog
) -> None:
    size_wh = size_or_report(image, log=log)
    if size_wh is None:
        return
    try:
        log.roots.check(file)
        annotation = _parse(file)
    except FileNotFoundError:
        what, kind = "no annotation file", ProblemKind.IMAGE_WITHOUT_LABELS
        log.report(file, None, what, action="image left out", kind=kind, image=image)
        return
    except (expat.ExpatError, _ForbiddenXmlError, OSError) as error:
        # Without its boxes it would train as background.
        line = getattr(error, "lineno", None)  # of a file that does not open there is none
        what, kind = f"unreadable XML: {error}", ProblemKind.LABELS_UNREADABLE
        log.report(file, line, what, action="image left out", kind=kind, image=image)
        return
    _report_other_size(annotation, image, size_wh, file=file, log=log)
    columns.add_image(image, size_wh)
    truths = set()
    for thing in annotation.objects:
        report = partial(log.report, file, thing.line, image=image)
        truth = _truth(thing, size_wh, names=names, report=report)
        if truth is not None and truth in truths:
            kind = ProblemKind.BOX_DUPLICATED
            report("box stated twice", action="kept once", kind=kind, box_xyxy=truth[1])
        elif truth is not None:
            truths.add(truth)
            label, box_xyxy = truth
            crowd = thing.fields.get("iscrowd") == "1"
            # A crowd region is marked difficult only for those who do not know of crowds.
            difficult = thing.fields.get("difficult") == "1" and not crowd
            area = _area(thing.fields.get("area"))
            columns.add_truth(box_xyxy, label, area=area, crowd=crowd, difficult=difficult)


def _report_other_size(
    annotation: "_Annotation", image: str, size_wh: tuple[int, int], *, file: Path, log: ProblemLog
) -> None:
    stated = annotation.size.get("width", "0"), annotation.size.get("height", "0")
    if stated in (("0", "0"), tuple(map(str, size_wh))):  # some tools write 0 x 0
        return
    what = f"size {'x'.join(stated)} stated, but the image has {size_wh[0]}x{size_wh[1]} pixels"
    log.report(
        file,
        annotation.size_line,
        what,
        action="boxes kept as they are",
        kind=ProblemKind.IMAGE_OTHER_SIZE,
        image=image,
    )


def _truth(
    thing: "_Object",
    size_wh: tuple[int, int],
    *,
    names: tuple[str, ...],
    report: Callable[..., None],
) -> tuple[int, Box] | None:
    """Returns class and box of an object, or None, reported, where it cannot be used."""
    dropped = partial(report, action="box dropped")
    name = thing.fields.get("name")
    if name not in names:
        dropped(_unknown_class(name, names), kind=ProblemKind.CLASS_UNKNOWN)
        return None
    try:
        x0, y0, x1, y1 = (float(thing.fields[f"bndbox/{key}"]) for key in _CORNERS)
    except KeyError as error:
        dropped(f"object without {error}", kind=ProblemKind.BOX_MALFORMED)
        return None
    except ValueError as error:
        dropped(f"box that is not numbers: {error}", kind=ProblemKind.BOX_MALFORMED)
        return None
    if x1 <= x0 or y1 <= y0:
        what = f"box of no area, from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
        dropped(what, kind=ProblemKind.BOX_EMPTY, box_xyxy=(x0 - 1, y0 - 1, x1, y1))
        return None
    box_xyxy = usable_box((x0 - 1, y0 - 1, x1, y1), size_wh, report=report)
    return None if box_xyxy is None else (names.index(name), box_xyxy)


@functools.cache  # often the same for a hundred thousand boxes, and slow
def _unknown_class(name: str | None, names: tuple[str, ...]) -> str:
    near = suggestion(name or "", names)
    return f"class '{legible(str(name))}' unknown.{near}".removesuffix(".")


def _area(text: str | None) -> float | None:
    """Returns a stated area in pixels, or None where there is none that makes sense."""
    try:
        area = float(text or "")
    except ValueError:
        return None
    return area if 0 <= area < math.inf else None


@dataclass
class _Object:
    line: int
    fields: dict[str, str] = field(default_factory=dict)
    """Text by path below <object>, such as 'name' and 'bndbox/xmin'."""


@dataclass
class _Annotation:
    objects: list[_Object] = field(default_factory=list)
    size: dict[str, str] = field(default_factory=dict)
    size_line: int | None = None


class _ForbiddenXmlError(Exception):
    """What no annotation needs, and what can be made to fill memory or time."""

    def __init__(self, what: str, lineno: int) -> None:
        super().__init__(what)
        self.lineno = lineno


def _parse(file: Path) -> _Annotation:
    annotation = _Annotation()
    path: list[str] = []
    texts: list[str] = []
    parser = expat.ParserCreate()

    def refuse(what: str) -> NoReturn:
        raise _ForbiddenXmlError(what, parser.CurrentLineNumber)

    def start(tag: str, _attributes: dict[str, str]) -> None:
        if len(path) == _DEEPEST:
            refuse(f"elements nested more than {_DEEPEST} deep")
        path.append(tag)
        texts.clear()
        if path[1:] == ["object"]:
            annotation.objects.append(_Object(parser.CurrentLineNumber))
        elif path[1:] == ["size"]:
            annotation.size_line = parser.CurrentLineNumber

    def end(_tag: str) -> None:
        text = "".join(texts).strip()
        texts.clear()
        if path[1:2] == ["object"] and len(path) > 2:
            annotation.objects[-1].fields["/".join(path[2:])] = text
        elif path[1:2] == ["size"] and len(path) == 3:
            annotation.size[path[2]] = text
        path.pop()

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    # Without a DOCTYPE there are no entities, neither such that multiply nor such that open files.
    parser.StartDoctypeDeclHandler = lambda *_: refuse("DOCTYPE is not allowed")
    data = read_regular(file, most_bytes=MOST_BYTES_OF_AN_IMAGE)
    try:
        parser.Parse(data, True)
    except (LookupError, ValueError) as error:  # an encoding that Python does not know or not so
        refuse(str(error))
    return annotation
