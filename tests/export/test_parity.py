"""How far two findings are apart, and when an export is good."""

import re

import numpy as np
import pytest

from ossa.config import EvaluateConfig
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


NOTHING = Detections.empty()
LOW = EvaluateConfig(confidence=0.01, nms_iou=0.3)
FULL = EvaluateConfig(confidence=0.0, max_detections=2)
TWO = found((0, 0.5001, 0), (5, 0.5, 0))
THREE = found((0, 0.9, 0), (40, 0.0083, 0), (80, 0.0083, 0))
OVERLAPPING = found((0, 0.9, 0), (2, 0.9, 0))


@pytest.mark.parametrize(
    ("theirs", "ours", "settings", "candidates", "score", "box_px", "unmatched"),
    [
        (NOTHING, NOTHING, SHOWN, None, 0, 0, 0),
        # What both report differs by score and by pixels.
        (
            *(found((0, 0.9, 0), (50, 0.8, 1)), found((50.5, 0.81, 1), (2, 0.7, 0)), SHOWN, None),
            *(0.2, 2, 0),
        ),
        # What only one reports counts with its score above the confidence.
        (found((0, 0.3, 0)), NOTHING, SHOWN, None, 0.05, 0, 1),
        (NOTHING, found((0, 0.6, 0), (50, 0.5, 0)), SHOWN, None, 0.35, 0, 2),
        # Another class, or 6 px aside with an IoU of 4 / 16, under a half: another object.
        (found((0, 0.9, 0)), found((0, 0.9, 1)), SHOWN, None, 0.65, 0, 2),
        (found((0, 0.9, 0)), found((6, 0.9, 0)), SHOWN, None, 0.65, 0, 2),
        # One of ours answers for one of theirs; at IoU 6 / 14 neither suppresses the other.
        (found((0, 0.9, 0), (4, 0.8, 0)), found((0, 0.9, 0)), SHOWN, None, 0.55, 0, 1),
        # 5 px apart of 10, IoU a third: no pair, and NMS at 0.3 keeps one of them.
        (TWO.above(0.50005), found((5, 0.5, 0)), LOW, None, 0.0001, 0, 2),
        (TWO.above(0.50005), found((5, 0.5, 0)), LOW, TWO, 0.0001, 0, 2),
        # What a full list has no room for differs by the last score.
        (found((0, 0.9, 0), (40, 0.0083, 0)), THREE.above(0.9), FULL, THREE, 0.0083, 0, 1),
        # A box or score that no candidate has is a difference still.
        (OVERLAPPING, found((1, 0.8, 0)), SHOWN, OVERLAPPING, 0.1, 1, 1),
        (NOTHING, found((60, 0.8, 0)), SHOWN, OVERLAPPING, 0.55, 0, 1),
    ],
)
def test_a_gap_is_what_differs(
    theirs: Detections,
    ours: Detections,
    settings: EvaluateConfig,
    candidates: Detections | None,
    score: float,
    box_px: float,
    unmatched: int,
) -> None:
    gap = gap_between(theirs, ours, settings=settings, candidates=candidates)
    assert (gap.score, gap.box_px) == pytest.approx((score, box_px), abs=1e-6)
    assert (gap.unmatched, gap.detections) == (unmatched, len(theirs))


def test_what_two_full_lists_end_with_is_no_difference() -> None:
    theirs, ours = found((0, 0.9, 0), (40, 0.0083, 0)), found((0, 0.9, 0), (80, 0.0083, 0))
    gap = gap_between(theirs, ours, settings=FULL, candidates=THREE)
    assert (gap.score, gap.box_px, gap.unmatched, gap.paired, gap.overlap) == (0, 0, 2, 1, 1)


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
    assert fault is None if said is None else re.search(said, fault or "")


def test_a_limit_of_nothing_is_kept() -> None:
    strict = ExportSettings("onnx", "int8", max_ap_drop=0.0)
    assert fault_of(compared(), strict) is not None
    assert fault_of(compared(ap_after=0.5), strict) is None
