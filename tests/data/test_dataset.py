"""Samples of an index: decided by seed, epoch and position, with the truths that train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    coco_annotation,
    gradient,
    voc_object,
    write_coco,
    write_text,
    write_voc,
    write_yolo,
)
from PIL import Image

from ossa.config import AugmentConfig
from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import Draw, LetterboxedDataset, TrainingDataset
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError
from ossa.types import Letterbox, Sample

STILL = AugmentConfig(mosaic=0, mixup=0, translate=0, scale=0, flip=0, hue=0, saturation=0, value=0)


def index_of(data_yaml: Path) -> DatasetIndex:
    return read_index(read_description(data_yaml), "train").index


@pytest.fixture
def photographs(tmp_path: Path) -> DatasetIndex:
    """Four different pictures of 96x64 pixels with 0, 1, 2 and 3 boxes."""
    line = "1 0.5 0.5 0.5 0.25\n"  # (24, 24) to (72, 40)
    data_yaml = write_yolo(tmp_path, {f"{i}.jpg": line * (i > 0) for i in range(4)})
    for i in range(4):
        more = "".join(f"0 {0.2 * k} 0.3 0.1 0.2\n" for k in range(1, i))
        label = tmp_path / "labels" / "train" / f"{i}.txt"
        write_text(label, label.read_text() + more)
        picture = Image.fromarray(np.roll(gradient(), i, axis=2))
        picture.save(tmp_path / "images" / "train" / f"{i}.jpg", quality=95)
    return index_of(data_yaml)


def big_picture(tmp_path: Path, size_wh: tuple[int, int], suffix: str) -> DatasetIndex:
    """Returns the index of one picture with the box of its middle half."""
    data_yaml = write_yolo(tmp_path, {f"1{suffix}": "1 0.5 0.5 0.5 0.5\n"})
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))
    picture = small.resize(size_wh, Image.Resampling.BICUBIC)
    picture.save(tmp_path / "images" / "train" / f"1{suffix}", quality=95)
    return index_of(data_yaml)


def assert_same(sample: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(sample.image, other.image)
    np.testing.assert_array_equal(sample.boxes_xyxy, other.boxes_xyxy)
    np.testing.assert_array_equal(sample.labels, other.labels)


def training(
    index: DatasetIndex, augment: AugmentConfig, *, imgsz: int = 64, seed: int = 0
) -> TrainingDataset:
    return TrainingDataset(index, imgsz=imgsz, augment=augment, seed=seed)


def test_a_sample_depends_on_seed_epoch_and_position_alone(photographs: DatasetIndex) -> None:
    augment = AugmentConfig(mixup=0.5)
    draws = [Draw(epoch, position) for epoch in range(3) for position in range(4)]
    forwards = [training(photographs, augment, seed=7)[draw] for draw in draws]
    dataset = training(photographs, augment, seed=7)
    backwards = [dataset[draw] for draw in reversed(draws)][::-1]
    for (sample, image_id), (again, same_id) in zip(forwards, backwards, strict=True):
        assert image_id == same_id
        assert_same(sample, again)


def test_the_last_epochs_may_be_without_mosaic_and_mixup(photographs: DatasetIndex) -> None:
    augment = AugmentConfig(mixup=1.0)
    plain = training(photographs, AugmentConfig(mosaic=0, mixup=0))
    dataset = TrainingDataset(photographs, imgsz=64, augment=augment, seed=0, plain_from_epoch=2)
    for epoch, reference in enumerate([training(photographs, augment)] * 2 + [plain] * 2):
        assert_same(dataset[Draw(epoch, 1)][0], reference[Draw(epoch, 1)][0])


def test_a_letterboxed_image_comes_with_boxes_id_and_placement(
    photographs: DatasetIndex,
) -> None:
    dataset = LetterboxedDataset(photographs, imgsz=48)
    sample, image_id, placement = dataset[1]
    assert (len(dataset), image_id) == (4, photographs.image_ids[1])
    assert placement == Letterbox(0.5, 0.5, 0, 8, 96, 64)
    np.testing.assert_array_equal(sample.boxes_xyxy, [[12, 20, 36, 28]])
    np.testing.assert_array_equal(sample.labels, [1])
    assert (sample.image[[0, 7, 40, 47]] == 114).all()
    assert (sample.image[8] != 114).any()
    assert dataset[0][0].boxes_xyxy.shape == (0, 4)


def truths(index: DatasetIndex, position: int) -> list[list[float]]:
    """Returns the boxes of both data sets, which must agree, at the image's own size 100x50."""
    trained = training(index, STILL, imgsz=100)[Draw(0, position)][0]
    evaluated, _, placement = LetterboxedDataset(index, imgsz=100)[position]
    np.testing.assert_array_equal(trained.boxes_xyxy, evaluated.boxes_xyxy)
    np.testing.assert_array_equal(trained.labels, evaluated.labels)
    return placement.boxes_to_image(trained.boxes_xyxy).tolist()


