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
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat

from ossa.data.annotations import DatasetIndex, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.description import DataDescription
from ossa.data.formats.common import (
    Columns,
    images_under,
    label_file_of,
    size_or_report,
    usable_box,
)
from ossa.data.issues import Box, IssueKind, IssueLog
from ossa.data.paths import (
    MOST_BYTES_OF_AN_IMAGE,
    FileListing,
    absolute,
    annotation_places,
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
    reader = _Reader(description.names or (), log=log, sources=sources)
    for source in description.splits[split].sources:
        sources.add(source)
        if source.is_dir():
            for images in _by_stem(images_under(source, sources=sources, log=log)).values():
                reader.add(images[0], images, listed=(source, None))
        else:
            reader.add_list(source, voc_root(source) or description.root)
    index = reader.columns.to_index(description.root, reader.names, description.category_ids)
    num_images = len(index) + len(reader.unlabelled)
    return index, LabelSearch(num_images, tuple(reader.unlabelled), reader.present.folders)


def voc_root(source: Path) -> Path | None:
    """Returns the folder above the folder ImageSets that a list lies in, if it does."""
    return next((folder.parent for folder in source.parents if folder.name == "ImageSets"), None)


def _by_stem(images: Iterable[str]) -> dict[str, list[str]]:
    """Returns paths by themselves without suffix; of one stem the JPEG first, as VOC has them."""
    found: dict[str, list[str]] = {}
    for image in sorted(images, key=lambda path: (not path.lower().endswith(_JPEG), path)):
        found.setdefault(os.path.splitext(image)[0], []).append(image)
    return {stem: found[stem] for stem in sorted(found)}


def _entries(source: Path, images: Container[str]) -> Iterator[tuple[int, str]]:
    """Yields line and text of what a list names: stems, or names of images."""
    for line, text in listed_lines(source):
        stem, *flag = text.split()
        # Numbers stand behind the stem in the lists of one class; else a blank is part of a name.
        if text in images or not all(word.lstrip("-").isdecimal() for word in flag):
            yield line, text
        elif flag != ["-1"]:  # which marks the images without that class
            yield line, stem


class _Reader:
    """Reads images with their XML files into columns."""

    def __init__(self, names: tuple[str, ...], *, log: IssueLog, sources: SourceLog) -> None:
        self.names = names
        self.columns = Columns()
        self.present = FileListing(sources)
        self.unlabelled: list[str] = []
        self._log = log
        self._sources = sources
        self._seen: set[str] = set()

    def add_list(self, source: Path, root: Path) -> None:
        """Reads the images that a list names, by stem, by name or by path."""
        for name in ("Annotations", "JPEGImages"):
            if not (root / name).is_dir():
                raise DataError(expected="the folders of PASCAL VOC", found=f"no {name}", path=root)
        folder = str(root / "JPEGImages")
        self._sources.add(folder)
        known = _by_stem(os.path.join(folder, name) for name in names_in(folder) if is_image(name))
        stems = {os.path.basename(path): images for path, images in known.items()}
        for line, text in _entries(source, stems):
            parent, name = os.path.split(absolute(text, root))
            named = name if parent == folder else text
            found = stems.get(named) or stems.get(os.path.splitext(named)[0])
            if found is None:
                what, kind = f"no image '{text}' in {folder}", IssueKind.IMAGE_MISSING
                self._log.report(source, line, what, action="image left out", kind=kind)
            else:
                exact = os.path.join(folder, named)
                self.add(exact if exact in found else found[0], found, listed=(source, line))

    def add(self, image: str, of_stem: list[str], *, listed: tuple[Path, int | None]) -> None:
        """Reads an image; `of_stem` are all images that share its annotation.

        `listed` are list, or folder, and line that name it.
        """
        if image in self._seen:
            what, kind = f"'{Path(image).name}' is listed twice", IssueKind.IMAGE_LISTED_TWICE
            self._log.report(*listed, what, action="read once", kind=kind, image=image)
            return
        self._seen.add(image)
        left_out = partial(self._log.report, action="image left out", image=image)
        places = annotation_places(image)
        file = label_file_of(image, places, self.present, log=self._log)
        if file is None:
            kind = IssueKind.IMAGE_WITHOUT_LABELS
            left_out(Path(places[0]), None, "no annotation file", kind=kind)
            self.unlabelled.append(image)
            return
        self._sources.add(file)
        try:
            self._log.roots.check(file)
            annotation = _parse(file)
        except (expat.ExpatError, _ForbiddenXmlError, OSError) as error:
            # Without its boxes it would train as background.
            line = getattr(error, "lineno", None)  # of a file that does not open there is none
            left_out(file, line, f"unreadable XML: {error}", kind=IssueKind.LABELS_UNREADABLE)
            return
        if len(of_stem) > 1:
            what, kind = f"one annotation of {len(of_stem)} images", IssueKind.LABELS_SHARED
            action = f"read for {os.path.basename(image)}"
            self._log.report(file, None, what, action=action, kind=kind, image=image)
        self._sources.add(image)
        size_wh = size_or_report(image, log=self._log)
        if size_wh is not None:
            self._add_objects(annotation, image, size_wh, file)

    def _add_objects(
        self, annotation: "_Annotation", image: str, size_wh: tuple[int, int], file: Path
    ) -> None:
        report_at = partial(self._log.report, file, image=image)
        stated = annotation.size.get("width", "0"), annotation.size.get("height", "0")
        if stated not in (("0", "0"), tuple(map(str, size_wh))):  # some tools write 0 x 0
            sizes = f"{size_wh[0]}x{size_wh[1]} pixels"
            what = f"size {'x'.join(stated)} stated, but the image has {sizes}"
            kind = IssueKind.IMAGE_OTHER_SIZE
            report_at(annotation.size_line, what, action="boxes kept as they are", kind=kind)
        self.columns.add_image(image, size_wh)
        seen = set()
        for thing in annotation.objects:
            report = partial(report_at, thing.line)
            found = _label_and_box(thing, size_wh, names=self.names, report=report)
            if found is None:
                continue
            label, box_xyxy = found
            if found in seen:
                kind = IssueKind.BOX_DUPLICATED
                report("box stated twice", action="kept once", kind=kind, box_xyxy=box_xyxy)
                continue
            seen.add(found)
            crowd = thing.fields.get("iscrowd") == "1"
            # A crowd region is marked difficult only for those who do not know of crowds.
            difficult = thing.fields.get("difficult") == "1" and not crowd
            area = _area(thing.fields.get("area"))
            self.columns.add_gt(box_xyxy, label, area=area, crowd=crowd, difficult=difficult)


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
