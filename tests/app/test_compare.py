"""What one model finds and another misses."""

import numpy as np

from ossa.app.compare import Answer, compare, same_objects
from ossa.types import Detections


def answer(
    title: str, *boxes: tuple[str, int, int], names: tuple[str, ...] = ("cat", "dog")
) -> Answer:
    """Boxes of 10 x 10 pixels with the given class and left top corner."""
    corners = [[x, y, x + 10, y + 10] for _, x, y in boxes]
    return Answer(
        title,
        names,
        Detections(
            np.array(corners, np.float32).reshape(-1, 4),
            np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
            np.array([names.index(name) for name, _, _ in boxes], np.int64),
        ),
    )


def test_a_box_of_the_same_class_in_nearly_the_same_place_is_the_same_object() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50))
    # Moved by 3 of 10 pixels: 70 of 130 pixels are shared, IoU 0.54; by 4: 60 of 140, 0.43.
    assert same_objects(first, answer("b", ("cat", 3, 0), ("dog", 54, 50))) == [(0, 0)]
    assert same_objects(first, answer("b", ("dog", 0, 0), ("cat", 50, 50))) == []


def test_an_object_is_matched_once_and_by_what_overlaps_most() -> None:
    one = answer("a", ("cat", 0, 0))
    two = answer("b", ("cat", 2, 0), ("cat", 1, 0))
    assert same_objects(one, two) == [(0, 1)]
    assert same_objects(two, one) == [(1, 0)]


def test_the_differences_are_marked_and_told_in_words() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50), ("dog", 70, 50))
    second = answer("b", ("cat", 1, 0), ("cat", 30, 0))
    comparison = compare([first, second])
    assert comparison.missed_by == (((), (1,), (1,)), ((), (0,)))
    assert comparison.sentences() == [
        "a finds 2 dog that b misses.",
        "b finds 1 cat that a misses.",
        "Both find 1 cat.",
    ]


def test_of_several_classes_there_are_a_sum_and_the_parts() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50), ("dog", 70, 50))
    assert compare([first, answer("b")]).sentences() == [
        "a finds 3 objects (2 dog, 1 cat) that b misses.",
        "Nothing is found by both.",
    ]


def test_three_models_are_compared_two_by_two() -> None:
    a, b, c = answer("a", ("cat", 0, 0)), answer("b", ("cat", 0, 0)), answer("c")
    comparison = compare([a, b, c])
    assert comparison.missed_by == (((2,),), ((2,),), ())
    assert comparison.sentences()[-1] == "Nothing is found by all."


def test_a_class_that_a_model_does_not_know_is_not_missed() -> None:
    first = answer("a", ("cat", 0, 0))
    second = answer("b", ("car", 40, 40), names=("car",))
    comparison = compare([first, second])
    assert comparison.missed_by == (((),), ((),))
    assert comparison.sentences() == [
        "Nothing is found by both.",
        "b was not trained to find cat.",
        "a was not trained to find car.",
    ]


def test_one_model_has_nothing_to_differ_from() -> None:
    assert compare([answer("a", ("cat", 0, 0))]).sentences() == []


def test_where_nothing_is_found_that_is_said() -> None:
    assert compare([answer("a"), answer("b")]).sentences() == [
        "No model finds anything at these thresholds."
    ]
