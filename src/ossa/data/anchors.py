"""How well anchors fit the boxes that train, and anchors fitted to them.

Dimensions: N training boxes, L levels, A anchors a level, C = L x A clusters.
Sizes are widths and heights in pixels of the network input, without augmentation.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from ossa.config import Tiles
from ossa.data.annotations import DatasetIndex
from ossa.data.tiles import sides_seen
from ossa.errors import DataError

_MOST_BOXES = 20_000  # more of them, drawn at random, would hardly move the anchors
_STARTS = 5
_ROUNDS = 100
_SMALLEST_SIDE = 0.1


def best_possible_recall(
    index: DatasetIndex,
    anchors_wh: NDArray[np.floating],
    *,
    imgsz: int,
    ratio: float,
    tiles: Tiles | None = None,
) -> float:
    """Returns the fraction (0..1) of the training boxes that match some of the anchors (L, A, 2).

    Width and height of these boxes both differ from an anchor's by less than the factor `ratio`, as
    in the assignment of training. No detector with these anchors learns from the other boxes.

    Raises:
        DataError: no box that trains.
    """
    sizes_wh = _training_sizes_wh(index, imgsz, tiles)
    matched = np.zeros(len(sizes_wh), dtype=np.bool_)
    for anchor_wh in anchors_wh.reshape(-1, 2):
        factors = sizes_wh / anchor_wh
        matched |= np.maximum(factors, 1 / factors).max(axis=1) < ratio
    return float(matched.mean())


def fit_anchors(
    index: DatasetIndex,
    *,
    num_levels: int,
    per_level: int = 3,
    imgsz: int,
    seed: int,
    tiles: Tiles | None = None,
) -> NDArray[np.float64]:
    """Returns anchors (L, A, 2) fitted to the training boxes, from small to large area.

    k-means of the logarithms of width and height: there distances are ratios, which decide
    whether an anchor fits, and a small box counts as much as a large one. Starts by k-means++
    (Arthur and Vassilvitskii, 2007), the best of several. In tenths of a pixel.

    Raises:
        DataError: fewer boxes of different sizes than anchors.
    """
    generator = np.random.default_rng(seed)
    logs_wh = np.log(_training_sizes_wh(index, imgsz, tiles))
    if len(logs_wh) > _MOST_BOXES:
        logs_wh = generator.choice(logs_wh, _MOST_BOXES, replace=False)
    count, different = num_levels * per_level, len(np.unique(logs_wh, axis=0))
    if different < count:
        raise DataError(
            expected=f"training boxes of at least {count} different sizes for as many anchors",
            found=str(different),
            path=index.root,
            advice="give model.anchors_wh instead",
        )
    fits = [
        kmeans2(logs_wh, count, iter=_ROUNDS, minit="++", rng=generator)[0] for _ in range(_STARTS)
    ]
    centres = min(fits, key=lambda fit: vq(logs_wh, fit)[1].sum())
    anchors_wh = np.exp(centres[np.argsort(centres.sum(axis=1), kind="stable")])
    anchors_wh = np.maximum(anchors_wh.round(1), _SMALLEST_SIDE)
    return anchors_wh.reshape(num_levels, per_level, 2)


def sizes_at_input_wh(
    index: DatasetIndex, imgsz: int, tiles: Tiles | None = None
) -> NDArray[np.float64]:
    """Returns (N, 2) widths and heights of all boxes in pixels of the network input.

    They are clipped to their images, as the data set does, and no larger than a window shows.
    """
    image = index.gt_image_positions()
    limits = np.tile(index.sizes_wh[image], 2)
    boxes_xyxy = np.clip(index.boxes_xyxy, 0, limits)
    scale = (sides_seen(index.sizes_wh, imgsz, tiles) / index.sizes_wh.max(axis=1))[image, None]
    sizes_wh = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * scale
    return sizes_wh if tiles is None else np.minimum(sizes_wh, imgsz)


def _training_sizes_wh(index: DatasetIndex, imgsz: int, tiles: Tiles | None) -> NDArray[np.float64]:
    """Returns (N, 2) of the boxes that train."""
    sizes_wh = sizes_at_input_wh(index, imgsz, tiles)
    sizes_wh = sizes_wh[~(index.crowd | index.difficult) & (sizes_wh > 0).all(axis=1)]
    if not len(sizes_wh):
        raise DataError(expected="a box that trains", path=index.root)
    return sizes_wh
