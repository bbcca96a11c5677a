"""The order of the images: a permutation an epoch, one epoch behind the other."""

import numpy as np
import pytest

from ossa.data.batches.order import Draw, ShuffledOrder


def line(num_images: int, *, seed: int, epochs: int) -> list[Draw]:
    """Returns all draws of all epochs in their order."""
    order = ShuffledOrder(num_images, seed=seed)
    return [Draw(epoch, int(p)) for epoch in range(epochs) for p in order.of(epoch)]


def test_an_epoch_is_a_permutation_of_its_own_and_repeatable() -> None:
    orders = {tuple(ShuffledOrder(50, seed=s).of(e).tolist()) for s in (0, 1) for e in range(3)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)
    np.testing.assert_array_equal(ShuffledOrder(50, seed=1).of(2), ShuffledOrder(50, seed=1).of(2))


@pytest.mark.parametrize("count", [1, 4, 10])
def test_what_comes_before_reaches_into_the_epoch_before(count: int) -> None:
    draws = line(10, seed=3, epochs=3)
    order = ShuffledOrder(10, seed=3)
    for place in range(10, 30):
        expected = [draw.position for draw in draws[place - count : place]]
        assert order.before(draws[place], count).tolist() == expected


def test_the_first_epoch_follows_on_itself() -> None:
    order = ShuffledOrder(10, seed=3)
    first = order.of(0).tolist()
    assert order.before(Draw(0, first[0]), 4).tolist() == first[-4:]
    assert order.before(Draw(0, first[3]), 4).tolist() == [first[-1], *first[:3]]
    assert order.before(Draw(0, first[4]), 4).tolist() == first[:4]


def test_there_are_no_more_before_than_there_are_images() -> None:
    order = ShuffledOrder(10, seed=3)
    for draw in line(10, seed=3, epochs=2):
        assert len(order.before(draw, 64)) == 10
    assert ShuffledOrder(1, seed=0).before(Draw(0, 0), 64).tolist() == [0]


def test_what_comes_before_depends_on_nothing_that_was_asked_earlier() -> None:
    order, draws = ShuffledOrder(10, seed=3), line(10, seed=3, epochs=4)
    forwards = [order.before(draw, 6).tolist() for draw in draws]
    backwards = [order.before(draw, 6).tolist() for draw in reversed(draws)]
    assert backwards[::-1] == forwards
    assert [ShuffledOrder(10, seed=3).before(draw, 6).tolist() for draw in draws] == forwards
