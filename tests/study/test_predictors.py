"""Which measure of complexity predicts best: measures that are the truth, noise, or the same."""

import gc
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ossa.study.analysis import MeasureRanking, rank_measures
from ossa.study.scaling import InsufficientData, Points, leave_one_out


@pytest.fixture(autouse=True)
def _quick_collections() -> Iterator[None]:
    """Spares what is loaded from garbage collection: statsmodels collects at every correction."""
    gc.freeze()
    yield
    gc.unfreeze()


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
    assert pair.difference.interval.high < 0
    assert (ranking.best, ranking.sentence) == (("flops",), "flops predicts best")


def test_a_pair_is_a_paired_t_test_of_errors_of_models_left_out():
    ranking = ranking_of(QUALITY, params=UNRELATED, flops=FLOPS)
    first, second = (
        np.abs(leave_one_out(points).residuals)
        for points in points_by_measure(QUALITY, {"flops": FLOPS, "params": UNRELATED}).values()
    )
    test = stats.ttest_rel(first, second)
    (pair,) = ranking.pairs
    assert pair.difference.value == pytest.approx((first - second).mean())
    assert pair.difference.p == pytest.approx(test.pvalue)
    assert pair.difference.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert ranking.errors == pytest.approx({"flops": first.mean(), "params": second.mean()})


def test_flops_and_macs_are_not_distinguishable():
    # FLOPs are twice the MACs: what differs is rounding, which a t test would take for real.
    ranking = ranking_of(QUALITY, flops=FLOPS, macs=FLOPS / 2.000001, params=UNRELATED)
    pair = ranking.pairs[0]
    assert {pair.first, pair.second} == {"flops", "macs"}
    assert (pair.difference.value, pair.difference.p, pair.p_adjusted) == (0, 1, 1)
    assert set(ranking.best) == {"flops", "macs"}
    assert ranking.sentence.startswith("not distinguishable: ")


def test_the_p_of_all_pairs_are_adjusted_by_holm():
    ranking = ranking_of(
        QUALITY, flops=FLOPS * noise(3, 0.3), ms=FLOPS * noise(4, 0.6), params=UNRELATED
    )
    own = np.array([pair.difference.p for pair in ranking.pairs])
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


def test_measures_that_are_equally_noisy_are_seldom_told_apart():
    told_apart = 0
    for seed in range(300):
        quality = FLOPS**0.2
        ranking = ranking_of(
            quality, params=FLOPS * noise(2 * seed, 0.5), flops=FLOPS * noise(2 * seed + 1, 0.5)
        )
        told_apart += len(ranking.best) == 1
    # 5 in 100 at most; the deviation of 300 such counts is 3.8.
    assert told_apart <= 15 + 2 * 3.8


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
    assert ranking.sentence == "only flops could be fitted: there is nothing to compare it with"


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
