"""Whether the order of the models depends on another setting, by hand."""

import numpy as np
import pytest
from scipy import stats
from tiny_studies import runs_of

from ossa.errors import DataError
from ossa.evaluate.statistics import Values
from ossa.study.interactions import Interaction, interaction


def spread(mean: float, deviation: float = 0.01) -> Values:
    """Returns three seeds with exactly this mean and this deviation."""
    return runs_of(mean - deviation, mean, mean + deviation)


def found(
    first: dict[str, float], second: dict[str, float], deviation: float = 0.01
) -> Interaction:
    levels = [
        {model: spread(mean, deviation) for model, mean in level.items()}
        for level in (first, second)
    ]
    return interaction(*levels, draws=4000)


def test_models_that_gain_alike_have_no_interaction():
    same = found({"a": 0.3, "b": 0.4, "c": 0.5}, {"a": 0.35, "b": 0.45, "c": 0.55})
    assert (same.tau, same.p, same.is_found) == (1.0, pytest.approx(1.0), False)
    assert same.reversed_pairs == same.certainly_reversed == []
    assert same.keeps_order
    assert same.gains.estimates.means.tolist() == pytest.approx([0.05] * 3)


def test_with_two_models_the_test_is_that_of_welch_on_their_gains():
    # Four means of three seeds with deviation 0.01: 8 degrees of freedom.
    two = found({"a": 0.3, "b": 0.4}, {"a": 0.3, "b": 0.43})
    t = 0.03 / (4 * 0.01**2 / 3) ** 0.5
    assert two.p == pytest.approx(2 * stats.t.sf(t, 8), abs=0.02)
    gain = two.gains.pair("b", "a")
    assert gain.difference == pytest.approx(0.03)
    half = stats.t.ppf(0.975, 8) * (4 * 0.01**2 / 3) ** 0.5
    assert (gain.high - gain.low) / 2 == pytest.approx(half, rel=0.15)


def test_one_of_three_pairs_that_changes_its_order_makes_a_tau_of_a_third():
    certain = found({"a": 0.3, "b": 0.4, "c": 0.5}, {"a": 0.3, "b": 0.5, "c": 0.4}, deviation=0.001)
    assert certain.tau == pytest.approx(1 / 3)
    assert certain.tau_interval == pytest.approx((1 / 3, 1 / 3))
    ((before, after),) = certain.certainly_reversed
    assert (before.model, before.reference) == ("b", "c")
    assert (before.difference, after.difference) == pytest.approx((-0.1, 0.1))
    assert certain.is_found


def test_a_reversal_within_the_noise_is_measured_and_not_certain():
    noisy = found({"a": 0.30, "b": 0.31, "c": 0.5}, {"a": 0.31, "b": 0.30, "c": 0.5}, 0.03)
    assert len(noisy.reversed_pairs) == 1
    assert noisy.certainly_reversed == []
    assert not noisy.is_found
    assert not noisy.keeps_order
    # With c far above the others, only the order of a and b is open.
    assert noisy.tau_interval == pytest.approx((1 / 3, 1.0))


def test_images_that_favour_one_model_under_one_setting_widen_the_gains():
    # What the images are worth to a model under both settings cancels out of its gain.
    rng = np.random.default_rng(0)
    shared = 0.02 * rng.normal(size=(1, 500))
    own = 0.02 * rng.normal(size=(1, 500))

    def level(images: np.ndarray) -> dict[str, Values]:
        plain = spread(0.3)
        moved = Values(plain.plain, plain.plain[:, None] + images, plain.left_out, 100)
        still = np.zeros_like(images) + plain.plain[:, None]
        return {"a": moved, "b": Values(plain.plain, still, plain.left_out, 100)}

    same = interaction(level(shared), level(shared), draws=1000).gains.estimates.images
    other = interaction(level(shared), level(own), draws=1000).gains.estimates.images
    assert same == pytest.approx(np.zeros((2, 2)), abs=1e-12)
    assert other[0, 0] == pytest.approx(np.var(shared - own, ddof=1))


def test_models_of_one_setting_alone_are_left_out_and_one_model_has_no_order():
    first = {"a": spread(0.3), "b": spread(0.4), "c": spread(0.5)}
    assert interaction(first, {"c": spread(0.4), "a": spread(0.3)}, draws=500).models == ("a", "c")
    with pytest.raises(DataError, match="two models with runs under both settings, found 1"):
        interaction(first, {"a": spread(0.3)})
