from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tal_oracle import Point, assign, losses
from torch import Tensor
from yolov5_oracle import Truth

from ossa.config import EvaluateConfig, LossConfig, ModelConfig
from ossa.models.dense_head import DenseHead
from ossa.models.dense_loss import DenseLossTerms, TaskAlignedLoss
from ossa.models.detector import build_detector
from ossa.models.postprocess import non_max_suppression
from ossa.models.predictions import DensePredictions
from ossa.types import Batch, Letterbox, Level

SIDE, STRIDES = 64, (8, 16, 32)
LEVELS = tuple(Level(stride, 16) for stride in STRIDES)
GAINS = (7.5, 0.5, 1.5)
ODD = [  # a pixel, the whole image, two without a centre in one cell, none at all
    Truth(0, 0, (30.0, 30.0, 31.0, 31.0)),
    Truth(1, 2, (0.0, 0.0, 64.0, 64.0)),
    Truth(1, 1, (40.5, 40.5, 43.0, 43.0)),
    Truth(1, 1, (40.0, 40.0, 43.5, 43.5)),
    Truth(0, 1, (20.0, 20.0, 20.0, 20.0)),
]


def batch_of(truths: list[Truth], *, images: int = 2) -> Batch:
    return Batch(
        images=torch.zeros(images, 3, SIDE, SIDE, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([t.box_xyxy for t in truths], dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor([t.label for t in truths], dtype=torch.int64),
        image_index=torch.tensor([t.image for t in truths], dtype=torch.int64),
        image_ids=tuple(range(images)),
        letterboxes=(),
    )


def predictions(
    seed: int, *, bins: int = 16, classes: int = 3, branches: int = 1, images: int = 2
) -> DensePredictions:
    """Returns random predictions in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(
        torch.randn(
            images, branches, SIDE // s, SIDE // s, 4 * bins + classes,
            generator=generator, dtype=torch.float64,
        )
        for s in STRIDES
    )  # fmt: skip
    return DensePredictions(logits, STRIDES, bins, end_to_end=branches == 2)


def random_gt(seed: int, *, classes: int = 3) -> list[Truth]:
    """Returns some boxes of 2 to 50 px, several of them over one another."""
    generator = np.random.default_rng(seed)
    truths = []
    for _ in range(seed * 3):
        x0, y0 = generator.uniform(0, 40, 2).tolist()
        w, h = (2 * 12 ** generator.uniform(0, 1, 2)).tolist()
        image, label = generator.integers((2, classes)).tolist()
        truths.append(Truth(image, label, (x0, y0, x0 + w, y0 + h)))
    return truths


def points_of(raw: DensePredictions, *, branch: int = 0) -> list[list[Point]]:
    return [
        [
            Point((column + 0.5) * stride, (row + 0.5) * stride, stride, answer)
            for logits, stride in zip(raw.logits, raw.strides, strict=True)
            for row, of_row in enumerate(logits[image, branch].tolist())
            for column, answer in enumerate(of_row)
        ]
        for image in range(len(raw.logits[0]))
    ]


def loss_of(raw: DensePredictions, **settings: Any) -> TaskAlignedLoss:
    end_to_end = raw.logits[0].shape[1] == 2
    return TaskAlignedLoss(LossConfig(**settings), reg_max=raw.reg_max, end_to_end=end_to_end)


@pytest.mark.parametrize(
    ("seed", "bins", "classes", "branches"),
    [(0, 16, 3, 1), (1, 16, 3, 1), (2, 16, 1, 1), (3, 1, 3, 1), (4, 8, 3, 2), (1, 1, 1000, 1)],
)
def test_the_losses_are_those_of_plain_loops_over_the_formulas(
    seed: int, bins: int, classes: int, branches: int
):
    raw = predictions(seed, bins=bins, classes=classes, branches=branches)
    truths = random_gt(seed, classes=classes)
    terms = loss_of(raw)(raw, batch_of(truths))
    slow = np.zeros(3)
    for branch, topk in enumerate((10, 1)[:branches]):
        slow += losses(points_of(raw, branch=branch), truths, bins=bins, topk=topk)
    found = [term.item() for term in terms[:3]]
    assert found == pytest.approx((slow * GAINS).tolist(), rel=1e-6)
    assert terms.total().item() == pytest.approx(float(slow @ GAINS), rel=1e-6)


@pytest.mark.parametrize("seed", [2, 4, 6])
def test_each_box_has_the_positives_of_plain_loops(seed: int):
    raw, truths = predictions(seed), [*random_gt(seed), *ODD[:2]]
    slow = assign(points_of(raw), truths, bins=16, topk=10)
    by_stride = dict.fromkeys(STRIDES, 0)
    for truth, of in zip(truths, slow, strict=True):
        for i in of:
            by_stride[points_of(raw)[truth.image][i].stride] += 1
    assert loss_of(raw).positives(raw, batch_of(truths)) == list(by_stride.values())
    lost = sum(not of for of in slow) / len(truths)
    assert loss_of(raw)(raw, batch_of(truths)).unassigned.item() == pytest.approx(lost)


def test_a_box_without_a_centre_takes_the_nearest_and_of_two_in_a_cell_one_is_lost():
    raw, tiny = predictions(0), Truth(0, 0, (30.0, 30.0, 31.0, 31.0))
    assert loss_of(raw).positives(raw, batch_of([tiny])) == [1, 0, 0]
    assert loss_of(raw)(raw, batch_of([tiny])).unassigned.item() == 0
    terms = loss_of(raw)(raw, batch_of([tiny, tiny, Truth(1, 0, (0, 0, 64, 64))]))
    assert terms.unassigned.item() == pytest.approx(1 / 3)


def test_without_ground_truth_there_is_class_loss_alone():
    # A logit of 0 costs ln 2, in 84 points of 2 images and 3 classes: 0.5 x 504 x ln 2.
    raw = predictions(0)
    zeros = raw._replace(logits=tuple(level * 0 for level in raw.logits))
    terms = loss_of(raw)(zeros, batch_of([]))
    assert terms.classes.item() == pytest.approx(252 * np.log(2))
    assert (terms.box.item(), terms.dfl.item(), terms.unassigned.item()) == (0, 0, 0)


@pytest.mark.parametrize("bins", [1, 16])
@pytest.mark.parametrize("extreme", [None, -1e4, 1e4])
def test_boxes_of_a_pixel_and_of_the_whole_image_give_finite_gradients(
    bins: int, extreme: float | None
):
    raw = predictions(1, bins=bins, branches=2)
    for logits in raw.logits:
        if extreme is not None:
            logits[..., : 4 * bins : 2] = extreme
        logits.requires_grad_()
    terms = loss_of(raw)(raw, batch_of(ODD))
    terms.total().backward()
    assert torch.isfinite(terms.total())
    assert all(level.grad is not None and level.grad.isfinite().all() for level in raw.logits)


def test_in_bf16_the_losses_are_float32_and_those_of_the_rounded_logits():
    raw = predictions(2)
    rounded = raw._replace(logits=tuple(level.bfloat16() for level in raw.logits))
    batch = batch_of(random_gt(2))
    batch = replace(batch, boxes_xyxy=batch.boxes_xyxy.float())
    terms = loss_of(raw)(rounded, batch)
    single = raw._replace(logits=tuple(level.float() for level in rounded.logits))
    assert terms.box.dtype == torch.float32
    assert torch.equal(torch.stack(terms), torch.stack(loss_of(raw)(single, batch)))


def test_shares_of_a_batch_sum_up_to_the_whole():
    raw, truths = predictions(3, branches=2, images=3), random_gt(3)
    whole = loss_of(raw)(raw, batch_of(truths, images=3))
    halves: list[tuple[int, ...]] = [(0,), (1, 2)]
    sums: list[Tensor] = []

    def share_of(images: tuple[int, ...], all_reduce: Any) -> DenseLossTerms:
        logits = tuple(level[list(images)] for level in raw.logits)
        share = [
            Truth(images.index(t.image), t.label, t.box_xyxy) for t in truths if t.image in images
        ]
        loss = loss_of(raw).with_all_reduce(all_reduce)
        return loss(raw._replace(logits=logits), batch_of(share, images=len(images)))

    for images in halves:
        share_of(images, lambda own: sums.append(own) or own)
    shares = [share_of(images, lambda _: sums[0] + sums[1]) for images in halves]
    loss_of(raw).with_all_reduce(lambda own: sums.append(own) or own).without_images(
        torch.device("cpu")
    )
    assert sums[-1].shape == sums[0].shape  # a rank without images joins with as many numbers
    for i, term in enumerate(whole):
        assert sum(share[i].item() for share in shares) == pytest.approx(term.item(), rel=1e-9)


def test_the_first_scores_are_those_of_five_objects_in_an_image_of_640_px():
    head = DenseHead(LEVELS, num_classes=80)
    # log(5 / 80 / 80^2) = -11.54, and log 4 more for each level, which has a quarter of the cells.
    biases = [head.one_to_many.classes[i][-1].bias.unique().item() for i in range(3)]  # type: ignore[union-attr, index]
    assert biases == pytest.approx([-11.536, -10.150, -8.764], abs=1e-3)


def test_widths_follow_the_finest_level_the_bins_and_the_classes():
    head = DenseHead((Level(8, 64), Level(16, 128)), num_classes=3)
    widths = [(b[0].conv.out_channels, c[0].conv.out_channels) for b, c in _branches(head)]
    assert widths == [(64, 64), (64, 64)]  # 4 x 16 bins; the finest level's channels
    head = DenseHead((Level(8, 256),), num_classes=1000, reg_max=1)
    widths = [(b[0].conv.out_channels, c[0].conv.out_channels) for b, c in _branches(head)]
    assert widths == [(64, 256)]  # a quarter of the channels; 100 for classes are fewer


def _branches(head: DenseHead) -> list[tuple[Any, Any]]:
    assert head.one_to_many is not None
    return list(zip(head.one_to_many.boxes, head.one_to_many.classes, strict=True))


def test_the_one_to_one_branch_passes_no_gradient_back():
    head = DenseHead(LEVELS, num_classes=3, end_to_end=True)
    features = [torch.randn(1, 16, 64 // s, 64 // s, requires_grad=True) for s in STRIDES]
    raw = head(features)
    assert [tuple(level.shape[:2]) for level in raw.logits] == [(1, 2)] * 3
    sum(level[:, 1].sum() for level in raw.logits).backward()  # type: ignore[union-attr]
    assert all(level.grad is None or level.grad.abs().sum() == 0 for level in features)
    head.switch_to_deploy()
    deployed = head(features)
    for level, whole in zip(deployed.logits, raw.logits, strict=True):
        assert torch.equal(level[:, 0], whole[:, 1])


def sure_of_two_points(*, end_to_end: bool) -> DensePredictions:
    """Returns predictions of which two neighbours say the same box, 4, 4, 36, 36, of class 1."""
    logits = torch.full((1, 1, 8, 8, 4 * 16 + 3), -20.0)
    for row, column, distances in ((2, 2, (2, 2, 2, 2)), (2, 3, (3, 2, 1, 2))):
        for side, distance in enumerate(distances):
            logits[0, 0, row, column, 16 * side + distance] = 40.0
        logits[0, 0, row, column, 64 + 1] = 2.0 + column
    return DensePredictions((logits,), (8,), 16, end_to_end)


@pytest.mark.parametrize(("end_to_end", "count"), [(False, 1), (True, 2)])
def test_boxes_are_read_from_bins_and_only_one_to_many_needs_nms(end_to_end: bool, count: int):
    raw = sure_of_two_points(end_to_end=end_to_end)
    placement = Letterbox(1.0, 1.0, 0, 0, width=64, height=64)
    [found] = non_max_suppression(raw, [placement], EvaluateConfig(confidence=0.5))
    assert len(found) == count
    np.testing.assert_allclose(found.boxes_xyxy, [[4, 4, 36, 36]] * count, atol=1e-4)
    assert found.labels.tolist() == [1] * count
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-5.0)))


def test_four_levels_need_no_anchors_and_reg_max_reaches_the_head():
    config = ModelConfig(
        name="yolov5n", neck="own", strides=(4, 8, 16, 32), head="dense", reg_max=4
    )
    raw = build_detector(config, num_classes=2, imgsz=64)(torch.zeros(1, 3, 64, 64).byte())
    assert [tuple(level.shape) for level in raw.logits] == [(1, 1, s, s, 18) for s in (16, 8, 4, 2)]
