"""Ranks of models over several data sets, with numbers that can be checked by hand."""

import numpy as np
import pytest

from ossa.errors import DataError
from ossa.evaluate.statistics import Values
from ossa.study.comparisons import compare_all
from ossa.study.estimates import Estimates
from ossa.study.ranks import Ranking, mean_estimates, rank_intervals, rank_models
from ossa.study.report.across import ranking_sentences


def values_of(*qualities: float, deviation: float = 0.001, runs: int = 3) -> dict[str, Values]:
    """Returns models a, b, c, ... whose runs are `deviation` apart, on images all alike."""
    offsets = np.asarray(deviation * (np.arange(runs) - (runs - 1) / 2), np.float64)
    models = {}
    for name, quality in zip("abcdefghijkl", qualities, strict=False):
        plain = quality + offsets
        parts = (np.repeat(plain[:, None], count, axis=1) for count in (200, 100))
        models[name] = Values(plain, *parts, num_images=100)
    return models


def rank(*data_sets: dict[str, Values], **options: object) -> Ranking:
    named = {f"d{number}": values for number, values in enumerate(data_sets)}
    return rank_models(named, draws=1000, **options)  # type: ignore[arg-type]


def test_models_far_apart_have_one_rank_and_those_together_share_some():
    intervals = rank_intervals(compare_all(values_of(0.1, 0.3, 0.3, 0.5)))
    assert intervals == {"a": (4, 4), "b": (2, 3), "c": (2, 3), "d": (1, 1)}
    assert [one.width for one in intervals.values()] == [1, 2, 2, 1]
    alone = rank_intervals(compare_all(values_of(0.1)))
    assert alone == {"a": (1, 1)}


def test_the_mean_over_two_data_sets_has_half_the_variance_and_twice_the_degrees_of_freedom():
    one = Estimates.of(values_of(0.1, 0.2))
    mean = mean_estimates([one, Estimates.of(values_of(0.3, 0.6))])
    assert mean.means.tolist() == pytest.approx([0.2, 0.4])
    of_one, of_mean = (each.seeds.value / each.runs for each in (one, mean))
    assert of_mean == pytest.approx(of_one / 2)
    assert mean.seeds.dof == pytest.approx(2 * one.seeds.dof)


def test_without_three_runs_the_mean_is_over_images_alone():
    ranking = rank(values_of(0.1, 0.2, runs=2), values_of(0.3, 0.6))
    assert ranking.mean.over == "images alone"


def test_best_on_all_on_most_and_only_here():
    ranking = rank(
        values_of(0.5, 0.3, 0.5, 0.1),
        values_of(0.5, 0.3, 0.5, 0.1),
        values_of(0.5, 0.3, 0.2, 0.5),
    )
    rows = {row["model"]: row for row in ranking.best_rows()}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        **{"a": "on all", "c": "on most", "d": "only on d2", "b": "on none"},
    }
    assert rows["a"]["certainly_best_on"] == 0
    sentence = ranking_sentences(ranking)[1]
    assert sentence == "May be the best on all: a; on most: c; only on d2: d."


def test_where_all_are_at_zero_none_is_certainly_the_best():
    nothing = values_of(0.0, 0.0, deviation=0.0)
    ranking = rank(nothing, nothing)
    rows = ranking.best_rows()
    assert [(row["verdict"], row["certainly_best_on"]) for row in rows] == [("on all", 0)] * 2


def test_the_best_by_far_is_certainly_so_and_others_hardly_improve_on_it():
    ranking = rank(values_of(0.5, 0.3), values_of(0.6, 0.4))
    (first, second) = ranking.best_rows()
    assert (first["certainly_best_on"], second["may_be_best_on"]) == (2, 0)
    low, other = ranking.mean_rows()
    assert (low["model"], low["improvement"]) == ("a", None)
    assert other["improvement"] == 0
    assert low["iqm"] == pytest.approx(0.55)
    assert low["iqm_low"] < 0.55 < low["iqm_high"]


