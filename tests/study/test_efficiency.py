"""Efficiency by hand, and the quantile curve against what defines it."""

import numpy as np
import pytest

from ossa.study.efficiency import QuantileCurve, efficiencies, efficiency_sentence, quantile_curve
from ossa.study.scaling import InsufficientData, Points


def test_efficiency_is_the_cost_of_the_cheapest_model_as_good_over_the_own_cost():
    points = Points.of(
        "edcba",
        families="xxxxx",
        complexity=[10, 8, 4, 2, 1],
        quality=[0.35, 0.4, 0.3, 0.3, 0.1],
    )
    rows = efficiencies(points)
    assert [(row.model, row.cheapest, row.value) for row in rows] == [
        ("a", "a", 1.0),
        ("b", "b", 1.0),
        ("c", "b", 0.5),  # as good at half of the cost
        ("d", "d", 1.0),
        ("e", "d", 0.8),  # better at less
    ]
    assert rows[2].flat() == {
        "model": "c",
        "family": "x",
        "complexity": 4.0,
        "quality": 0.3,
        "cheapest": "b",
        "value": 0.5,
        "interval": None,
        "low": None,
        "high": None,
    }


def test_the_interval_of_an_efficiency_is_the_middle_of_the_draws():
    points = Points.of("ab", families="xy", complexity=[1, 4], quality=[0.3, 0.2])
    # In 10 of 100 draws the dearer model is better, and its efficiency 1 in place of 0.25.
    better = np.arange(100) < 10
    draws = {"a": np.full(100, 0.3), "b": np.where(better, 0.4, 0.2), "other": np.zeros(100)}
    cheap, dear = efficiencies(points, draws)
    assert cheap.interval == (1.0, 1.0)
    assert (dear.value, dear.interval) == (0.25, (0.25, 1.0))
    (_, rarely) = efficiencies(points, draws | {"b": np.where(np.arange(100) < 2, 0.4, 0.2)})
    assert rarely.interval == (0.25, 0.25)
    assert efficiencies(Points.of("", families="", complexity=[], quality=[]), {}) == ()


def test_the_sentence_names_models_that_a_cheaper_one_clearly_equals():
    points = Points.of("abc", families="xyz", complexity=[1, 4, 8], quality=[0.3, 0.2, 0.25])
    assert efficiency_sentence(efficiencies(points)) == (
        "At least as good and cheaper: a at 0.12 of the cost of c; a at 0.25 of the cost of b."
    )
    sure, unsure = np.full(100, 0.2), np.linspace(0, 1, 100)
    draws = {"a": np.full(100, 0.3), "b": sure, "c": unsure}
    assert efficiency_sentence(efficiencies(points, draws)) == (
        "At least as good and cheaper: a at 0.25 of the cost of b (95% CI 0.25 to 0.25)."
    )
    nothing = efficiencies(points, draws | {"b": unsure, "c": unsure[::-1]})
    assert efficiency_sentence(nothing).startswith("There is no model of which it is clear")


def curve_of(points: Points) -> QuantileCurve:
    curve = quantile_curve(points)
    assert isinstance(curve, QuantileCurve)
    return curve


def models(number: int, *, seed: int = 0, slope: float = 0.02) -> Points:
    rng = np.random.default_rng(seed)
    cost = 10 ** rng.uniform(6, 8, number)
    quality = 0.3 + slope * np.log(cost / 1e7) + 0.02 * rng.normal(size=number)
    names = [f"m{n}" for n in range(number)]
    return Points.of(names, families=names, complexity=cost, quality=quality)


@pytest.mark.parametrize("seed", range(5))
def test_nine_tenths_of_the_models_lie_below_the_quantile_curve(seed: int):
    points = models(200, seed=seed)
    curve = curve_of(points)
    above = (points.quality > curve.expected(points.complexity) + 1e-9).sum()
    below = (points.quality < curve.expected(points.complexity) - 1e-9).sum()
    assert above <= 20
    assert below <= 180
    assert (np.diff(curve.quality) >= 0).all()
    assert curve.expected([1.0, 1e12]) == pytest.approx(curve.quality[[0, -1]])
    assert curve.flat()[0]["complexity"] == pytest.approx(points.complexity.min())


def test_a_quality_that_falls_with_cost_has_a_flat_quantile():
    points = models(40, slope=-0.02)
    curve = curve_of(points)
    assert curve.quality == pytest.approx(np.full(3, curve.quality[0]))
    assert (points.quality > curve.quality[0] + 1e-9).sum() <= 4


def test_under_twenty_models_there_is_no_quantile_curve():
    found = quantile_curve(models(19))
    assert found == InsufficientData("expected 20 models at least, found 19")
