"""The detections of one picture as plain JSON, YOLO txt, COCO results, and rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ossa.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from ossa.types import Detections

TABLE_COLUMNS: Final = ("label", "name", "score", "xmin", "ymin", "xmax", "ymax")
"""Of every table of detections; the edges are in pixels of the picture."""


def picture_result(
    size_wh: tuple[int, int],
    detections: Detections,
    *,
    names: Sequence[str],
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what was found in a picture, ready for JSON; boxes in pixels of the picture.

    Args:
        size_wh: width and height of the picture in pixels.
        detections: of the picture.
        names: K class names.
        place: which picture it is; stands first.
    """
    return {
        **place,
        "width": size_wh[0],
        "height": size_wh[1],
        "detections": [
            {"label": label, "name": names[label], "score": score, "box_xyxy": box_xyxy}
            for label, score, box_xyxy in zip(
                detections.labels.tolist(),
                detections.scores.tolist(),
                detections.boxes_xyxy.tolist(),
                strict=True,
            )
        ],
    }


def yolo_text(detections: Detections, size_wh: tuple[int, int], *, scores: bool = False) -> str:
    """Returns one line a detection: `label cx cy w h`, in fractions of the picture.

    Args:
        detections: of one picture.
        size_wh: its width and height in pixels.
        scores: add the score as a sixth column.
    """
    columns = xyxy_to_cxcywh(detections.boxes_xyxy.astype(np.float64)) / [*size_wh, *size_wh]
    if scores:
        columns = np.column_stack((columns, detections.scores))
    return "".join(
        f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
        for label, row in zip(detections.labels.tolist(), columns.tolist(), strict=True)
    )


def coco_results(
    detections: Detections,
    *,
    image_id: int,
    category_ids: Sequence[int],
    place: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Returns the entries of a COCO results file for one picture; bbox is x, y, width, height.

    Args:
        detections: of the picture.
        image_id: by which the data set, or the order of the pictures, knows it.
        category_ids: K ids, by label.
        place: goes with each entry, for pictures of no data set, such as its `file_name`.
    """
    rows = zip(
        detections.labels.tolist(),
        xyxy_to_xywh(detections.boxes_xyxy.astype(np.float64)).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    return [
        {
            "image_id": image_id,
            **place,
            "category_id": category_ids[label],
            "bbox": bbox,
            "score": score,
        }
        for label, bbox, score in rows
    ]


def table_rows(detections: Detections, *, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Returns one row of `TABLE_COLUMNS` a detection."""
    return [
        (label, names[label], score, *box_xyxy)
        for label, score, box_xyxy in zip(
            detections.labels.tolist(),
            detections.scores.tolist(),
            detections.boxes_xyxy.tolist(),
            strict=True,
        )
    ]