def test_the_interquartile_mean_of_four_data_sets_leaves_out_the_lowest_and_the_highest():
    ranking = rank(*(values_of(quality, 0.05) for quality in (0.1, 0.3, 0.4, 0.9)))
    assert ranking.mean_rows()[0]["iqm"] == pytest.approx(0.35)
    assert ranking.mean_rows()[0]["mean"] == pytest.approx(0.425)


def test_the_chance_of_improvement_is_the_share_of_pairs_of_runs():
    ranking = rank(values_of(0.5, 0.5), values_of(0.5, 0.499), values_of(0.5, 0.4))
    # Of nine pairs: three ties and three above; two ties and one above; none.
    chances = (3 / 2 + 3) / 9, (2 / 2 + 1) / 9, 0
    assert ranking.mean_rows()[1]["improvement"] == pytest.approx(sum(chances) / 3)


def test_new_data_sets_are_spoken_of_from_five_on():
    four = [values_of(0.3 + lead, 0.3) for lead in (0.01, 0.02, 0.03, 0.04)]
    assert rank(*four).new_rows() == []
    assert "Nothing is said of other data sets: expected 5 at least, found 4." in "".join(
        ranking_sentences(rank(*four))
    )
    (row,) = rank(*four, values_of(0.35, 0.3)).new_rows()
    # 0.03 and a standard error of 0.0158 / 5**0.5, times t(0.975, 4) = 2.776.
    assert row["difference"] == pytest.approx(0.03)
    assert row["low"] == pytest.approx(0.03 - 2.776 * 0.0158114 / 5**0.5, abs=1e-5)
    assert row["better_on"] == 5


def test_a_data_set_is_predicted_from_three_others_at_least():
    same = [values_of(0.1, 0.2, 0.3)] * 3
    assert rank(*same).left_out_rows() == []
    rows = rank(*same, values_of(0.3, 0.2, 0.1)).left_out_rows()
    assert rows[-1]["spearman"] == pytest.approx(-1)
    assert rows[-1]["mean_error"] == pytest.approx(4 / 3)
    assert rows[-1]["by_chance"] == pytest.approx(8 / 9)
    assert (rows[-1]["best_predicted"], rows[-1]["best_measured"]) == ("c", "a")
    assert rows[0]["spearman"] == pytest.approx(1)


def test_what_is_left_at_equal_cost_correlates_where_the_same_models_exceed_the_line():
    costs = dict(zip("abcdefgh", (1e6 * 2.0**power for power in range(8)), strict=True))
    left = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1, 0.0])
    line = 0.3 * np.log(list(costs.values()))
    first = np.exp(line - line.max() - 0.5 + left)
    ranking = rank(
        values_of(*first),
        values_of(*np.exp(line / 2 - line.max() + left)),
        values_of(*np.exp(line - line.max() - 0.5 - left)),
        costs=costs,
    )
    found = {(row["data"], row["other"]): row for row in ranking.correlation_rows()}
    assert found["d0", "d1"]["correlation"] == pytest.approx(1)
    assert found["d0", "d2"]["correlation"] == pytest.approx(-1)
    assert found["d0", "d1"]["models"] == 8
    assert found["d0", "d1"]["low"] > 0.9
    assert rank(values_of(*first), values_of(*first)).correlation_rows() == []


def test_models_without_runs_on_every_data_set_are_not_in_the_mean():
    few = {name: values for name, values in values_of(0.1, 0.2, 0.3).items() if name != "b"}
    ranking = rank(values_of(0.1, 0.2, 0.3), few)
    assert ranking.models == ("c", "a")
    assert len(ranking.rank_rows()) == 3 + 2 + 2
    with pytest.raises(DataError, match="two data sets at least to rank models on, found 1"):
        rank(few)
    with pytest.raises(DataError, match="a model with finished runs on every data set, found none"):
        rank({"a": few["a"]}, {"c": few["c"]})
