"""Pixels from a cache: the same as from the files, and never those of files since changed."""

import errno
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import write_yolo
from PIL import Image

from ossa.config import AugmentConfig
from ossa.data import cache as image_cache
from ossa.data import cache_files
from ossa.data import letterbox as resized
from ossa.data.annotations import DatasetIndex, select_images
from ossa.data.cache import CachePlace, PixelCache, open_pixels
from ossa.data.dataset import LetterboxedDataset, TrainingDataset
from ossa.data.description import read_description
from ossa.data.loader import EpochBatches, evaluation_loader, training_loader
from ossa.data.reading import drop_corrupt_images, read_index
from ossa.errors import DataError, RunFailed
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
PLACES: tuple[CachePlace, ...] = ("disk", "auto")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder; files written just now count as old ones."""
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_files, "_SETTLED_NS", -(10**18))
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

    def on_prepare(self, doing: str, *, done: int, total: int) -> None:
        assert (doing, total) == ("decoding for the cache", len(SIZES_WH))
        self.done.append(done)


def opened(data: Path, place: CachePlace = "disk", **options: Any) -> PixelCache:
    pixels = tried(data, place, **options)
    assert pixels is not None
    return pixels


def tried(
    data: Path,
    place: CachePlace,
    *,
    imgsz: int = IMGSZ,
    reduced: bool = True,
    heard: Heard | None = None,
    **options: Any,
) -> PixelCache | None:
    where = {"description": read_description(data), "split": "train", "imgsz": imgsz}
    options |= {"callback": heard or Heard(), "reduced": reduced}
    return open_pixels(index_of(data), place, **where, **options)


def kept(folder: Path) -> list[Path]:
    """Returns the files of the cache folder but its lock."""
    return [file for file in folder.iterdir() if not file.name.startswith(".lock")]


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
        augment = AugmentConfig(mosaic=0.7, mixup=0.3)
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
    assert len(kept(folder)) == 2
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
    monkeypatch.setattr("ossa.data.reading.decode_image", None)
    assert len(drop_corrupt_images(report, known=second.faults()).index) == 6


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_image_has_all_decoded_again(data: Path, place: CachePlace) -> None:
    earlier = opened(data, place)
    before = earlier[4].image.copy()
    Image.new("RGB", (32, 20), (9, 9, 9)).save(image_file(data, "e.jpg"))
    heard = Heard()
    after = opened(data, place, heard=heard)[4].image
    assert heard.done == [1, 2, 3, 4, 5, 6]
    assert (after == 9).all()
    # Who has the cache open goes on with what it was.
    np.testing.assert_array_equal(earlier[4].image, before)


@pytest.mark.parametrize("kept_bytes", [0, 7, 5000, -1])
def test_a_file_that_is_cut_short_is_no_cache(data: Path, folder: Path, kept_bytes: int) -> None:
    opened(data)
    (file,) = kept(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[:kept_bytes])
    opened(data)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("place", PLACES)
def test_images_that_cannot_be_decoded_are_told_each_time_as_without_a_cache(
    data: Path, place: CachePlace
) -> None:
    report = read_index(read_description(data), "train")
    damaged = image_file(data, "b.jpg")
    damaged.write_bytes(damaged.read_bytes()[:1500])
    image_file(data, "d.png").unlink()
    without = drop_corrupt_images(report)
    for _ in range(2):
        where = {"description": read_description(data), "split": "train", "imgsz": IMGSZ}
        cache = open_pixels(report.index, place, **where, reduced=True, callback=Heard())
        assert cache is not None
        checked = drop_corrupt_images(report, known=cache.faults())
        assert checked.issues == without.issues
        assert [issue.path.name for issue in checked.issues] == ["b.jpg", "d.png"]
        good = cache.of(checked.index)
        assert (len(cache), len(good)) == (6, 4)
        # a, c, e and f are left.
        assert [good[n].image.shape[:2] for n in range(4)] == [
            (24, 32),
            (32, 25),
            (20, 32),
            (26, 32),
        ]


def test_strict_stops_at_the_first_image_that_cannot_be_decoded(data: Path, folder: Path) -> None:
    image_file(data, "b.jpg").write_bytes(image_file(data, "b.jpg").read_bytes()[:1500])
    with pytest.raises(DataError, match=r"Expected an image, found .*b\.jpg"):
        opened(data, strict=True)
    assert kept(folder) == []


def test_a_part_of_the_images_shares_the_cache_of_all(data: Path) -> None:
    cache, index = opened(data), index_of(data)
    part = cache.of(select_images(index, np.array([False, True, False, True, True, False])))
    for position, whole in enumerate((1, 3, 4)):
        np.testing.assert_array_equal(part[position].image, cache[whole].image)
        np.testing.assert_array_equal(part[position].scale_yx, cache[whole].scale_yx)


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_is_sent_the_place_of_the_pixels_not_the_pixels(
    data: Path, place: CachePlace
) -> None:
    index = index_of(data)
    cache = opened(data, place, imgsz=640).of(
        select_images(index, np.array([False, True, True, True, True, True]))
    )
    sent = pickle.dumps(cache)
    assert cache.nbytes > 4_000_000
    assert len(sent) < 1000
    received = pickle.loads(sent)
    np.testing.assert_array_equal(received[0].image, cache[0].image)


def test_a_full_disk_is_told_before_anything_is_decoded(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def full(_: int, start: int, nbytes: int) -> None:
        asked.append(nbytes - start)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    heard = Heard()
    with pytest.raises(RunFailed) as failure:
        opened(data, imgsz=1024, heard=heard)
    # 1024 x (747 + 603 + 790 + 729 + 641 + 821) x 3: a row more than the images may have.
    assert asked[0] == pytest.approx(1024 * 4331 * 3, abs=20_000)
    assert failure.value.path == folder
    assert str(failure.value).startswith(
        "Could not write the cache of 6 images of split 'train' at 1024 px, 13.3 MB: no space left"
    )
    assert str(failure.value).endswith(
        "Free some space, name another folder in OSSA_CACHE, or take --cache none."
    )
    assert heard.done == []
    assert kept(folder) == []


@pytest.mark.parametrize(("free", "kept_in_memory"), [(53_000_000, False), (54_000_000, True)])
def test_memory_is_used_as_long_as_the_images_fit_into_a_quarter_of_what_is_free(
    data: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept_in_memory: bool
) -> None:
    monkeypatch.setattr(image_cache, "free_memory", lambda: free)
    heard = Heard()
    pixels = tried(data, "auto", imgsz=1024, heard=heard)
    assert (pixels is not None) == kept_in_memory
    assert len(heard.done) == 6 * kept_in_memory
    if not kept_in_memory:
        assert heard.notes == [
            "no cache of 6 images of split 'train' at 1024 px: 13.3 MB, more than the 13.2 MB of "
            "memory that --cache auto takes; --cache disk keeps them"
        ]


def test_files_written_just_now_are_kept_for_one_process_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a tick of the clock would not show in their times."""
    monkeypatch.setattr(cache_files, "_SETTLED_NS", 10**18)
    first, heard = opened(data, "auto"), Heard()
    second = opened(data, "auto", heard=heard)
    assert len(heard.done) == 6
    np.testing.assert_array_equal(second[1].image, first[1].image)


