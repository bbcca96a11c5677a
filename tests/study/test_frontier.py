"""The frontier: small sets by hand and by the definition, probabilities that can be counted."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ossa.study.analysis import Draws, Frontier, find_frontier, joint_draws, pareto_set
from ossa.study.scaling import Points

NAMES = ("a", "b", "c", "d", "e")


def points_of(complexity: Sequence[float], quality: Sequence[float]) -> Points:
    names = NAMES[: len(complexity)]
    return Points.of(names, families=names, complexity=complexity, quality=quality)


def frontier_of(complexity: list[float], quality: list[float]) -> str:
    return "".join(row.model for row in find_frontier(points_of(complexity, quality)).members)


def test_a_model_that_is_worse_and_dearer_than_another_is_beaten():
    # b costs more than a and is worse; d costs more than c and is no better.
    assert frontier_of([1, 2, 3, 4, 5], [0.3, 0.2, 0.4, 0.4, 0.5]) == "ace"


def test_of_equal_complexity_the_best_belongs_and_equals_do_not_beat_each_other():
    assert frontier_of([1, 1, 1], [0.1, 0.3, 0.2]) == "b"
    assert frontier_of([1, 1, 2, 2], [0.3, 0.3, 0.4, 0.4]) == "abcd"
    assert frontier_of([1, 2], [0.3, 0.3]) == "a"


def test_members_come_the_cheapest_first_whatever_their_order_was():
    assert frontier_of([5, 1, 3], [0.5, 0.1, 0.3]) == "bca"


def test_a_model_under_the_law_may_be_on_the_frontier():
    # The line through the three passes b, in the middle of them, at (0.30 x 0.31 x 0.40)^(1/3).
    assert (0.30 * 0.31 * 0.40) ** (1 / 3) > 0.33
    assert frontier_of([1, 10, 100], [0.30, 0.31, 0.40]) == "abc"


def test_what_finds_nothing_is_never_on_the_frontier():
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
    draws = Draws(
        ("c", "unused", "b", "a"),
        # c, unused, b, a: b is beaten by a in the third draw, c by b in the last.
        np.array(
            [[0.5, 0.9, 0.4, 0.3], [0.6, 0.9, 0.4, 0.3], [0.5, 0.9, 0.2, 0.3], [0.4, 0, 0.5, 0.3]]
        ),
        single_seed=(),
    )
    frontier = find_frontier(points_of([1, 2, 3], [0.3, 0.2, 0.5]), draws)
    assert [(row.model, row.on_frontier, row.probability) for row in frontier.standings] == [
        ("a", True, 1.0),
        ("b", False, 0.75),
        ("c", True, 0.75),
    ]
    assert frontier.over == "over seeds and images"


def test_without_draws_there_is_a_frontier_and_no_probability():
    frontier = find_frontier(points_of([1, 2], [0.3, 0.0]))
    assert [(row.model, row.probability) for row in frontier.standings] == [("a", None)]
    assert [model.model for model in frontier.left_out] == ["b"]
    assert frontier.over == "no probabilities: nothing was drawn"


def test_images_are_shared_by_the_models_and_seeds_are_not():
    # Resample d is worth d to every run; a's seeds differ by 0.5, b has one.
    resamples = np.arange(4000.0)
    draws = joint_draws({"a": np.stack((resamples, resamples + 0.5)), "b": resamples[None]})
    assert draws.values.shape == (4000, 2)
    assert (draws.values[:, 1] == resamples).all()
    assert draws.single_seed == ("b",)
    # The mean of two picks of two seeds: 0, 0.25 or 0.5 above, 1 : 2 : 1.
    above, counts = np.unique(draws.values[:, 0] - resamples, return_counts=True)
    assert above.tolist() == [0, 0.25, 0.5]
    assert counts / 4000 == pytest.approx(np.array([0.25, 0.5, 0.25]), abs=0.03)


def test_the_seeds_of_a_model_vary_by_the_bootstrap_variance_of_their_mean():
    seeds = np.array([0.1, 0.2, 0.6])
    draws = joint_draws({model: np.repeat(seeds[:, None], 20_000, axis=1) for model in "ab"})
    assert draws.values.mean(axis=0) == pytest.approx([0.3, 0.3], abs=0.003)
    assert draws.values.var(axis=0) == pytest.approx([seeds.var() / 3] * 2, rel=0.05)
    a, b = (draws.values - draws.values.mean(axis=0)).T
    assert (a * b).mean() == pytest.approx(0, abs=0.03 * a.var())


def test_draws_come_from_the_seed():
    runs = {"a": np.random.default_rng(0).random((3, 50))}
    assert (joint_draws(runs, seed=1).values == joint_draws(runs, seed=1).values).all()
    assert (joint_draws(runs, seed=1).values != joint_draws(runs, seed=2).values).any()


def test_models_of_other_resamples_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        joint_draws({"a": np.ones((2, 5)), "b": np.ones((2, 6))})


def test_a_probability_over_all_picks_of_seeds_is_counted_by_hand():
    # a, cheaper, is 0.4. b's seeds are 0.3 and 0.6: it is beaten where both picks are 0.3.
    runs = {"a": np.full((1, 4000), 0.4), "b": np.repeat([[0.3], [0.6]], 4000, axis=1)}
    picks = itertools.product([0.3, 0.6], repeat=2)
    share = sum(sum(pick) / 2 > 0.4 for pick in picks) / 4
    assert share == 0.75
    frontier = find_frontier(points_of([1, 2], [0.4, 0.45]), joint_draws(runs))
    a, b = frontier.standings
    assert (a.probability, b.probability) == (
        1.0,
        pytest.approx(share, abs=4 * math.sqrt(0.19 / 4000)),
    )


def single_seeds(**runs: int) -> Frontier:
    draws = joint_draws({model: np.ones((count, 5)) for model, count in runs.items()})
    return find_frontier(points_of([1, 2, 3][: len(runs)], [0.1, 0.2, 0.3][: len(runs)]), draws)


def test_it_is_said_where_seeds_have_no_part():
    assert single_seeds(a=3, b=3).over == "over seeds and images"
    assert single_seeds(a=3, b=1).over == "over seeds and images; over images alone for b"
    assert single_seeds(a=1, b=1).over == "over images alone: every model has a single seed"
    assert single_seeds(a=3, b=1).single_seed == ("b",)
