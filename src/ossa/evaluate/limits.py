"""COCO's numbers at limits of one's own: other sizes, another number of detections.

By COCO's rule, of whatever range of areas: a truth out of it is ignored like a crowd region, with
what found it, and so is a detection that found nothing and is itself out of it.

Dimensions: K classes, A ranges of areas.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.coco import COCO_AREAS, COCO_MOST_DETECTIONS, score_as_coco
from ossa.types import Detections

_LARGEST = COCO_AREAS["all"][1]
_AT_50, _AT_75 = 0, 5


def score_at_limits(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    areas: Mapping[str, tuple[float, float]] = COCO_AREAS,
    most_detections: Sequence[int] = COCO_MOST_DETECTIONS,
) -> list[dict[str, Any]]:
    """Returns COCO's numbers of every range of areas and every class, ready for a table.

    Of each range the first row, with the class None, has the means over the classes that have
    truths in it; one row a class follows. Keys: `area`, `class`, `num_truths`, `ap`, `ap50` and
    `ap75` with the largest number of detections, and one recall for each, such as `ar_300`;
    fractions, None where there is nothing to find.

    Args:
        index: the truths.
        detections: by image id; an image that is absent has none.
        areas: by name, from and to, both included, in square pixels of the original image (the
            annotation's own area of a truth, that of the box of a detection); infinity is allowed.
        most_detections: the best of an image and class that take part, in any order.

    Raises:
        ConfigError: no limit, or an impossible one.
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    _check(areas, most_detections)
    bounded = {name: (low, min(high, _LARGEST)) for name, (low, high) in areas.items()}
    most = sorted(set(most_detections))
    scores = score_as_coco(index, detections, areas=bounded, most_detections=most)
    counts = ~(index.crowd | index.difficult)
    rows = []
    for place, (name, (low, high)) in enumerate(bounded.items()):
        sought = index.labels[counts & (low <= index.areas) & (index.areas <= high)]
        for label in (None, *range(len(index.names))):
            classes = slice(None) if label is None else label
            rows.append(
                {
                    "area": name,
                    "class": None if label is None else index.names[label],
                    "num_truths": len(sought) if label is None else int((sought == label).sum()),
                    **_precisions(scores.precision[:, :, classes, place]),
                    **{
                        f"ar_{number}": _mean(scores.recall[:, classes, place, column])
                        for column, number in enumerate(most)
                    },
                }
            )
    return rows


def _check(areas: Mapping[str, tuple[float, float]], most_detections: Sequence[int]) -> None:
    if not areas or not most_detections:
        raise ConfigError(
            "expected one range of areas and one number of detections at least, found "
            f"{dict(areas)} and {list(most_detections)}"
        )
    for name, (low, high) in areas.items():
        if not 0 <= low <= high or math.isinf(low):
            raise ConfigError(
                f"expected an area from 0 on and not above its end, found {low} to {high} for "
                f"{name!r}: give square pixels"
            )
    if min(most_detections) < 1:
        raise ConfigError(
            "expected one detection of an image and class at least, found "
            f"{min(most_detections)} among most_detections"
        )


def _precisions(precision: NDArray[np.float64]) -> dict[str, float | None]:
    """Returns the numbers of COCO's precisions (10, 101) or (10, 101, K)."""
    return {
        "ap": _mean(precision),
        "ap50": _mean(precision[_AT_50]),
        "ap75": _mean(precision[_AT_75]),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Returns the mean of what is defined: COCO writes -1 where there is no truth to find."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
