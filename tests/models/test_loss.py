from typing import Any

import numpy as np
import pytest
import torch
from yolov5_oracle import Truth, binary_cross_entropy, ciou, decoded_box, positives_of_level

from ossa.config import LossConfig
from ossa.errors import ConfigError
from ossa.models.head import default_anchors_wh
from ossa.models.loss import DetectionLoss, LossTerms
from ossa.models.predictions import AnchorPredictions
from ossa.types import Batch

SIDE, CLASSES = 64, 3
STRIDES = (8, 16, 32)
BALANCE = (4.0, 1.0, 0.4)
BOX_GAIN, CLASSES_GAIN = 0.05, 0.5 * CLASSES / 80
OBJECTNESS_GAIN = (SIDE / 640) ** 2


def batch_of(truths: list[Truth], *, images: int = 2) -> Batch:
    return Batch(
        images=torch.zeros(images, 3, SIDE, SIDE, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([t.box_xyxy for t in truths]).reshape(-1, 4),
        labels=torch.tensor([t.label for t in truths], dtype=torch.int64),
        image_index=torch.tensor([t.image for t in truths], dtype=torch.int64),
        image_ids=tuple(range(images)),
        letterboxes=(),
    )


def random_predictions(seed: int, *, images: int = 2, classes: int = CLASSES) -> AnchorPredictions:
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(
        torch.randn(images, 3, SIDE // s, SIDE // s, 5 + classes, generator=generator)
        for s in STRIDES
    )
    return AnchorPredictions(logits, default_anchors_wh(STRIDES), STRIDES)


def random_gt(seed: int, *, count: int = 6) -> list[Truth]:
    generator = np.random.default_rng(seed)
    truths = []
    for _ in range(count):
        x0, y0 = generator.uniform(0, 40, 2).tolist()
        w, h = generator.uniform(4, 24, 2).tolist()
        image, label = generator.integers((2, CLASSES)).tolist()
        truths.append(Truth(image, label, (x0, y0, x0 + w, y0 + h)))
    return truths


def loss_of(config: LossConfig | None = None, *, classes: int = CLASSES) -> DetectionLoss:
    return DetectionLoss(config or LossConfig(), num_classes=classes, num_levels=3, imgsz=SIDE)


def slow_losses(
    raw: AnchorPredictions, truths: list[Truth], *, smoothing: float = 0.0
) -> tuple[float, float, float]:
    """Returns box, objectness and class loss, weighted, from loops over positives and cells."""
    box = objectness = classes = 0.0
    for logits, anchors, stride, balance in zip(
        raw.logits, raw.anchors_wh.tolist(), STRIDES, BALANCE, strict=True
    ):
        cells = logits.tolist()
        map_hw = (SIDE // stride, SIDE // stride)
        positives = positives_of_level(truths, anchors, stride=stride, map_hw=map_hw)
        best: dict[tuple[int, int, int, int], float] = {}
        box_losses, class_losses = [], []
        for p in positives:
            answer = cells[p.image][p.anchor][p.row][p.column]
            predicted = decoded_box(answer, anchors[p.anchor], row=0, column=0, stride=stride)
            (x, y), (w, h) = p.centre, p.size
            truth = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            # CIoU does not change when both boxes are scaled: cells or pixels are the same.
            overlap = ciou(predicted, tuple(stride * side for side in truth))  # type: ignore[arg-type]
            box_losses.append(1 - overlap)
            place = (p.image, p.anchor, p.row, p.column)
            best[place] = max(best.get(place, 0.0), overlap)
            for label, logit in enumerate(answer[5:]):
                target = (1 - 0.5 * smoothing) if label == p.label else 0.5 * smoothing
                class_losses.append(binary_cross_entropy(logit, target))
        cell_losses = [
            binary_cross_entropy(answer[4], best.get((image, anchor, row, column), 0.0))
            for image, of_image in enumerate(cells)
            for anchor, of_anchor in enumerate(of_image)
            for row, of_row in enumerate(of_anchor)
            for column, answer in enumerate(of_row)
        ]
        box += float(np.mean(box_losses)) if box_losses else 0.0
        classes += float(np.mean(class_losses)) if class_losses else 0.0
        objectness += balance * float(np.mean(cell_losses))
    return BOX_GAIN * box, OBJECTNESS_GAIN * objectness, CLASSES_GAIN * classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_the_losses_are_those_of_plain_loops_over_the_formulas(seed: int, smoothing: float):
    raw, truths = random_predictions(seed), random_gt(seed, count=seed * 3)
    terms = loss_of(LossConfig(label_smoothing=smoothing))(raw, batch_of(truths))
    slow = slow_losses(raw, truths, smoothing=smoothing)
    assert [term.item() for term in terms] == pytest.approx(slow, rel=1e-5)
    assert terms.total().item() == pytest.approx(sum(slow), rel=1e-5)


def test_without_ground_truth_there_is_objectness_loss_alone():
    # A logit of 0 costs ln 2 in every cell: (4 + 1 + 0.4) x ln 2 x (64 / 640)^2.
    raw = random_predictions(0)
    zeros = AnchorPredictions(tuple(x * 0 for x in raw.logits), raw.anchors_wh, raw.strides)
    terms = loss_of()(zeros, batch_of([]))
    assert terms.box.item() == 0
    assert terms.classes.item() == 0
    assert terms.objectness.item() == pytest.approx(5.4 * np.log(2) / 100)


def test_one_class_has_no_class_loss():
    raw = random_predictions(1, classes=1)
    truths = [Truth(0, 0, (10, 10, 26, 34))]
    terms = loss_of(classes=1)(raw, batch_of(truths))
    assert terms.classes.item() == 0
    assert terms.box.item() > 0


def test_where_two_positives_meet_the_larger_ciou_is_the_target_whatever_their_order():
    # Two truths with one centre and, about it, sides of 16 and of 24 px: the same cells answer.
    near, far = Truth(0, 0, (24, 24, 40, 40)), Truth(0, 0, (20, 20, 44, 44))
    raw = random_predictions(2)
    forward = loss_of()(raw, batch_of([near, far])).objectness
    backward = loss_of()(raw, batch_of([far, near])).objectness
    assert forward.item() == pytest.approx(slow_losses(raw, [near, far])[1], rel=1e-5)
    assert torch.equal(forward, backward)


def test_the_objectness_target_trains_no_box():
    raw = random_predictions(3)
    for logits in raw.logits:
        logits.requires_grad_()
    loss_of()(raw, batch_of(random_gt(3))).objectness.backward()
    for logits in raw.logits:
        assert logits.grad is not None
        assert logits.grad[..., :4].abs().max() == 0
        assert logits.grad[..., 4].abs().min() > 0


def test_gains_are_rescaled_to_the_classes_and_the_image_size():
    loss = DetectionLoss(LossConfig(), num_classes=20, num_levels=3, imgsz=320)
    assert loss.box_gain == pytest.approx(0.05)
    assert loss.classes_gain == pytest.approx(0.5 * 20 / 80)
    assert loss.objectness_gain == pytest.approx(0.25)


def test_five_levels_are_refused_since_their_balance_is_unknown():
    with pytest.raises(ConfigError, match=r"balanced for \[3, 4\] levels, found 5"):
        DetectionLoss(LossConfig(), num_classes=3, num_levels=5, imgsz=64)


@pytest.mark.parametrize("extreme", [-1e4, -60.0, 60.0, 1e4])
def test_predictions_without_size_or_beyond_all_bounds_give_finite_gradients(extreme: float):
    raw = random_predictions(4)
    for logits in raw.logits:
        logits[..., :4] = extreme
        logits.requires_grad_()
    terms = loss_of()(raw, batch_of(random_gt(4)))
    terms.total().backward()
    assert torch.isfinite(terms.total())
    for logits in raw.logits:
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_ground_truth_that_are_no_positives_leave_losses_and_gradients_finite():
    raw = random_predictions(0)
    for logits in raw.logits:
        logits.requires_grad_()
    odd = [Truth(0, 1, (20, 20, 20, 20)), Truth(1, 0, (64, 64, 64, 64)), Truth(1, 0, (0, 0, 64, 1))]
    terms = loss_of()(raw, batch_of(odd))
    terms.total().backward()
    assert terms.box.item() == 0
    assert all(logits.grad is not None and logits.grad.isfinite().all() for logits in raw.logits)


def test_shares_of_a_batch_sum_up_to_the_whole():
    raw, truths = random_predictions(3, images=3), random_gt(3, count=9)
    whole = loss_of()(raw, batch_of(truths, images=3))
    halves = [(0, 1), (2,)]
    counts: list[torch.Tensor] = []

    def share_of(images: tuple[int, ...], all_reduce: Any) -> LossTerms:
        logits = tuple(level[list(images)] for level in raw.logits)
        share = [
            Truth(images.index(t.image), t.label, t.box_xyxy) for t in truths if t.image in images
        ]
        loss = loss_of().with_all_reduce(all_reduce)
        return loss(raw._replace(logits=logits), batch_of(share, images=len(images)))

    def keep(count: torch.Tensor) -> torch.Tensor:
        counts.append(count)
        return count

    for images in halves:
        share_of(images, keep)
    shares = [share_of(images, lambda _: counts[0] + counts[1]) for images in halves]
    for i, term in enumerate(whole):
        assert sum(share[i].item() for share in shares) == pytest.approx(term.item(), rel=1e-5)
