"""Predictions: jackknife+ against a plain loop, and how often its intervals hold."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from ossa.evaluate.statistics import Interval
from ossa.study.prediction import (
    LeftOutPrediction,
    Prediction,
    Validation,
    extrapolation_errors,
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


def scattered(
    models: int, *, seed: int = 0, families: Sequence[str] | None = None, costs: int | None = None
) -> Points:
    """Returns models around a power law with slope 0.15; the scatter has heavy tails.

    With `costs`, there are only so many different costs.
    """
    rng = np.random.default_rng(seed)
    powers = rng.integers(6, 6 + costs, models) if costs else rng.uniform(6, 8, models)
    complexity = 10.0**powers
    scatter = 0.1 * rng.standard_t(4, models)
    return points_of(complexity, 0.03 * complexity**0.15 * np.exp(scatter), families)


def prediction_of(points: Points, complexity: float, **settings: Any) -> Prediction:
    prediction = predict(points, complexity, **settings)
    assert isinstance(prediction, Prediction)
    return prediction


def interval_of(prediction: Prediction) -> Interval:
    assert isinstance(prediction.interval, Interval)
    return prediction.interval


def reason_of(prediction: Prediction) -> str:
    assert isinstance(prediction.interval, InsufficientData)
    return prediction.interval.reason


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
    for complexity in np.quantile(points.complexity, [0.0, 0.3, 1.0]):
        found = prediction_of(points, complexity, forms=["power"])
        assert interval_of(found) == pytest.approx(jackknife_plus(points, complexity))


def test_an_exact_power_predicts_exactly():
    found = prediction_of(points_of(POWERS_OF_TWO, 0.1 * POWERS_OF_TWO**0.25), 16**2)
    assert (found.expected, *interval_of(found)) == pytest.approx((0.4, 0.4, 0.4))
    assert (found.num_models, found.complexity, found.form) == (10, 256, "power")


def test_a_prediction_beyond_the_models_is_told_from_one_among_them():
    points = points_of(POWERS_OF_TWO, POWERS_OF_TWO)
    inside = [prediction_of(points, at).inside for at in (0.9, 1, 100, 512, 513)]
    assert inside == [False, True, True, True, False]


def family_folds(points: Points, complexity: float) -> tuple[float, float]:
    """Returns the interval of 80% with a power law for each family that is left out."""
    x, y = np.log(points.complexity), np.log(points.quality)
    lows, highs = [], []
    for left, family in enumerate(points.families):
        others = np.asarray(points.families) != family
        line = np.poly1d(np.polyfit(x[others], y[others], 1))
        residual = abs(y[left] - line(x[left]))
        lows.append(line(math.log(complexity)) - residual)
        highs.append(line(math.log(complexity)) + residual)
    rank = math.floor(0.2 * (len(x) + 1))
    return math.exp(sorted(lows)[rank - 1]), math.exp(sorted(highs)[-rank])


def test_a_new_family_is_as_far_off_as_families_that_were_left_out():
    points = scattered(12, families=[*"aaabbbcccddd"])
    new = prediction_of(points, 1e7, forms=["power"])
    assert (new.new_family, interval_of(new)) == (True, pytest.approx(family_folds(points, 1e7)))
    known = prediction_of(points, 1e7, family="c", forms=["power"])
    assert interval_of(known) == pytest.approx(jackknife_plus(points, 1e7))
    assert (known.new_family, known.expected) == (False, new.expected)


def test_three_families_bound_no_other():
    points = scattered(12, families=[*"aaaabbbbcccc"])
    new = prediction_of(points, 1e7, family="d")
    assert reason_of(new) == ("expected 4 families at least for a model of a new family, found 3")
    assert new.flat()["low"] is None
    assert "4 families" in new.flat()["no_interval"]
    assert interval_of(prediction_of(points, 1e7, family="a"))


def test_a_family_without_which_too_few_models_remain_leaves_no_interval():
    points = scattered(10, families=[*"aaaaaaabcd"])
    expected = "without the family a: expected 5 models at least, found 3"
    assert reason_of(prediction_of(points, 1e7)) == expected


def test_outside_the_range_the_costliest_third_says_how_far_off_predictions_are():
    # Twelve models on an exact power law, but the four costliest are 10, 20, 30 and 40% above it.
    # From the other eight they are predicted exactly, so these are the errors; the 4th of four
    # bounds 80% of them.
    cost = 2.0 ** np.arange(12)
    law = 0.01 * cost**0.4
    quality = law * np.array([*[1.0] * 8, 1.1, 1.2, 1.3, 1.4])
    points = points_of(cost, quality)
    errors = extrapolation_errors(points, forms=["power"])
    assert errors == pytest.approx(law[8:] * [0.1, 0.2, 0.3, 0.4])
    found = prediction_of(points, 3000, forms=["power"])
    assert interval_of(found).low <= found.expected - errors[-1]
    assert interval_of(found).high >= found.expected + errors[-1]
    cheapest = extrapolation_errors(points_of(cost, law), upwards=False)
    assert cheapest == pytest.approx(np.zeros(4), abs=1e-9)


def test_far_outside_the_range_and_from_few_models_there_is_no_interval():
    points = points_of(2.0 ** np.arange(12), 0.1 * 2.0 ** (np.arange(12) / 4))
    assert reason_of(prediction_of(points, 4097)) == (
        "expected a complexity within a factor of 2 of the range of the models, 1 to 2048, "
        "found 4097"
    )
    eleven = points.where(np.arange(12) < 11)
    assert reason_of(prediction_of(eleven, 1025)) == (
        "expected 4 tests of extrapolation at least, found 3 with 11 models"
    )


def test_an_extrapolated_model_of_a_new_family_is_tested_without_its_own():
    # The costliest third is of one family, 50% above the others at every cost.
    cost = 2.0 ** np.arange(18)
    families = [*"abcdabcdeeee", *"e" * 6]
    quality = 0.01 * cost**0.2 * np.where(np.asarray(families) == "e", 1.5, 1)
    points = points_of(cost, quality, families)
    new = extrapolation_errors(points, new_family=True, forms=["power"])
    assert new == pytest.approx(quality[12:] / 3)
    known = extrapolation_errors(points, forms=["power"])
    assert known.max() < new.max()


@given(unit=st.floats(1e-6, 1e6), seed=st.integers(0, 500))
def test_units_of_complexity_change_no_prediction(unit: float, seed: int):
    points = scattered(9, seed=seed)
    at = float(np.median(points.complexity))
    plain = prediction_of(points, at)
    other = prediction_of(points_of(points.complexity * unit, points.quality), at * unit)
    assert (other.expected, *interval_of(other)) == pytest.approx(
        (plain.expected, *interval_of(plain)), rel=1e-6
    )


@pytest.mark.parametrize(("models", "exactly"), [(9, 0.8), (14, 0.8), (24, 0.8), (8, 8 / 9)])
def test_the_interval_holds_the_next_model_in_80_of_100_studies(models: int, exactly: float):
    # Of n + 1 exchangeable residuals the last is among the 1 - k / (n + 1) least, where k of the
    # n + 1 may lie outside: of 8 models none but one of nine.
    held = []
    for seed in range(500):
        points = scattered(models + 1, seed=seed, costs=4)
        fitted, new_cost = points.where(np.arange(models + 1) < models), points.complexity[-1]
        found = predict(fitted, new_cost, family="m0", forms=["power"])
        if isinstance(found, Prediction) and found.inside:
            low, high = interval_of(found)
            held.append(low <= points.quality[-1] <= high)
    assert len(held) > 440
    assert np.mean(held) == pytest.approx(exactly, abs=3 * math.sqrt(0.8 * 0.2 / len(held)))


def test_a_model_that_is_left_out_has_no_part_in_its_prediction():
    points = scattered(9)
    test = validated(points)
    assert [row.model for row in test.predictions] == list(points.models)
    for left, row in enumerate(test.predictions):
        others = points.where(np.arange(9) != left)
        assert row.prediction == predict(others, points.complexity[left])
        assert row.prediction.num_models == 8
        assert row.measured == points.quality[left]
    assert test.untested == {}


def test_of_eight_models_each_is_predicted_from_seven():
    assert {row.prediction.num_models for row in validated(scattered(8)).predictions} == {7}


def test_a_family_that_is_left_out_takes_all_its_models_with_it():
    # Three families on the same powers of complexity, each at its own height. Predicted from the
    # two others, equal in number and place, a model is expected at their geometric mean.
    complexity = np.tile([1.0, 2.0, 4.0, 8.0], 3)
    quality = np.repeat([1.0, 2.0, 4.0], 4) * complexity**0.5
    points = points_of(complexity, quality, ["low"] * 4 + ["middle"] * 4 + ["high"] * 4)
    test = validated(points, "family")
    factors = {row.family: math.exp(row.log_error) for row in test.predictions}
    assert factors == pytest.approx({"low": 1 / 8**0.5, "middle": 1.0, "high": 4 / 2**0.5})
    assert {row.prediction.num_models for row in test.predictions} == {8}
    # Two families remain, and bound no third.
    assert (test.coverage, test.coverage_interval) == ("0 of 0", (0, 1))


def a_model(measured: float, expected: float, low: float, high: float) -> LeftOutPrediction:
    interval = Interval(low, high)
    prediction = Prediction(1.0, expected, interval, "power", 7, inside=True, new_family=False)
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
    tests = [validated(scattered(10, seed=seed, families=["x"] * 10)) for seed in range(60)]
    share = sum(test.num_covered for test in tests) / sum(test.num_intervals for test in tests)
    assert share == pytest.approx(0.8, abs=0.05)


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
