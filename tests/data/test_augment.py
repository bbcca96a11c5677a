"""Colour, mirror and mixture by hand, and the sequence that makes a training sample."""

from collections.abc import Callable

import numpy as np
import pytest
from dataset_files import gradient

from ossa.config import AugmentConfig
from ossa.data.augment import change_colour, mix, training_sample
from ossa.data.letterbox import letterbox
from ossa.types import Sample

STILL = AugmentConfig(mosaic=0, mixup=0, translate=0, scale=0, flip=0, hue=0, saturation=0, value=0)


def with_(**changes: float) -> AugmentConfig:
    return STILL.model_copy(update=changes)


def painted(value: int | tuple[int, int, int], *, label: int = 0) -> Sample:
    """Returns a 64x64 image of one colour with a box of 40x40 in its middle."""
    image = np.full((64, 64, 3), value, dtype=np.uint8)
    return Sample(image, np.array([[12, 12, 52, 52]], np.float32), np.array([label]))


TINY = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def drawn(
    augment: AugmentConfig,
    seed: int,
    load: Callable[[int], Sample],
    *,
    position: int = 0,
    num_images: int = 5,
    imgsz: int = 64,
) -> Sample:
    """Returns the training sample of an image."""
    return training_sample(
        position,
        load=load,
        num_images=num_images,
        imgsz=imgsz,
        augment=augment,
        generator=np.random.default_rng(seed),
    )


