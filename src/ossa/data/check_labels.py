"""Label files without an image and images without labels, which the index does not show."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ossa.data.annotations import DatasetIndex, IndexReport
from ossa.data.description import DataDescription
from ossa.data.formats.common import (
    annotation_places,
    folders_under,
    is_image,
    label_places,
    names_in,
)
from ossa.data.issues import ImageBoxes, Issue, IssueGroup, IssueKind, group_issues

_NO_LABELS: Final = frozenset({"classes.txt"})
"""Files that tools of annotation leave beside the labels."""


def find_lost_labels(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> list[IssueGroup]:
    """Returns a group of the label files whose image is nowhere, of all splits together.

    A label file of an image that no split lists is none of them. COCO has no label files: reading
    reports annotations of unknown images.

    Args:
        description: of the data set.
        indexes: of its splits.
    """
    if description.format == "coco":
        return []
    lists = {str(path) for source in description.splits.values() for path in source.sources}
    suffix = ".txt" if description.format == "yolo" else ".xml"
    lost, kind = [], IssueKind.LABELS_WITHOUT_IMAGE
    folders: dict[str, set[str]] = {}
    for labels, images in _label_folders(description, indexes):
        folders.setdefault(labels, set()).add(images)
    for labels, of_images in sorted(folders.items()):
        names = [name for images in of_images for name in _names(images)]
        names.sort(key=is_image)  # of one stem the image comes last and stays
        files = {os.path.splitext(name)[0]: name for name in names if not name.endswith(suffix)}
        images = " and ".join(sorted(of_images))
        if labels == images and not any(f"{stem}{suffix}" in names for stem in files):
            continue  # what lies beside the images are no labels
        for name in sorted(_names(labels)):
            stem, found = os.path.splitext(name)
            file = os.path.join(labels, name)
            is_label = found == suffix and name not in _NO_LABELS and file not in lists
            beside = files.get(stem)
            if is_label and (beside is None or not is_image(beside)):
                other = "" if beside is None else f", and {beside} is not read"
                detail = f"no image '{stem}' in {images}{other}"
                lost.append(Issue(kind, Path(file), None, detail))
    return group_issues(lost, None)


def find_unlabelled(split: str, report: IndexReport, *, data_format: str) -> list[IssueGroup]:
    """Returns a group of the images that are background for want of labels.

    In YOLO these have no label file (an empty one says that there is nothing), in COCO no
    annotation. VOC's reader leaves out an image without a file, and reports it.
    """
    unlabelled = report.labels.unlabelled
    if data_format == "voc":
        return []
    what = "no label file" if data_format == "yolo" else "no annotation"
    kind = IssueKind.IMAGE_BACKGROUND
    issues = (Issue(kind, Path(p), None, what, images=(ImageBoxes(p),)) for p in unlabelled)
    return group_issues(issues, split)


def annotation_file(description: DataDescription, split: str, image: str) -> Path:
    """Returns the file that holds the boxes of an image, by its absolute path."""
    if description.format == "coco":
        return description.splits[split].sources[0]
    places = (label_places if description.format == "yolo" else annotation_places)(image)
    return Path(next((place for place in places if os.path.exists(place)), places[0]))


def _label_folders(
    description: DataDescription, indexes: Mapping[str, DatasetIndex]
) -> Iterator[tuple[str, str]]:
    """Yields folders of labels and of their images; a folder may be both."""
    places = label_places if description.format == "yolo" else annotation_places
    for source in description.splits.values():
        for folder in source.sources:
            for place in places(str(folder / "_")) if folder.is_dir() else ():
                top = os.path.dirname(place)
                for parent, _ in folders_under(top) if os.path.isdir(top) else ():
                    yield parent, os.path.normpath(folder / os.path.relpath(parent, top))
    for index in indexes.values():
        root = str(index.root)
        for folder in {os.path.dirname(name) for name in index.file_names.tolist()}:
            images = os.path.normpath(os.path.join(root, folder))
            for place in places(os.path.join(images, "_")):
                yield os.path.dirname(place), images


def _names(folder: str) -> list[str]:
    return names_in(folder) if os.path.isdir(folder) else []
