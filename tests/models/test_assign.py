from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor
from yolov5_oracle import Positive, Truth, positives_of_level

from ossa.models.assign import LevelAssignment, assign
from ossa.models.head import default_anchors_wh
from ossa.models.predictions import AnchorPredictions
from ossa.types import Batch

HEIGHT, WIDTH = 64, 96
STRIDES = (8, 16, 32)


def batch_of(truths: list[Truth]) -> Batch:
    """Returns the truths as a batch; its images are never looked at."""
    return Batch(
        images=torch.zeros(0, 3, HEIGHT, WIDTH, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([t.box_xyxy for t in truths]).reshape(-1, 4),
        labels=torch.tensor([t.label for t in truths], dtype=torch.int64),
        image_index=torch.tensor([t.image for t in truths], dtype=torch.int64),
        image_ids=(0, 1),
        letterboxes=(),
    )


def predictions(anchors_wh: Tensor | None = None) -> AnchorPredictions:
    anchors_wh = default_anchors_wh(STRIDES) if anchors_wh is None else anchors_wh
    logits = tuple(torch.zeros(2, anchors_wh.shape[1], HEIGHT // s, WIDTH // s, 7) for s in STRIDES)
    return AnchorPredictions(logits, anchors_wh, STRIDES)


def positives(truths: list[Truth], raw: AnchorPredictions) -> list[LevelAssignment]:
    """Returns of each level's candidates those that are positives."""
    levels = assign(batch_of(truths), raw, ratio=4.0)
    return [
        LevelAssignment(**{f.name: getattr(level, f.name)[level.positive] for f in fields(level)})
        for level in levels
    ]


def as_positives(level: LevelAssignment) -> list[Positive]:
    columns = (
        level.image_index.tolist(),
        level.anchor_index.tolist(),
        level.rows.tolist(),
        level.columns.tolist(),
        level.labels.tolist(),
        [tuple(centre) for centre in level.centres_xy.tolist()],
        [tuple(size) for size in level.sizes_wh.tolist()],
    )
    return sorted(Positive(*row) for row in zip(*columns, strict=True))


def expected(truths: list[Truth], raw: AnchorPredictions) -> list[list[Positive]]:
    return [
        positives_of_level(
            truths,
            [tuple(anchor) for anchor in raw.anchors_wh[level].tolist()],
            stride=stride,
            map_hw=(HEIGHT // stride, WIDTH // stride),
        )
        for level, stride in enumerate(STRIDES)
    ]


def random_gt(seed: int) -> list[Truth]:
    """Returns up to 20 boxes on a grid of half pixels, so that no rounding blurs a comparison.

    A third is of any size, a third ends at a border, a third has its centre where cells meet or
    in the middle of one.
    """
    generator = np.random.default_rng(seed)
    truths = []
    for _ in range(int(generator.integers(0, 21))):
        centre = generator.integers(1, (2 * WIDTH, 2 * HEIGHT)) / 2
        half = np.exp(generator.uniform(0, 4, 2)).round(1) // 0.5 * 0.5
        kind = generator.integers(3)
        if kind == 2:
            centre = centre // 4 * 4
        low, high = np.maximum(centre - half, 0), np.minimum(centre + half, (WIDTH, HEIGHT))
        if kind == 1:
            low = np.where(generator.random(2) < 0.5, 0, low)
            high = np.where(low > 0, (WIDTH, HEIGHT), high)
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        truths.append(Truth(int(generator.integers(2)), int(generator.integers(3)), box))
    return truths


def test_the_positives_are_those_of_plain_loops_over_the_formulas():
    raw = predictions()
    counts = np.zeros(3, int)
    for seed in range(60):
        truths = random_gt(seed)
        found = [as_positives(level) for level in positives(truths, raw)]
        assert found == expected(truths, raw)
        counts += [len(level) for level in found]
    assert counts.min() > 300  # every level was really tried


def test_three_cells_answer_for_a_ground_truth_in_the_midst_of_the_map():
    # Centre (35, 29): cell (column 4, row 3) of stride 8 at 0.375 and 0.625: left and below.
    truth = Truth(image=1, label=2, box_xyxy=(30, 24, 40, 34))
    anchors_wh = torch.tensor([[[10.0, 10.0]], [[500.0, 500.0]], [[500.0, 500.0]]])
    fine, middle, coarse = positives([truth], predictions(anchors_wh))
    cells = list(zip(fine.columns.tolist(), fine.rows.tolist(), strict=True))
    assert cells == [(4, 3), (3, 3), (4, 4)]
    assert fine.centres_xy.tolist() == [[0.375, 0.625], [1.375, 0.625], [0.375, -0.375]]
    assert fine.sizes_wh.tolist() == [[1.25, 1.25]] * 3
    assert fine.anchors_wh.tolist() == [[1.25, 1.25]] * 3
    assert fine.image_index.tolist() == [1, 1, 1]
    assert fine.labels.tolist() == [2, 2, 2]
    assert len(middle.rows) == len(coarse.rows) == 0


def test_a_centre_in_the_middle_of_a_cell_has_no_nearer_neighbour():
    truth = Truth(0, 0, (31, 15, 41, 25))  # centre (36, 20): 4.5 and 2.5 cells of stride 8
    anchors_wh = torch.tensor([[[10.0, 10.0]], [[500.0, 500.0]], [[500.0, 500.0]]])
    level = positives([truth], predictions(anchors_wh))[0]
    assert (level.columns.tolist(), level.rows.tolist()) == ([4], [2])


@pytest.mark.parametrize(
    ("box_xyxy", "columns_rows"),
    [((0, 0, 4, 4), [(0, 0)]), ((92, 60, 96, 64), [(11, 7)])],
    ids=["upper left", "lower right"],
)
def test_a_neighbour_outside_the_map_is_dropped(box_xyxy, columns_rows):
    anchors_wh = torch.tensor([[[4.0, 4.0]], [[500.0, 500.0]], [[500.0, 500.0]]])
    level = positives([Truth(0, 0, box_xyxy)], predictions(anchors_wh))[0]
    found = list(zip(level.columns.tolist(), level.rows.tolist(), strict=True))
    assert found == columns_rows


@pytest.mark.parametrize(("side", "fits"), [(39.5, True), (40, False), (3, True), (2.5, False)])
def test_a_side_that_differs_by_the_ratio_does_not_fit(side: float, fits: bool):
    truth = Truth(0, 0, (20, 20, 20 + side, 30))
    anchors_wh = torch.tensor([[[10.0, 10.0]], [[500.0, 500.0]], [[500.0, 500.0]]])
    level = positives([truth], predictions(anchors_wh))[0]
    assert (len(level.rows) > 0) == fits


def test_without_ground_truth_nothing_is_positive():
    levels = positives([], predictions())
    assert [len(level.rows) for level in levels] == [0, 0, 0]


def test_a_ground_truth_without_width_is_no_positive():
    levels = positives([Truth(0, 0, (20, 20, 20, 40))], predictions())
    assert [len(level.rows) for level in levels] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_every_candidate_lies_within_the_map_and_has_finite_lengths(seed: int):
    truths = [*random_gt(seed), Truth(0, 0, (96, 64, 96, 64))]
    for level, stride in zip(
        assign(batch_of(truths), predictions(), ratio=4.0), STRIDES, strict=True
    ):
        assert len(level.positive) == len(truths) * 3 * 3
        assert 0 <= int(level.rows.min()) <= int(level.rows.max()) < HEIGHT // stride
        assert 0 <= int(level.columns.min()) <= int(level.columns.max()) < WIDTH // stride
        assert level.centres_xy.isfinite().all()
        assert level.sizes_wh.isfinite().all()