def test_crowds_do_not_train(tmp_path: Path) -> None:
    crowd = coco_annotation(1, [10, 10, 30, 30], iscrowd=1)
    single = coco_annotation(2, [50, 5, 20, 30])
    index = index_of(write_coco(tmp_path, [crowd, single]))
    assert truths(index, index.image_ids.tolist().index(7)) == [[50, 5, 70, 35]]


def test_difficult_objects_do_not_train(tmp_path: Path) -> None:
    boxes = [
        voc_object("cat", (11, 11, 40, 40), difficult=1),
        voc_object("dog", (51, 6, 70, 35)),  # pixels counted from 1, both ends included
    ]
    index = index_of(write_voc(tmp_path, {"1": boxes}))
    assert truths(index, 0) == [[50, 5, 70, 35]]


def test_boxes_that_reach_out_of_their_image_train_within_it(tmp_path: Path) -> None:
    # COCO's reader keeps them for evaluation; a mosaic must not carry them into the next tile.
    outside = coco_annotation(1, [-90, 10, 100, 30])
    index = index_of(write_coco(tmp_path, [outside]))
    assert truths(index, index.image_ids.tolist().index(7)) == [[0, 10, 10, 40]]


@pytest.mark.parametrize(
    ("size_wh", "box_xyxy"),
    [
        ((1280, 960), [80, 100, 240, 220]),  # decoded at a quarter, 320x240
        ((640, 480), [80, 100, 240, 220]),  # at half
        ((637, 477), [80, 100, 240, 220]),  # 637 / 2 is too little: in full
        # At half, 320x240, of which the last column and row stand for one:
        # 159.75 / 2, 40 + 119.75 / 2, 479.25 / 2 and 40 + 359.25 / 2.
        ((639, 479), [79.875, 99.875, 239.625, 219.625]),
        # At half, 350x263, where 525 rows are 262.5; 263 rows are resized to 240:
        # 40 + 131.25 / 2 x 240 / 263 = 99.886 and 40 + 393.75 / 2 x 240 / 263 = 219.658.
        ((700, 525), [80, 99.886, 240, 219.658]),
    ],
)
def test_jpegs_that_are_decoded_at_a_reduced_size_look_the_same(
    tmp_path: Path, size_wh: tuple[int, int], box_xyxy: list[float]
) -> None:
    index = big_picture(tmp_path, size_wh, ".jpg")
    trained = training(index, STILL, imgsz=320)[Draw(0, 0)][0]
    evaluated = LetterboxedDataset(index, imgsz=320)[0][0]
    assert np.abs(trained.image.astype(int) - evaluated.image).mean() < 2
    np.testing.assert_allclose(trained.boxes_xyxy, [box_xyxy], atol=1e-3)
    np.testing.assert_allclose(trained.boxes_xyxy, evaluated.boxes_xyxy, atol=0.5)


def test_boxes_fit_the_pixels_of_a_reduced_image_whose_sides_were_rounded(
    tmp_path: Path,
) -> None:
    # 801 columns decode to 401, of which the last stands for one; the box has 680 columns.
    index = big_picture(tmp_path, (801, 601), ".jpg")
    index = replace(index, boxes_xyxy=np.array([[101.0, 0.0, 781.0, 601.0]]))
    picture = np.full((601, 801, 3), 40, dtype=np.uint8)
    picture[:, 101:781] = 210
    Image.fromarray(picture).save(index.image_path(0), quality=100)
    sample = training(index, STILL, imgsz=320)[Draw(0, 0)][0]
    x0, _, x1, _ = sample.boxes_xyxy[0]
    shares = (sample.image[160, :, 0] - 40.0) / 170  # of each pixel that lies in the box
    assert shares.sum() == pytest.approx(x1 - x0, abs=0.2)
    assert shares[:160].sum() == pytest.approx(160 - x0, abs=0.2)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    ("size_wh", "boxes_xyxy"),
    [
        ((1, 1), [[8, 8, 24, 24]]),
        ((1, 2), [[12, 8, 20, 24]]),
        ((500, 1), []),  # half a pixel tall
    ],
)
def test_the_smallest_images_train(
    tmp_path: Path, size_wh: tuple[int, int], boxes_xyxy: list[list[int]], suffix: str
) -> None:
    index = big_picture(tmp_path, size_wh, suffix)
    sample = training(index, STILL, imgsz=32)[Draw(0, 0)][0]
    assert sample.image.shape == (32, 32, 3)
    assert sample.boxes_xyxy.tolist() == boxes_xyxy


def test_an_image_of_another_size_than_the_index_says_is_refused(
    photographs: DatasetIndex,
) -> None:
    wrong = replace(photographs, sizes_wh=photographs.sizes_wh + np.int32(8))
    with pytest.raises(DataError, match=r"Expected 104x72 pixels, found 96x64 .*0\.jpg"):
        LetterboxedDataset(wrong, imgsz=64)[0]
    with pytest.raises(DataError, match=r"Expected 104x72 pixels, found 96x64 .*0\.jpg"):
        training(wrong, STILL)[Draw(0, 0)]
