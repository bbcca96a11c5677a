"""Where the files of a data set may lie: folders, links, labels of images, and lines of texts."""

import codecs
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from os.path import abspath
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from ossa.errors import DataError, os_reason, suggestion
from ossa.files import open_regular, read_regular

if TYPE_CHECKING:
    from ossa.data.cache_files import SourceLog

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MOST_BYTES_OF_AN_IMAGE: Final = 16_000_000
"""Of a file with the annotations of one image; ten thousand polygons take less."""
ALLOW_OUTSIDE_VARIABLE: Final = "OSSA_ALLOW_OUTSIDE"
"""Of the environment, so that all processes of a training or a study have it; 1 is yes."""

_MOST_BYTES_OF_A_LIST: Final = 512_000_000
_LINE: Final = re.compile(r"\S[^\n]*")
_PIECE: Final = 1 << 22
_IMAGES_ASKED: Final = 1000
"""Images of a folder by whose label files its format is recognised."""


@dataclass(frozen=True)
class Roots:
    """The folders in which files may be read; links count by where they lead.

    Names in lists, JSON and XML come from whoever made the data set. Without this bound
    `../../../etc/passwd` among the images would be copied by `ossa data convert --copy-images`.
    """

    folders: tuple[str, ...] | None = None
    """Real paths; what is in them may be read. None: everything may."""
    _real_folders: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def chosen(cls, folders: Iterable[str | Path], *, allow_outside: bool | None = None) -> Self:
        """Returns the bound; everything where that is allowed, by OSSA_ALLOW_OUTSIDE if None."""
        if allow_outside is None:
            allow_outside = os.environ.get(ALLOW_OUTSIDE_VARIABLE, "") not in ("", "0")
        return cls(None) if allow_outside else cls(()).including(*folders)

    def including(self, *folders: str | Path) -> Self:
        """Returns a bound with more folders."""
        if self.folders is None:
            return self
        real = {os.path.realpath(folder) for folder in folders}
        return type(self)(tuple(sorted(real.union(self.folders))))

    def check(self, path: str | Path) -> None:
        """Raises OSError, whose `strerror` says why, for a file that may not be read."""
        if (reason := self.why_not(str(path))) is not None:
            raise PermissionError(errno.EACCES, reason, str(path))

    def why_not(self, path: str) -> str | None:
        """Returns why an absolute path, there or not, may not be read; None where it may."""
        if self.folders is None or "\0" in path:  # which names nothing
            return None
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._real_folders[folder], name)
        if name in ("", ".", "..") or os.path.islink(path):
            real = os.path.realpath(path)
        if any(real == root or real.startswith(os.path.join(root, "")) for root in self.folders):
            return None
        where = "lies" if real == path else f"leads to {real},"
        return f"{where} outside the folders that may be read"


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is one that its system or a tool keeps for itself.

    These are names that begin with a dot, such as `.ipynb_checkpoints` and the `._0001.jpg` that
    macOS leaves on foreign disks, and `__MACOSX`.
    """
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def is_hidden_below(path: str, root: str | Path) -> bool:
    """Returns whether a file, or a folder on the way to it from the root, is hidden."""
    prefix = os.path.join(root, "")
    inner = path[len(prefix) :] if path.startswith(prefix) else os.path.basename(path)
    return any(map(is_hidden, inner.split(os.sep)))


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


def first_existing(root: Path, entry: str) -> tuple[Path, str | None]:
    """Returns the absolute path of an entry of a data.yaml, and why it cannot be used, if so.

    Read are also backslashes of Windows, and '../train/images', which exports of Roboflow mean from
    the root.
    """
    candidates = [entry]
    if "\\" in entry:
        candidates.append(entry.replace("\\", "/"))
    if entry.startswith("../"):
        candidates.append(entry[3:])
    paths = [Path(abspath(root / candidate)) for candidate in candidates]
    for path in paths:
        try:
            path.stat()
            return path, None
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
            pass
        except OSError as error:
            return paths[0], os_reason(error)
    return paths[0], "none"


def relative_to(root: Path, file: str) -> str:
    """Returns an absolute path as an index holds it: relative to its root, with slashes."""
    prefix = f"{root}{os.sep}"
    relative = file[len(prefix) :] if file.startswith(prefix) else os.path.relpath(file, root)
    return relative.replace(os.sep, "/")


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
        paths = {name: os.path.join(parent, name) for name in subfolders if not is_hidden(name)}
        entered = {name: _identity(path) for name, path in paths.items() if enter(path)}
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
    """Returns the names in a folder, in any order; none where there is no such folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return os.listdir(folder) if os.path.isdir(folder) else []
    except OSError as error:
        _refuse_folder(error)


def refuse_missing(path: str | Path, what: str) -> None:
    """Raises DataError where a path leads to nothing, with names like it that lie beside it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        near = suggestion(Path(path).name, names_in(Path(path).parent)).strip()
        raise DataError(f"the {what} does not exist", path=path, advice=near) from None
    except (OSError, ValueError):
        return  # told by what reads it


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(
        expected="a folder that can be read",
        found=os_reason(error),
        path=error.filename,
        advice="without it images or labels would be missing",
    ) from error


class FileListing:
    """Which files exist, from one listing per folder instead of one system call per file."""

    def __init__(self, sources: "SourceLog") -> None:
        self._sources = sources
        self._names_of_folder: dict[str, frozenset[str]] = {}

    def __contains__(self, path: object) -> bool:
        folder, name = os.path.split(str(path))
        if folder not in self._names_of_folder:
            self._sources.add(folder)
            self._names_of_folder[folder] = frozenset(names_in(folder))
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
    first, *others = (
        os.path.join(top, annotations, f"{rest}.xml")
        for top, rest in tops
        for annotations in ("Annotations", "annotations")
    )
    return tuple(dict.fromkeys((first, f"{stem}.xml", *others)))


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
