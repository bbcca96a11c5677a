"""Where images, label files and lists lie, and the lines of their texts."""

import codecs
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from os.path import abspath
from pathlib import Path
from typing import Final, NoReturn

from ossa.data.cache_files import SourceLog
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import IssueLog
from ossa.data.roots import is_hidden
from ossa.errors import DataError, os_reason
from ossa.files import open_regular, read_regular

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MOST_BYTES_OF_AN_IMAGE: Final = 16_000_000
"""Of a file with the annotations of one image; ten thousand polygons take less."""

_MOST_BYTES_OF_A_LIST: Final = 512_000_000
_LINE: Final = re.compile(r"\S[^\n]*")
_PIECE: Final = 1 << 22
_IMAGES_ASKED: Final = 1000
"""Images of a folder by whose label files its format is recognised."""


def is_image(name: str) -> bool:
    """Returns whether a file has the suffix of an image and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def absolute(path: str, folder: Path) -> str:
    """Returns a path, relative to `folder` where not absolute, without '..'.

    Backslashes of Windows become slashes where there is no file of that name.
    """
    place = abspath(os.path.join(folder, path))
    if "\\" in path and not os.path.lexists(place):
        return abspath(os.path.join(folder, path.replace("\\", "/")))
    return place


def relative_to(root: Path, file: str) -> str:
    """Returns an absolute path as an index holds it: relative to its root, with slashes."""
    prefix = f"{root}{os.sep}"
    relative = file[len(prefix) :] if file.startswith(prefix) else os.path.relpath(file, root)
    return relative.replace(os.sep, "/")


def images_under(folder: Path, *, sources: SourceLog, log: IssueLog) -> list[str]:
    """Returns the absolute paths of all images in a folder and its subfolders, sorted.

    Linked folders that lead out of the data set are reported.

    Raises:
        DataError: one of the folders cannot be read.
    """
    found = []
    for parent, names in folders_under(folder, enter=log.may_be_read):
        sources.add(parent)
        found += [os.path.join(parent, name) for name in names if is_image(name)]
    return sorted(found)


def folders_under(
    folder: str | Path, *, enter: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, list[str]]]:
    """Yields a folder and its subfolders, linked ones too, each with the names of its files.

    Hidden ones are skipped, and those for whose path `enter` returns False. So is a link back to
    a folder that it is reached through: what lies there has been found, and two such links double
    at every level.

    Raises:
        DataError: one of them cannot be read.
    """
    parents_of = {os.fspath(folder): frozenset([_identity(folder)])}
    for parent, subfolders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        yield parent, names
        above = parents_of.pop(parent)
        paths = {name: os.path.join(parent, name) for name in subfolders}
        entered = {
            name: _identity(path)
            for name, path in paths.items()
            if not is_hidden(name) and enter(path)
        }
        subfolders[:] = [name for name, identity in entered.items() if identity not in above]
        parents_of |= {paths[name]: above | {entered[name]} for name in subfolders}


def _identity(folder: str | Path) -> tuple[int, int]:
    """Returns what two paths of one folder have in common."""
    try:
        status = os.stat(folder)
    except OSError as error:
        _refuse_folder(error)
    return status.st_dev, status.st_ino


def names_in(folder: str | Path) -> list[str]:
    """Returns the names of the files in a folder, in any order.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return os.listdir(folder)
    except OSError as error:
        _refuse_folder(error)


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(
        expected="a folder that can be read",
        found=os_reason(error),
        path=error.filename,
        advice="without it images or labels would be missing",
    ) from error


class FileListing:
    """Which files exist, from one listing per folder instead of one system call per file."""

    def __init__(self, sources: SourceLog) -> None:
        self._sources = sources
        self._names_of_folder: dict[str, frozenset[str]] = {}

    def __contains__(self, path: object) -> bool:
        folder, name = os.path.split(str(path))
        if folder not in self._names_of_folder:
            self._sources.add(folder)
            listed = names_in(folder) if os.path.isdir(folder) else []
            self._names_of_folder[folder] = frozenset(listed)
        return name in self._names_of_folder[folder]

    @property
    def folders(self) -> tuple[str, ...]:
        """The listed folders, in the order of the first question."""
        return tuple(self._names_of_folder)


