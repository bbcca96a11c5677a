"""Which models are points, and when there are enough of them."""

import numpy as np
import pytest

from ossa.errors import DataError
from ossa.study.scaling import Points


def test_models_without_a_logarithm_are_left_out_by_name():
    points = Points.of(
        ["a", "b", "c", "d", "e"],
        families=["x", "x", "y", "y", "y"],
        complexity=[1.0, 2.0, None, 4.0, -5.0],
        quality=[0.3, 0.0, 0.4, np.nan, np.inf],
    )
    assert (points.models, points.families) == (("a",), ("x",))
    assert (points.complexity.tolist(), points.quality.tolist()) == ([1.0], [0.3])
    assert [(model.model, model.family, model.reason) for model in points.left_out] == [
        ("b", "x", "expected a positive quality, found 0"),
        ("c", "y", "expected a positive complexity, found nan"),
        ("d", "y", "expected a positive quality, found nan"),
        (
            *("e", "y"),
            "expected a positive complexity, found -5, and expected a positive quality, found inf",
        ),
    ]


def test_seeds_are_not_points():
    with pytest.raises(DataError, match="one point a model, the mean of its seeds, found 2 of a"):
        Points.of(["a", "b", "a"], families="xyx", complexity=[1, 2, 1], quality=[1, 1, 1])


def test_numbers_that_are_fewer_than_models_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        Points.of(["a", "b"], families="xy", complexity=[1.0, 2.0], quality=[1.0])


def test_a_family_has_its_own_points_and_those_left_out_of_it():
    points = Points.of(
        ["a", "b", "c", "d"], families="xyxy", complexity=[1, 2, 3, 4], quality=[1, 1, 2, 0]
    )
    x, y = points.family("x"), points.family("y")
    assert (x.models, x.quality.tolist(), x.left_out) == (("a", "c"), [1, 2], ())
    assert (y.models, [model.model for model in y.left_out]) == (("b",), ["d"])


def many(complexity: list[float]) -> Points:
    names = [f"m{number}" for number in range(len(complexity))]
    return Points.of(names, families=names, complexity=complexity, quality=np.ones(len(names)))


def test_eight_models_make_a_law_and_seven_do_not():
    assert many([1, 2, 3, 4, 5, 6, 7, 8]).why_no_line() is None
    seven = many([1, 2, 3, 4, 5, 6, 7])
    assert seven.why_no_line() == "expected 8 models at least, found 7"
    assert seven.why_no_line(fewest=7) is None


def test_the_sentence_names_the_models_that_are_missing():
    assert many([1, 2, 3, 4, 5, 6, 7, 0]).why_no_line() == (
        "expected 8 models at least, found 7 "
        "(left out: m7: expected a positive complexity, found 0)"
    )


def test_two_complexities_make_no_law():
    # Without the last model the others would all cost the same.
    assert many([2, 2, 2, 2, 2, 2, 2, 3]).why_no_line() == (
        "expected 3 different complexities at least, found 2 among 8 models"
    )
    assert many([2, 2, 2, 2, 2, 2, 2 + 1e-9, 3]).why_no_line() is not None
    assert many([2, 2, 2, 2, 2, 2, 2.1, 3]).why_no_line() is None
