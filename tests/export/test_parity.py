"""How far two findings are apart, and when an export is good."""

from pathlib import Path

import numpy as np
import pytest

from ossa.config import EvaluateConfig
from ossa.errors import ConfigError
from ossa.export.export import ExportSettings, fault_of
from ossa.export.graph import Precision
from ossa.export.parity import Parity, gap_between
from ossa.types import Detections

SHOWN = EvaluateConfig(confidence=0.25, nms_iou=0.45)


def found(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 10 x 10 px at (left, 0), with score and label, best first."""
    boxes = [[left, 0.0, left + 10, 10.0] for left, _, _ in rows]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for *_, label in rows], np.int64),
    )


def test_what_both_report_differs_by_score_and_by_pixels() -> None:
    theirs, ours = found((0, 0.9, 0), (50, 0.8, 1)), found((50.5, 0.81, 1), (2, 0.7, 0))
    gap = gap_between(theirs, ours, settings=SHOWN)
    assert gap.score == pytest.approx(0.2)
    assert gap.box_px == 2.0
    assert (gap.detections, gap.unmatched) == (2, 0)


def test_what_only_one_reports_counts_with_its_score_above_the_confidence() -> None:
    gap = gap_between(found((0, 0.3, 0)), Detections.empty(), settings=SHOWN)
    assert gap.score == pytest.approx(0.05)
    assert gap.unmatched == 1
    gap = gap_between(Detections.empty(), found((0, 0.6, 0), (50, 0.5, 0)), settings=SHOWN)
    assert gap.score == pytest.approx(0.35)
    assert gap.unmatched == 2


def test_another_class_or_another_place_is_another_object() -> None:
    # 6 px aside: IoU 4 / 16 = 0.25, under a half.
    for other in (found((0, 0.9, 1)), found((6, 0.9, 0))):
        gap = gap_between(found((0, 0.9, 0)), other, settings=SHOWN)
        assert gap.unmatched == 2


def test_one_of_ours_answers_for_one_of_theirs() -> None:
    theirs = found((0, 0.9, 0), (4, 0.8, 0))  # IoU 6 / 14: none suppresses the other
    gap = gap_between(theirs, found((0, 0.9, 0)), settings=SHOWN)
    assert (gap.unmatched, gap.paired, gap.overlap) == (1, 1, 1.0)
    assert gap.score == pytest.approx(0.55)


def test_what_a_better_box_suppresses_on_one_side_differs_by_their_scores() -> None:
    # 5 px apart of 10: IoU a third, so the boxes are no pair; NMS at 0.3 keeps one of them.
    settings = EvaluateConfig(confidence=0.01, nms_iou=0.3)
    first, second = found((0, 0.5001, 0)), found((5, 0.5, 0))
    gap = gap_between(first, second, settings=settings)
    assert gap.unmatched == 2
    assert gap.score == pytest.approx(0.0001, abs=1e-6)
    both = found((0, 0.5001, 0), (5, 0.5, 0))
    assert gap_between(first, second, settings=settings, candidates=both).box_px == 0


def test_what_a_full_list_has_no_room_for_differs_by_the_last_score() -> None:
    settings = EvaluateConfig(confidence=0.0, max_detections=2)
    theirs = found((0, 0.9, 0), (40, 0.0083, 0))
    ours = found((0, 0.9, 0), (80, 0.0083, 0))
    candidates = found((0, 0.9, 0), (40, 0.0083, 0), (80, 0.0083, 0))
    gap = gap_between(theirs, ours, settings=settings, candidates=candidates)
    assert (gap.score, gap.box_px, gap.unmatched) == (0.0, 0.0, 2)


def test_a_box_or_score_that_no_candidate_has_is_a_difference_still() -> None:
    candidates = found((0, 0.9, 0), (2, 0.9, 0))
    gap = gap_between(candidates, found((1, 0.8, 0)), settings=SHOWN, candidates=candidates)
    assert gap.score == pytest.approx(0.1)
    assert gap.box_px == 1.0
    gap = gap_between(
        Detections.empty(), found((60, 0.8, 0)), settings=SHOWN, candidates=candidates
    )
    assert gap.score == pytest.approx(0.55)


def test_nothing_on_either_side_is_no_difference() -> None:
    gap = gap_between(Detections.empty(), Detections.empty(), settings=SHOWN)
    assert (gap.score, gap.box_px, gap.unmatched) == (0.0, 0.0, 0)


def compared(**changes: float) -> Parity:
    values = {
        "images": 8,
        "largest_score_difference": 1e-5,
        "largest_box_difference_px": 1e-3,
        "detections": 20,
        "unmatched": 0,
        "agreement": 0.97,
        "ap_before": 0.5,
        "ap_after": 0.495,
    }
    return Parity(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "changes", "said"),
    [
        ("fp32", {}, None),
        ("int8", {"largest_score_difference": 0.3, "largest_box_difference_px": 60}, None),
        ("int8", {"ap_after": 0.489}, r"AP fell from 0\.5000 to 0\.4890, by more than 0\.01"),
        ("int8", {"ap_after": float("nan")}, "AP fell from"),
        ("int8", {"ap_after": 0.7}, None),
        ("int8", {"agreement": 0.9, "unmatched": 7}, r"by 0\.900 only, .* 0\.95: 7 are reported"),
        ("fp32", {"agreement": 0.9}, None),
        ("fp32", {"largest_score_difference": 0.002}, "a score differs by 0.002, more than the"),
        ("fp32", {"largest_box_difference_px": 0.2}, "a box differs by 0.2 px, more than the 0.1"),
    ],
)
def test_an_export_is_good_within_its_limits(
    precision: Precision, changes: dict[str, float], said: str | None
) -> None:
    fault = fault_of(compared(**changes), ExportSettings("openvino", precision))
    if said is None:
        assert fault is None
    else:
        assert fault is not None
        with pytest.raises(ConfigError, match=said):
            raise ConfigError(fault)


def test_a_limit_of_nothing_is_kept(tmp_path: Path) -> None:
    strict = ExportSettings("onnx", "int8", max_ap_drop=0.0)
    assert fault_of(compared(), strict) is not None
    assert fault_of(compared(ap_after=0.5), strict) is None
