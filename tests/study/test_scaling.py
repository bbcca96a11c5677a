"""Points and power-law fits: exact powers by hand, scatter against the formulas of textbooks."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats
from scipy.linalg import fractional_matrix_power

from ossa.errors import DataError
from ossa.study.scaling import (
    InsufficientData,
    Points,
    PowerLaw,
    clustered_errors,
    fit_families,
    fit_power_law,
    inverse_normalised_loss,
    leave_one_out,
)

POWERS_OF_TWO = 2.0 ** np.arange(8)


def points_of(
    complexity: ArrayLike, quality: ArrayLike, families: Sequence[str] | None = None
) -> Points:
    names = [f"m{number}" for number in range(len(np.asarray(complexity)))]
    families = families or ["x"] * len(names)
    return Points.of(names, families=families, complexity=complexity, quality=quality)


def fit_of(points: Points) -> PowerLaw:
    fit = fit_power_law(points)
    assert isinstance(fit, PowerLaw)
    return fit


def slope_error(fit: PowerLaw) -> float:
    return fit.slope_errors.standard.item()


def scattered(models: int = 12, *, seed: int = 0, slope: float = 0.15) -> Points:
    """Returns models between 1 M and 100 M parameters with 10 % of scatter around a power fit."""
    rng = np.random.default_rng(seed)
    complexity = 10 ** rng.uniform(6, 8, models)
    return points_of(complexity, 0.03 * complexity**slope * np.exp(rng.normal(0, 0.1, models)))


def test_an_exact_power_is_found_exactly():
    fit = fit_of(points_of(POWERS_OF_TWO, 3 * POWERS_OF_TWO**0.5))
    assert (fit.slope, math.exp(fit.intercept)) == (pytest.approx(0.5), pytest.approx(3))
    assert fit.r_squared == pytest.approx(1)
    assert slope_error(fit) == pytest.approx(0, abs=1e-12)
    assert fit.expected([4, 9]) == pytest.approx([6, 9])


def test_one_model_above_the_fit_by_hand():
    # ln x = -2, -1, ..., 2 thrice over; the middle one of each is e above a flat line at 1, so the
    # fit is flat at e^0.2 with R² 0: residuals 0.8 (3 models) and -0.2 (12), s² = 2.4 / 13,
    # Sxx = 30.
    steps = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 3)
    fit = fit_of(points_of(np.exp(steps), np.exp(1.0 * (steps == 0))))
    assert fit.slope == pytest.approx(0, abs=1e-12)
    assert (fit.intercept, fit.r_squared) == (pytest.approx(0.2), pytest.approx(0, abs=1e-12))
    assert slope_error(fit) == pytest.approx(math.sqrt(2.4 / 13 / 30))
    half = stats.t.ppf(0.975, 13) * math.sqrt(2.4 / 13 / 30)
    assert fit.slope_interval == pytest.approx((-half, half))
    assert np.log(fit.ratios()[[2, 0]]) == pytest.approx([0.8, -0.2])


def test_slope_intervals_and_r_squared_are_those_of_scipy():
    points = scattered()
    fit = fit_of(points)
    other: Any = stats.linregress(np.log(points.complexity), np.log(points.quality))
    t = stats.t.ppf(0.975, 10)
    assert (fit.slope, fit.intercept) == pytest.approx((other.slope, other.intercept))
    assert fit.r_squared == pytest.approx(other.rvalue**2)
    assert slope_error(fit) == pytest.approx(other.stderr)
    half = t * other.stderr
    assert fit.slope_interval == pytest.approx((other.slope - half, other.slope + half))


def test_clusters_of_equal_size_leave_the_standard_error_of_their_means():
    # Means 1, 2, 3 and 6 about 3: variance (4 + 1 + 0 + 9) / 3, over four clusters.
    values = np.array([0, 2, 1, 3, 3, 3, 5, 7.0])
    ones = np.ones((8, 1))
    errors = clustered_errors(ones, values - 3, "aabbccdd", contrasts=np.ones((1, 1)))
    assert errors.standard.item() ** 2 == pytest.approx(14 / 3 / 4)
    assert errors.dof.item() == pytest.approx(3)


def test_the_difference_of_two_groups_has_the_published_degrees_of_freedom():
    # Imbens and Kolesár, "Robust standard errors in small samples" (Review of Economics and
    # Statistics 98, 2016): 27 controls and 3 treated units, each a cluster, have 2.5 degrees of
    # freedom. The variance is the sum of both groups' s² / n.
    values = np.random.default_rng(0).normal(size=30)
    treated = np.arange(30) >= 27
    design = np.column_stack((np.ones(30), treated.astype(float)))
    residuals = values - np.where(treated, values[27:].mean(), values[:27].mean())
    names = [f"unit{number}" for number in range(30)]
    errors = clustered_errors(design, residuals, names, contrasts=np.array([[0.0, 1.0]]))
    assert errors.dof.item() == pytest.approx(2.467, abs=1e-3)
    variance = values[:27].var(ddof=1) / 27 + values[27:].var(ddof=1) / 3
    assert errors.standard.item() ** 2 == pytest.approx(variance)


def test_clustered_variances_are_unbiased_for_independent_errors():
    # With R = I - H and Q the matrix of the estimator e'Qe, the trace of RQR is the true variance,
    # and (trace of RQR)² / trace of (RQR)² are Bell's and McCaffrey's degrees of freedom.
    rng, families = np.random.default_rng(1), np.repeat(["a", "b", "c", "d"], [5, 3, 2, 1])
    design = np.column_stack((np.ones(11), rng.normal(size=11)))
    bread = np.linalg.inv(design.T @ design)
    annihilator = np.eye(11) - design @ bread @ design.T
    form = np.zeros((11, 11))
    for name in "abcd":
        rows = np.flatnonzero(families == name)
        root = fractional_matrix_power(annihilator[np.ix_(rows, rows)], -0.5)
        weights = root @ design[rows] @ bread[:, 1]
        form[np.ix_(rows, rows)] = np.outer(weights, weights)
    residuals = annihilator @ rng.normal(size=11)
    errors = clustered_errors(
        design, residuals, families.tolist(), contrasts=np.array([[0.0, 1.0]])
    )
    assert errors.standard.item() ** 2 == pytest.approx(residuals @ form @ residuals)
    spread = annihilator @ form @ annihilator
    assert np.trace(spread) == pytest.approx(bread[1, 1])
    assert errors.dof.item() == pytest.approx(np.trace(spread) ** 2 / np.trace(spread @ spread))


def test_models_of_few_families_say_little_about_other_families():
    points = scattered(12)
    families = np.repeat(["a", "b", "c"], 4).tolist()
    one, three = fit_of(points), fit_of(points_of(points.complexity, points.quality, families))
    assert (three.slope, three.r_squared) == (one.slope, one.r_squared)
    assert one.slope_errors.dof.item() == 10
    assert 1 < three.slope_errors.dof.item() <= 2
    assert three.band([1e7]).expected == pytest.approx(one.band([1e7]).expected)


def test_the_band_is_the_textbook_s_and_narrowest_at_the_mean():
    points = scattered()
    fit = fit_of(points)
    x, y = np.log(points.complexity), np.log(points.quality)
    at = np.array([x.mean() - 1, x.mean(), x.mean() + 1])
    band = fit.band(np.exp(at))
    s = math.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / 10)
    half = stats.t.ppf(0.975, 10) * s * np.sqrt(1 / 12 + (at - x.mean()) ** 2 / (12 * x.var()))
    assert np.log(band.high / band.expected) == pytest.approx(half)
    assert np.log(band.expected / band.low) == pytest.approx(half)
    assert band.expected == pytest.approx(fit.expected(np.exp(at)))
    assert half.argmin() == 1


def test_the_interval_of_the_slope_holds_the_true_one_in_95_of_100_studies():
    held = 0
    for seed in range(400):
        low, high = fit_of(scattered(10, seed=seed, slope=0.15)).slope_interval
        held += low <= 0.15 <= high
    # The deviation of 400 such counts is sqrt(0.95 x 0.05 x 400) = 4.4.
    assert held == pytest.approx(380, abs=13)


def test_a_ratio_is_the_measured_quality_over_that_of_the_fit():
    fit = fit_of(points_of(POWERS_OF_TWO, 0.1 * POWERS_OF_TWO))
    assert fit.ratios() == pytest.approx(np.ones(8))
    above = replace(fit, points=points_of(POWERS_OF_TWO, 0.11 * POWERS_OF_TWO))
    assert above.ratios() == pytest.approx(np.full(8, 1.1))


@given(
    unit=st.floats(1e-9, 1e9),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_units_change_neither_slope_nor_fit_nor_residuals(unit: float, scale: float, seed: int):
    points = scattered(seed=seed)
    fit = fit_of(points)
    other = fit_of(points_of(points.complexity * unit, points.quality * scale))
    assert other.slope == pytest.approx(fit.slope, rel=1e-6, abs=1e-9)
    assert other.r_squared == pytest.approx(fit.r_squared, rel=1e-6, abs=1e-9)
    assert slope_error(other) == pytest.approx(slope_error(fit), rel=1e-6)
    assert other.ratios() == pytest.approx(fit.ratios(), rel=1e-6)
    assert np.log(fit.ratios()).sum() == pytest.approx(0, abs=1e-9)


def test_equally_good_models_have_a_flat_fit_and_no_r_squared():
    fit = fit_of(points_of(POWERS_OF_TWO, np.full(8, 0.4)))
    assert fit.slope == pytest.approx(0, abs=1e-12)
    assert math.isnan(fit.r_squared)


def test_under_eight_models_there_is_no_fit_but_a_reason():
    found = fit_power_law(points_of([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 0]))
    assert found == InsufficientData(
        "expected 8 models at least, found 7 (left out: m7: expected a positive quality, found 0)"
    )


def test_a_family_has_a_fit_of_its_own_where_it_has_eight_models():
    complexity = np.tile(POWERS_OF_TWO, 2)
    quality = np.concatenate((POWERS_OF_TWO**0.3, POWERS_OF_TWO[:7] ** 0.1, [0]))
    fits = fit_families(points_of(complexity, quality, ["big"] * 8 + ["small"] * 8))
    assert list(fits) == ["big", "small"]
    big, small = fits["big"], fits["small"]
    assert isinstance(big, PowerLaw)
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
        squares = np.square(y[others] - intercept - slope * x[others]).sum()
        assert lines.squares_without[left] == pytest.approx(squares)


def test_the_inverse_normalised_loss_is_the_largest_over_the_last():
    assert inverse_normalised_loss([2.0, 4.0, 1.0, 0.5]) == 8.0
    assert inverse_normalised_loss([1.0, 2.0]) == 1.0
    assert inverse_normalised_loss([3.0]) == 1.0


@pytest.mark.parametrize(
    "losses", [[], [1.0, 0.0], [1.0, math.nan], [math.inf, 1.0], [math.nan, 1]]
)
def test_a_run_without_losses_that_are_numbers_has_no_inverse_normalised_loss(losses: list[float]):
    assert math.isnan(inverse_normalised_loss(losses))


def test_models_without_a_logarithm_are_left_out_by_name():
    points = Points.of(
        ["a", "b", "c", "d", "e"],
        families=["x", "x", "y", "y", "y"],
        complexity=[1.0, 2.0, None, 4.0, -5.0],
        quality=[0.3, 0.0, 0.4, np.nan, np.inf],
    )
    assert (points.models, points.families) == (("a",), ("x",))
    assert (points.complexity.tolist(), points.quality.tolist()) == ([1.0], [0.3])
    assert [(model.model, model.family, model.reason) for model in points.left_out] == [
        ("b", "x", "expected a positive quality, found 0"),
        ("c", "y", "expected a positive complexity, found nan"),
        ("d", "y", "expected a positive quality, found nan"),
        (
            *("e", "y"),
            "expected a positive complexity, found -5, and expected a positive quality, found inf",
        ),
    ]


def test_seeds_are_not_points():
    with pytest.raises(DataError, match="one point per model, the mean of its seeds, found 2 of a"):
        Points.of(["a", "b", "a"], families="xyx", complexity=[1, 2, 1], quality=[1, 1, 1])


def test_numbers_that_are_fewer_than_models_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        Points.of(["a", "b"], families="xy", complexity=[1.0, 2.0], quality=[1.0])


def test_a_family_has_its_own_points_and_those_left_out_of_it():
    points = Points.of(
        ["a", "b", "c", "d"], families="xyxy", complexity=[1, 2, 3, 4], quality=[1, 1, 2, 0]
    )
    x, y = points.family("x"), points.family("y")
    assert (x.models, x.quality.tolist(), x.left_out) == (("a", "c"), [1, 2], ())
    assert (y.models, [model.model for model in y.left_out]) == (("b",), ["d"])


def reason(complexity: list[float], **fewest: int) -> str | None:
    found = points_of(complexity, np.ones(len(complexity))).insufficient(**fewest)
    return None if found is None else found.reason


def test_eight_models_allow_a_fit_and_seven_do_not():
    assert reason([1, 2, 3, 4, 5, 6, 7, 8]) is None
    assert reason([1, 2, 3, 4, 5, 6, 7]) == "expected 8 models at least, found 7"
    assert reason([1, 2, 3, 4, 5, 6, 7], fewest=7) is None
    assert reason([1, 2, 3, 4, 5, 6, 7, 0]) == (
        "expected 8 models at least, found 7 "
        "(left out: m7: expected a positive complexity, found 0)"
    )


def test_two_complexities_allow_no_fit():
    # Without the last model the others would all cost the same.
    assert reason([2, 2, 2, 2, 2, 2, 2, 3]) == (
        "expected 3 different complexities at least, found 2 among 8 models"
    )
    assert reason([2, 2, 2, 2, 2, 2, 2 + 1e-9, 3]) is not None
    assert reason([2, 2, 2, 2, 2, 2, 2.1, 3]) is None
