"""Looks at 3, 5 and 8 seeds: what each decides, which runs it asks for, and how many are needed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_studies import InThisProcess, a_study

from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError, DataError
from ossa.evaluate.statistics import Values
from ossa.study.folder import create_study
from ossa.study.runner import run_until_decided, with_seeds_of_looks
from ossa.study.sequential import Look, SeededValues, decide, seeds_needed

LOOKS = (3, 5, 8)


def seeded(plain: NDArray[np.float64], *, seeds: int, failed: tuple[int, ...] = ()) -> SeededValues:
    """Returns the runs of the first so many seeds; their values do not depend on the images."""
    done = [position for position in range(seeds) if position not in failed]
    kept = plain[done]
    values = Values(kept, np.repeat(kept[:, None], 20, 1), np.repeat(kept[:, None], 10, 1), 10)
    return SeededValues(values, tuple(done), frozenset(failed))


def models(**means: float) -> dict[str, NDArray[np.float64]]:
    around = 0.01 * np.array([-1, 0, 1, 1, -1, 0.5, -0.5, 0])
    return {name: mean + around for name, mean in means.items()}


def progress(plain: dict[str, NDArray[np.float64]], **seeds: int) -> Look:
    runs = {name: seeded(values, seeds=seeds[name]) for name, values in plain.items()}
    return decide(runs, looks=LOOKS, margin=0.02, draws=2000)


def test_before_the_first_look_every_model_needs_three_seeds():
    found = progress(models(a=0.3, b=0.4), a=3, b=2)
    assert found.wanted == {"b": 3}
    assert found.decisions == ()


def test_what_is_far_apart_is_decided_at_once_and_what_is_open_gets_more_seeds():
    found = progress(models(a=0.3, b=0.31, c=0.6), a=3, b=3, c=3)
    assert found.wanted == {"a": 5, "b": 5}
    verdicts = {
        (made.comparison.model, made.comparison.reference): made.comparison.verdict
        for made in found.decisions
    }
    assert verdicts["c", "a"] == verdicts["c", "b"] == "better"


def test_no_seeds_are_spent_on_a_pair_that_the_last_look_would_not_decide():
    # A deviation of 0.1: eight seeds leave the difference open by far more than the margin.
    around = 0.1 * np.array([-1, 0, 1, 1, -1, 0.5, -0.5, 0])
    found = progress({"a": 0.3 + around, "b": 0.32 + around}, a=3, b=3)
    assert found.wanted == {}
    assert found.decisions[0].is_open


def test_of_models_that_are_all_at_zero_nothing_is_learned_and_nothing_decided():
    found = progress({"a": np.zeros(8), "b": np.zeros(8)}, a=3, b=3)
    assert (found.decisions, found.wanted, found.learned) == ((), {}, False)
    assert progress({"a": np.zeros(8), **models(b=0.3)}, a=3, b=3).learned


def test_a_decision_is_kept_and_says_at_how_many_seeds_it_was_made():
    plain = models(a=0.3, b=0.31, c=0.6)
    found = progress(plain, a=8, b=8, c=3)
    assert found.wanted == {}
    seeds = {made.seeds for made in found.decisions if "c" in {made.comparison.model}}
    assert seeds == {3}


def test_runs_that_were_not_asked_for_change_nothing():
    plain = models(a=0.3, b=0.31, c=0.6)
    assert progress(plain, a=5, b=5, c=3) == progress(plain, a=5, b=5, c=8)


def test_a_failed_run_is_left_out_and_not_waited_for():
    plain = models(a=0.3, b=0.6)
    runs = {"a": seeded(plain["a"], seeds=3), "b": seeded(plain["b"], seeds=3, failed=(2,))}
    found = decide(runs, looks=LOOKS, margin=0.02, draws=2000)
    assert found.decisions == ()  # two seeds of b say nothing about a third
    runs = {"a": seeded(plain["a"], seeds=5), "b": seeded(plain["b"], seeds=5, failed=(2,))}
    assert decide(runs, looks=(4, 5), margin=0.02, draws=2000).decisions[0].seeds == 4


def test_seeds_that_are_needed_find_the_difference_and_one_fewer_do_not():
    pilot = {
        name: seeded(values, seeds=8).values for name, values in models(a=0.3, b=0.4, c=0.5).items()
    }
    needed = seeds_needed(pilot, difference=0.022, planned=3, models=5)
    assert needed.needed is not None
    assert 3 < needed.needed < 20
    assert needed.detectable > 0.022 > needed.floor
    again = seeds_needed(pilot, difference=0.022, planned=needed.needed, models=5)
    fewer = seeds_needed(pilot, difference=0.022, planned=needed.needed - 1, models=5)
    assert again.detectable <= 0.022 < fewer.detectable


def test_images_set_a_floor_below_which_no_number_of_seeds_helps():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.02, (3, 1, 400))
    plain = 0.3 + 0.001 * rng.standard_normal((3, 3))
    pilot = {
        name: Values(plain[i], plain[i][:, None] + images[i], plain[i][:, None] + images[i], 400)
        for i, name in enumerate("abc")
    }
    found = seeds_needed(pilot, difference=0.02, planned=3, models=3)
    assert found.needed is None
    assert found.floor > 0.05
    assert found.image_deviation == pytest.approx(0.028, abs=0.003)


def test_a_pilot_of_single_seeds_is_refused():
    pilot = {name: seeded(values, seeds=1).values for name, values in models(a=0.3, b=0.4).items()}
    with pytest.raises(DataError, match="two models of 3 finished runs"):
        seeds_needed(pilot, difference=0.02, planned=3, models=2)


def test_a_study_that_varies_a_setting_is_refused_and_stays_as_it_is(tmp_path: Path):
    write_scenes(tmp_path / "scenes", images={"train": 4, "val": 2}, imgsz=128)
    config = a_study(heads=["anchor", "dense"])
    folder = {"data": tmp_path / "scenes", "weights_folder": tmp_path}
    study = create_study(config, tmp_path / "study", **folder)
    before = (study.path / "study.yaml").read_text()
    with pytest.raises(ConfigError, match=r"found model\.head"):
        with_seeds_of_looks(study)
    assert (study.path / "study.yaml").read_text() == before


@pytest.mark.slow
def test_a_study_trains_only_the_seeds_that_decide(tmp_path: Path):
    write_scenes(tmp_path / "scenes", images={"train": 16, "val": 8}, imgsz=128)
    study = create_study(
        a_study(looks=[3, 4], margin=0.9),
        tmp_path / "study",
        data=tmp_path / "scenes",
        weights_folder=tmp_path,
    )
    executor, looks = InThisProcess(), []
    states = run_until_decided(
        with_seeds_of_looks(study), executor, on_run=lambda _: None, on_look=looks.append
    )
    # Both are at AP 0 after so few steps: nothing is decided, and more seeds would not help.
    assert len(executor.executed) == 6
    assert [look.wanted for look in looks] == [{"cspdarknet_n": 3, "resnet10t": 3}, {}]
    assert (looks[-1].decisions, looks[-1].learned) == ((), False)
    assert Counter(state.state for state in states) == {"done": 6, "waiting": 2}
    # Started again, it trains nothing and decides the same.
    again = InThisProcess()
    run_until_decided(
        with_seeds_of_looks(study), again, on_run=lambda _: None, on_look=looks.append
    )
    assert again.executed == []
    assert looks[-1] == looks[-2]
