"""Boxes on pictures and pictures beside each other."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from ossa.viz.draw import (
    BOX_COLOURS,
    draw_boxes,
    encode_jpeg,
    encode_png,
    picture_grid,
)


def plain(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def drawn(boxes_xyxy: Sequence[Sequence[float]], **changes) -> np.ndarray:
    given = {"labels": np.zeros(len(boxes_xyxy), dtype=np.int64), "names": ["cat"], **changes}
    labels, names = given.pop("labels"), given.pop("names")
    return draw_boxes(plain(100, 200), np.array(boxes_xyxy), labels, names=names, **given)


def changed(image: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box xyxy around all pixels that are not the plain grey."""
    rows, columns = np.nonzero((image != 128).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_image_itself_is_not_drawn_upon():
    image = plain(100, 200)
    draw_boxes(image, np.array([[10, 30, 60, 80]]), np.array([0]), names=["cat"])
    assert (image == 128).all()


def test_the_lines_of_a_box_are_its_outermost_pixels():
    image = drawn([[50, 40, 90, 80]])
    assert tuple(image[79, 60]) == tuple(image[60, 50]) == tuple(image[60, 89]) == BOX_COLOURS[0]
    assert (image[41:79, 51:89] == 128).all()
    assert (image[80:] == 128).all()
    assert (image[:, 90:] == 128).all()


def test_every_class_has_its_colour_and_the_twenty_first_that_of_the_first():
    assert len(set(BOX_COLOURS)) == 20
    names = [str(label) for label in range(21)]
    for label in (0, 7, 19, 20):
        image = drawn([[50, 40, 90, 80]], labels=np.array([label]), names=names)
        assert tuple(image[79, 60]) == BOX_COLOURS[label % 20]


@pytest.mark.parametrize(
    "box_xyxy",
    [[0, 0, 20, 20], [185, 50, 200, 60], [180, 0, 200, 100], [0, 95, 5, 100], [0, 0, 200, 100]],
)
def test_a_label_stays_inside_the_picture(box_xyxy: list[float]):
    with_label = drawn([box_xyxy], names=["a longer name"])
    shorter = drawn([box_xyxy], names=[""])
    inside = (with_label != shorter).any(axis=2)
    assert inside.sum() > 300  # the whole patch, not a corner of it


def test_a_label_stands_on_its_box_where_there_is_room():
    left, top, _, bottom = changed(drawn([[50, 40, 90, 80]]))
    assert (left, top, bottom) == (50, 26, 80)  # 10 px of text and two of margin on each side


def test_a_name_wider_than_the_picture_is_cut():
    image = drawn([[50, 40, 90, 80]], names=["x" * 500])
    assert changed(image)[1] == 26  # still one line


def test_a_name_that_is_not_ascii_is_written_in_its_own_letters():
    questions, greek, chinese = (
        drawn([[50, 40, 190, 80]], names=[name]) for name in ("???", "Ωλβ", "猫狗鸟")
    )
    assert not np.array_equal(greek, questions)
    assert not np.array_equal(chinese, questions)
    assert not np.array_equal(chinese, greek)


def test_the_score_is_written_after_the_name():
    without, with_score = drawn([[5, 40, 190, 80]]), drawn([[5, 40, 190, 80]], scores=np.ones(1))
    written = drawn([[5, 40, 190, 80]], names=["cat 1.00"])
    np.testing.assert_array_equal(with_score, written)
    assert not np.array_equal(with_score, without)


def test_the_best_detection_lies_on_top():
    boxes, labels, names = [[50, 40, 90, 80]] * 2, np.array([1, 0]), ["cat", "dog"]
    image = drawn(boxes, labels=labels, names=names, scores=np.array([0.9, 0.3]))
    assert tuple(image[79, 60]) == BOX_COLOURS[1]


def test_lines_and_text_grow_with_the_picture():
    small = draw_boxes(plain(240, 240), np.array([[60, 90, 180, 180]]), np.array([0]), names=["a"])
    large = draw_boxes(plain(960, 960), np.array([[60, 90, 180, 180]]), np.array([0]), names=["a"])
    assert (small[120, :120] != 128).any(axis=1).sum() == 1
    assert (large[120, :120] != 128).any(axis=1).sum() > 2
    assert changed(small)[1] > changed(large)[1]


def test_rows_of_a_grid_stand_under_their_titles():
    predictions, gt = [plain(100, 200, 10), plain(80, 200, 20)], [plain(100, 200, 30)] * 2
    sheet = picture_grid([predictions, gt], row_titles=("predicted", "annotated"))
    # gap 5, title 24: two columns 200 wide, two rows 24 + 100 high.
    assert sheet.shape == (5 + 2 * (24 + 100 + 5), 5 + 2 * (200 + 5), 3)
    assert (sheet[29:129, 5:205] == 10).all()
    assert (sheet[29 + 10 : 129 - 10, 210:410] == 20).all()
    assert (sheet[158:258, 5:205] == 30).all()
    assert (sheet[29:39, 210:410] == 255).all()


def test_a_row_of_a_grid_is_as_high_as_its_highest_picture():
    sheet = picture_grid([[plain(50, 200, 10), plain(30, 200, 20)], [plain(100, 200, 30)]])
    assert sheet.shape == (5 + 50 + 5 + 100 + 5, 5 + 2 * (200 + 5), 3)
    assert (sheet[5:55, 5:205] == 10).all()
    assert (sheet[15:45, 210:410] == 20).all()
    assert (sheet[60:160, 5:205] == 30).all()


def test_encoded_pictures_keep_their_colours():
    image = plain(20, 30)
    image[:, :15] = (200, 30, 60)
    for data, allowed in ((encode_png(image), 0), (encode_jpeg(image, quality=100), 25)):
        back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert back is not None
        assert np.abs(back.astype(int) - image)[:, :12].max() <= allowed
