"""Simultaneous intervals, verdicts and draws of quality: by hand, and by small simulations."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from tiny_studies import runs_of

from ossa.evaluate.statistics import Values
from ossa.study.comparisons import (
    Comparisons,
    PairwiseComparison,
    compare_all,
)
from ossa.study.estimates import draw_qualities, moderated_variances
from ossa.study.sequential import detectable_difference

SIMULATION = Path(__file__).parents[2] / "benchmarks" / "verdicts.py"


def compared(**models: tuple[float, ...]) -> Comparisons:
    return compare_all({name: runs_of(*seeds) for name, seeds in models.items()}, draws=4000)


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verdicts", SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verdicts"] = module
    spec.loader.exec_module(module)
    return module


def test_two_models_of_three_seeds_have_the_interval_of_welch():
    # Both deviations are 0.01: 4 degrees of freedom, and no third model to learn a variance from.
    pair = compared(a=(0.39, 0.40, 0.41), b=(0.29, 0.30, 0.31)).pair("a", "b")
    half = stats.t.ppf(0.975, 4) * np.sqrt(2 * 0.01**2 / 3)
    assert pair.difference == pytest.approx(0.1)
    # Drawn, so not exact: Welch's own degrees of freedom vary from draw to draw.
    assert (pair.high - pair.low) / 2 == pytest.approx(half, rel=0.12)
    assert pair.verdict == "better"


def test_the_interval_of_one_model_is_student_s():
    interval = compared(a=(0.39, 0.40, 0.41), b=(0.29, 0.30, 0.31)).interval("a")
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.1)


def test_variances_alike_are_moderated_and_a_failing_model_keeps_its_own():
    alike = moderated_variances(np.array([1.0, 1.0, 1.0, 1.0, 100.0]), np.full(5, 2.0))
    assert alike.value[4] == 100.0
    assert alike.dof[4] == 2.0
    assert (alike.value[:4] > 1.0).all()
    assert (alike.dof[:4] > 2.0).all()
    assert alike.prior[1] <= 6.0


def test_two_models_share_no_prior():
    alone = moderated_variances(np.array([1.0, 4.0]), np.full(2, 2.0))
    assert alone.value.tolist() == [1.0, 4.0]
    assert alone.dof.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "verdict", "within", "at_most_lower"),
    [
        (0.01, 0.05, "better", 0.05, 0.0),
        (-0.05, -0.01, "worse", 0.05, 0.05),
        (-0.012, 0.018, "practically the same", 0.018, 0.012),
        (-0.012, 0.03, "not decided", 0.03, 0.012),
    ],
)
def test_one_interval_decides_everything(
    low: float, high: float, verdict: str, within: float, at_most_lower: float
):
    pair = PairwiseComparison("a", "b", (low + high) / 2, low, high, 0.5, margin=0.02)
    assert (pair.verdict, pair.within, pair.at_most_lower) == (verdict, within, at_most_lower)


def test_models_that_learned_next_to_nothing_are_not_the_same():
    learned = compared(a=(0.30, 0.301, 0.302), b=(0.30, 0.301, 0.302))
    hardly = compared(a=(0.03, 0.031, 0.032), b=(0.022, 0.023, 0.024))
    assert learned.pair("a", "b").verdict == "practically the same"
    assert hardly.pair("a", "b").within < 0.02
    assert hardly.margin == pytest.approx(0.2 * 0.031)
    assert not hardly.pair("a", "b").is_equivalent


def test_a_verdict_and_its_p_and_interval_never_contradict_each_other():
    rng = np.random.default_rng(0)
    models = {f"m{i}": tuple(0.02 * i + 0.01 * rng.standard_normal(3)) for i in range(6)}
    pairs = compared(**models).pairs()
    assert len(pairs) == 15
    for pair in pairs:
        assert pair.differs == (pair.p < 0.05)
        assert pair.difference >= 0


def test_the_other_way_round_is_the_mirror_image():
    both = compared(a=(0.3, 0.31, 0.32), b=(0.1, 0.2, 0.3), c=(0.2, 0.21, 0.2))
    forward, backward = both.pair("a", "c"), both.pair("c", "a")
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))


def test_the_best_is_certain_where_it_is_far_ahead_and_open_where_it_is_not():
    ahead = compared(a=(0.5, 0.51, 0.52), b=(0.1, 0.11, 0.12), c=(0.2, 0.21, 0.22))
    assert ahead.possibly_best() == ["a"]
    assert ahead.with_best()["a"].low >= 0
    assert ahead.with_best()["b"].high == 0
    close = compared(a=(0.5, 0.51, 0.52), b=(0.1, 0.11, 0.12), c=(0.49, 0.51, 0.52))
    assert close.possibly_best() == ["a", "c"]


def test_with_fewer_than_three_runs_the_intervals_cover_images_alone():
    rng = np.random.default_rng(1)
    images = {name: rng.normal(0.3, 0.02, (1, 200)) for name in "ab"}
    values = {n: Values(v[:, 0], v, rng.normal(0.3, 0.001, (1, 50)), 50) for n, v in images.items()}
    assert compare_all(values).over == "images alone"


def test_images_are_shared_and_cancel_out():
    # What the images are worth is the same for both: the difference is 0.1 under all of them.
    worth = np.random.default_rng(0).normal(0, 0.1, (1, 400))
    values = {
        name: Values(np.array([at]), at + worth, at + worth[:, :50], 50)
        for name, at in {"a": 0.4, "b": 0.3}.items()
    }
    pair = compare_all(values).pair("a", "b")
    assert (pair.low, pair.high) == pytest.approx((0.1, 0.1), abs=1e-6)


def test_draws_shrink_towards_the_mean_of_the_study():
    values = {"a": runs_of(0.28, 0.30, 0.32), "b": runs_of(0.29, 0.31, 0.33)}
    values |= {"c": runs_of(0.30, 0.29, 0.28), "d": runs_of(0.29, 0.30, 0.37)}
    draws = draw_qualities(values)
    assert draws is not None
    assert 0.30 < draws["d"].mean() < 0.32
    assert (draw_qualities(values, seed=1) or {})["a"].tolist() != draws["a"].tolist()


def test_far_apart_they_are_hardly_shrunk_and_without_any_variance_there_are_no_draws():
    draws = draw_qualities({"a": runs_of(0.1, 0.101, 0.102), "b": runs_of(0.5, 0.501, 0.502)})
    assert draws is not None
    assert draws["a"].mean() == pytest.approx(0.101, abs=0.001)
    assert draw_qualities({"a": runs_of(0.1), "b": runs_of(0.2)}) is None


def test_more_seeds_find_smaller_differences_and_images_set_a_floor():
    three, eight = (detectable_difference(0.01, runs=runs, models=10) for runs in (3, 8))
    # With three seeds a model whose variance is above the prior keeps two degrees of freedom.
    assert 0.07 < three < 0.11
    assert 0.020 < eight < 0.026
    floor = detectable_difference(0.0001, runs=100, models=10, image_deviation=0.01)
    # Of 45 pairs at 80%, about (3.3 + 0.84) deviations.
    assert floor == pytest.approx(0.041, abs=0.005)


def test_the_simulation_holds_what_the_page_promises(simulation: ModuleType):
    # Few studies, so a wide tolerance; benchmarks/verdicts.py has 4,000 a row.
    row = simulation.error_rates(simulation.CASES["equal"], studies=60, draws=1000)
    assert row["family-wise error"] <= 0.15
    assert row["coverage"] >= 0.85


def test_a_model_without_a_number_has_no_draws_and_many_models_fit_into_memory():
    values = {f"m{i}": runs_of(0.01 * i, 0.01 * i + 0.01, 0.01 * i + 0.02) for i in range(60)}
    draws = draw_qualities(values | {"lost": runs_of(np.nan, 0.1, 0.2)})
    assert draws is not None
    assert set(draws) == set(values)
    assert draws["m59"].mean() == pytest.approx(0.60, abs=0.01)
    assert draw_qualities({"lost": runs_of(np.nan, 0.1, 0.2)}) is None
