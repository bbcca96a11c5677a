"""Label files without an image and images without labels, which the index does not show."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ossa.data.checks.findings import MOST_CASES, Case, Finding, Shown
from ossa.data.description import DataDescription
from ossa.data.formats.common import folders_under, is_image, names_in
from ossa.data.formats.yolo import label_file_of
from ossa.data.index import DatasetIndex, IndexReport
from ossa.data.problems import ProblemKind

_NO_LABELS: Final = frozenset({"classes.txt"})
"""Files that tools of annotation leave beside the labels."""


def find_lost_labels(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> list[Finding]:
    """Returns a finding of the label files whose image is nowhere, of all splits together.

    A label file of an image that no split lists is none of them. COCO has no label files: reading
    reports annotations of unknown images.

    Args:
        description: of the data set.
        indexes: of its splits.
    """
    if description.format == "coco":
        return []
    folders = _yolo_folders if description.format == "yolo" else _voc_folders
    lists = {str(path) for source in description.splits.values() for path in source.sources}
    suffix = ".txt" if description.format == "yolo" else ".xml"
    lost = []
    for labels, images in sorted(dict(folders(description, indexes)).items()):
        names = sorted(_names(images), key=is_image)  # of one stem the image comes last and stays
        files = {os.path.splitext(name)[0]: name for name in names if not name.endswith(suffix)}
        for name in sorted(_names(labels)):
            stem, found = os.path.splitext(name)
            file = os.path.join(labels, name)
            is_label = found == suffix and name not in _NO_LABELS and file not in lists
            beside = files.get(stem)
            if is_label and (beside is None or not is_image(beside)):
                other = "" if beside is None else f", and {beside} is not read"
                lost.append(Case(Path(file), f"no image '{stem}' in {images}{other}"))
    if not lost:
        return []
    cases = tuple(lost[:MOST_CASES])
    return [Finding(ProblemKind.LABELS_WITHOUT_IMAGE, None, len(lost), cases)]


def find_unlabelled(description: DataDescription, split: str, report: IndexReport) -> list[Finding]:
    """Returns a finding of the images that are background for want of labels.

    In YOLO these have no label file (an empty one says that there is nothing), in COCO no
    annotation. VOC's reader leaves out an image without a file.
    """
    if description.format == "voc":
        return []
    index = report.index
    accused = {problem.image for problem in report.problems}
    paths = (
        str(index.image_path(n)) for n in np.flatnonzero(np.diff(index.truth_offsets) == 0).tolist()
    )
    if description.format == "yolo":
        unlabelled = [path for path in paths if not os.path.exists(label_file_of(path))]
        what = "no label file"
    else:
        unlabelled = [path for path in paths if path not in accused]
        what = "no annotation"
    if not unlabelled:
        return []
    cases = tuple(Case(Path(path), what, shown=(Shown(path),)) for path in unlabelled[:MOST_CASES])
    return [Finding("image-background", split, len(unlabelled), cases)]


def annotation_file(description: DataDescription, split: str, image: str) -> Path:
    """Returns the file that holds the boxes of an image, by its absolute path."""
    if description.format == "coco":
        return description.splits[split].sources[0]
    if description.format == "yolo":
        return Path(label_file_of(image))
    path = Path(image)
    return path.parents[1] / "Annotations" / f"{path.stem}.xml"


def _yolo_folders(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> Iterator[tuple[str, str]]:
    """Yields folders of labels and of their images."""
    for source in description.splits.values():
        for folder in source.sources:
            if folder.is_dir():
                top = os.path.dirname(label_file_of(str(folder / "_")))
                for parent, _ in folders_under(top) if os.path.isdir(top) else ():
                    yield parent, os.path.normpath(folder / os.path.relpath(parent, top))
    for index in indexes.values():
        root = str(index.root)
        for folder in {os.path.dirname(name) for name in index.file_names.tolist()}:
            images = os.path.normpath(os.path.join(root, folder))
            yield os.path.dirname(label_file_of(os.path.join(images, "_"))), images


def _voc_folders(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> Iterator[tuple[str, str]]:
    """Yields folders of annotations and of their images."""
    for index in indexes.values():
        for folder in {os.path.dirname(name) for name in index.file_names.tolist()}:
            images = os.path.normpath(index.root / folder)
            yield os.path.join(os.path.dirname(images), "Annotations"), images


def _names(folder: str) -> list[str]:
    return names_in(folder) if os.path.isdir(folder) else []
