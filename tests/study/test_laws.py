"""Forms of the law: exact ones by hand, leave-one-out errors against plain loops."""

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.optimize import curve_fit

from ossa.study.laws import FORMS, Form, LawComparison, choose_law, compare_laws, fit_law
from ossa.study.scaling import InsufficientData, Points

COST = 2.0 ** np.arange(12)
EXACT = {
    "power": 0.2 * COST**0.15,
    "error": 1 - 0.8 * COST**-0.1,
    "saturating": 0.5 - 0.3 * COST**-0.4,
}


def points_of(quality: ArrayLike, complexity: ArrayLike = COST) -> Points:
    names = [f"m{number}" for number in range(len(np.asarray(quality)))]
    return Points.of(names, families=names, complexity=complexity, quality=quality)


def scattered(form: Form, *, deviation: float = 0.01) -> Points:
    noise = np.random.default_rng(0).normal(0, deviation, len(COST))
    return points_of(EXACT[form] + noise)


def comparison_of(points: Points) -> LawComparison:
    comparison = compare_laws(points)
    assert isinstance(comparison, LawComparison)
    return comparison


@pytest.mark.parametrize("form", ["power", "error"])
def test_an_exact_law_is_found_and_extended(form: Form):
    law = fit_law(points_of(EXACT[form][:9], COST[:9]), form)
    assert law.errors == pytest.approx(np.zeros(9), abs=1e-12)
    assert law.expected(COST) == pytest.approx(EXACT[form])
    assert choose_law(points_of(EXACT[form])).form == form


def test_a_ceiling_is_found_where_the_quality_bends_towards_it():
    law = choose_law(points_of(EXACT["saturating"]))
    assert law.form == "saturating"
    assert law.exponent == pytest.approx(0.4, rel=0.03)  # the next of 64 candidates
    assert law.ceiling == pytest.approx(0.5, abs=0.003)
    # 0.5 - 0.3 / 16 at 2^10, and 0.5 - 0.3 / 64 at 2^15, twice as far as the models in log.
    assert law.expected([2.0**10, 2.0**15]) == pytest.approx([0.48125, 0.4953125], abs=0.003)


def test_variable_projection_is_the_least_squares_fit_of_three_parameters():
    points = scattered("saturating")
    law = fit_law(points, "saturating")

    def curve(cost: np.ndarray, ceiling: float, factor: float, exponent: float) -> np.ndarray:
        return ceiling - factor * cost**-exponent

    (ceiling, _, exponent), _ = curve_fit(curve, COST, points.quality, p0=(0.5, 0.3, 0.4))
    assert (law.ceiling, law.exponent) == pytest.approx((ceiling, exponent), rel=0.04)
    assert law.exponent_interval is not None
    assert law.exponent_interval.low < exponent < law.exponent_interval.high


def test_a_straight_line_has_no_ceiling():
    points = points_of(0.2 + 0.02 * np.log(COST))
    assert not fit_law(points, "saturating").identified
    rows = {row["form"]: row for row in comparison_of(points).flat()}
    assert rows["saturating"]["ceiling"] is None
    assert comparison_of(points).sentence().endswith("quality = a - b x^-c is not identified.")
    assert choose_law(points).form != "saturating"


@pytest.mark.parametrize("form", [*FORMS])
def test_leave_one_out_predictions_are_from_the_other_models(form: Form):
    points = scattered("saturating")
    law = fit_law(points, form)
    for left in range(len(COST)):
        others = points.where(np.arange(len(COST)) != left)
        expected = fit_law(others, form).expected(points.complexity[[left]])
        assert law.predicted_without[[left]] == pytest.approx(expected, rel=1e-6)
    assert law.errors == pytest.approx(np.abs(points.quality - law.predicted_without))
    at, residuals = law.folds(16.0)
    first = fit_law(points.where(np.arange(len(COST)) > 0), form)
    assert at[0] == pytest.approx(first.link_at(16.0), rel=1e-6)
    left_out = points.where(np.arange(len(COST)) == 0)
    assert residuals[:1] == pytest.approx(np.abs(first.link_residuals(left_out)), rel=1e-6)


def test_the_best_form_is_the_one_with_the_smallest_error_and_the_others_have_an_interval():
    comparison = comparison_of(scattered("error", deviation=0.002))
    assert comparison.best.form == "error"
    (power,) = [row for row in comparison.differences if row.form == "power"]
    errors = {form: law.errors for form, law in comparison.laws.items()}
    differences = errors["power"] - errors["error"]
    assert power.difference == pytest.approx(differences.mean())
    half = 2.201 * differences.std(ddof=1) / 12**0.5  # t of 11 degrees of freedom
    assert power.interval == pytest.approx(
        (power.difference - half, power.difference + half), abs=1e-5
    )
    assert power.distinguishable
    assert comparison.sentence().startswith("1 - quality = a x^-b predicts best, with a mean")


def test_a_quality_above_1_has_no_error_to_fall():
    points = points_of(10 * EXACT["power"])
    assert list(comparison_of(points).laws) == ["power", "saturating"]
    law = fit_law(points, "power")
    assert law.expected([1e9])[0] > 1
    assert fit_law(points_of(EXACT["power"]), "power").expected([1e9]) == [1.0]


def test_under_eight_models_no_forms_are_compared():
    found = compare_laws(points_of(EXACT["power"][:7], COST[:7]))
    assert found == InsufficientData("expected 8 models at least, found 7")
