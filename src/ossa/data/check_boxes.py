"""Boxes that can be read and are strange all the same.

Dimensions: I images, N truths.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.anchors import sizes_at_input_wh
from ossa.data.annotations import DatasetIndex
from ossa.data.check_labels import annotation_file
from ossa.data.description import DataDescription
from ossa.data.formats.common import shown
from ossa.data.issues import MAX_EXAMPLES, ImageBoxes, Issue, IssueGroup, IssueKind

TINY_SIDE: Final = 2.0
"""Pixels of the network input: of a shorter side below it a detector of stride 8 sees nothing."""
COVERING_SHARE: Final = 0.99
"""Of the image's area."""


def find_strange_boxes(
    index: DatasetIndex, split: str, *, imgsz: int, description: DataDescription
) -> list[IssueGroup]:
    """Returns issues of boxes stated twice, tiny, or covering their images; no crowd regions.

    Args:
        index: of the split.
        split: its name.
        imgsz: side of the square network input.
        description: where their annotations lie.
    """
    sizes_wh = sizes_at_input_wh(index, imgsz)
    shorter = np.where(index.crowd, np.inf, sizes_wh.min(axis=1, initial=np.inf))
    images_wh = index.sizes_wh * (imgsz / index.sizes_wh.max(axis=1, keepdims=True))
    shares = sizes_wh.prod(axis=1) / images_wh.prod(axis=1)[index.gt_image_positions()]
    shares[index.crowd] = 0
    where = partial(annotation_file, description, split)
    repeated = np.flatnonzero(repeated_gt(index))
    tiny = np.flatnonzero(shorter < TINY_SIDE)
    covering = np.flatnonzero(shares >= COVERING_SHARE)
    tiny = tiny[np.argsort(shorter[tiny], kind="stable")]
    covering = covering[np.argsort(-shares[covering], kind="stable")]
    under = f"a side under {TINY_SIDE:g} px at {imgsz}"
    found = (
        (IssueKind.BOX_DUPLICATED, repeated, "", lambda row: "stated twice"),
        (IssueKind.BOX_TINY, tiny, under, lambda row: f"{shorter[row]:.2g} px at {imgsz}"),
        (
            IssueKind.BOX_COVERING,
            covering,
            f"{COVERING_SHARE:.0%} or more",
            lambda row: f"{shares[row]:.1%} of the image",
        ),
    )
    return [
        IssueGroup(
            kind,
            split,
            len(rows),
            tuple(
                _box_issue(kind, index, row, say(row), where)
                for row in rows[:MAX_EXAMPLES].tolist()
            ),
            note=note,
        )
        for kind, rows, note, say in found
        if len(rows)
    ]


def repeated_gt(index: DatasetIndex) -> NDArray[np.bool_]:
    """Returns (N,) which truths have image, class and box of one before them."""
    columns = (*index.boxes_xyxy.T, index.labels, index.gt_image_positions())
    order = np.lexsort(columns)
    repeated = np.zeros(len(order), np.bool_)
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    repeated[order[1:]] = same  # the sort is stable: of equal ones the first comes first
    return repeated


def _box_issue(
    kind: IssueKind, index: DatasetIndex, row: int, what: str, where: Callable[[str], Path]
) -> Issue:
    position = int(np.searchsorted(index.gt_offsets, row, side="right")) - 1
    x0, y0, x1, y1 = index.boxes_xyxy[row].tolist()
    name, image = index.names[index.labels[row]], str(index.image_path(position))
    file = where(image)
    # Label files are named after their image; in the one JSON file it takes the ids.
    ids = f"annotation {index.annotation_ids[row]} of image {index.image_ids[position]}: "
    detail = f"{ids if file.suffix == '.json' else ''}box {shown((x0, y0, x1, y1))}, {name}, {what}"
    images = (ImageBoxes(image, ((x0, y0, x1, y1),)),)
    return Issue(kind, file, None, detail, images=images)
