"""What a user names (an image, a folder, a pattern, a video, a camera, a stream), frame by frame.

Also the ground truth of those images that a data set lists.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import MOST_COUNTED, count_pictures, decode_image
from ossa.data.description import read_description
from ossa.data.issues import Issue
from ossa.data.paths import (
    IMAGE_SUFFIXES,
    Roots,
    absolute,
    folders_under,
    is_hidden,
    is_image,
    listed_lines,
    refuse_missing,
)
from ossa.data.reading import read_index
from ossa.errors import DataError, legible
from ossa.escaping import hide_credentials
from ossa.predict.video import STREAM_SCHEMES, VideoReader
from ossa.viz.draw import draw_boxes

VIDEO_SUFFIXES: Final = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
_CAMERA_DIGITS: Final = 2
"""From 100 on OpenCV takes a number for that of another interface."""
_LONGEST_NAME: Final = 200
"""Bytes of a name; with numbers and suffixes it stays below the 255 that file systems take."""
_FRAME_NUMBER: Final = re.compile(r"_\d{6,}$")


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a live camera or stream, which has no known length."""

    kind: Literal["image", "video", "live"]
    address: Path | str | int
    """A file, the address of a stream, or the number of a camera."""
    name: str
    """Names its results: unique among the sources, without suffix, with the subfolders below the
    folder that the user named."""

    @property
    def file(self) -> Path:
        """The address of an image or a video file."""
        assert isinstance(self.address, Path)
        return self.address

    @property
    def title(self) -> str:
        """The address as it is printed and written, without credentials."""
        return hide_credentials(str(self.address)) if self.kind == "live" else str(self.address)


@dataclass(frozen=True)
class Frame:
    """An image to predict on: that of a file, or one frame of a video."""

    source: Source
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    number: int | None = None
    """Position in the video from 0, skipped frames included; None for an image file."""
    seconds: float = 0.0
    """Since the beginning of the video."""
    video: VideoReader | None = None
    """The reader of the video."""

    @property
    def name(self) -> str:
        """The name of its results: that of the source, with the frame number."""
        return self.source.name + ("" if self.number is None else f"_{self.number:06d}")

    @property
    def location(self) -> dict[str, Any]:
        """The `file`, and of a video the `frame` and `seconds`, ready for JSON."""
        location: dict[str, Any] = {"file": self.source.title}
        if self.number is not None:
            location |= {"frame": self.number, "seconds": round(self.seconds, 3)}
        return location


def read_frames(
    sources: Iterable[Source],
    *,
    every: int = 1,
    on_warning: Callable[[str], object],
    on_unreadable: Callable[[Source], object] = lambda source: None,
) -> Iterator[Frame]:
    """Yields the images and frames of all sources in order and skips what cannot be read.

    Args:
        sources: files, cameras, streams.
        every: yields frames 0, `every`, 2 `every`, ... of a video.
        on_warning: receives a sentence for each damaged image or video, each image file of several
            images, and the end of a camera or stream.
        on_unreadable: receives each source that cannot be read, or not to its end.
    """
    for source in sources:
        try:
            if source.kind == "image":
                image = decode_image(source.file)
                if (count := count_pictures(source.file)) > 1:
                    more = " or more" if count == MOST_COUNTED else ""
                    on_warning(f"{source.title}: the first of its {count}{more} images is used")
                yield Frame(source, image)
                continue
            with VideoReader(source.address, every=every) as video:
                for image, number, seconds in video.frames():
                    yield Frame(source, image, number, seconds, video)
                if (warning := video.ending()) is not None:
                    on_warning(warning)
        except DataError as error:
            on_warning(str(error))
            on_unreadable(source)


