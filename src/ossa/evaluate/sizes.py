"""AP by the size of objects as the network sees them.

COCO's small, medium and large are counted in pixels of the original image, which the network never
sees: 60 pixels of a photograph of 4,000 are 10 at 640. Here a size is the square root of the area
of the box at the network's input, after the letterbox has brought the longer side of the image to
`imgsz`. It is that of the box, for truths as for detections: an annotation's own area (of a mask)
is smaller, and a detection has none.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ossa.data.index import DatasetIndex
from ossa.evaluate.bins import BinScores, score_bins
from ossa.evaluate.matching import Matches

SIZE_EDGES = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Square roots of areas in pixels of the network's input: the strides of a detector of five levels,
each the size of one of its cells."""


def by_size(
    index: DatasetIndex,
    matches: Matches,
    *,
    imgsz: int,
    edges: tuple[float, ...] = SIZE_EDGES,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP by the size of objects at the network's input.

    Args:
        index: the truths.
        matches: of the same split.
        imgsz: side of the square network input in pixels.
        edges: ascending; a bin holds its lower edge and not its upper one.
        weights: of the images in resamples, as in `score_bins`.
    """
    scales = imgsz / index.sizes_wh.max(axis=1)
    truths = np.sqrt(index.boxes_xywh[:, 2:].prod(axis=1)) * scales[matches.truth_images]
    found = np.sqrt(matches.areas) * scales[matches.images]
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return score_bins(
        matches,
        name="size",
        labels=(f"under {edges[0]:g}", *inner, f"{edges[-1]:g} and over"),
        truth_bins=np.searchsorted(edges, truths, side="right"),
        detection_bins=np.searchsorted(edges, found, side="right"),
        weights=weights,
    )
