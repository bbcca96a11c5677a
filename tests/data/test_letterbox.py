"""An image comes to the network's size, centred on grey, and its boxes go there and home."""

import numpy as np
import pytest
from dataset_files import gradient

from ossa.data.letterbox import FILL, letterbox, letterbox_rectangular, resize_long_side
from ossa.types import Letterbox


def constant(width: int, height: int, value: int = 200) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size_wh", "placed_wh", "corner"),
    [
        ((200, 100), (100, 50), (0, 25)),  # landscape
        ((100, 200), (50, 100), (25, 0)),  # portrait
        ((100, 100), (100, 100), (0, 0)),  # as it is
        ((10, 10), (100, 100), (0, 0)),  # enlarged
        ((1, 400), (1, 100), (49, 0)),  # 0.25 px become 1; of 99 grey columns 49 stand left
        ((300, 200), (100, 67), (0, 16)),  # 66.67 becomes 67; of 33 grey rows 16 stand above
        ((200, 101), (100, 50), (0, 25)),  # 50.5 becomes the even number
        ((200, 103), (100, 52), (0, 24)),  # 51.5 too
    ],
)
def test_an_image_stands_in_the_middle_of_a_grey_square(
    size_wh: tuple[int, int], placed_wh: tuple[int, int], corner: tuple[int, int]
) -> None:
    square, placement = letterbox(constant(*size_wh), 100)
    expected = np.full((100, 100, 3), 114, dtype=np.uint8)
    (width, height), (left, top) = placed_wh, corner
    expected[top : top + height, left : left + width] = 200
    np.testing.assert_array_equal(square, expected)
    assert placement == Letterbox(
        width / size_wh[0], height / size_wh[1], left, top, size_wh[0], size_wh[1]
    )


def test_an_image_of_the_right_size_keeps_its_very_pixels() -> None:
    image = gradient(96, 64)
    square, _ = letterbox(image, 96)
    np.testing.assert_array_equal(square[16:80], image)
    assert resize_long_side(image, 96) is image


def test_boxes_go_to_the_network_and_home() -> None:
    _, placement = letterbox(constant(200, 100), 100)
    boxes_xyxy = np.array([[0, 0, 200, 100], [20, 10, 60, 50]], dtype=np.float32)
    in_network = placement.boxes_to_network(boxes_xyxy)
    np.testing.assert_array_equal(in_network, [[0, 25, 100, 75], [10, 30, 30, 50]])
    np.testing.assert_array_equal(placement.boxes_to_image(in_network), boxes_xyxy)


@pytest.mark.parametrize("size_wh", [(641, 479), (333, 1000), (1, 400), (17, 3)])
def test_the_whole_image_is_exactly_its_placement_where_sides_are_rounded(
    size_wh: tuple[int, int],
) -> None:
    square, placement = letterbox(constant(*size_wh), 320)
    rows, columns = (square[..., 0] == 200).nonzero()
    whole = placement.boxes_to_network(np.array([[0, 0, *size_wh]], dtype=np.float32))
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(whole[0], seen, atol=1e-4)
    np.testing.assert_allclose(placement.boxes_to_image(whole)[0], [0, 0, *size_wh], atol=1e-3)


def test_many_pixels_are_averaged_where_they_become_one() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::4] = 200  # one column in four: 50 on average
    np.testing.assert_array_equal(resize_long_side(stripes, 16), constant(16, 16, 50))


@pytest.mark.parametrize(
    ("size_wh", "canvas_wh", "corner"),
    [
        ((200, 100), (128, 64), (0, 0)),
        ((200, 101), (128, 96), (0, 15)),  # 64.64 becomes 65, so 96; of 31 grey rows 15 above
        ((100, 200), (64, 128), (0, 0)),
        ((1, 400), (32, 128), (15, 0)),
        ((128, 128), (128, 128), (0, 0)),
    ],
)
def test_a_rectangle_is_the_smallest_whose_sides_are_multiples_of_the_stride(
    size_wh: tuple[int, int], canvas_wh: tuple[int, int], corner: tuple[int, int]
) -> None:
    canvas, placement = letterbox_rectangular(constant(*size_wh), 128, stride=32)
    assert (canvas.shape[1], canvas.shape[0]) == canvas_wh
    assert (placement.pad_left, placement.pad_top) == corner
    whole = placement.boxes_to_network(np.array([[0, 0, *size_wh]], dtype=np.float32))
    x0, y0, x1, y1 = np.rint(whole[0]).astype(int)
    assert (canvas[y0:y1, x0:x1] == 200).all()
    assert (canvas == FILL).sum() == canvas.size - 3 * (x1 - x0) * (y1 - y0)