def assert_same(sample: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(sample.image, other.image)
    np.testing.assert_array_equal(sample.boxes_xyxy, other.boxes_xyxy)
    np.testing.assert_array_equal(sample.labels, other.labels)


# ---- colour


@pytest.mark.parametrize(
    ("rgb", "gains_hsv", "expected"),
    [
        ((0, 0, 255), (1.5, 1, 1), (255, 0, 0)),  # 120 x 1.5 = 180, which is 0: red
        ((0, 0, 255), (0.5, 1, 1), (0, 255, 0)),  # 60: green
        ((0, 0, 255), (1.75, 1, 1), (255, 255, 0)),  # 210 modulo 180 = 30: yellow
        ((255, 0, 0), (1.9, 1, 1), (255, 0, 0)),  # red is 0 whatever the gain
        ((90, 90, 90), (1.3, 1.7, 1), (90, 90, 90)),  # grey has neither hue nor saturation
        ((100, 100, 100), (1, 1, 1.4), (140, 140, 140)),
        ((200, 200, 200), (1, 1, 1.4), (255, 255, 255)),  # 280 is clipped
        ((101, 101, 101), (1, 1, 0.5), (50, 50, 50)),  # 50.5 is cut to 50
        ((255, 0, 0), (1, 0, 1), (255, 255, 255)),
        ((255, 51, 51), (1, 1.3, 1), (255, 0, 0)),  # saturation 204 x 1.3 is clipped at 255
    ],
)
def test_colours_change_as_calculated_by_hand(
    rgb: tuple[int, ...], gains_hsv: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    image = np.array([[rgb]], dtype=np.uint8)
    assert change_colour(image, np.array(gains_hsv)).tolist() == [[list(expected)]]


# ---- mixture


def test_mixup_blends_by_weight_and_keeps_the_boxes_of_both() -> None:
    mixed = mix(painted(200, label=1), painted(100, label=2), weight=0.25)
    assert (mixed.image == 125).all()  # 0.25 x 200 + 0.75 x 100
    np.testing.assert_array_equal(mixed.boxes_xyxy, [[12, 12, 52, 52]] * 2)
    np.testing.assert_array_equal(mixed.labels, [1, 2])


# ---- the sequence


def test_without_augmentation_a_sample_is_the_letterboxed_image() -> None:
    source = Sample(gradient(64, 40), np.array([[8, 4, 32, 40]], np.float32), np.array([3]))
    sample = drawn(STILL, 0, lambda _: source)
    square, placement = letterbox(source.image, 64)
    # The way through hue, saturation and value costs a little even where nothing changes.
    assert np.abs(sample.image - square.astype(int)).max() <= 6
    assert (sample.image[:12] == 114).all()
    expected = placement.boxes_to_network(source.boxes_xyxy)
    np.testing.assert_array_equal(sample.boxes_xyxy, expected)
    np.testing.assert_array_equal(sample.labels, [3])


@pytest.mark.parametrize("mosaic", [0.0, 0.3, 1.0])
def test_mosaic_is_a_probability(mosaic: float) -> None:
    loads = []

    def load(position: int) -> Sample:
        loads.append(position)
        return TINY

    for seed in range(1000):
        drawn(with_(mosaic=mosaic), seed, load, imgsz=8)
    assert (len(loads) - 1000) / 3000 == pytest.approx(mosaic, abs=0 if mosaic in (0, 1) else 0.05)


def test_mixup_mixes_two_about_equally() -> None:
    def load(position: int) -> Sample:
        return painted(250 if position == 0 else 50, label=position)

    weights = []
    for seed in range(400):
        sample = drawn(with_(mixup=1), seed, load, num_images=1_000_000)
        assert sample.labels[0] == 0
        assert len(sample.labels) == 2
        weights.append((sample.image[0, 0, 0] - 50.0) / 200)
    # Beta(32, 32): mean 0.5, standard deviation 1 / sqrt(4 x 65) = 0.062.
    assert np.mean(weights) == pytest.approx(0.5, abs=0.012)
    assert np.std(weights) == pytest.approx(0.062, abs=0.008)


def test_flip_is_drawn_last_and_mirrors_the_sample_that_was() -> None:
    source = Sample(gradient(64, 64), np.array([[8, 4, 32, 40]], np.float32), np.array([3]))
    busy = {"mosaic": 1, "mixup": 0.5, "scale": 0.5, "translate": 0.1, "hue": 0.5, "value": 0.4}
    for seed in range(20):
        plain = drawn(with_(**busy, flip=0), seed, lambda _: source)
        mirrored = drawn(with_(**busy, flip=1), seed, lambda _: source)
        expected = plain.boxes_xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (64, 0, 64, 0)
        np.testing.assert_allclose(mirrored.boxes_xyxy, expected, atol=1e-5)
        np.testing.assert_array_equal(mirrored.labels, plain.labels)
        # Coordinates that lie the other way round are rounded the other way now and then.
        differs = mirrored.image != plain.image[:, ::-1]
        assert differs.mean() < 0.01


@pytest.mark.parametrize(("mosaic", "mixup"), [(1.0, 0.0), (1.0, 1.0)])
def test_the_other_images_are_drawn_independently_from_the_whole_split(
    mosaic: float, mixup: float
) -> None:
    """A thousand samples of image 7: the others of 20 as often as chance has it, in pairs, too."""
    drawn_images: list[tuple[int, ...]] = []
    for seed in range(1000):
        loaded: list[int] = []

        def load(position: int, loaded: list[int] = loaded) -> Sample:
            loaded.append(position)
            return TINY

        augment = with_(mosaic=mosaic, mixup=mixup)
        drawn(augment, seed, load, position=7, num_images=20, imgsz=8)
        loaded.remove(7)
        drawn_images.append(tuple(loaded))
    others = {(1.0, 0.0): 3, (1.0, 1.0): 7}[mosaic, mixup]
    assert {len(images) for images in drawn_images} == {others}
    counts = np.bincount(np.concatenate(drawn_images), minlength=20)
    expected = 1000 * others / 20
    assert len(counts) == 20
    # Chi-squared of 19 degrees of freedom: 43.8 is passed by one in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 43.8
    same = np.mean([images[0] == images[1] for images in drawn_images])
    assert same == pytest.approx(1 / 20, abs=0.025)


def test_the_sources_are_left_as_they_were() -> None:
    source = Sample(gradient(64, 64), np.array([[8, 4, 32, 40]], np.float32), np.array([3]))
    before = Sample(source.image.copy(), source.boxes_xyxy.copy(), source.labels.copy())
    for seed in range(10):
        drawn(AugmentConfig(mixup=0.5), seed, lambda _: source)
    assert_same(source, before)
