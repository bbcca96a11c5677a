"""Metrics: hand-made scenes, and random problems against pycocotools and a plain loop."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, by_pycocotools, found
from pycocotools.cocoeval import COCOeval

from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError
from ossa.evaluate.coco import detections_as_coco_results
from ossa.evaluate.matching import match
from ossa.evaluate.metrics import evaluate_detections, operating_point

COCO_NUMBERS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)

# Scenes with known answers


def test_one_ground_truth_found_perfectly_scores_one_everywhere() -> None:
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: found((0.9, 0, SQUARE))})
    assert (metrics.ap, metrics.ap50, metrics.ap75) == pytest.approx((1, 1, 1))
    assert (metrics.ar_1, metrics.ar_10, metrics.ar_100) == (1, 1, 1)
    assert (metrics.precision, metrics.recall, metrics.f1) == (1, 1, 1)
    assert metrics.best_confidence == 0, "the lowest of equally good confidences"
    assert (metrics.num_images, metrics.num_truths, metrics.num_detections) == (1, 1, 1)


def test_a_second_detection_of_a_ground_truth_is_false_and_cut_off_by_the_best_confidence() -> None:
    twice = found((0.9, 0, SQUARE), (0.6, 0, SQUARE))
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: twice})
    assert metrics.ap == pytest.approx(1), "the full recall is reached before the second"
    assert (metrics.precision, metrics.recall) == (1, 1)
    assert metrics.best_confidence == 0.601


def test_a_false_detection_above_the_true_one_halves_the_precision() -> None:
    wrong_first = found((0.9, 0, ELSEWHERE), (0.8, 0, SQUARE))
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: wrong_first})
    assert metrics.ap == pytest.approx(0.5)
    assert (metrics.precision, metrics.recall) == (0.5, 1)
    assert metrics.f1 == pytest.approx(2 / 3)
    assert metrics.pr50() == pytest.approx([0.5] * 101)


def test_half_of_the_ground_truth_found_covers_51_of_101_recalls() -> None:
    index = an_index([[(0, SQUARE)], [(0, SQUARE)]])
    metrics = evaluate_detections(index, {2: found((0.9, 0, SQUARE))})
    assert metrics.ap == pytest.approx(51 / 101)
    assert metrics.pr50() == pytest.approx([1] * 51 + [0] * 50)
    assert (metrics.precision, metrics.recall) == (1, 0.5), "image 1 is missing: nothing found"


def test_a_detection_of_iou_one_half_counts_at_the_first_of_ten_thresholds() -> None:
    upper_half = found((0.9, 0, (10, 10, 20, 15)))
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: upper_half})
    assert (metrics.ap50, metrics.ap75) == pytest.approx((1, 0))
    assert metrics.ap == pytest.approx(0.1)


def test_sizes_follow_the_area_of_the_annotation_not_of_its_box() -> None:
    box = (0, 0, 100, 100)  # 10,000 square pixels would be large
    index = an_index([[(0, box)]], areas=np.array([500.0]))
    metrics = evaluate_detections(index, {1: found((0.9, 0, box))})
    assert metrics.ap_small == pytest.approx(1)
    assert (metrics.ap_medium, metrics.ap_large, metrics.ar_large) == (None, None, None)


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_any_number_of_detections_of_an_ignored_ground_truth_are_neither_true_nor_false(
    kind: str,
) -> None:
    ignored = {kind: np.array([False, True])}
    index = replace(an_index([[(0, SQUARE), (0, ELSEWHERE)]]), **ignored)  # type: ignore[arg-type]
    inside = (52, 52, 56, 56)
    detections = found((0.9, 0, ELSEWHERE), (0.8, 0, inside), (0.7, 0, SQUARE))
    metrics = evaluate_detections(index, {1: detections})
    assert (metrics.ap, metrics.precision, metrics.recall) == pytest.approx((1, 1, 1))
    assert metrics.num_truths == 1
    assert (metrics.per_class[0].num_truths, metrics.per_class[0].num_images) == (1, 1)


def test_a_class_without_ground_truth_has_no_metrics_and_does_not_lower_the_means() -> None:
    detections = found((0.9, 0, SQUARE), (0.8, 1, ELSEWHERE))
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: detections})
    assert (metrics.ap, metrics.precision) == pytest.approx((1, 1))
    cat, dog = metrics.rows()
    assert (cat["name"], cat["num_truths"], cat["num_images"]) == ("cat", 1, 1)
    assert (cat["ap"], cat["ap50"], cat["ap75"]) == pytest.approx((1, 1, 1))
    assert dog == {
        **{"name": "dog", "num_truths": 0, "num_images": 0},
        **dict.fromkeys(("ap", "ap50", "ap75", "precision", "recall")),
    }


def test_one_confidence_is_chosen_for_all_classes() -> None:
    # cats: true at 0.9, false at 0.5; dogs: true at 0.4. F1 means: (2/3 + 1) / 2 at 0.400,
    # (2/3 + 0) / 2 at 0.500 and (1 + 0) / 2 at 0.900.
    index = an_index([[(0, SQUARE), (1, SQUARE)]])
    detections = found((0.9, 0, SQUARE), (0.5, 0, ELSEWHERE), (0.4, 1, SQUARE))
    metrics = evaluate_detections(index, {1: detections})
    assert metrics.f1 == pytest.approx(5 / 6)
    assert [row.precision for row in metrics.per_class] == [0.5, 1]
    assert (metrics.precision, metrics.recall, metrics.best_confidence) == (0.75, 1, 0)


def test_the_best_confidence_keeps_a_score_that_float32_rounds_just_below_it() -> None:
    detections = found((0.7, 0, SQUARE), (0.6995, 0, ELSEWHERE))
    assert float(detections.scores[0]) < 0.7
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {1: detections})
    assert (metrics.best_confidence, metrics.precision, metrics.recall) == (0.7, 1, 1)
    assert len(detections.above(0.7)) == 1


def test_precision_recall_and_f1_are_told_at_a_chosen_confidence() -> None:
    # Cats: true at 0.9, false at 0.5. Dogs: true at 0.4, and one that is never found.
    index = an_index([[(0, SQUARE), (1, SQUARE), (1, ELSEWHERE)]], names=("cat", "dog", "cow"))
    detections = found((0.9, 0, SQUARE), (0.5, 0, ELSEWHERE), (0.4, 1, SQUARE), (0.4, 2, SQUARE))
    matches = match(index, {1: detections})
    low, high = operating_point(matches, 0.25), operating_point(matches, 0.9)
    np.testing.assert_allclose(low.precision, [1 / 2, 1, np.nan])
    np.testing.assert_allclose(low.recall, [1, 1 / 2, np.nan])
    np.testing.assert_allclose(low.f1, [2 / 3, 2 / 3, np.nan])
    assert low.means() == {"precision": 0.75, "recall": 0.75, "f1": pytest.approx(2 / 3)}
    assert float(detections.scores[0]) < 0.9, "float32, which must not lose it"
    assert (high.confidence, high.precision[0], high.recall[1]) == (0.9, 1, 0)


def test_only_the_best_hundred_detections_of_an_image_and_class_count() -> None:
    false = [(0.9, 0, ELSEWHERE)] * 100
    metrics = evaluate_detections(
        an_index([[(0, SQUARE)]]), {1: found(*false, (0.8, 0, SQUARE), (0.7, 1, ELSEWHERE))}
    )
    assert (metrics.ap, metrics.recall, metrics.num_detections) == (0, 0, 102)


# Nothing to count


def test_without_detections_everything_is_zero_and_no_confidence_is_best() -> None:
    index = an_index([[(0, SQUARE)], []])
    for detections in ({}, {1: found(), 2: found()}):
        metrics = evaluate_detections(index, detections)
        assert (metrics.ap, metrics.ar_100) == (0, 0)
        assert (metrics.precision, metrics.recall, metrics.f1) == (0, 0, 0)
        assert metrics.best_confidence is None


@pytest.mark.parametrize("num_images", [0, 2])
def test_without_ground_truth_everything_is_undefined(num_images: int) -> None:
    detections = {1: found((0.9, 0, SQUARE))} if num_images else {}
    metrics = evaluate_detections(an_index([[]] * num_images), detections)
    counts = {"num_images": num_images, "num_truths": 0, "num_detections": len(detections)}
    undefined = (*COCO_NUMBERS, "precision", "recall", "f1", "best_confidence")
    assert metrics.flat() == {**dict.fromkeys(undefined), **counts}
    assert metrics.pr50() is None


# Identity, order, silence


def test_image_ids_that_no_float_can_tell_apart_are_told_apart() -> None:
    first, second = 2**53, 2**53 + 1
    assert float(first) == float(second)
    index = an_index([[(0, SQUARE)], [(0, ELSEWHERE)]], image_ids=np.array([first, second]))
    right = {first: found((0.9, 0, SQUARE)), second: found((0.9, 0, ELSEWHERE))}
    wrong = {first: right[second], second: right[first]}
    assert evaluate_detections(index, right).ap == pytest.approx(1)
    assert evaluate_detections(index, wrong).ap == 0


def test_order_and_known_matches_do_not_matter_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    index, detections = a_problem(7)
    backwards = dict(reversed(detections.items()))
    assert list(backwards) != list(detections)
    known = evaluate_detections(index, backwards, matches=match(index, detections))
    assert evaluate_detections(index, backwards) == known
    assert capfd.readouterr() == ("", "")


# Against pycocotools and a plain loop


def _or_minus_one(value: float | None) -> float:
    return -1 if value is None else value


@pytest.mark.parametrize("seed", range(12))
def test_all_coco_numbers_equal_those_of_pycocotools(seed: int) -> None:
    index, detections = a_problem(seed)
    oracle = by_pycocotools(index, detections)
    metrics = evaluate_detections(index, detections)
    ours = [_or_minus_one(getattr(metrics, name)) for name in COCO_NUMBERS]
    np.testing.assert_allclose(ours, oracle.stats, rtol=0, atol=1e-9)
    places = {category_id: place for place, category_id in enumerate(oracle.params.catIds)}
    for label, row in enumerate(metrics.per_class):
        precision = oracle.eval["precision"][:, :, places[index.category_ids[label]], 0, 2]
        expected = [precision.mean(), precision[0].mean(), precision[5].mean()]
        ours = [_or_minus_one(value) for value in (row.ap, row.ap50, row.ap75)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
        if row.pr50 is not None:
            np.testing.assert_allclose(row.pr50, precision[0], rtol=0, atol=1e-9)


def _counted_by_a_loop(index: DatasetIndex, oracle: COCOeval) -> tuple[float | None, ...]:
    """Returns precision, recall, F1 and confidence from pycocotools' matches, one by one."""
    judged: dict[int, list[tuple[float, bool]]] = {k: [] for k in index.category_ids.tolist()}
    truths = dict.fromkeys(judged, 0)
    for cell in oracle.evalImgs:
        if cell is None or cell["aRng"] != oracle.params.areaRng[0]:
            continue
        truths[int(cell["category_id"])] += int((np.array(cell["gtIgnore"]) == 0).sum())
        rows = zip(cell["dtScores"], cell["dtMatches"][0], cell["dtIgnore"][0], strict=True)
        kept = [(score, match > 0) for score, match, ignored in rows if not ignored]
        judged[int(cell["category_id"])].extend(kept)
    best: tuple[Any, ...] = (0, 0, 0, None) if any(truths.values()) else (None,) * 4
    for step in range(1001):
        precisions, recalls, f1s = [], [], []
        for class_id in (k for k in judged if truths[k]):
            above = [hit for score, hit in judged[class_id] if score >= np.float32(step / 1000)]
            precisions.append(sum(above) / len(above) if above else 0)
            recalls.append(sum(above) / truths[class_id])
            f1s.append(2 * sum(above) / (len(above) + truths[class_id]))
        if f1s and np.mean(f1s) > best[2] + 1e-12:
            best = (np.mean(precisions), np.mean(recalls), np.mean(f1s), step / 1000)
    return best


