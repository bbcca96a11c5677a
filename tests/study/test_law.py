"""The law: on exact powers by hand, on scatter against the formulas of textbooks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from ossa.study.scaling import (
    InsufficientData,
    Law,
    Points,
    fit_family_laws,
    fit_law,
    inverse_normalised_loss,
    leave_one_out,
)

POWERS_OF_TWO = 2.0 ** np.arange(8)


def points_of(
    complexity: ArrayLike, quality: ArrayLike, families: Sequence[str] | None = None
) -> Points:
    names = [f"m{number}" for number in range(len(np.asarray(complexity)))]
    return Points.of(names, families=families or names, complexity=complexity, quality=quality)


def law_of(points: Points) -> Law:
    law = fit_law(points)
    assert isinstance(law, Law)
    return law


def scattered(models: int = 12, *, seed: int = 0, slope: float = 0.15) -> Points:
    """Returns models between 1 M and 100 M parameters with 10 % of scatter around a power law."""
    rng = np.random.default_rng(seed)
    complexity = 10 ** rng.uniform(6, 8, models)
    return points_of(complexity, 0.03 * complexity**slope * np.exp(rng.normal(0, 0.1, models)))


def test_an_exact_power_is_found_exactly():
    law = law_of(points_of(POWERS_OF_TWO, 3 * POWERS_OF_TWO**0.5))
    assert (law.slope, math.exp(law.intercept)) == (pytest.approx(0.5), pytest.approx(3))
    assert law.r_squared == pytest.approx(1)
    assert (law.slope_error, law.slope_error_hc3) == pytest.approx((0, 0), abs=1e-12)
    assert law.expected([4, 9]) == pytest.approx([6, 9])


def test_one_model_above_the_law_by_hand():
    # ln x = -2, -1, ..., 2 thrice over; the middle one of each is e above a flat law at 1, so the
    # law is flat at e^0.2 with R² 0: residuals 0.8 (3 models) and -0.2 (12), s² = 2.4 / 13,
    # Sxx = 30.
    steps = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 3)
    law = law_of(points_of(np.exp(steps), np.exp(1.0 * (steps == 0))))
    assert law.slope == pytest.approx(0, abs=1e-12)
    assert (law.intercept, law.r_squared) == (pytest.approx(0.2), pytest.approx(0, abs=1e-12))
    assert law.freedom == 13
    assert law.slope_error == pytest.approx(math.sqrt(2.4 / 13 / 30))
    half = stats.t.ppf(0.975, 13) * math.sqrt(2.4 / 13 / 30)
    assert law.slope_interval == pytest.approx((-half, half))
    assert law.residuals()[2].log == pytest.approx(0.8)
    assert law.residuals()[0].log == pytest.approx(-0.2)


def test_slope_intervals_and_r_squared_are_those_of_scipy():
    points = scattered()
    law = law_of(points)
    other: Any = stats.linregress(np.log(points.complexity), np.log(points.quality))
    t = stats.t.ppf(0.975, 10)
    assert (law.slope, law.intercept) == pytest.approx((other.slope, other.intercept))
    assert law.r_squared == pytest.approx(other.rvalue**2)
    assert law.slope_error == pytest.approx(other.stderr)
    for interval, value, error in (
        (law.slope_interval, other.slope, other.stderr),
        (law.intercept_interval, other.intercept, other.intercept_stderr),
    ):
        assert interval == pytest.approx((value - t * error, value + t * error))


def test_hc3_is_the_sandwich_of_residuals_over_one_less_leverage():
    points = scattered()
    x, y = np.log(points.complexity), np.log(points.quality)
    off = x - x.mean()
    slope = (off * y).sum() / (off**2).sum()
    residual = y - y.mean() - slope * off
    leverage = 1 / len(x) + off**2 / (off**2).sum()
    hc3 = math.sqrt(((off * residual / (1 - leverage)) ** 2).sum()) / (off**2).sum()
    assert law_of(points).slope_error_hc3 == pytest.approx(hc3)


def test_the_band_is_the_textbook_s_and_narrowest_at_the_mean():
    points = scattered()
    law = law_of(points)
    x, y = np.log(points.complexity), np.log(points.quality)
    at = np.array([x.mean() - 1, x.mean(), x.mean() + 1])
    band = law.band(np.exp(at))
    s = math.sqrt(((y - law.intercept - law.slope * x) ** 2).sum() / 10)
    half = stats.t.ppf(0.975, 10) * s * np.sqrt(1 / 12 + (at - x.mean()) ** 2 / (12 * x.var()))
    assert np.log(band.high / band.expected) == pytest.approx(half)
    assert np.log(band.expected / band.low) == pytest.approx(half)
    assert band.expected == pytest.approx(law.expected(band.complexity))
    assert half.argmin() == 1


def test_the_interval_of_the_slope_holds_the_true_one_in_95_of_100_studies():
    held = 0
    for seed in range(400):
        low, high = law_of(scattered(10, seed=seed, slope=0.15)).slope_interval
        held += low <= 0.15 <= high
    # The deviation of 400 such counts is sqrt(0.95 x 0.05 x 400) = 4.4.
    assert held == pytest.approx(380, abs=13)


def test_residuals_say_how_far_above_the_law_a_model_lies():
    quality = 0.1 * POWERS_OF_TWO
    law = law_of(points_of(POWERS_OF_TWO, quality))
    (row, *_) = law.residuals()
    assert (row.model, row.measured, row.expected) == ("m0", pytest.approx(0.1), pytest.approx(0.1))
    better = type(row)("m0", "x", measured=0.44, expected=0.40)
    assert (better.factor, better.percent) == (pytest.approx(1.1), pytest.approx(10))
    assert better.log == pytest.approx(math.log(1.1))


@given(
    unit=st.floats(1e-9, 1e9),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_units_change_neither_slope_nor_fit_nor_residuals(unit: float, scale: float, seed: int):
    points = scattered(seed=seed)
    law = law_of(points)
    other = law_of(points_of(points.complexity * unit, points.quality * scale))
    assert other.slope == pytest.approx(law.slope, rel=1e-6, abs=1e-9)
    assert other.r_squared == pytest.approx(law.r_squared, rel=1e-6, abs=1e-9)
    assert other.slope_error_hc3 == pytest.approx(law.slope_error_hc3, rel=1e-6)
    assert [row.log for row in other.residuals()] == pytest.approx(
        [row.log for row in law.residuals()], rel=1e-6, abs=1e-9
    )
    assert sum(row.log for row in law.residuals()) == pytest.approx(0, abs=1e-9)


def test_equally_good_models_have_a_flat_law_and_no_r_squared():
    law = law_of(points_of(POWERS_OF_TWO, np.full(8, 0.4)))
    assert law.slope == pytest.approx(0, abs=1e-12)
    assert math.isnan(law.r_squared)


def test_under_eight_models_there_is_no_law_but_a_sentence():
    found = fit_law(points_of([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 0]))
    assert found == InsufficientData(
        "expected 8 models at least, found 7 (left out: m7: expected a positive quality, found 0)"
    )


def test_a_family_has_a_law_of_its_own_where_it_has_eight_models():
    complexity = np.tile(POWERS_OF_TWO, 2)
    quality = np.concatenate((POWERS_OF_TWO**0.3, POWERS_OF_TWO[:7] ** 0.1, [0]))
    laws = fit_family_laws(points_of(complexity, quality, ["big"] * 8 + ["small"] * 8))
    assert list(laws) == ["big", "small"]
    big, small = laws["big"], laws["small"]
    assert isinstance(big, Law)
    assert big.slope == pytest.approx(0.3)
    assert isinstance(small, InsufficientData)
    assert small.reason == (
        "expected 8 models at least, found 7 (left out: m15: expected a positive quality, found 0)"
    )


def test_a_line_without_a_model_is_that_of_the_others():
    points = scattered(9)
    x, y = np.log(points.complexity), np.log(points.quality)
    lines = leave_one_out(points)
    assert lines.line[::-1] == pytest.approx(np.polyfit(x, y, 1))
    for left in range(9):
        others = np.arange(9) != left
        slope, intercept = np.polyfit(x[others], y[others], 1)
        assert lines.coefficients[left] == pytest.approx([intercept, slope])
        assert lines.residuals[left] == pytest.approx(y[left] - intercept - slope * x[left])
        assert lines.at(5e6)[left] == pytest.approx(intercept + slope * math.log(5e6))


def test_the_inverse_normalised_loss_is_the_largest_over_the_last():
    assert inverse_normalised_loss([2.0, 4.0, 1.0, 0.5]) == 8.0
    assert inverse_normalised_loss([1.0, 2.0]) == 1.0
    assert inverse_normalised_loss([3.0]) == 1.0


@pytest.mark.parametrize(
    "losses", [[], [1.0, 0.0], [1.0, math.nan], [math.inf, 1.0], [math.nan, 1]]
)
def test_a_run_without_losses_that_are_numbers_has_no_inverse_normalised_loss(losses: list[float]):
    assert math.isnan(inverse_normalised_loss(losses))
