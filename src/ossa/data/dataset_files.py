"""A data set on the disk, in any of three formats, by the names of its methods."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from ossa.data.annotations import DatasetIndex
from ossa.data.convert import convert
from ossa.data.description import DataDescription, read_description
from ossa.data.layouts import images_of_coco
from ossa.data.reading import drop_corrupt_images, read_index
from ossa.errors import ConfigError

Splits: TypeAlias = str | Path | Mapping[str, str | Path]
"""What a split is made of: of 'train' where it stands alone, or by 'train', 'val' and 'test'."""


@dataclass(frozen=True)
class Dataset:
    """Images and annotations as they lie on the disk; nothing is copied or changed.

    Examples:
        >>> import ossa
        >>> scenes = ossa.Dataset.read("scenes")
        >>> scenes.splits, len(scenes.index("val"))
        (('train', 'val'), 2)
        >>> written = scenes.to_coco("scenes-coco", copy_images=True)
        >>> again = ossa.Dataset.from_coco({"val": "scenes-coco/annotations/val.json"})
        >>> again.names == scenes.names
        True
    """

    description: DataDescription

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Returns the data set of a data.yaml, or of a folder as annotation tools export them.

        Raises:
            ConfigError, DataError: as `ossa.data.description.read_description`.
        """
        return cls(read_description(path))

    @classmethod
    def from_coco(cls, annotations: Splits, *, images: Path | str | None = None) -> Self:
        """Returns the data set of COCO's JSON files.

        Args:
            annotations: a file, or one for each split.
            images: the folder that their file names count from; by default the one of the usual
                places (beside the file, images, images/train) that has the first image.

        Raises:
            ConfigError, DataError: as `read`.
        """
        files = _by_split(annotations)
        keys = {
            split: {
                "annotations": str(file),
                "images": str(images or images_of_coco(file, _top(file), split)),
            }
            for split, file in files.items()
        }
        return cls(
            _described(
                {"format": "coco", **keys}, [_top(file) for file in files.values()] + [images]
            )
        )

    @classmethod
    def from_voc(cls, lists: Splits, *, names: Sequence[str]) -> Self:
        """Returns the data set of PASCAL VOC's lists of stems, or of folders of images and XML.

        Args:
            lists: a file in ImageSets/Main, or a folder; or one for each split.
            names: the K class names.

        Raises:
            ConfigError, DataError: as `read`.
        """
        return cls._of_lists("voc", lists, names)

    @classmethod
    def from_yolo(cls, images: Splits, *, names: Sequence[str]) -> Self:
        """Returns the data set of folders of images, or of lists, with YOLO's label files.

        Args:
            images: a folder such as images/train, whose labels lie in labels/train, or a list of
                paths; or one for each split.
            names: the K class names, in the order of their numbers.

        Raises:
            ConfigError, DataError: as `read`.
        """
        return cls._of_lists("yolo", images, names)

    @classmethod
    def _of_lists(cls, data_format: str, places: Splits, names: Sequence[str]) -> Self:
        sources = _by_split(places)
        keys = {split: str(place) for split, place in sources.items()}
        described = {"format": data_format, "names": list(names), **keys}
        return cls(_described(described, list(sources.values())))

    @property
    def path(self) -> Path:
        """The data.yaml, or the folder: what `train_detector` takes as `data`."""
        return self.description.file

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of 'train', 'val' and 'test' that it has."""
        return tuple(self.description.splits)

    @property
    def names(self) -> tuple[str, ...]:
        """The K class names."""
        return self.index(self.splits[0]).names

    def index(self, split: str, *, strict: bool = False) -> DatasetIndex:
        """Returns images and annotations of a split, without images that cannot be decoded.

        Args:
            split: 'train', 'val' or 'test'.
            strict: raise at the first fault instead of leaving it out.

        Raises:
            ConfigError, DataError: as `ossa.read_data`, which also returns the faults.
        """
        report = read_index(self.description, split, strict=strict)
        return drop_corrupt_images(report, strict=strict).index

    def to_coco(self, folder: Path | str, *, copy_images: bool = False) -> "Dataset":
        """Returns it written in COCO's format into a new folder; the images stay where they are.

        Args:
            folder: new or empty.
            copy_images: copy them, too.

        Raises:
            ConfigError, DataError: as `ossa.data.convert.convert`.
        """
        return self._converted(folder, "coco", copy_images)

    def to_voc(self, folder: Path | str, *, copy_images: bool = False) -> "Dataset":
        """Returns it written in PASCAL VOC's format; as `to_coco`."""
        return self._converted(folder, "voc", copy_images)

    def to_yolo(self, folder: Path | str, *, copy_images: bool = False) -> "Dataset":
        """Returns it written in YOLO's format; as `to_coco`."""
        return self._converted(folder, "yolo", copy_images)

    def _converted(self, folder: Path | str, to: str, copy_images: bool) -> "Dataset":
        written = convert(self.description, folder, to=to, copy_images=copy_images)
        return Dataset.read(written.data_yaml)


def _top(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _by_split(places: Splits) -> dict[str, Path]:
    named = places if isinstance(places, Mapping) else {"train": places}
    for split in named:
        if split not in ("train", "val", "test"):
            raise ConfigError(expected="a split of train, val and test", found=repr(split))
    return {split: Path(os.path.abspath(place)) for split, place in named.items()}


def _described(keys: Mapping[str, Any], places: Sequence[Path | str | None]) -> DataDescription:
    """Returns the description of keys with absolute paths, in the folder that holds all places."""
    known = [os.path.abspath(place) for place in places if place is not None]
    root = Path(os.path.commonpath(known))
    return read_description(root if root.is_dir() else root.parent, keys=keys)
