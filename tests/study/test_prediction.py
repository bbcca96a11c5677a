"""Predictions: jackknife+ against a plain loop, and how often its intervals hold."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from ossa.study.prediction import (
    LeftOutPrediction,
    Prediction,
    Validation,
    predict,
    validate_predictions,
)
from ossa.study.scaling import InsufficientData, Points

POWERS_OF_TWO = 2.0 ** np.arange(10)


def points_of(
    complexity: ArrayLike, quality: ArrayLike, families: Sequence[str] | None = None
) -> Points:
    names = [f"m{number}" for number in range(len(np.asarray(complexity)))]
    return Points.of(names, families=families or names, complexity=complexity, quality=quality)


def scattered(models: int, *, seed: int = 0, families: Sequence[str] | None = None) -> Points:
    """Returns models around a power law with slope 0.15; the scatter has heavy tails."""
    rng = np.random.default_rng(seed)
    complexity = 10 ** rng.uniform(6, 8, models)
    scatter = 0.1 * rng.standard_t(4, models)
    return points_of(complexity, 0.03 * complexity**0.15 * np.exp(scatter), families)


def prediction_of(points: Points, complexity: float) -> Prediction:
    prediction = predict(points, complexity)
    assert isinstance(prediction, Prediction)
    return prediction


def validated(points: Points, group: str = "model") -> Validation:
    test = validate_predictions(points, leave_out="model" if group == "model" else "family")
    assert isinstance(test, Validation)
    return test


def jackknife_plus(points: Points, complexity: float) -> tuple[float, float]:
    """Returns the interval of 80 % by the definition: a fit for each model that is left out."""
    x, y = np.log(points.complexity), np.log(points.quality)
    lows, highs = [], []
    for left in range(len(x)):
        others = np.arange(len(x)) != left
        line = np.poly1d(np.polyfit(x[others], y[others], 1))
        residual = abs(y[left] - line(x[left]))
        lows.append(line(math.log(complexity)) - residual)
        highs.append(line(math.log(complexity)) + residual)
    low_rank, high_rank = math.floor(0.2 * (len(x) + 1)), math.ceil(0.8 * (len(x) + 1))
    return math.exp(sorted(lows)[low_rank - 1]), math.exp(sorted(highs)[high_rank - 1])


@pytest.mark.parametrize("models", [8, 9, 12, 25])
def test_the_interval_is_that_of_the_definition(models: int):
    points = scattered(models)
    for complexity in (1e6, 1e7, 1e9):
        found = prediction_of(points, complexity)
        assert (found.low, found.high) == pytest.approx(jackknife_plus(points, complexity))


def test_an_exact_power_predicts_exactly():
    found = prediction_of(points_of(POWERS_OF_TWO, 0.1 * POWERS_OF_TWO**0.25), 16**2)
    assert (found.low, found.expected, found.high) == pytest.approx((0.4, 0.4, 0.4))
    assert (found.num_models, found.complexity) == (10, 256)


def test_a_prediction_beyond_the_models_is_told_from_one_among_them():
    points = points_of(POWERS_OF_TWO, POWERS_OF_TWO)
    inside = [prediction_of(points, at).inside for at in (0.9, 1, 100, 512, 513)]
    assert inside == [False, True, True, True, False]


@given(scale=st.floats(0.01, 100), unit=st.floats(1e-6, 1e6), seed=st.integers(0, 500))
def test_units_change_no_prediction(scale: float, unit: float, seed: int):
    points = scattered(9, seed=seed)
    plain = prediction_of(points, 3e7)
    other = prediction_of(points_of(points.complexity * unit, points.quality * scale), 3e7 * unit)
    assert (other.low, other.expected, other.high) == pytest.approx(
        (plain.low * scale, plain.expected * scale, plain.high * scale), rel=1e-6
    )


@pytest.mark.parametrize(("models", "exactly"), [(9, 0.8), (14, 0.8), (24, 0.8), (8, 8 / 9)])
def test_the_interval_holds_the_next_model_in_80_of_100_studies(models: int, exactly: float):
    # Of n + 1 exchangeable residuals the last is among the 1 - k / (n + 1) least, where k of the
    # n + 1 may lie outside: of 8 models none but one of nine.
    held = 0
    studies = 500
    for seed in range(studies):
        points = scattered(models + 1, seed=seed)
        found = prediction_of(points.where(np.arange(models + 1) < models), points.complexity[-1])
        held += found.low <= points.quality[-1] <= found.high
    assert held / studies == pytest.approx(exactly, abs=3 * math.sqrt(0.8 * 0.2 / studies))


def test_a_model_that_is_left_out_has_no_part_in_its_prediction():
    points = scattered(9)
    test = validated(points)
    assert [row.model for row in test.predictions] == list(points.models)
    for left, row in enumerate(test.predictions):
        others = points.where(np.arange(9) != left)
        interval = jackknife_plus(others, points.complexity[left])
        assert (row.prediction.low, row.prediction.high) == pytest.approx(interval)
        assert row.prediction.num_models == 8
        assert row.measured == points.quality[left]
    assert test.untested == {}


def test_of_eight_models_each_is_predicted_from_seven():
    assert {row.prediction.num_models for row in validated(scattered(8)).predictions} == {7}


def test_a_family_that_is_left_out_takes_all_its_models_with_it():
    # Three families on the same powers of complexity, each at its own height. Predicted from the
    # two others, equal in number and place, a model is expected at their geometric mean.
    complexity = np.tile([1.0, 2.0, 4.0, 8.0], 3)
    quality = np.repeat([0.1, 0.2, 0.4], 4) * complexity**0.5
    points = points_of(complexity, quality, ["low"] * 4 + ["middle"] * 4 + ["high"] * 4)
    test = validated(points, "family")
    factors = {row.family: math.exp(row.log_error) for row in test.predictions}
    geometric = {"low": 8**0.5 / 10, "middle": 0.2, "high": 2**0.5 / 10}
    assert factors == pytest.approx(
        {"low": 0.1 / geometric["low"], "middle": 1.0, "high": 0.4 / geometric["high"]}
    )
    assert {row.prediction.num_models for row in test.predictions} == {8}


def a_model(measured: float, expected: float, low: float, high: float) -> LeftOutPrediction:
    prediction = Prediction(1.0, expected, low, high, num_models=7, inside=True)
    return LeftOutPrediction("m", "x", prediction, measured)


def test_errors_and_coverage_by_hand():
    # 0.1 above, 0.2 under and 0.03 above; the last but one outside its interval.
    test = Validation(
        (a_model(0.5, 0.4, 0.3, 0.5), a_model(0.2, 0.4, 0.3, 0.5), a_model(0.43, 0.4, 0.3, 0.5)),
        {},
    )
    assert [row.error for row in test.predictions] == pytest.approx([0.1, -0.2, 0.03])
    assert test.mean_absolute_error == pytest.approx(0.11)
    logs = [math.log(0.5 / 0.4), math.log(0.4 / 0.2), math.log(0.43 / 0.4)]
    assert test.mean_absolute_log_error == pytest.approx(sum(logs) / 3)
    assert [row.covered for row in test.predictions] == [True, False, True]
    assert (test.num_covered, test.coverage) == (2, "2 of 3")


def test_the_interval_of_8_of_10_is_clopper_s_and_pearson_s():
    good, bad = a_model(0.4, 0.4, 0.3, 0.5), a_model(0.9, 0.4, 0.3, 0.5)
    test = Validation((*[good] * 8, *[bad] * 2), {})
    assert test.coverage == "8 of 10"
    low, high = test.coverage_interval
    assert (low, high) == pytest.approx((0.4439, 0.9748), abs=1e-4)  # of the printed tables
    # 8 or more of 10 have a chance of 2.5 % at the lower end; 8 or fewer at the upper one.
    assert stats.binom.sf(7, 10, low) == pytest.approx(0.025)
    assert stats.binom.cdf(8, 10, high) == pytest.approx(0.025)
    assert Validation((good,) * 10, {}).coverage_interval.high == 1.0


def test_coverage_of_models_left_out_is_about_what_is_promised():
    covered = [validated(scattered(10, seed=seed)).num_covered for seed in range(60)]
    assert sum(covered) / 600 == pytest.approx(0.8, abs=0.05)


def test_under_eight_models_nothing_is_predicted_nor_tested():
    seven = scattered(7)
    expected = InsufficientData("expected 8 models at least, found 7")
    assert predict(seven, 1e7) == expected
    assert validate_predictions(seven, leave_out="model") == expected
    assert validate_predictions(seven, leave_out="family") == expected


def test_a_family_without_which_few_models_remain_is_untested_and_named():
    families = ["big"] * 6 + ["other"] * 4
    test = validated(scattered(10, families=families), "family")
    assert {row.family for row in test.predictions} == {"other"}
    assert test.untested == {"big": "without big: expected 5 models at least, found 4"}


def test_of_a_single_family_none_can_be_left_out():
    found = validate_predictions(scattered(8, families=["only"] * 8), leave_out="family")
    assert found == InsufficientData("without only: expected 5 models at least, found 0")
