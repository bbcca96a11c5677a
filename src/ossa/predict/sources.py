"""From what a user names (a picture, a folder, a pattern) to files, and to what is true of them."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossa.data.description import read_description
from ossa.data.formats.common import IMAGE_SUFFIXES, images_under, is_image
from ossa.data.index import DatasetIndex
from ossa.data.problems import Problem
from ossa.data.reading import read_index
from ossa.errors import DataError
from ossa.report.drawing import draw_boxes


@dataclass(frozen=True)
class PictureFile:
    """A picture to read, and what its results shall be called."""

    file: Path
    name: str
    """Unique among the pictures; without suffix, with the subfolders below the source."""


def find_pictures(source: str) -> list[PictureFile]:
    """Returns the pictures of a source in the order of their paths.

    Args:
        source: an image file (of any suffix), a folder (searched with its subfolders), or a
            pattern with `*`, `?`, `[...]` or `**`.

    Raises:
        DataError: there is no such file or folder, or no image in or behind it.
    """
    path = Path(source)
    if path.is_dir():
        return _named(images_under(path), root=path, found_in=f"the folder {source}")
    if path.exists():
        return [PictureFile(path, path.stem)]
    if not glob.has_magic(source):
        raise DataError(f"expected a picture, a folder or a pattern in quotes, found no {source}")
    matches = (match for match in glob.glob(source, recursive=True) if Path(match).is_file())
    files = sorted(match for match in matches if is_image(Path(match).name))
    return _named(files, root=_fixed_folder(path), found_in=f"what {source} matches")


def _fixed_folder(pattern: Path) -> Path:
    """Returns the folder of a pattern below which its wildcards begin."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _named(files: list[str], *, root: Path, found_in: str) -> list[PictureFile]:
    if not files:
        raise DataError(
            f"expected pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in {found_in}, found none"
        )
    pictures: dict[str, PictureFile] = {}
    for file in map(Path, files):
        stem = name = file.relative_to(root).with_suffix("").as_posix()
        number = 1
        while name in pictures:  # a.jpg beside a.png
            number += 1
            name = f"{stem}-{number}"
        pictures[name] = PictureFile(file, name)
    return list(pictures.values())


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
        rows = self.index.truths(self.position)
        return draw_boxes(
            image, self.index.boxes_xyxy[rows], self.index.labels[rows], names=self.index.names
        )


@dataclass(frozen=True)
class AnnotatedPictures:
    """The pictures of all splits of a data set, found again by their files."""

    names: tuple[str, ...]
    """K class names."""
    by_file: Mapping[Path, Annotated]
    problems: tuple[Problem, ...]
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
    problems: dict[Problem, None] = {}  # in order, and those of a shared picture once
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
