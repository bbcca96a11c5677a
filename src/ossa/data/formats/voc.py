"""PASCAL VOC: lists of stems in ImageSets, boxes in Annotations/*.xml, images in JPEGImages.

A split may also be a folder of images, each with its XML file beside it, or in a folder Annotations
or `annotations` beside the folder or, with the folders below, beside the folder `images` above it.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat

from ossa.data.annotations import DatasetIndex, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.description import DataDescription
from ossa.data.formats.common import LabelledBox, images_of_split, read_label_files, usable_box
from ossa.data.issues import Box, IssueKind, IssueLog
from ossa.data.paths import (
    MOST_BYTES_OF_AN_IMAGE,
    absolute,
    annotation_places,
    folders_under,
    is_hidden_below,
    is_image,
    listed_lines,
    names_in,
)
from ossa.errors import DataError, legible, suggestion
from ossa.files import read_regular

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_JPEG: Final = (".jpg", ".jpeg")
_DEEPEST: Final = 50
"""Elements within elements; VOC's own files have five."""


def read(
    description: DataDescription, split: str, *, log: IssueLog, sources: SourceLog
) -> tuple[DatasetIndex, LabelSearch]:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    root = description.root
    return read_label_files(
        images_of_split(
            description,
            split,
            listed_in=partial(_listed_images, default=root, log=log, sources=sources),
            log=log,
            sources=sources,
        ),
        partial(_read_boxes, names=description.names or (), log=log),
        description=description,
        places_of=annotation_places,
        log=log,
        sources=sources,
    )


def voc_root(source: Path) -> Path | None:
    """Returns the folder above the folder ImageSets that a list lies in, if it does."""
    return next((folder.parent for folder in source.parents if folder.name == "ImageSets"), None)


def _listed_images(
    source: Path, *, default: Path, log: IssueLog, sources: SourceLog
) -> Iterator[tuple[int, str, str]]:
    """Yields the images that a list names by stem, by name or by path; of a stem the JPEG.

    A path may lead elsewhere than to JPEGImages: its XML is looked for as in a folder of images.
    """
    root = voc_root(source) or default
    folder = str(root / "JPEGImages")
    missing = [name for name in ("Annotations", "JPEGImages") if not (root / name).is_dir()]
    if not missing:
        sources.add(folder)
    images = [name for name in names_in(folder) if is_image(name)]
    images.sort(key=lambda name: (name.lower().endswith(_JPEG), name))
    by_name = {os.path.splitext(name)[0]: name for name in images}
    num_images = Counter(by_name[os.path.splitext(name)[0]] for name in images)
    by_name |= {name: name for name in images}
    for line, text in listed_lines(source):
        path = absolute(text, root)
        if is_image(text) and os.path.dirname(path) != folder and os.path.lexists(path):
            if not is_hidden_below(path, root):
                yield line, text, path
            continue
        if missing:
            raise DataError(
                expected="the folders of PASCAL VOC", found=f"no {missing[0]}", path=root
            )
        stem, *flag = text.split()
        # Numbers stand behind the stem in the lists of one class; else a blank is part of a name.
        if text not in by_name and all(word.lstrip("-").isdecimal() for word in flag):
            if flag == ["-1"]:  # which marks the images without that class
                continue
            text = stem
        parent, name = os.path.split(absolute(text, root))
        named = name if parent == folder else text
        found = by_name.get(named) or by_name.get(os.path.splitext(named)[0])
        if found is None:
            what, kind = f"no image '{text}' in {folder}", IssueKind.IMAGE_MISSING
            log.report(source, line, what, action="image left out", kind=kind)
            continue
        if found != named and num_images[found] > 1:
            what, kind = f"'{text}' is the stem of several images", IssueKind.LABELS_SHARED
            log.report(source, line, what, action=f"read for {found}", kind=kind)
        yield line, text, os.path.join(folder, found)


def _read_boxes(
    file: Path, image: str, size_wh: tuple[int, int], *, names: tuple[str, ...], log: IssueLog
) -> Iterable[LabelledBox] | None:
    report_at = partial(log.report, file, image=image)
    try:
        log.roots.check(file)
        annotation = _parse(file)
    except (expat.ExpatError, _ForbiddenXmlError, OSError) as error:
        line = getattr(error, "lineno", None)  # of a file that does not open there is none
        what, kind = f"unreadable XML: {error}", IssueKind.LABELS_UNREADABLE
        report_at(line, what, action="image left out", kind=kind)
        return None
    stated = annotation.size.get("width", "0"), annotation.size.get("height", "0")
    if stated not in (("0", "0"), tuple(map(str, size_wh))):  # some tools write 0 x 0
        sizes = f"{size_wh[0]}x{size_wh[1]} pixels"
        what = f"size {'x'.join(stated)} stated, but the image has {sizes}"
        kind = IssueKind.IMAGE_OTHER_SIZE
        report_at(annotation.size_line, what, action="boxes kept as they are", kind=kind)
    boxes = []
    for thing in annotation.objects:
        found = _label_and_box(thing, size_wh, names=names, report=partial(report_at, thing.line))
        if found is not None:
            crowd = thing.fields.get("iscrowd") == "1"
            # A crowd region is marked difficult only for those who do not know of crowds.
            difficult = thing.fields.get("difficult") == "1" and not crowd
            area = _area(thing.fields.get("area"))
            boxes.append(LabelledBox(thing.line, *found, area, crowd, difficult))
    return boxes


def class_names(folders: Iterable[Path]) -> list[str]:
    """Returns the names of all objects in the XML files of folders and of theirs, sorted."""
    names: set[str] = set()
    for folder in folders:
        for parent, files in folders_under(folder):
            for file in (Path(parent, name) for name in files if name.lower().endswith(".xml")):
                try:
                    objects = _parse(file).objects
                except (expat.ExpatError, _ForbiddenXmlError, OSError):
                    continue  # reported when its boxes are read
                names.update(name for thing in objects if (name := thing.fields.get("name")))
    return sorted(names)


def _label_and_box(
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
        dropped(_unknown_class(name, names), kind=IssueKind.CLASS_UNKNOWN)
        return None
    try:
        x0, y0, x1, y1 = (float(thing.fields[f"bndbox/{key}"]) for key in _CORNERS)
    except (KeyError, ValueError) as error:
        what = "object without" if isinstance(error, KeyError) else "box that is not numbers:"
        dropped(f"{what} {error}", kind=IssueKind.BOX_MALFORMED)
        return None
    if x1 <= x0 or y1 <= y0:
        what = f"box of no area, from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
        dropped(what, kind=IssueKind.BOX_EMPTY, box_xyxy=(x0 - 1, y0 - 1, x1, y1))
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
