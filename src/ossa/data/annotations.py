"""The index of a data set split: every image and ground-truth object as columns of arrays.

No Python object exists per image or box, so that worker processes share the memory.
Dimensions: I images, N ground-truth objects, K classes.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_xywh
from ossa.data.issues import Issue
from ossa.errors import ConfigError, legible, suggestion


@dataclass(frozen=True)
class DatasetIndex:
    """One split of a data set.

    Examples:
        >>> import ossa
        >>> index = ossa.read_data("scenes").index
        >>> len(index), index.names
        (2, ('disc', 'triangle', 'cross', 'ring'))
    """

    root: Path
    """Folder that `file_names` are relative to."""
    names: tuple[str, ...]
    """K class names; a label is a position in it."""
    category_ids: NDArray[np.int64]
    """(K,) ids of the classes in the data set's own files."""
    file_names: NDArray[np.str_]
    """(I,) image files relative to `root`, with forward slashes."""
    image_ids: NDArray[np.int64]
    """(I,) unique."""
    sizes_wh: NDArray[np.int32]
    """(I, 2) width and height in pixels, after the EXIF orientation is applied."""
    gt_offsets: NDArray[np.int64]
    """(I + 1,): the objects of image i are rows gt_offsets[i] to gt_offsets[i + 1]."""
    boxes_xyxy: NDArray[np.float64]
    """(N, 4) in pixels of the original image."""
    labels: NDArray[np.int64]
    """(N,) in 0..K-1."""
    areas: NDArray[np.float64]
    """(N,) the annotation's own area where it has one (segmentation), else width x height."""
    crowd: NDArray[np.bool_]
    """(N,) COCO's iscrowd."""
    difficult: NDArray[np.bool_]
    """(N,) VOC's difficult."""
    annotation_ids: NDArray[np.int64]
    """(N,) unique."""
    stated_xywh: NDArray[np.float64] | None = None
    """(N, 4) the boxes as COCO's file states them; None in other formats, and where changed."""

    groups: NDArray[np.int64] | None = None
    """(I,) group of each image in 0..; None: every image is one of its own."""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_units(self) -> int:
        """How many units count as independent: groups, or images if there are none."""
        return len(self) if self.groups is None else int(self.groups.max()) + 1

    def image_path(self, position: int) -> Path:
        """Returns the file of the image at `position` in 0..I-1."""
        return self.root / str(self.file_names[position])

    def gt_rows(self, position: int) -> slice:
        """Returns the rows of the objects of the image at `position`."""
        return slice(int(self.gt_offsets[position]), int(self.gt_offsets[position + 1]))

    @property
    def boxes_xywh(self) -> NDArray[np.float64]:
        """(N, 4) left, top, width, height: as stated, since (x + w) - x is not always w."""
        return xyxy_to_xywh(self.boxes_xyxy) if self.stated_xywh is None else self.stated_xywh

    def gt_image_positions(self) -> NDArray[np.int64]:
        """Returns (N,) the position of the image of every object."""
        return np.repeat(np.arange(len(self)), np.diff(self.gt_offsets))

    @property
    def trains(self) -> NDArray[np.bool_]:
        """(N,) which objects train and are scored: those neither crowd nor difficult."""
        return ~(self.crowd | self.difficult)

    def fingerprint(self) -> str:
        """Returns a sha256 over class names, file names, sizes and annotations."""
        # Names of files need not be UTF-8: Python holds the odd bytes as lone surrogates.
        names, files = ("\0".join(texts) for texts in (self.names, self.file_names.tolist()))
        digest = hashlib.sha256(names.encode(errors="surrogatepass"))
        digest.update(files.encode(errors="surrogatepass"))
        columns = (self.image_ids, self.sizes_wh, self.gt_offsets, self.boxes_xyxy)
        for column in (*columns, self.labels, self.areas, self.crowd, self.difficult):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelSearch:
    """Where the labels of a split were looked for, and which images have none."""

    num_images: int = 0
    """Those whose labels were looked for."""
    unlabelled: tuple[str, ...] = ()
    """Absolute paths of the images without a label file (YOLO, VOC) or annotation (COCO); an empty
    label file is a label."""
    places: tuple[str, ...] = ()
    """Absolute paths of folders, or of the one JSON file."""


