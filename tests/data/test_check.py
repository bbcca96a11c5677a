"""Images that cannot be decoded are left out with their truths and named, or refused."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from dataset_files import gradient, write_yolo
from PIL import Image

from ossa.data.annotations import DatasetIndex, select_images
from ossa.data.description import read_description
from ossa.data.reading import IndexReport, drop_corrupt_images, read_index
from ossa.errors import DataError


def read(tmp_path: Path, *, count: int = 4) -> IndexReport:
    """Returns images 0.jpg, 1.jpg, ... of 100x50 pixels with 0, 1, 2, ... boxes."""
    boxes = [f"{k % 2} 0.5 0.5 0.{k + 1} 0.5\n" for k in range(8)]
    labels = {f"{i}.jpg": "".join(boxes[:i]) for i in range(count)}
    return read_index(read_description(write_yolo(tmp_path, labels)), "train")


def cut_short(report: IndexReport, *positions: int) -> list[Path]:
    """Cuts the files of images to half; their headers stay readable. Returns their paths."""
    paths = [report.index.image_path(position) for position in positions]
    for path in paths:
        Image.fromarray(gradient(100, 50)).save(path, quality=95)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return paths


def test_a_damaged_image_is_left_out_and_named_once(tmp_path: Path) -> None:
    report = read(tmp_path)
    (path,) = cut_short(report, 2)
    checked = drop_corrupt_images(report)
    assert checked.index.file_names.tolist() == [f"images/train/{name}.jpg" for name in (0, 1, 3)]
    assert len(checked.index.labels) == 0 + 1 + 3
    (issue,) = checked.issues
    assert (issue.path, issue.line, issue.action) == (path, None, "image left out")
    assert str(issue).startswith(f"{path}: expected an image, found a damaged one")
    assert str(issue).count(str(path)) == 1


def test_strict_raises_at_the_first_damaged_image_in_one_sentence(tmp_path: Path) -> None:
    report = read(tmp_path)
    first, second = cut_short(report, 1, 3)
    with pytest.raises(DataError) as caught:
        drop_corrupt_images(report, strict=True)
    assert str(caught.value).startswith(f"{first}: expected an image, found a damaged one")
    assert str(second) not in str(caught.value)
    assert ".;" not in str(caught.value)


def test_no_image_left_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    report = read(tmp_path, count=2)
    first, _ = cut_short(report, 0, 1)
    with pytest.raises(DataError, match="found none among 2; the first: ") as caught:
        drop_corrupt_images(report)
    assert str(first) in str(caught.value)


def test_an_image_of_another_size_than_its_index_says_is_left_out(tmp_path: Path) -> None:
    report = read(tmp_path)
    path = report.index.image_path(1)
    Image.fromarray(gradient(200, 100)).save(path)
    checked = drop_corrupt_images(report)
    assert len(checked.index) == 3
    assert "expected 100x50 pixels, found 200x100" in str(checked.issues[0])


@pytest.mark.parametrize("threads", [1, 4])
def test_progress_and_problems_come_in_the_order_of_the_index(tmp_path: Path, threads: int) -> None:
    report = read(tmp_path, count=6)
    paths = cut_short(report, 1, 2, 5)
    calls = []
    checked = drop_corrupt_images(
        report, threads=threads, on_image=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, 6) for done in range(1, 7)]
    assert [issue.path for issue in checked.issues] == paths


def test_images_are_taken_with_their_own_ground_truth() -> None:
    index = DatasetIndex(
        root=Path(),
        names=("a",),
        category_ids=np.array([1]),
        file_names=np.array(["p", "q", "r", "s"]),
        image_ids=np.array([40, 30, 20, 10]),
        sizes_wh=np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.int32),
        gt_offsets=np.array([0, 2, 2, 3, 6]),
        boxes_xyxy=np.arange(24.0).reshape(6, 4),
        labels=np.zeros(6, dtype=np.int64),
        areas=np.arange(6.0),
        crowd=np.arange(6) == 5,
        difficult=np.arange(6) == 2,
        annotation_ids=np.arange(100, 106),
    )
    taken = select_images(index, np.array([False, True, True, True]))
    assert taken.file_names.tolist() == ["q", "r", "s"]
    assert taken.image_ids.tolist() == [30, 20, 10]
    assert taken.sizes_wh.tolist() == [[3, 4], [5, 6], [7, 8]]
    assert taken.gt_offsets.tolist() == [0, 0, 1, 4]
    assert taken.annotation_ids.tolist() == [102, 103, 104, 105]
    assert taken.areas.tolist() == [2, 3, 4, 5]
    assert taken.boxes_xyxy[:, 0].tolist() == [8, 12, 16, 20]
    assert taken.crowd.tolist() == [False, False, False, True]
    assert taken.difficult.tolist() == [True, False, False, False]
    for field in fields(DatasetIndex):
        before, after = getattr(index, field.name), getattr(taken, field.name)
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype, field.name
    everything = select_images(index, np.ones(4, dtype=bool))
    assert everything.fingerprint() == index.fingerprint()
    assert taken.fingerprint() != index.fingerprint()