def find_sources(source: str) -> list[Source]:
    """Returns the images, videos and streams that a text names, files in the order of their paths.

    Args:
        source: a file (a video by its suffix, else an image of any), a folder (searched with its
            subfolders), a .txt list of files (in its own folder, or else in the current one, and
            below), a pattern with `*`, `?`, `[...]` or `**`, the number of a camera, or the
            address of a stream, such as `rtsp://...`.

    Raises:
        DataError: there is no such file or folder, or there are no images or videos in it.
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
        return [Source("live", int(source), f"camera{int(source)}")]
    if source.split("://")[0] in STREAM_SCHEMES and "://" in source:
        return [Source("live", source, "stream")]
    if "://" in source or not glob.has_magic(source):
        if "://" not in source and not source.isdecimal():
            refuse_missing(source, "file or folder")
        what = legible(hide_credentials(source))
        raise DataError(
            expected="an image, a video, a folder, a pattern in quotes, the number of a camera (0 "
            "to 99) or the address of a stream",
            found=f"a device or pipe {what}" if os.path.exists(path) else f"no {what}",
            advice=f"streams begin with one of {', '.join(STREAM_SCHEMES)}",
        )
    matches = (match for match in glob.glob(source, recursive=True) if Path(match).is_file())
    files = sorted(match for match in matches if _is_readable(Path(match).name))
    root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
    return _named(files, root=root, found_in=f"the files that match {legible(source)}")


def _files_under(folder: Path) -> list[str]:
    roots = Roots.chosen([folder])

    def enter(path: str) -> bool:
        _check_allowed(roots, path, at=folder)
        return True

    return sorted(
        file
        for parent, names in folders_under(folder, enter=enter)
        for name in names
        if _is_readable(name) and enter(file := os.path.join(parent, name))
    )


def _files_listed(file: Path) -> list[str]:
    """Returns the files of a list, a path on each line.

    Raises:
        DataError: it is no text, or names a file outside its folder and the current one.
    """
    roots = Roots.chosen([file.parent, Path.cwd()])
    files = {}
    for line, text in listed_lines(file):
        candidates = [absolute(text, folder) for folder in (file.parent.absolute(), Path.cwd())]
        path = next(filter(os.path.exists, candidates), candidates[0])
        _check_allowed(roots, path, at=file, line=line)
        files[path] = None
    return list(files)


def _check_allowed(roots: Roots, path: str, *, at: Path, line: int | None = None) -> None:
    why = roots.why_not(path)
    if why is not None:
        raise DataError(
            expected="files in the folder that was named, or beside the list that was",
            found=f"that {legible(path)} {why}",
            path=at,
            line=line,
            advice="say --allow-outside, or remove it",
        )


def _is_readable(name: str) -> bool:
    """Returns whether a file has the suffix of an image or a video and is not hidden."""
    return is_image(name) or (_is_video(name) and not is_hidden(name))


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _named(files: Iterable[str], *, root: Path, found_in: str) -> list[Source]:
    paths = [Path(file) for file in files]
    if not paths:
        images, videos = (", ".join(sorted(one)) for one in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
        raise DataError(expected=f"images ({images}) or videos ({videos}) in {found_in}")
    names = _result_names(paths, root)
    return [
        Source("video" if _is_video(path.name) else "image", path, names[path]) for path in paths
    ]


def _result_names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Returns a name for the results of each file, so that none overwrites another.

    Conflicts: a.jpg beside a.png, A.jpg on a disk that ignores case, v_000000.jpg beside v.avi
    whose first frame has that name, and files in `crops` and `labels`, which hold results.
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
        # As a disk sees it that ignores case and how accents are written.
        while (key := normalize("NFC", name).casefold()) in taken or (
            _FRAME_NUMBER.sub("", key) in videos
        ):
            numbers[stem] += 1
            name = f"{stem}-{numbers[stem] + 1}"
        taken.add(key)
        if _is_video(path.name):
            videos.add(key)
        names[path] = name
    return names


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of a data set, with its ground truth."""

    index: DatasetIndex
    """Of the split that lists it."""
    position: int
    """Of the image in the index."""

    @property
    def image_id(self) -> int:
        return int(self.index.image_ids[self.position])

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns a copy of the image (H, W, 3) with its ground truth, ignored boxes included."""
        rows = self.index.gt_rows(self.position)
        return draw_boxes(
            image, self.index.boxes_xyxy[rows], self.index.labels[rows], names=self.index.names
        )


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of all splits of a data set by their files."""

    names: tuple[str, ...]
    """K class names."""
    by_file: Mapping[Path, AnnotatedImage]
    issues: tuple[Issue, ...]
    """Found while the annotations were read."""

    def find(self, file: Path) -> AnnotatedImage | None:
        """Returns the annotated image of a file or a link to it; None if no split lists it."""
        in_folder = self.by_file.get(file.parent.resolve() / file.name)
        return in_folder or self.by_file.get(file.resolve())


def read_annotated(data: Path | str) -> AnnotatedImages:
    """Returns the images of a data set; one in several splits counts for the first.

    Args:
        data: a data.yaml, or the folder of a data set.

    Raises:
        ConfigError, DataError: as `ossa.data.description` and `ossa.data.reading`.
    """
    description = read_description(data)
    by_file: dict[Path, AnnotatedImage] = {}
    issues: dict[Issue, None] = {}  # an ordered set: a shared image repeats its own
    names: tuple[str, ...] = ()
    resolved = cache(Path.resolve)  # of folders alone, which are few beside the files
    for split in description.splits:
        report = read_index(description, split)
        issues.update(dict.fromkeys(report.issues))
        names = names or report.index.names
        for position in range(len(report.index)):
            file = report.index.image_path(position)
            annotated = AnnotatedImage(report.index, position)
            by_file.setdefault(resolved(file.parent) / file.name, annotated)
    return AnnotatedImages(names, by_file, tuple(issues))
