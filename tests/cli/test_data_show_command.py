"""`ossa data show`: its page, the batches on it, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Ossa

from ossa.config import RunConfig, build_config
from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import TrainingDataset
from ossa.data.description import read_description
from ossa.data.loader import EpochBatches, training_loader
from ossa.data.reading import read_index
from ossa.data.show import augmented_batches, sample_images

SMALL = ("--imgsz", "64", "--batch", "4", "--number", "3", "--batches", "1")


def settings(**augment: object) -> RunConfig:
    return build_config(
        {
            "model": {"name": "yolov5n"},
            "data": "anywhere",
            "train": {"imgsz": 64, "batch": 4, "epochs": 3},
            "augment": augment,
        }
    )


@pytest.fixture(scope="session")
def train_index(scenes: Path) -> DatasetIndex:
    return read_index(read_description(scenes), "train").index


def test_it_writes_one_page_with_samples_batches_and_settings(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    page = tmp_path / "new" / "look.html"
    result = ossa(
        *("data", "show", scenes, *SMALL, "--output", page),
        *("--recipe", "quick", "--set", "augment.mixup=0.25", "--seed", 7),
    )
    assert result.exit_code == 0, result.stderr
    assert f"page: {page}" in result.stderr
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 3  # a sample of train and of val, one batch
    assert "The split has 16 images" in html
    assert "The split has 8 images" in html
    assert html.count("<td") >= 6 * (3 + 3)  # the table of files: six columns, three rows each
    assert re.search(r"augment\.mixup</dt><dd>0\.25", html)
    assert re.search(r"recipe</dt><dd>quick", html)
    assert not re.search(r'(src|href)="(?!data:|#)', html), "the page needs something beside it"


def test_without_output_the_page_is_named_after_the_data(ossa: Ossa, scenes: Path) -> None:
    result = ossa("data", "show", scenes, *SMALL, "--split", "val")
    assert result.exit_code == 0, result.stderr
    html = Path("scenes-shown.html").read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 1
    assert "batches" not in html


def test_the_last_epochs_without_mosaic_are_shown_as_well(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    page = tmp_path / "look.html"
    wanted = ("--set", "augment.plain_epochs=1", "--set", "train.epochs=9", "--output", page)
    assert ossa("data", "show", scenes, *SMALL, "--split", "train", *wanted).exit_code == 0
    html = page.read_text(encoding="utf-8")
    assert "The first batches of epoch 9<" in html
    assert html.count("data:image/jpeg;base64,") == 3


@pytest.mark.parametrize("epoch", [0, 2])
def test_batches_are_those_of_a_training(train_index: DatasetIndex, epoch: int) -> None:
    """16 images in batches of 4: the first of epoch 2 is the ninth of the training."""
    config = settings(plain_epochs=1)
    dataset = TrainingDataset(
        train_index, imgsz=64, augment=config.augment, seed=0, plain_from_epoch=2
    )
    all_batches = EpochBatches(16, batch=4, seed=0, epochs=3)
    expected = list(training_loader(dataset, all_batches, workers=0))[4 * epoch]
    (batch,) = augmented_batches(train_index, config, number=1, epoch=epoch)
    assert batch.image_ids == expected.image_ids
    torch.testing.assert_close(batch.images, expected.images, rtol=0, atol=0)
    torch.testing.assert_close(batch.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=0)


def test_a_sample_is_drawn_by_its_seed_without_repeats(train_index: DatasetIndex) -> None:
    first, again, other = (sample_images(train_index, number=5, seed=s) for s in (1, 1, 2))
    assert list(first.images) == list(again.images) != list(other.images)
    assert len(first.images) == 5
    assert len(sample_images(train_index, number=99, seed=0).images) == 16


def test_a_damaged_image_is_named_and_left_out_as_in_training(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    root = tmp_path / "damaged"
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    index = read_index(read_description(scenes), "train").index
    suffix = index.image_path(0).suffix
    for number in range(6):
        picture = index.image_path(number).read_bytes()
        keep = 900 if number == 3 else len(picture)
        (root / f"images/train/{number}{suffix}").write_bytes(picture[:keep])
        (root / f"labels/train/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [thing]\n")
    page = tmp_path / "look.html"
    wanted = ("--number", 6, "--batch", 8, "--imgsz", 64, "--output", page)
    result = ossa("data", "show", root, *wanted)
    assert result.exit_code == 0, result.stderr
    html = page.read_text(encoding="utf-8")
    assert "found a damaged one" in html
    assert f"images/train/3{suffix}" in html
    assert "5 of the images, drawn at random, are shown" in html
    assert "Batches of up to 5 images" in html


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--split", "vla"), "Expected a key 'vla'"),
        (("--split", "test"), "Expected a key 'test'"),
        (("--recipe", "quik"), "quik"),
        (("--set", "augment.mixpu=1"), "mixpu"),
        (("--set", "augment.mosaic=2"), "mosaic"),
        (("--output", "."), "--output with an HTML file"),
        (("--output", f"{__file__}/x.html"), "_command.py, which is no folder"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    ossa: Ossa, scenes: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = ossa("data", "show", scenes, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_boxes_of_a_sample_are_drawn_to_scale(tmp_path: Path) -> None:
    """A box from 20, 10 to 80, 40 on an image of 100 x 50, shown 360 pixels wide: 3.6 times."""
    from PIL import Image

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (100, 50), (114, 114, 114)).save(tmp_path / "images/1.png")
    (tmp_path / "labels/1.txt").write_text("0 0.5 0.5 0.6 0.6\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [thing]\n")
    index = read_index(read_description(tmp_path), "train").index
    (picture,) = sample_images(index, number=1, seed=0).images.values()
    assert picture is not None
    assert picture.shape == (180, 360, 3)
    coloured = np.argwhere((picture != 114).any(axis=-1) & (np.arange(180) > 60)[:, None])
    assert coloured.max(axis=0).tolist() == [143, 287]
    assert coloured[:, 1].min() == 72
