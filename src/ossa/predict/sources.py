"""From what a user names (a picture, a folder, a pattern, a video, a camera, a stream) to sources.

And to what is true of pictures that a data set knows.
"""

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.description import read_description
from ossa.data.formats.common import IMAGE_SUFFIXES, absolute, folders_under, is_image
from ossa.data.formats.text import listed_lines
from ossa.data.issues import Issue
from ossa.data.reading import read_index
from ossa.data.roots import Roots, is_hidden
from ossa.errors import DataError, legible
from ossa.escaping import hide_credentials
from ossa.viz.draw import draw_boxes

VIDEO_SUFFIXES: Final = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)


STREAM_SCHEMES: Final = (
    "rtsp",
    "rtsps",
    "rtmp",
    "rtmps",
    "rtp",
    "http",
    "https",
    "srt",
    "udp",
    "tcp",
)
_CAMERA_DIGITS: Final = 2
"""From 100 on OpenCV takes a number for that of another interface."""
_LONGEST_NAME: Final = 200
"""Bytes of a name; with numbers and suffixes it stays below the 255 that file systems take."""
_FRAME_NUMBER: Final = re.compile(r"_\d{6,}$")


@dataclass(frozen=True)
class _SourceFile:
    file: Path
    name: str
    """What its results are called: unique among the sources, without suffix, with the subfolders
    below what was named."""

    @property
    def title(self) -> str:
        """How it is told and written down."""
        return str(self.file)


class PictureFile(_SourceFile):
    """A picture to read."""


class VideoFile(_SourceFile):
    """A video to read."""


@dataclass(frozen=True)
class LiveSource:
    """A camera or a stream: it has no length, and nobody knows when it ends."""

    address: int | str
    """The number of a camera, or what stands in front of and behind `://`."""

    @property
    def name(self) -> str:
        return f"camera{self.address}" if isinstance(self.address, int) else "stream"

    @property
    def title(self) -> str:
        """The address as it is printed and written down: without credentials."""
        return hide_credentials(str(self.address))


Source: TypeAlias = PictureFile | VideoFile | LiveSource


def find_sources(source: str) -> list[Source]:
    """Returns the pictures and videos of a source in the order of their paths.

    Args:
        source: a file (a video by its suffix, else an image of any), a folder (searched with its
            subfolders), a .txt list of files (in its own folder, or else in the current one, and
            below), a pattern with `*`, `?`, `[...]` or `**`, the number of a camera, or the
            address of a stream, such as `rtsp://...`.

    Raises:
        DataError: there is no such file or folder, or nothing to look at in or behind it.
    """
    path = Path(source)
    if os.path.isdir(path):
        return _named(_files_under(path), root=path, found_in=f"the folder {legible(source)}")
    if path.suffix == ".txt" and os.path.isfile(path):
        files = _files_listed(path)
        root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
        return _named(files, root=Path(root), found_in=f"the list {legible(source)}")
    if os.path.isfile(path):
        return _named([source], root=path.parent, found_in=legible(source))
    if source.isdecimal() and len(source) <= _CAMERA_DIGITS:
        return [LiveSource(int(source))]
    if source.split("://")[0] in STREAM_SCHEMES and "://" in source:
        return [LiveSource(source)]
    if "://" in source or not glob.has_magic(source):
        raise DataError(
            "expected a picture, a video, a folder, a pattern in quotes, the number of a camera "
            "(0 to 99) or the address of a stream, found "
            f"{'a device or pipe' if os.path.exists(path) else 'no'} "
            f"{legible(hide_credentials(source))} (streams: {', '.join(STREAM_SCHEMES)})"
        )
    matches = (match for match in glob.glob(source, recursive=True) if Path(match).is_file())
    files = sorted(match for match in matches if _can_be_read(Path(match).name))
    return _named(files, root=_fixed_folder(path), found_in=f"what {legible(source)} matches")


def _files_under(folder: Path) -> list[str]:
    roots = Roots.chosen([folder])

    def enter(path: str) -> bool:
        why = roots.why_not(path)
        if why is not None:
            raise DataError(
                f"expected pictures and videos in the folder {legible(str(folder))}, found that "
                f"{legible(path)} {why}: say --allow-outside, or remove it"
            )
        return True

    return sorted(
        file
        for parent, names in folders_under(folder, enter=enter)
        for name in names
        if _can_be_read(name) and enter(file := os.path.join(parent, name))
    )


