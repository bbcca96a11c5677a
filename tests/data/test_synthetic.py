"""Generated scenes: what is promised of them, measured on many."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ossa.data.synthetic import (
    NAMES,
    VISIBLE_FRACTION,
    Scene,
    compose_scene,
    draw_scene,
    write_scenes,
)
from ossa.errors import DataError

IMGSZ = 160


@cache
def scenes() -> list[Scene]:
    return [compose_scene(np.random.default_rng((0, 0, i)), IMGSZ) for i in range(60)]


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_scene_has_six_to_twelve_objects_of_every_class_equally_often():
    counts = [len(scene.labels) for scene in scenes()]
    assert set(counts) == set(range(6, 13))
    shares = np.bincount(np.concatenate([scene.labels for scene in scenes()])) / sum(counts)
    assert len(shares) == len(NAMES) == 4
    np.testing.assert_allclose(shares, 0.25, atol=0.05)


def test_a_box_encloses_exactly_the_pixels_of_an_object_that_nothing_hides():
    compared = 0
    for scene in scenes():
        for i, (box, area) in enumerate(zip(scene.boxes_xyxy, scene.areas, strict=True)):
            rows, columns = np.nonzero(scene.owners == i)
            if len(rows) < area:
                continue
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert tuple(box) == tight
            compared += 1
    assert compared > 250


def test_at_least_the_promised_share_of_every_object_is_seen_and_inside_its_box():
    for scene in scenes():
        for i, (x0, y0, x1, y1) in enumerate(scene.boxes_xyxy):
            seen = int((scene.owners == i).sum())
            assert seen >= VISIBLE_FRACTION * scene.areas[i] >= 0.6 * scene.areas[i]
            assert seen == (scene.owners[y0:y1, x0:x1] == i).sum()
            assert 0 <= x0 < x1 <= IMGSZ
            assert 0 <= y0 < y1 <= IMGSZ


def test_the_files_are_bytewise_equal_when_written_again(tmp_path: Path):
    for name in ("first", "again"):
        write_scenes(tmp_path / name, images={"train": 3, "val": 2}, seed=5)
    write_scenes(tmp_path / "other", images={"train": 3, "val": 2}, seed=6)
    first = files_of(tmp_path / "first")
    assert len(first) == 2 * 5 + 2
    assert first == files_of(tmp_path / "again")
    assert first != files_of(tmp_path / "other")


def test_a_scene_depends_on_its_own_number_only(tmp_path: Path):
    write_scenes(tmp_path / "few", images={"val": 2})
    write_scenes(tmp_path / "many", images={"train": 2, "val": 4})
    few, many = files_of(tmp_path / "few"), files_of(tmp_path / "many")
    assert few["images/val/000001.png"] == many["images/val/000001.png"]
    assert many["images/train/000001.png"] != many["images/val/000001.png"]


def test_labels_read_back_to_a_ten_thousandth_of_a_pixel(tmp_path: Path):
    description = write_scenes(tmp_path / "scenes", images={"train": 2, "val": 3})
    settings = yaml.safe_load(description.read_text())
    assert settings["format"] == "yolo"
    assert settings["names"] == list(NAMES)
    for position in range(3):
        drawn = draw_scene(np.random.default_rng((0, 1, position)), IMGSZ)
        folder = description.parent / settings["val"]
        written = cv2.imread(str(folder / f"{position:06d}.png"), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(written, drawn.image)
        rows = np.loadtxt(tmp_path / f"scenes/labels/val/{position:06d}.txt", ndmin=2)
        centre, size = rows[:, 1:3] * IMGSZ, rows[:, 3:5] * IMGSZ
        boxes_xyxy = np.hstack([centre - size / 2, centre + size / 2])
        np.testing.assert_allclose(boxes_xyxy, drawn.boxes_xyxy, atol=1e-4)
        np.testing.assert_array_equal(rows[:, 0], drawn.labels)


def test_the_same_scenes_are_not_written_twice(tmp_path: Path):
    calls: list[tuple[int, int]] = []

    def write() -> Path:
        return write_scenes(
            tmp_path / "scenes",
            images={"train": 2, "val": 1},
            on_image=lambda done, total: calls.append((done, total)),
        )

    assert write() == write() == tmp_path / "scenes" / "data.yaml"
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("change", [{"seed": 1}, {"imgsz": 192}, {"images": {"train": 2}}])
def test_other_scenes_are_refused_and_left_alone(tmp_path: Path, change: dict):
    write_scenes(tmp_path, images={"train": 1})
    before = files_of(tmp_path)
    with pytest.raises(DataError, match="Choose another folder or delete this one"):
        write_scenes(tmp_path, **{"images": {"train": 1}, **change})
    assert files_of(tmp_path) == before


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(DataError, match=r"found other files") as caught:
        write_scenes(tmp_path, images={"train": 1})
    assert str(tmp_path) in str(caught.value)
    assert files_of(tmp_path) == {"thesis.txt": b"all of it"}


def test_an_interrupted_call_leaves_nothing_behind(tmp_path: Path):
    def interrupt(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", images={"train": 3}, on_image=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"images": {"training": 5}}, "Expected splits among train, val, test, found 'training'"),
        ({"images": {"train": 0}}, "Expected at least one image of 'train', found 0"),
        ({"imgsz": 64}, "at least 128 pixels, found imgsz 64"),
    ],
)
def test_an_impossible_request_is_refused(tmp_path: Path, request_: dict, message: str):
    with pytest.raises(DataError, match=message):
        write_scenes(tmp_path / "scenes", **request_)
    assert list(tmp_path.iterdir()) == []