def build_slowly(data: Path, place: CachePlace, started: Event, heard: "Queue[Heard]") -> None:
    """Is a process that takes its time for every image, and then lives on."""
    read = image_cache.read_resized

    def slow(*arguments: Any, **settings: Any) -> Any:
        started.set()
        time.sleep(0.1)
        return read(*arguments, **settings)

    image_cache.read_resized = slow
    told = Heard()
    held = opened(data, place, heard=told)
    heard.put(told)
    time.sleep(1000)
    del held


@contextmanager
def builders(
    data: Path, place: CachePlace, count: int
) -> Iterator[tuple[list[ForkProcess], Event, "Queue[Heard]"]]:
    """Yields processes that were started together, whether one has begun, and what they heard."""
    fork = multiprocessing.get_context("fork")
    started, heard = fork.Event(), fork.Queue()
    processes = [
        fork.Process(target=build_slowly, args=(data, place, started, heard)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    yield processes, started, heard
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("place", PLACES)
def test_of_two_builders_at_once_one_decodes_and_the_other_waits(
    data: Path, folder: Path, place: CachePlace
) -> None:
    with builders(data, place, 2) as (_, _, heard):
        told = sorted((heard.get(timeout=60) for _ in range(2)), key=lambda one: len(one.done))
        assert [one.done for one in told] == [[], [1, 2, 3, 4, 5, 6]]
        assert told[0].notes[-1] == told[1].notes[-1]
        ours = Heard()
        opened(data, place, heard=ours)
        assert ours.done == []
    assert [file.suffix for file in kept(folder)] == ([".bin"] if place == "disk" else [])


def test_what_a_killed_builder_leaves_is_no_cache_and_is_removed(data: Path, folder: Path) -> None:
    with builders(data, "disk", 1) as ((process,), started, _):
        assert started.wait(60)
        process.kill()
        process.join()
    assert [file.suffix for file in kept(folder)] == [".tmp"]
    heard = Heard()
    opened(data, imgsz=48, heard=heard)  # another one
    assert heard.done == [1, 2, 3, 4, 5, 6]
    assert [file.suffix for file in kept(folder)] == [".bin"]


def test_memory_is_free_again_when_the_last_process_that_shares_it_was_killed(
    data: Path, folder: Path
) -> None:
    before = _memory_files()
    with builders(data, "auto", 1) as ((first,), _, heard):
        heard.get(timeout=60)
        made = _memory_files(str(first.pid)) - before
        assert made
        with builders(data, "auto", 1) as ((second,), _, heard_by_second):
            assert heard_by_second.get(timeout=60).done == []
            first.kill()
            first.join()
            ours = Heard()
            opened(data, "auto", heard=ours)  # from the second, who did not make it
            assert ours.done == []
            second.kill()
            second.join()
    assert not made & _memory_files()
    assert kept(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the memory of others")
def test_memory_of_another_user_is_not_taken_for_the_cache() -> None:
    own, foreign = (image_cache.new_memory_file("ossa-of-two-users") for _ in range(2))
    os.fchown(foreign.fileno(), 12345, -1)
    for file in (own, foreign):
        image_cache.seal(file)
    found = list(image_cache.open_memory_files("ossa-of-two-users"))
    assert {os.fstat(file.fileno()).st_uid for file in found} == {os.geteuid()}
    for file in (own, foreign, *found):
        file.close()


def _memory_files(process: str = "[0-9]*") -> set[int]:
    """Returns the inodes of the shared pixels that a process, or any, has open."""
    inodes = set()
    for link in Path("/proc").glob(f"{process}/fd/*"):
        with suppress(OSError):
            if "ossa-pixels" in os.readlink(link):
                inodes.add(link.stat().st_ino)
    return inodes
