"""A data set is made of files in any format, and written in any other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ossa
from ossa.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ossa.Dataset:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return ossa.Dataset.read(ossa.write_scenes(folder, images={"train": 3, "val": 2}, imgsz=128))


FORMS: dict[str, Callable[[Path, tuple[str, ...]], ossa.Dataset]] = {
    "coco": lambda folder, names: ossa.Dataset.from_coco(
        {split: folder / f"annotations/{split}.json" for split in ("train", "val")}
    ),
    "voc": lambda folder, names: ossa.Dataset.from_voc(
        {split: folder / f"ImageSets/Main/{split}.txt" for split in ("train", "val")}, names=names
    ),
    "yolo": lambda folder, names: ossa.Dataset.from_yolo(
        {split: folder / "images" / split for split in ("train", "val")}, names=names
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_again(form: str, scenes: ossa.Dataset, tmp_path: Path) -> None:
    written = getattr(scenes, f"to_{form}")(tmp_path / form, copy_images=True)
    again = FORMS[form](tmp_path / form, scenes.names)
    assert (again.splits, again.names) == (("train", "val"), scenes.names)
    for dataset in (written, again):
        ours, theirs = dataset.index("val"), scenes.index("val")
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1)


def test_one_file_alone_is_the_split_train(scenes: ossa.Dataset, tmp_path: Path) -> None:
    scenes.to_coco(tmp_path / "coco", copy_images=True)
    alone = ossa.Dataset.from_coco(tmp_path / "coco/annotations/val.json")
    assert (alone.splits, len(alone.index("train"))) == (("train",), 2)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a split of train, val and test, found 'valid'"):
        ossa.Dataset.from_yolo({"valid": tmp_path}, names=["a"])
    with pytest.raises(DataError, match="nowhere"):
        ossa.Dataset.from_coco(tmp_path / "nowhere.json")