@dataclass(frozen=True)
class IndexReport:
    """One split, and what was wrong with its files."""

    index: DatasetIndex
    issues: tuple[Issue, ...]
    """In the order they were met."""
    notes: tuple[str, ...] = ()
    """What is worth knowing but no fault, such as what the data.yaml leaves out."""
    labels: LabelSearch = LabelSearch()


def paths_of(index: DatasetIndex) -> list[str]:
    """Returns (I,) absolute paths of the images without '..'."""
    return [os.path.normpath(os.path.join(index.root, name)) for name in index.file_names.tolist()]


def select_gt(index: DatasetIndex, chosen: NDArray[np.bool_]) -> DatasetIndex:
    """Returns the index with all images and the chosen (N,) objects alone."""
    offsets = np.concatenate(([0], np.cumsum(chosen)))[index.gt_offsets]
    return replace(index, gt_offsets=offsets, **_gt_columns(index, chosen))


def select_images(index: DatasetIndex, chosen: NDArray[np.bool_]) -> DatasetIndex:
    """Returns the index of the chosen (I,) images alone, with their objects."""
    counts, groups = np.diff(index.gt_offsets), index.groups
    if groups is not None:  # without gaps
        groups = np.unique(groups[chosen], return_inverse=True)[1]
    return replace(
        index,
        groups=groups,
        file_names=index.file_names[chosen],
        image_ids=index.image_ids[chosen],
        sizes_wh=index.sizes_wh[chosen],
        gt_offsets=np.concatenate(([0], np.cumsum(counts[chosen]))),
        **_gt_columns(index, np.repeat(chosen, counts)),
    )


def _gt_columns(index: DatasetIndex, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    columns = ("boxes_xyxy", "labels", "areas", "crowd", "difficult", "annotation_ids")
    stated = None if index.stated_xywh is None else index.stated_xywh[chosen]
    return {name: getattr(index, name)[chosen] for name in columns} | {"stated_xywh": stated}


def duplicate_boxes(index: DatasetIndex) -> NDArray[np.bool_]:
    """Returns (N,) which objects have image, class and box of an earlier one."""
    import pandas  # half a second, which only checks and conversions need

    columns = np.column_stack((index.gt_image_positions(), index.labels, index.boxes_xyxy))
    return pandas.DataFrame(columns).duplicated().to_numpy()


def without_boxes(index: DatasetIndex) -> str:
    """Returns in words what an index has of which no object trains or is scored."""
    crowds, difficult = int(index.crowd.sum()), int((index.difficult & ~index.crowd).sum())
    counts = {"crowd regions": crowds, "difficult objects": difficult}
    kinds = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    but = f" but {kinds}, which neither train nor are scored" if kinds else ""
    return f"{len(index)} images and no usable box{but}"


def select_classes(
    index: DatasetIndex, classes: Mapping[str, tuple[str, ...]], *, file: Path, line: int | None
) -> tuple[DatasetIndex, tuple[str, ...]]:
    """Returns the index with the classes asked for, and a sentence on what was left out.

    Objects of other classes are removed; their images stay, as background where nothing is left. A
    class has the id of the first of those that it is made of. `file` and `line` are those of key
    `classes` in the data.yaml, for errors and sentences.

    Raises:
        ConfigError: the files have no class of such a name.
    """
    label_of = {name: label for label, name in enumerate(index.names)}
    unknown = next((old for olds in classes.values() for old in olds if old not in label_of), None)
    if unknown is not None:
        near = suggestion(unknown, index.names)
        raise ConfigError(
            expected="names of its classes under key 'classes'",
            found=f"'{legible(unknown)}'",
            path=file,
            line=line,
            advice=near or f"there are {legible(', '.join(index.names))}",
        )
    new_labels = np.full(len(index.names), -1)
    for new_label, olds in enumerate(classes.values()):
        new_labels[[label_of[old] for old in olds]] = new_label
    chosen = new_labels[index.labels] >= 0
    kept = index if chosen.all() else select_gt(index, chosen)
    selected = replace(
        kept,
        names=tuple(classes),
        category_ids=index.category_ids[[label_of[olds[0]] for olds in classes.values()]],
        labels=new_labels[kept.labels],
    )
    left_out = int((~chosen).sum())
    if not left_out:
        return selected, ()
    num_classes = len(np.unique(index.labels[~chosen]))
    return selected, (
        f"left out: {left_out} {'box' if left_out == 1 else 'boxes'} of {num_classes} "
        f"{'class' if num_classes == 1 else 'classes'} that key 'classes' of {file} does not name",
    )
