"""Each tile goes straight to its place in the output, as if a canvas had been warped."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from ossa.config import AugmentConfig
from ossa.data.augment import (
    CanvasView,
    Tile,
    mosaic_tiles,
    random_view,
    render,
)
from ossa.types import Sample

IMGSZ = 96


def sample_of(
    image: np.ndarray, boxes_xyxy: Sequence[Sequence[float]] = (), labels: Sequence[int] = ()
) -> Sample:
    boxes = np.array(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    return Sample(image, boxes, np.array(labels, dtype=np.int64))


def black(width: int = IMGSZ, height: int = IMGSZ) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def rough(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Returns blobs a few pixels wide: steep enough to show an offset of a tenth of a pixel."""
    coarse = generator.integers(0, 256, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def random_sample(generator: np.random.Generator) -> Sample:
    """Returns an image whose long side is IMGSZ, with up to 8 boxes anywhere in it."""
    short = int(generator.integers(IMGSZ // 3, IMGSZ + 1))
    width, height = (IMGSZ, short) if generator.random() < 0.5 else (short, IMGSZ)
    corners = generator.uniform(0, [width, height], (int(generator.integers(0, 9)), 2, 2))
    boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    labels = generator.integers(0, 5, len(boxes))
    return sample_of(rough(generator, width, height), boxes.tolist(), labels.tolist())


def random_mosaic(seed: int, *, scale: float = 0.5) -> tuple[list[Tile], CanvasView]:
    generator = np.random.default_rng(seed)
    tiles = mosaic_tiles([random_sample(generator) for _ in range(4)], IMGSZ, generator)
    augment = AugmentConfig(scale=scale)
    return tiles, random_view(2 * IMGSZ, IMGSZ, augment, generator=generator)


# ---- where tiles and views lie


def test_tiles_meet_at_the_corner_in_the_order_of_reading() -> None:
    shapes_wh = [(96, 50), (60, 96), (96, 96), (30, 96)]
    samples = [sample_of(black(*shape)) for shape in shapes_wh]
    tiles = mosaic_tiles(samples, IMGSZ, np.random.default_rng(0))
    corner_x, corner_y = tiles[3].left, tiles[3].top
    assert [tile.sample for tile in tiles] == samples
    assert [(tile.left - corner_x, tile.top - corner_y) for tile in tiles] == [
        (-96, -50),
        (0, -96),
        (-96, 0),
        (0, 0),
    ]


def test_the_corner_lies_anywhere_in_the_middle_half_of_the_canvas() -> None:
    generator = np.random.default_rng(0)
    samples = [sample_of(black())] * 4
    corners = [mosaic_tiles(samples, IMGSZ, generator)[3][1:] for _ in range(4000)]
    # 97 whole numbers, 48 to 144; the mean of 4000 draws has a standard error of 0.44.
    for axis in np.transpose(corners):
        assert set(axis.tolist()) == set(range(48, 145))
        assert axis.mean() == pytest.approx(96, abs=2)
    assert abs(np.corrcoef(np.transpose(corners))[0, 1]) < 0.06


def test_views_scale_and_place_the_canvas_within_their_ranges() -> None:
    generator = np.random.default_rng(0)
    augment = AugmentConfig(scale=0.5, translate=0.1)
    views = [random_view(2 * IMGSZ, IMGSZ, augment, generator=generator) for _ in range(4000)]
    assert {view.canvas for view in views} == {192}
    columns = np.array([view[1:4] for view in views])
    low, high = np.array([0.5, 38.4, 38.4]), np.array([1.5, 57.6, 57.6])
    assert (columns >= low).all()
    assert (columns <= high).all()
    reached = (columns - low) / (high - low)
    assert (reached.min(axis=0) < 0.01).all()
    assert (reached.max(axis=0) > 0.99).all()
    np.testing.assert_allclose(reached.mean(axis=0), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(columns.T) - np.eye(3)).max() < 0.06


# ---- pixels


def by_canvas(tiles: Sequence[Tile], view: CanvasView) -> tuple[np.ndarray, np.ndarray]:
    """Pastes the tiles on a canvas and warps it; returns the output and where no seam is near."""
    side = view.canvas
    canvas = np.full((side, side, 3), 114, dtype=np.uint8)
    owner = np.zeros((side, side), dtype=np.uint8)
    for number, tile in enumerate(tiles, start=1):
        height, width = tile.sample.image.shape[:2]
        for y in range(max(tile.top, 0), min(tile.top + height, side)):
            left, right = max(tile.left, 0), min(tile.left + width, side)
            canvas[y, left:right] = tile.sample.image[y - tile.top, left - tile.left :][
                : right - left
            ]
            owner[y, left:right] = number
    around = np.ones((5, 5), np.uint8)
    inner = (cv2.erode(owner, around) == cv2.dilate(owner, around)).astype(np.uint8)
    # Pixel i has its middle at i + 0.5, in the canvas as in the output.
    shift = (0.5 - side / 2) * view.scale - 0.5
    matrix = np.array(
        [[view.scale, 0, shift + view.target_x], [0, view.scale, shift + view.target_y]]
    )
    size = (IMGSZ, IMGSZ)
    output = cv2.warpAffine(canvas, matrix, size, borderValue=(114, 114, 114))
    return output, cv2.warpAffine(inner, matrix, size, flags=cv2.INTER_NEAREST) == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_output_is_that_of_a_warped_canvas(seed: int) -> None:
    tiles, view = random_mosaic(seed)
    expected, inner = by_canvas(tiles, view)
    assert inner.mean() > 0.4
    difference = np.abs(render(tiles, view, IMGSZ).image.astype(int) - expected)[inner]
    assert difference.max() <= 1  # rounding
    assert difference.mean() < 0.01


@pytest.mark.parametrize("seed", range(8))
def test_a_mirrored_view_gives_the_mirrored_output(seed: int) -> None:
    tiles, view = random_mosaic(seed)
    plain, mirrored = (render(tiles, view._replace(mirrored=m), IMGSZ) for m in (False, True))
    difference = np.abs(mirrored.image.astype(int) - plain.image[:, ::-1])
    assert difference.max() <= 1  # rounding
    assert difference.mean() < 0.001
    np.testing.assert_array_equal(mirrored.labels, plain.labels)
    expected = plain.boxes_xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (IMGSZ, 0, IMGSZ, 0)
    np.testing.assert_allclose(mirrored.boxes_xyxy, expected, atol=1e-5)


def test_left_becomes_right_for_pixels_and_boxes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    boxes = np.array([[10, 5, 30, 25], [0, 0, 96, 96]], dtype=np.float32)
    tile = Tile(Sample(image, boxes, np.array([1, 2])), 0, 0)
    output = render([tile], CanvasView(96, 1.0, 48.0, 48.0, mirrored=True), 96)
    np.testing.assert_array_equal(output.image, image[:, ::-1])
    np.testing.assert_array_equal(output.boxes_xyxy, [[66, 5, 86, 25], [0, 0, 96, 96]])


@pytest.mark.parametrize("seed", range(8))
def test_what_no_tile_covers_is_grey(seed: int) -> None:
    """Coverage pixel by pixel: the canvas point under the middle of each output pixel."""
    generator = np.random.default_rng(seed)
    # Short tiles and small scales leave much uncovered.
    samples = [sample_of(np.full((40, 40, 3), 255, dtype=np.uint8)) for _ in range(4)]
    tiles = mosaic_tiles(samples, IMGSZ, generator)
    view = CanvasView(192, generator.uniform(0.2, 1.2), *generator.uniform(20, 76, size=2))
    middle = np.arange(IMGSZ) + 0.5
    x = (middle - view.target_x) / view.scale + 96
    y = (middle - view.target_y) / view.scale + 96
    covered = np.zeros((IMGSZ, IMGSZ), dtype=bool)
    for tile in tiles:
        in_x = (x >= max(tile.left, 0)) & (x < min(tile.left + 40, 192))
        in_y = (y >= max(tile.top, 0)) & (y < min(tile.top + 40, 192))
        covered |= in_y[:, None] & in_x[None]
    expected = np.where(covered[..., None], 255, 114)
    np.testing.assert_array_equal(render(tiles, view, IMGSZ).image, expected.repeat(3, axis=2))
    assert covered.any()
    assert not covered.all()


def test_nothing_of_a_tile_beyond_the_canvas_is_seen() -> None:
    white = np.full((96, 96, 3), 255, dtype=np.uint8)
    # Half of the tile reaches out of the canvas to the left; the view shows all of the canvas.
    output = render([Tile(sample_of(white), -48, 0)], CanvasView(96, 0.5, 48, 48), IMGSZ)
    expected = np.full((96, 96, 3), 114)
    expected[24:72, 24:48] = 255
    np.testing.assert_array_equal(output.image, expected)


# ---- boxes


@pytest.mark.parametrize(
    ("box_xyxy", "remains"),
    [
        ((10, 10, 12, 40), False),  # 2 px wide
        ((10, 10, 12.5, 40), True),
        ((10, 10, 40, 12), False),  # 2 px tall
        ((-90, 10, 10, 60), False),  # 10 of 100 px are seen: a tenth
        ((-90, 10, 11, 60), True),  # 11 of 101
        ((0, 10, 400, 13.5), False),  # 114 times as long as broad
        ((0, 10, 400, 14.5), True),  # 89 times
        ((-20, 10, -1, 40), False),  # outside
    ],
)
def test_a_box_remains_by_size_share_and_shape(box_xyxy: tuple[float, ...], remains: bool) -> None:
    # A canvas of 1200 px seen at its own scale through 400 px: output = canvas - 400.
    x0, y0, x1, y1 = box_xyxy
    in_tile = [x0 + 400, y0 + 400, x1 + 400, y1 + 400]
    tile = Tile(sample_of(black(1200, 1200), [in_tile], [3]), 0, 0)
    output = render([tile], CanvasView(1200, 1.0, 200, 200), 400)
    assert len(output.labels) == remains
    if remains:
        np.testing.assert_allclose(output.boxes_xyxy, [np.clip(box_xyxy, 0, 400)], atol=1e-4)


# ---- boxes on pixels


def filled_rectangle(seed: int) -> tuple[Sample, np.ndarray | None]:
    """Renders a mosaic of black tiles, one with a white rectangle and its box.

    Returns the output and the corners of what is white, or None where it was not kept.
    """
    generator = np.random.default_rng(seed)
    image = black(96, int(generator.integers(40, 97)))
    x0, y0 = generator.integers(0, [86, image.shape[0] - 10])
    x1, y1 = generator.integers([x0 + 4, y0 + 4], [97, image.shape[0] + 1])
    image[y0:y1, x0:x1] = 255
    samples = [sample_of(black(96, int(generator.integers(40, 97)))) for _ in range(4)]
    samples[int(generator.integers(4))] = sample_of(image, [(x0, y0, x1, y1)], [7])
    tiles = mosaic_tiles(samples, IMGSZ, generator)
    view = random_view(192, IMGSZ, AugmentConfig(scale=0.7), generator=generator)
    output = render(tiles, view, IMGSZ)
    if not len(output.labels):
        return output, None
    rows, columns = (output.image[..., 0] > 127).nonzero()
    return output, np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_boxes_stay_exact_on_the_pixels_they_enclose() -> None:
    errors = []
    for seed in range(600):
        output, seen_xyxy = filled_rectangle(seed)
        if seen_xyxy is not None:
            assert output.labels.tolist() == [7]
            errors.append(output.boxes_xyxy[0] - seen_xyxy)
    assert len(errors) > 250
    # A pixel is white or not, which costs half a pixel.
    assert np.abs(errors).max() < 0.51
    # No side is shifted: the mean of 250 errors below 0.5 has a standard error of 0.02.
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06