def _files_listed(file: Path) -> list[str]:
    """Returns the files of a list, a path on each line.

    Raises:
        DataError: it is no text, or names a file outside its folder and the current one.
    """
    roots = Roots.chosen([file.parent, Path.cwd()])
    files = {}
    for line, text in listed_lines(file):
        places = [absolute(text, folder) for folder in (file.parent.absolute(), Path.cwd())]
        place = next(filter(os.path.exists, places), places[0])
        why = roots.why_not(place)
        if why is not None:
            raise DataError(
                f"expected a file in the folder of the list or the current one at {file}:{line}, "
                f"found that {legible(text)} {why}: say --allow-outside, or remove it"
            )
        files[place] = None
    return list(files)


def _can_be_read(name: str) -> bool:
    """Returns whether a file has the suffix of a picture or a video and is not hidden."""
    return is_image(name) or (_is_video(name) and not is_hidden(name))


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _fixed_folder(pattern: Path) -> Path:
    """Returns the folder of a pattern below which its wildcards begin."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _named(files: Iterable[str], *, root: Path, found_in: str) -> list[Source]:
    paths = [Path(file) for file in files]
    names = _result_names(paths, root)
    if not names:
        raise DataError(
            f"expected pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) or videos "
            f"({', '.join(sorted(VIDEO_SUFFIXES))}) in {found_in}, found none"
        )
    return [
        (VideoFile if _is_video(path.name) else PictureFile)(path, names[path]) for path in paths
    ]


def _result_names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Returns what the results of each file are called, so that none overwrites another.

    a.jpg beside a.png, A.jpg on a disk that does not tell them apart, v_000000.jpg beside v.avi
    whose first frame is called so, and files in `crops` and `labels`, which hold results.
    """
    names: dict[Path, str] = {}
    videos: set[str] = set()
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for path in sorted(paths, key=lambda path: not _is_video(path.name)):
        folder = path.relative_to(root).parent.as_posix()
        folder = re.sub(r"^(crops|labels)(?=/|$)", r"\1-2", folder, flags=re.IGNORECASE)
        stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_NAME])
        stem = name = (Path(folder) / stem).as_posix()
        while (key := _without_case(name)) in taken or _FRAME_NUMBER.sub("", key) in videos:
            numbers[stem] += 1
            name = f"{stem}-{numbers[stem] + 1}"
        taken.add(key)
        if _is_video(path.name):
            videos.add(key)
        names[path] = name
    return names


def _without_case(name: str) -> str:
    """Returns what a name is on a disk that tells neither case nor ways of writing accents."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Annotated:
    """A picture that a data set knows."""

    index: DatasetIndex
    """Of the split that lists it."""
    position: int
    """Of the picture in the index."""

    @property
    def image_id(self) -> int:
        return int(self.index.image_ids[self.position])

    def drawn_on(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns a copy of the picture (H, W, 3) with all its truths, ignored ones included."""
        rows = self.index.gt_rows(self.position)
        return draw_boxes(
            image, self.index.boxes_xyxy[rows], self.index.labels[rows], names=self.index.names
        )


@dataclass(frozen=True)
class AnnotatedPictures:
    """The pictures of all splits of a data set, found again by their files."""

    names: tuple[str, ...]
    """K class names."""
    by_file: Mapping[Path, Annotated]
    problems: tuple[Issue, ...]
    """What was wrong with the data set's files."""

    def find(self, file: Path) -> Annotated | None:
        """Returns what the data set knows of a picture, None where no split lists it."""
        # A link to a picture of the data set is that picture too.
        return self.by_file.get(_resolved(file, {})) or self.by_file.get(file.resolve())


def read_annotated(data: Path | str) -> AnnotatedPictures:
    """Returns the pictures of a data set; one in several splits is that of the first.

    Args:
        data: a data.yaml, or the folder that holds one.

    Raises:
        ConfigError, DataError: as `ossa.data.description` and `ossa.data.reading`.
    """
    description = read_description(data)
    by_file: dict[Path, Annotated] = {}
    problems: dict[Issue, None] = {}  # in order, and those of a shared picture once
    folders: dict[Path, Path] = {}
    names: tuple[str, ...] = ()
    for split in description.splits:
        report = read_index(description, split)
        problems.update(dict.fromkeys(report.problems))
        names = names or report.index.names
        for position in range(len(report.index)):
            file = _resolved(report.index.image_path(position), folders)
            by_file.setdefault(file, Annotated(report.index, position))
    return AnnotatedPictures(names, by_file, tuple(problems))


def _resolved(file: Path, folders: dict[Path, Path]) -> Path:
    """Returns the file in its folder's real place; remembers the folder's in `folders`.

    Folders alone are resolved: a data set has few of them and many files.
    """
    if file.parent not in folders:
        folders[file.parent] = file.parent.resolve()
    return folders[file.parent] / file.name
