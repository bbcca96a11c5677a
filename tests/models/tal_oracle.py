"""Assignment by task alignment and its losses as plain Python loops over the papers' formulas.

Slow and without tensors on purpose: nothing here is shared with the code under test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yolov5_oracle import Box, Truth, binary_cross_entropy, ciou


@dataclass(frozen=True)
class Point:
    """The centre of a cell, and what the head says there of one image."""

    x: float
    y: float
    stride: int
    logits: Sequence[float]
    """4 R distances, then K classes."""

    def distances(self, bins: int) -> list[float]:
        """Returns left, top, right, bottom in strides: means of softmaxes, or softplus."""
        if bins == 1:
            return [math.log1p(math.exp(self.logits[side])) for side in range(4)]
        means = []
        for side in range(4):
            weights = [math.exp(v) for v in self.logits[side * bins : (side + 1) * bins]]
            means.append(sum(i * w for i, w in enumerate(weights)) / sum(weights))
        return means

    def box(self, bins: int) -> Box:
        left, top, right, bottom = (self.stride * d for d in self.distances(bins))
        return (self.x - left, self.y - top, self.x + right, self.y + bottom)


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def assign(
    images: Sequence[Sequence[Point]],
    truths: Sequence[Truth],
    *,
    bins: int,
    topk: int,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> list[dict[int, float]]:
    """Returns for each truth its positives, as positions of points, with their soft targets."""
    wanted: list[dict[int, float]] = []
    overlaps: list[dict[int, float]] = []
    for truth in truths:
        points, (x0, y0, x1, y1) = images[truth.image], truth.box_xyxy
        inside = [i for i, p in enumerate(points) if x0 < p.x < x1 and y0 < p.y < y1]
        if not inside:
            finest = min(point.stride for point in points)
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            fine = [i for i, point in enumerate(points) if point.stride == finest]
            inside = [min(fine, key=lambda i: math.hypot(points[i].x - x, points[i].y - y))]
        of_points = {i: iou(points[i].box(bins), truth.box_xyxy) for i in inside}
        overlaps.append(of_points)
        alignment = {}
        for i in inside:
            score = 1 / (1 + math.exp(-points[i].logits[4 * bins + truth.label]))
            alignment[i] = score**alpha * of_points[i] ** beta
        best = sorted(alignment, key=lambda i: -alignment[i])[:topk]
        wanted.append({i: alignment[i] for i in best})
    targets = []
    for number, truth in enumerate(truths):
        rivals = [n for n, t in enumerate(truths) if t.image == truth.image and n != number]
        mine = {
            i: t
            for i, t in wanted[number].items()
            if all(i not in wanted[n] or overlaps[n][i] < overlaps[number][i] for n in rivals)
        }
        largest = max(mine.values(), default=0.0)
        largest_iou = max((overlaps[number][i] for i in mine), default=0.0)
        targets.append({i: t / largest * largest_iou for i, t in mine.items()})
    return targets


def losses(
    images: Sequence[Sequence[Point]], truths: Sequence[Truth], *, bins: int, topk: int
) -> tuple[float, float, float]:
    """Returns box, class and distribution focal loss without gains."""
    targets = assign(images, truths, bins=bins, topk=topk)
    total = max(sum(sum(of.values()) for of in targets), 1.0)
    soft = {
        (t.image, i, t.label): v
        for t, of in zip(truths, targets, strict=True)
        for i, v in of.items()
    }
    classes = sum(
        binary_cross_entropy(logit, soft.get((image, i, label), 0.0))
        for image, points in enumerate(images)
        for i, point in enumerate(points)
        for label, logit in enumerate(point.logits[4 * bins :])
    )
    box = focal = 0.0
    for truth, of in zip(truths, targets, strict=True):
        for i, target in of.items():
            point, (x0, y0, x1, y1) = images[truth.image][i], truth.box_xyxy
            box += target * (1 - ciou(point.box(bins), truth.box_xyxy))
            sides = (point.x - x0, point.y - y0, x1 - point.x, y1 - point.y)
            focal += target * sum(
                _focal(point.logits[k * bins : (k + 1) * bins], side / point.stride)
                for k, side in enumerate(sides)
            ) / 4  # fmt: skip
    return box / total, classes / total, focal / total if bins > 1 else 0.0


def _focal(logits: Sequence[float], distance: float) -> float:
    """Returns -((i + 1 - y) log S_i + (y - i) log S_{i+1}) for a distance y between i and i + 1."""
    if len(logits) == 1:
        return 0.0
    y = min(max(distance, 0.0), len(logits) - 1 - 0.01)
    i, total = math.floor(y), sum(map(math.exp, logits))
    left, right = (math.log(math.exp(logits[j]) / total) for j in (i, i + 1))
    return -((i + 1 - y) * left + (y - i) * right)
