"""Pareto sets by hand and by definition, and which measure of complexity predicts best."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ossa.study.analysis import (
    MeasureRanking,
    pareto_membership,
    pareto_set,
    rank_measures,
)
from ossa.study.scaling import InsufficientData, Points, leave_one_out

NAMES = ("a", "b", "c", "d", "e")


def points_of(complexity: Sequence[float], quality: Sequence[float]) -> Points:
    names = NAMES[: len(complexity)]
    return Points.of(names, families=names, complexity=complexity, quality=quality)


def members_of(complexity: list[float], quality: list[float]) -> str:
    found = pareto_membership(points_of(complexity, quality))
    return "".join(point.model for point in found if point.is_member)


def test_a_model_that_is_worse_and_dearer_than_another_is_beaten():
    # b costs more than a and is worse; d costs more than c and is no better.
    assert members_of([1, 2, 3, 4, 5], [0.3, 0.2, 0.4, 0.4, 0.5]) == "ace"


def test_of_equal_complexity_the_best_belongs_and_equals_do_not_beat_each_other():
    assert members_of([1, 1, 1], [0.1, 0.3, 0.2]) == "b"
    assert members_of([1, 1, 2, 2], [0.3, 0.3, 0.4, 0.4]) == "abcd"
    assert members_of([1, 2], [0.3, 0.3]) == "a"


def test_members_come_the_cheapest_first_whatever_their_order_was():
    assert members_of([5, 1, 3], [0.5, 0.1, 0.3]) == "bca"


def test_a_model_under_the_fit_may_be_in_the_pareto_set():
    # The line through the three passes b, in the middle of them, at (0.30 x 0.31 x 0.40)^(1/3).
    assert (0.30 * 0.31 * 0.40) ** (1 / 3) > 0.33
    assert members_of([1, 10, 100], [0.30, 0.31, 0.40]) == "abc"


def test_what_finds_nothing_is_never_in_the_pareto_set():
    found = pareto_set(np.array([1.0, 2.0, 3.0]), np.array([0.0, np.nan, 0.1]))
    assert found.tolist() == [False, False, True]


def by_definition(complexity: NDArray[np.float64], quality: NDArray[np.float64]) -> list[bool]:
    def beats(a: int, b: int) -> bool:
        no_worse = complexity[a] <= complexity[b] and quality[a] >= quality[b]
        better = complexity[a] < complexity[b] or quality[a] > quality[b]
        return bool(no_worse and better)

    everyone = range(len(complexity))
    return [not any(beats(other, model) for other in everyone) for model in everyone]


FEW = st.integers(1, 4).map(float)


@given(
    complexity=arrays.arrays(np.float64, 6, elements=FEW),
    quality=arrays.arrays(np.float64, (3, 6), elements=FEW),
)
def test_every_draw_has_the_set_of_the_definition(
    complexity: NDArray[np.float64], quality: NDArray[np.float64]
):
    found = pareto_set(complexity, quality)
    assert found.tolist() == [by_definition(complexity, row) for row in quality]
    assert found.any(axis=1).all()
    # Only orders matter.
    assert (pareto_set(np.log(complexity), quality**3) == found).all()


def test_the_probability_is_the_share_of_draws_in_which_a_model_belongs():
    # b is beaten by a in the third draw, c by b in the last.
    draws = {
        "c": np.array([0.5, 0.6, 0.5, 0.4]),
        "unused": np.array([0.9, 0.9, 0.9, 0.0]),
        "b": np.array([0.4, 0.4, 0.2, 0.5]),
        "a": np.array([0.3, 0.3, 0.3, 0.3]),
    }
    found = pareto_membership(points_of([1, 2, 3], [0.3, 0.2, 0.5]), draws)
    assert [(point.model, point.is_member, point.probability) for point in found] == [
        ("a", True, 1.0),
        ("b", False, 0.75),
        ("c", True, 0.75),
    ]


def test_without_draws_there_is_a_pareto_set_and_no_probability():
    found = pareto_membership(points_of([1, 2], [0.3, 0.0]))
    assert [(point.model, point.probability) for point in found] == [("a", None)]


def points_by_measure(
    quality: ArrayLike, complexities: Mapping[str, ArrayLike]
) -> dict[str, Points]:
    names = [f"m{number}" for number in range(len(np.asarray(quality)))]
    return {
        measure: Points.of(names, families=names, complexity=values, quality=quality)
        for measure, values in complexities.items()
    }


def ranking_of(quality: ArrayLike, **complexities: ArrayLike) -> MeasureRanking:
    ranking = rank_measures(points_by_measure(quality, complexities))
    assert isinstance(ranking, MeasureRanking)
    return ranking


def noise(seed: int, deviation: float, models: int = 12) -> NDArray[np.float64]:
    return np.exp(np.random.default_rng(seed).normal(0, deviation, models))


FLOPS = 2.0 ** np.linspace(0, 6, 12)
QUALITY = FLOPS**0.2 * noise(1, 0.02)
UNRELATED = FLOPS[np.random.default_rng(2).permutation(12)]


def test_the_measure_that_quality_follows_predicts_best():
    ranking = ranking_of(QUALITY, params=UNRELATED, flops=FLOPS)
    assert list(ranking.errors) == ["flops", "params"]
    assert ranking.errors["flops"] < 0.03 < 0.1 < ranking.errors["params"]
    (pair,) = ranking.pairs
    assert (pair.first, pair.second, pair.verdict) == ("flops", "params", "better")
    assert pair.interval.high < 0
    assert ranking.best == ("flops",)


def test_a_pair_is_a_paired_t_test_of_errors_of_models_left_out():
    ranking = ranking_of(QUALITY, params=UNRELATED, flops=FLOPS)
    first, second = (
        np.abs(leave_one_out(points).residuals)
        for points in points_by_measure(QUALITY, {"flops": FLOPS, "params": UNRELATED}).values()
    )
    test = stats.ttest_rel(first, second)
    (pair,) = ranking.pairs
    assert pair.difference == pytest.approx((first - second).mean())
    assert pair.p == pytest.approx(test.pvalue)
    assert pair.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert ranking.errors == pytest.approx({"flops": first.mean(), "params": second.mean()})


def test_flops_and_macs_are_not_distinguishable():
    # FLOPs are twice the MACs: what differs is rounding, which a t test would take for real.
    ranking = ranking_of(QUALITY, flops=FLOPS, macs=FLOPS / 2.000001, params=UNRELATED)
    pair = ranking.pairs[0]
    assert {pair.first, pair.second} == {"flops", "macs"}
    assert (pair.difference, pair.p, pair.p_adjusted) == (0, 1, 1)
    assert set(ranking.best) == {"flops", "macs"}


def test_the_p_of_all_pairs_are_adjusted_by_holm():
    ranking = ranking_of(
        QUALITY, flops=FLOPS * noise(3, 0.3), ms=FLOPS * noise(4, 0.6), params=UNRELATED
    )
    own = np.array([pair.p for pair in ranking.pairs])
    least, middle, most = np.argsort(own)
    adjusted = np.empty(3)
    adjusted[least] = 3 * own[least]
    adjusted[middle] = max(2 * own[middle], adjusted[least])
    adjusted[most] = max(own[most], adjusted[middle])
    assert [pair.p_adjusted for pair in ranking.pairs] == pytest.approx(np.minimum(adjusted, 1))
    assert len(ranking.pairs) == 3
    for pair in ranking.pairs:
        assert (pair.verdict == "better") == (pair.p_adjusted < 0.05)
        assert ranking.errors[pair.first] <= ranking.errors[pair.second]


def test_measures_that_are_equally_noisy_are_seldom_distinguished():
    distinguished = 0
    for seed in range(300):
        quality = FLOPS**0.2
        ranking = ranking_of(
            quality, params=FLOPS * noise(2 * seed, 0.5), flops=FLOPS * noise(2 * seed + 1, 0.5)
        )
        distinguished += len(ranking.best) == 1
    # 5 in 100 at most; the deviation of 300 such counts is 3.8.
    assert distinguished <= 15 + 2 * 3.8


def test_measures_are_compared_on_the_models_that_have_all_of_them():
    ms = FLOPS.copy()
    ms[3] = np.nan
    ranking = ranking_of(QUALITY, flops=FLOPS, ms=ms)
    assert len(ranking.models) == 11
    assert "m3" not in ranking.models
    assert ranking.models_left_out == {"m3": "ms: expected a positive complexity, found nan"}
    assert ranking.measures_left_out == {}
    without = np.arange(12) != 3
    assert (
        ranking.errors == ranking_of(QUALITY[without], flops=FLOPS[without], ms=ms[without]).errors
    )


def test_a_measure_that_few_models_have_costs_the_others_nothing():
    memory = np.where(np.arange(12) < 7, FLOPS, np.nan)
    ranking = ranking_of(QUALITY, flops=FLOPS, memory=memory, constant=np.ones(12))
    assert len(ranking.models) == 12
    assert set(ranking.measures_left_out) == {"memory", "constant"}
    assert ranking.measures_left_out["memory"].startswith("expected 8 models at least, found 7")
    assert ranking.pairs == ()
    assert list(ranking.errors) == ["flops"]


def test_a_model_that_found_nothing_is_left_out_of_all():
    quality = QUALITY.copy()
    quality[0] = 0
    ranking = ranking_of(quality, flops=FLOPS, params=UNRELATED)
    assert list(ranking.models_left_out) == ["m0"]
    assert len(ranking.models) == 11


def test_without_eight_models_nothing_is_ranked():
    found = rank_measures(points_by_measure(QUALITY[:7], {"flops": FLOPS[:7]}))
    assert found == InsufficientData("flops: expected 8 models at least, found 7")
    # Eight have each of them, six have both.
    halves = {"a": [*FLOPS[:10], 0, 0], "b": [0, 0, 0, 0, *FLOPS[4:]]}
    both = rank_measures(points_by_measure(QUALITY, halves))
    assert isinstance(both, InsufficientData)
    assert both.reason == (
        "a: expected 8 models at least, found 6; b: expected 8 models at least, found 6"
    )
