"""Pixels from a cache: the same as from the files, and never those of files since changed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_yolo
from PIL import Image

from ossa.config import AugmentConfig
from ossa.data import resized, sources
from ossa.data.check import keep_decodable
from ossa.data.dataset import LetterboxedDataset, TrainingDataset
from ossa.data.description import read_description
from ossa.data.index import DatasetIndex
from ossa.data.loader import EpochBatches, evaluation_loader, training_loader
from ossa.data.pixel_store import CachePlace, open_pixels
from ossa.data.pixels import PixelCache
from ossa.data.reading import read_index
from ossa.types import Batch

IMGSZ = 32
# At 32 px the decoder halves 70, quarters 131 (33 pixels) and leaves 61 and the PNG as they are.
SIZES_WH = {
    "a.jpg": (70, 51),
    "b.jpg": (131, 77),
    "c.jpg": (47, 61),
    "d.png": (90, 64),
    "e.jpg": (32, 20),
    "f.jpg": (20, 16),
}
PLACES: tuple[CachePlace, ...] = ("disk", "ram")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder; files written just now count as old ones."""
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_SETTLED_NS", -(10**18))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data.yaml of six pictures of noise with two boxes each."""
    lines = "0 0.5 0.5 0.5 0.25\n1 0.25 0.3 0.1 0.2\n"
    data_yaml = write_yolo(tmp_path / "data", dict.fromkeys(SIZES_WH, lines))
    for seed, (name, size_wh) in enumerate(SIZES_WH.items()):
        noise = np.random.default_rng(seed).integers(0, 256, (*size_wh[::-1], 3), np.uint8)
        Image.fromarray(noise).save(image_file(data_yaml, name))
    return data_yaml


def image_file(data: Path, name: str) -> Path:
    return data.parent / "images" / "train" / name


def index_of(data: Path) -> DatasetIndex:
    return read_index(read_description(data), "train").index


@dataclass
class Heard:
    """What was told while a cache was opened."""

    notes: list[str] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def preparing(self, doing: str, *, done: int, total: int) -> None:
        assert (doing, total) == ("decoding for the cache", len(SIZES_WH))
        self.done.append(done)


def opened(
    data: Path,
    place: CachePlace = "disk",
    *,
    imgsz: int = IMGSZ,
    reduced: bool = True,
    strict: bool = False,
    heard: Heard | None = None,
) -> PixelCache:
    return open_pixels(
        index_of(data),
        place,
        description=read_description(data),
        split="train",
        imgsz=imgsz,
        reduced=reduced,
        listener=heard or Heard(),
        strict=strict,
    )


def assert_same(batches: Iterator[Batch], others: Iterator[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for name in ("images", "boxes_xyxy", "labels", "image_index"):
            assert getattr(batch, name).equal(getattr(other, name)), name
        assert (batch.image_ids, batch.letterboxes) == (other.image_ids, other.letterboxes)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_training_are_the_same_with_and_without(
    data: Path, place: CachePlace, workers: int
) -> None:
    index = index_of(data)

    def batches(cache: PixelCache | None) -> Iterator[Batch]:
        augment = AugmentConfig(mosaic=0.7, mixup=0.3, window=3)
        dataset = TrainingDataset(index, imgsz=IMGSZ, augment=augment, seed=3, pixels=cache)
        order = EpochBatches(len(index), batch=4, seed=3, epochs=2)
        return training_loader(dataset, order, workers=workers)

    assert_same(batches(opened(data, place)), batches(None))


@pytest.mark.parametrize("place", PLACES)
def test_batches_for_evaluation_are_the_same_with_and_without(
    data: Path, place: CachePlace
) -> None:
    index = index_of(data)
    cache = opened(data, place, reduced=False)
    cached, plain = (
        iter(
            evaluation_loader(
                LetterboxedDataset(index, imgsz=IMGSZ, pixels=source), batch=4, workers=0
            )
        )
        for source in (cache, None)
    )
    assert_same(cached, plain)


def test_training_and_evaluation_see_other_pixels_of_large_jpegs_so_each_has_its_cache(
    data: Path, folder: Path
) -> None:
    reduced, whole = opened(data), opened(data, reduced=False)
    assert len(list(folder.iterdir())) == 2
    same = [np.array_equal(reduced[n].image, whole[n].image) for n in range(len(SIZES_WH))]
    assert same == [False, False, True, True, True, True]


@pytest.mark.parametrize("place", PLACES)
def test_images_are_decoded_once(
    data: Path, place: CachePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, again = Heard(), Heard()
    first = opened(data, place, heard=heard)
    assert heard.done == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(resized, "decode_image", None)
    second = opened(data, place, heard=again)
    assert again.done == []
    assert again.notes == heard.notes[-1:]
    np.testing.assert_array_equal(second[1].image, first[1].image)
    report = read_index(read_description(data), "train")
    monkeypatch.setattr("ossa.data.check.decode_image", None)
    assert len(keep_decodable(report, known=second.faults()).index) == 6


def test_size_and_place_are_told(data: Path, folder: Path) -> None:
    heard = Heard()
    cache = opened(data, imgsz=100, heard=heard)
    # Heights of a, b, d, e, f are 73, 59, 71, 62, 80; c is upright, 77 wide.
    image_bytes = 100 * (73 + 59 + 77 + 71 + 62 + 80) * 3
    assert image_bytes < cache.nbytes < image_bytes + 2000
    (file,) = folder.iterdir()
    size = f"{cache.nbytes / 1e6:.1f} MB"
    what = "6 images of split 'train' at 100 px"
    assert heard.notes == [
        f"decoding {what} once, {size} in {file}",
        f"cache of {what}: {size} in {file}",
    ]
    assert file.stat().st_size == cache.nbytes