def label_places(image: str) -> tuple[str, ...]:
    """Returns where the txt file of an image may lie for YOLO, the preferred place first."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    labels = folder.replace("images", "labels")
    return tuple(dict.fromkeys((f"{before}{labels}{after}.txt", f"{stem}.txt")))


def annotation_places(image: str) -> tuple[str, ...]:
    """Returns where the XML file of an image may lie for VOC, the preferred place first."""
    stem = os.path.splitext(image)[0]
    folder, name = os.path.split(stem)
    tops = [(os.path.dirname(folder), name)]
    before, images, below = stem.rpartition(f"{os.sep}images{os.sep}")
    if images:  # images/train/1.jpg has annotations/train/1.xml
        tops.append((before, below))
    places = [
        os.path.join(top, annotations, f"{rest}.xml")
        for top, rest in tops
        for annotations in ("Annotations", "annotations")
    ]
    return tuple(dict.fromkeys((places[0], f"{stem}.xml", *places[1:])))


def has_xml_alone(folder: Path) -> bool:
    """Returns whether images of a folder have XML files, and none has YOLO labels."""
    labels = Path(label_places(str(folder / "_"))[0]).parent
    if not os.path.isdir(folder) or (labels != folder and labels.is_dir()):
        return False
    found = (
        os.path.join(at, n) for at, names in folders_under(folder) for n in names if is_image(n)
    )
    images = list(islice(found, _IMAGES_ASKED))
    has_labels, has_xml = (
        any(os.path.exists(place) for image in images for place in places_of(image))
        for places_of in (label_places, annotation_places)
    )
    return has_xml and not has_labels


def label_file_of(
    image: str, candidates: tuple[str, ...], present: FileListing, *, log: IssueLog
) -> Path | None:
    """Returns the first of the candidates that exists, or None.

    Another one that exists, too, and has a different content, is reported.
    """
    found = [file for file in candidates if file in present][:2]
    if len(found) > 1 and not _same_content(found):
        what = f"{found[1]} says something else of the same image"
        kind = IssueKind.LABELS_AT_TWO_PLACES
        log.report(Path(found[0]), None, what, action="the other not read", kind=kind, image=image)
    return Path(found[0]) if found else None


def _same_content(files: list[str]) -> bool:
    try:
        first, second = ([text for _, text in numbered_lines(Path(file))] for file in files)
    except (OSError, UnicodeDecodeError):  # reported when the labels are read
        return True
    return first == second


def numbered_lines(
    file: Path, *, most_bytes: int = MOST_BYTES_OF_AN_IMAGE
) -> Iterator[tuple[int, str]]:
    """Returns number, from 1, and stripped text of the lines of a UTF-8 file that are not empty.

    Lines end as in any editor, at a line feed, a carriage return or both.

    Raises:
        OSError: as `ossa.files.read_regular`.
        UnicodeDecodeError: it is no text.
    """
    text = read_regular(file, most_bytes=most_bytes).decode("utf-8-sig")
    return _lines(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    line, at = 1, 0
    for found in _LINE.finditer(text):
        line += text.count("\n", at, found.start())
        at = found.start()
        yield line, found[0].rstrip()


def listed_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Returns the numbered lines of a list that a split cannot do without.

    Raises:
        DataError: the file cannot be read as text.
    """
    try:
        return numbered_lines(file, most_bytes=_MOST_BYTES_OF_A_LIST)
    except UnicodeDecodeError as error:
        line = line_of_fault(file)
        raise DataError(
            expected="a list in UTF-8", found="another byte", path=file, line=line
        ) from error
    except OSError as error:
        raise DataError(expected="a list", found=os_reason(error), path=file) from error


def line_of_fault(file: Path) -> int:
    """Returns the line, from 1, of the first byte of a file that is not UTF-8; the last if none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open_regular(file) as stream:
        while True:
            piece = stream.read(_PIECE)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            if not piece:
                return line
