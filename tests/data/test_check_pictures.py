"""Pictures of cases: the whole image, what lies around it, or the part that matters."""

from pathlib import Path

import numpy as np
from PIL import Image

from ossa.data.check_page import example_grid
from ossa.data.issues import ImageBoxes

GREEN, GREY, INK = (0, 128, 0), (114, 114, 114), (213, 94, 0)
GAP = 7
"""Pixels of white around pictures of 300."""


Shown = tuple[ImageBoxes, ...]


def case(path: Path, *boxes: tuple[float, float, float, float], images: int = 1) -> Shown:
    return (ImageBoxes(str(path), boxes),) * images


def green(tmp_path: Path, width: int = 300, height: int = 150) -> Path:
    path = tmp_path / "green.png"
    Image.new("RGB", (width, height), GREEN).save(path)
    return path


def drawn(*cases: Shown) -> np.ndarray:
    picture = example_grid(cases)
    assert picture is not None
    return picture[0]


def test_an_image_is_shown_whole_with_its_boxes(tmp_path: Path) -> None:
    picture = drawn(case(green(tmp_path), (30, 40, 130, 100)))
    assert picture.shape == (150 + 2 * GAP, 300 + 2 * GAP, 3)
    assert tuple(picture[GAP + 20, GAP + 20]) == GREEN
    assert tuple(picture[GAP + 70, GAP + 30]) == INK
    assert tuple(picture[GAP + 40, GAP + 80]) == INK
    assert tuple(picture[GAP + 70, GAP + 80]) == GREEN


def test_around_an_image_there_is_grey_where_a_box_lies_outside(tmp_path: Path) -> None:
    # 450 pixels are to be seen, from 0 to 450: two thirds of 300 are image.
    picture = drawn(case(green(tmp_path), (350, 50, 450, 100)))
    assert picture.shape == (100 + 2 * GAP, 300 + 2 * GAP, 3)
    assert tuple(picture[GAP + 5, GAP + 190]) == GREEN
    assert tuple(picture[GAP + 5, GAP + 210]) == GREY
    assert tuple(picture[GAP + 50, GAP + 233]) == INK


def test_a_box_far_away_does_not_make_the_image_small(tmp_path: Path) -> None:
    picture = drawn(case(green(tmp_path), (0, 0, 1e9, 100)))
    assert (picture == GREEN).all(axis=2).sum() > 150 * 75


def test_a_small_box_is_enlarged_with_what_is_around_it(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    pixels = np.full((400, 800, 3), 255, np.uint8)
    pixels[200:204, 300:304] = GREEN
    Image.fromarray(pixels).save(path)
    picture = drawn(case(path, (300, 200, 304, 204)))
    assert picture.shape == (300 + 2 * GAP, 300 + 2 * GAP, 3)
    # 48 pixels around it become 300: the dot 25, less the lines of its box.
    assert 15**2 < (picture == GREEN).all(axis=2).sum() < 25**2
    assert tuple(picture[GAP + 150, GAP + 150]) == GREEN


def test_a_large_image_is_scaled_down_with_its_boxes(tmp_path: Path) -> None:
    picture = drawn(case(green(tmp_path, 3000, 1500), (300, 400, 1300, 1000)))
    assert picture.shape == (150 + 2 * GAP, 300 + 2 * GAP, 3)
    assert tuple(picture[GAP + 70, GAP + 30]) == INK
    assert tuple(picture[GAP + 140, GAP + 290]) == GREEN


def test_four_stand_in_a_row_and_pairs_above_one_another(tmp_path: Path) -> None:
    path = green(tmp_path)
    assert drawn(*[case(path)] * 5).shape == (2 * 150 + 3 * GAP, 4 * 300 + 5 * GAP, 3)
    assert drawn(case(path, images=2)).shape == (2 * 150 + 3 * GAP, 300 + 2 * GAP, 3)


def test_what_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_text("<html>404</html>")
    cases = [
        case(page),
        case(green(tmp_path)),
        (),
        case(page),
    ]
    picture = example_grid(cases)
    assert picture is not None
    assert picture[1] == [2]
    assert example_grid([case(page)]) is None