@pytest.mark.parametrize("seed", range(100, 106))
def test_precision_recall_and_f1_equal_those_of_a_plain_loop(seed: int) -> None:
    index, detections = a_problem(seed)
    metrics = evaluate_detections(index, detections)
    expected = _counted_by_a_loop(index, by_pycocotools(index, detections))
    ours = (metrics.precision, metrics.recall, metrics.f1, metrics.best_confidence)
    assert ours == pytest.approx(expected, abs=1e-12)


# Bad input


@pytest.mark.parametrize(
    ("image_id", "detection", "parts"),
    [
        (9, (0.9, 0, SQUARE), ("image ids of the data set at photos", "found 9")),
        (1, (0.9, 2, SQUARE), ("image 1", "labels in 0..1", "found 2")),
        (1, (0.9, -1, SQUARE), ("image 1", "labels in 0..1", "found -1")),
        (1, (float("nan"), 0, SQUARE), ("image 1", "scores in 0..1", "found nan")),
        (1, (float("inf"), 0, SQUARE), ("image 1", "scores in 0..1", "found inf")),
        (1, (0.9, 0, (10, 10, float("nan"), 20)), ("image 1", "finite boxes", "nan")),
        (1, (0.9, 0, (10, 10, float("inf"), 20)), ("image 1", "finite boxes", "inf")),
        (1, (0.9, 0, (10, 20, 20, 10)), ("image 1", "y0 <= y1", "[10.0, 20.0, 20.0, 10.0]")),
    ],
)
def test_an_impossible_detection_is_refused_with_its_image(
    image_id: int, detection: tuple[float, int, tuple[float, ...]], parts: tuple[str, ...]
) -> None:
    index = an_index([[(0, SQUARE)]])
    detections = {image_id: found((0.9, 0, SQUARE), detection)}
    for use in (evaluate_detections, detections_as_coco_results):
        with pytest.raises(DataError) as caught:
            use(index, detections)
        assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_columns_of_different_lengths_are_refused() -> None:
    lopsided = replace(found((0.9, 0, SQUARE)), scores=np.ones(2, np.float32))
    with pytest.raises(
        DataError, match=r"Expected boxes \(N, 4\).*found \(1, 4\), \(2,\).* in image 1"
    ):
        evaluate_detections(an_index([[(0, SQUARE)]]), {1: lopsided})
