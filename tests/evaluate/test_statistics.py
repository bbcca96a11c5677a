"""Intervals and verdicts: by hand where a metric is a mean over images, and by simulation."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from evaluation_problems import SQUARE, an_index, found
from scipy import stats

from ossa.errors import DataError
from ossa.evaluate.bootstrap import draw_images
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.object_bins import bins_of
from ossa.evaluate.statistics import (
    Comparison,
    Estimate,
    Interval,
    compare_models,
    with_verdicts,
)

SIMULATION = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    """Returns squares side by side that do not touch."""
    return [(12.0 * i, 0.0, 12.0 * i + 10.0, 10.0) for i in range(count)]


def a_run(found_in_image: Sequence[int], *, truths: int = 1) -> Matches:
    """Returns a run that finds so many of the `truths` objects of each image, and nothing else.

    All of one class and one score, so its recall is the mean over the images.
    """
    index = an_index([[(0, box) for box in boxes(truths)] for _ in found_in_image], names=("cat",))
    return match(
        index,
        {
            image: found(*((0.9, 0, box) for box in boxes(count)))
            for image, count in enumerate(found_in_image, start=1)
        },
    )


def recall_of(*models: Sequence[Matches], resamples: int = 2000) -> list[Comparison]:
    return compare_models(models, metrics=("ar_100",), resamples=resamples)


def half_width(interval: Interval | None) -> float:
    assert interval is not None
    return (interval.high - interval.low) / 2


def difference_of(row: Comparison) -> Estimate:
    assert row.difference is not None
    return row.difference


def test_every_resample_draws_as_many_images_as_there_are():
    drawn = draw_images(50, resamples=200, seed=0)
    assert drawn.shape == (200, 50)
    assert set(drawn.sum(axis=1).tolist()) == {50}
    assert drawn.mean(axis=0) == pytest.approx(np.ones(50), abs=0.4)
    assert (drawn == draw_images(50, resamples=200, seed=0)).all()
    assert (drawn != draw_images(50, resamples=200, seed=1)).any()


def test_the_interval_of_a_mean_over_images_is_that_of_a_mean():
    # Half of 100 images: the standard error is sqrt(0.5 * 0.5 / 100) = 0.05. The influences of the
    # images are all of one size (kurtosis 1), so its degrees of freedom are those of 100 images.
    (row,) = recall_of([a_run([1, 0] * 50)])
    assert row.estimate.value == pytest.approx(0.5)
    assert half_width(row.estimate.images) == pytest.approx(stats.t.ppf(0.975, 99) * 0.05, rel=0.05)
    assert sum(row.estimate.images) == pytest.approx(1.0)  # symmetric


def test_where_one_image_decides_the_interval_is_wider():
    # 1 of 100 missed: standard error sqrt(0.01 * 0.99 / 100) = 0.00995, kurtosis 98.01, so
    # 2 * 100 / 97.01 = 2.06 degrees of freedom instead of 99. Its upper end stops at 1.
    (row,) = recall_of([a_run([1] * 99 + [0])])
    assert row.estimate.images.high == 1
    assert 0.99 - row.estimate.images.low == pytest.approx(
        stats.t.ppf(0.975, 200 / 97.01) * 0.00995, rel=0.1
    )


def test_the_same_draws_for_both_take_out_what_is_hard_for_both():
    # B finds what A finds and one more of two objects in every fourth image: the difference is
    # 0.125, its standard error sqrt(0.25 * 0.75 / 80) / 2 = 0.024; B's own recall varies more.
    a = [0, 1, 0, 2] * 20
    b = [1, 1, 0, 2] * 20
    _, row = recall_of([a_run(a, truths=2)], [a_run(b, truths=2)])
    difference = difference_of(row)
    assert difference.value == pytest.approx(0.125)
    assert half_width(difference.images) == pytest.approx(1.99 * 0.024, rel=0.06)
    assert half_width(row.estimate.images) > 1.5 * half_width(difference.images)
    assert row.verdict == "better"
    assert difference.p < 0.001


def test_two_equal_models_are_not_distinguishable_and_never_called_equal():
    run = a_run([1, 0] * 10)
    first, second = recall_of([run], [run])
    assert (first.difference, first.verdict, first.p_adjusted) == (None, None, None)
    difference = difference_of(second)
    assert (difference.value, difference.images, difference.p) == (0, (0, 0), 1)
    assert second.verdict == "not distinguishable"


def test_all_against_nothing_is_worse_in_every_resample():
    _, row = recall_of([a_run([1] * 20)], [a_run([0] * 20)])
    assert difference_of(row).value == -1
    assert row.verdict == "worse"


def test_under_three_runs_there_is_no_interval_over_seeds():
    run = a_run([1, 0] * 10)
    rows = recall_of([run] * 2, [run] * 3)
    assert [row.estimate.seeds is None for row in rows] == [True, False]
    assert difference_of(rows[1]).seeds is None


def test_where_images_are_alike_the_interval_over_seeds_is_welchs():
    # Every image of a run is like every other: recall 0.4, 0.5, 0.6 against 0.7, 0.8 and 0.9.
    a, b = ([[count] * 10 for count in counts] for counts in ((4, 5, 6), (7, 8, 9)))
    _, row = recall_of([a_run(run, truths=10) for run in a], [a_run(run, truths=10) for run in b])
    difference = difference_of(row)
    welch = stats.ttest_ind([0.7, 0.8, 0.9], [0.4, 0.5, 0.6], equal_var=False)
    assert difference.value == pytest.approx(0.3)
    assert difference.seeds == pytest.approx(welch.confidence_interval(0.95))
    assert difference.p == pytest.approx(tuple(welch)[1])
    assert half_width(difference.images) == pytest.approx(0)
    assert row.verdict == "better"


def test_where_seeds_are_alike_the_interval_over_seeds_is_that_over_images():
    a, b = a_run([1, 0, 0, 0] * 25), a_run([0, 1, 1, 1] * 25)
    _, row = recall_of([a] * 3, [b] * 3)
    assert difference_of(row).seeds == pytest.approx(difference_of(row).images)


def test_what_an_image_is_to_one_run_alone_is_counted_once():
    # Three runs a model, each right in images of its own: a table of runs by images, of which the
    # variances can be written down. sum(in both) is what the runs' own images vary by.
    rng = np.random.default_rng(0)
    table = (rng.random((2, 3, 120)) < 0.5).astype(int)
    _, row = recall_of(*([a_run(run.tolist()) for run in model] for model in table))
    of_images = np.var(table[1].mean(axis=0) - table[0].mean(axis=0)) / 120
    own = sum(np.var(model - model.mean(axis=0), axis=1).sum() / 120 / 2 / 3 for model in table)
    between = [np.var(model.mean(axis=1), ddof=1) / 3 for model in table]
    common = max(of_images - own, 0)
    variance = common + sum(between)
    freedom = variance**2 / (common**2 / 119 + sum(part**2 / 2 for part in between))
    expected = stats.t.ppf(0.975, freedom) * variance**0.5
    assert half_width(difference_of(row).seeds) == pytest.approx(expected, rel=0.08)
    assert variance < of_images + sum(between)


def test_a_comparison_does_not_depend_on_what_else_is_compared():
    rng = np.random.default_rng(1)
    a, b, c = ([a_run(rng.integers(0, 2, 40).tolist())] for _ in range(3))
    alone, among = recall_of(a, c, resamples=50)[1], recall_of(a, b, c, resamples=50)[2]
    assert alone.difference == among.difference
    assert (alone.model, among.model) == (1, 2)


def test_holm_corrects_over_all_differences():
    # Sorted: 0.01 x 3, 0.02 x 2, 0.04 x 1, and none less than the one before it.
    nothing = Interval(0.0, 0.0)
    rows = [
        Comparison("ap", n, Estimate(0.5, nothing, None, 1.0), Estimate(value, nothing, None, p))
        for n, (value, p) in enumerate([(0.1, 0.04), (-0.1, 0.01), (0.1, 0.02)], start=1)
    ]
    corrected = with_verdicts(rows)
    assert [row.p_adjusted for row in corrected] == pytest.approx([0.04, 0.03, 0.04])
    assert [row.verdict for row in corrected] == ["better", "worse", "better"]
    four = with_verdicts([*rows, rows[0]])
    assert [row.p_adjusted for row in four] == pytest.approx([0.08, 0.04, 0.06, 0.08])
    assert [row.verdict for row in four] == [
        *("not distinguishable", "worse"),
        *("not distinguishable", "not distinguishable"),
    ]


def test_a_resample_without_any_ground_truth_says_nothing():
    # Of three images two have an object: one resample in 27 has none.
    index = an_index([[(0, SQUARE)], [(0, SQUARE)], []], names=("cat",))
    (row,) = recall_of([match(index, {1: found((0.9, 0, SQUARE))})])
    assert row.estimate.value == 0.5
    assert np.isfinite(row.estimate.images).all()


def test_models_of_other_ground_truth_are_refused():
    with pytest.raises(DataError, match="scored on the same ground truth, found others"):
        recall_of([a_run([1, 1])], [a_run([1, 1, 1])])
    with pytest.raises(DataError, match="the same ground truth"):
        recall_of([a_run([1, 1])], [a_run([1, 1], truths=2)])


def test_objects_in_one_image_alone_are_too_few():
    index = an_index([[(0, SQUARE), (0, SQUARE)], []], names=("cat",))
    with pytest.raises(DataError, match="found them in 1 of 2: how results vary"):
        recall_of([match(index, {})])


@pytest.fixture
def simulation() -> ModuleType:
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("coverage_simulation", SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 3])
def test_intervals_cover_and_verdicts_are_rarely_false(simulation: ModuleType, runs: int):
    # 60 data sets: four standard errors of 95 % are 11 points.
    tally = simulation.simulate(runs, sets=60, images=100, resamples=100)
    assert tally.metric > 0.84
    assert tally.difference > 0.84
    assert tally.false_verdicts < 0.16
    assert tally.found > 0.1


def test_twenty_images_of_five_groups_that_are_alike_say_as_much_as_five():
    five, groups = [1, 0, 1, 1, 0], np.repeat(np.arange(5), 4)
    twenty = np.repeat(five, 4).tolist()
    (alone,) = compare_models([[a_run(five)]], metrics=("ar_100",))
    (grouped,) = compare_models([[a_run(twenty)]], metrics=("ar_100",), groups=groups)
    (wrong,) = compare_models([[a_run(twenty)]], metrics=("ar_100",))
    assert half_width(grouped.estimate.images) == pytest.approx(half_width(alone.estimate.images))
    assert half_width(wrong.estimate.images) < half_width(grouped.estimate.images) / 2
    with pytest.raises(DataError, match="objects in two groups at least, found them in 1 of 1"):
        compare_models([[a_run(five)]], metrics=("ar_100",), groups=np.zeros(5, np.int64))


def test_a_kind_of_objects_needs_two_images_to_be_compared():
    large = (0.0, 0.0, 90.0, 90.0)
    index = an_index([[(0, SQUARE)], [(0, SQUARE), (1, large)]])
    run = match(index, {})

    def compare(metric: str) -> list[Comparison]:
        models = [[run], [run]]
        return compare_models(models, metrics=[metric], bins=lambda one: bins_of(index, one))

    assert [row.estimate.value for row in compare("ap_small")] == [0, 0]
    with pytest.raises(DataError, match="expected medium objects in two images, or groups"):
        compare("ap_medium")
