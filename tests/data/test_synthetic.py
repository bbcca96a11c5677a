"""Generated scenes: what is promised of them, measured on many."""

import json
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
    return [compose_scene(np.random.default_rng((0, 0, i)), IMGSZ) for i in range(120)]


def all_boxes() -> np.ndarray:
    return np.concatenate([np.array(scene.boxes_xyxy) for scene in scenes()])


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_scene_has_six_to_twelve_objects_of_every_class_equally_often():
    counts = [len(scene.labels) for scene in scenes()]
    assert set(counts) == set(range(6, 13))
    shares = np.bincount(np.concatenate([scene.labels for scene in scenes()])) / sum(counts)
    assert len(shares) == len(NAMES) == 4
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_a_third_of_the_objects_are_small_but_none_is_under_nine_pixels():
    sizes_wh = all_boxes()[:, 2:] - all_boxes()[:, :2]
    longer = sizes_wh.max(axis=1)
    assert 0.28 < (longer < IMGSZ / 10).mean() < 0.38
    assert longer.min() >= 9
    assert longer.max() < 0.4 * IMGSZ


def test_a_quarter_of_the_objects_overlap_another():
    overlapping = []
    for scene in scenes():
        boxes_xyxy = np.array(scene.boxes_xyxy)
        for i, box in enumerate(boxes_xyxy):
            others = np.delete(boxes_xyxy, i, axis=0)
            shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
            overlapping.append(bool((shared > 0).all(axis=1).any()))
    assert 0.2 < np.mean(overlapping) < 0.3


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
    assert compared > 500


def test_at_least_the_promised_share_of_every_object_is_seen_and_inside_its_box():
    for scene in scenes():
        for i, (x0, y0, x1, y1) in enumerate(scene.boxes_xyxy):
            seen = int((scene.owners == i).sum())
            assert seen >= VISIBLE_FRACTION * scene.areas[i] >= 0.6 * scene.areas[i]
            assert seen == (scene.owners[y0:y1, x0:x1] == i).sum()
            assert 0 <= x0 < x1 <= IMGSZ
            assert 0 <= y0 < y1 <= IMGSZ


def test_objects_stand_out_from_what_is_around_them():
    differences = []
    for scene in scenes()[:100]:
        for i in range(len(scene.labels)):
            inside = (scene.owners == i).astype(np.uint8)
            around = cv2.dilate(inside, np.ones((7, 7), np.uint8)).astype(bool)
            around &= scene.owners == -1
            if around.any():
                object_colour = scene.canvas[inside.astype(bool)].mean(axis=0)
                background_colour = scene.canvas[around].mean(axis=0)
                differences.append(np.linalg.norm(object_colour - background_colour))
    assert np.median(differences) > 80
    assert np.mean(np.array(differences) > 30) > 0.97


def test_colour_does_not_tell_the_class():
    colours: dict[int, list[np.ndarray]] = {label: [] for label in range(len(NAMES))}
    for scene in scenes():
        for i, label in enumerate(scene.labels):
            colours[int(label)].append(scene.canvas[scene.owners == i].mean(axis=0))
    means = np.array([np.mean(colours[label], axis=0) for label in colours])
    deviations = np.array([np.std(colours[label], axis=0) for label in colours])
    # About 400 objects a class with a deviation of 70 make a standard error of 3.5.
    assert np.ptp(means, axis=0).max() < 16
    assert deviations.min() > 50


def test_the_same_generator_draws_the_same_scene_and_another_another():
    first, again, other = (draw_scene(np.random.default_rng(seed), IMGSZ) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes_xyxy, again.boxes_xyxy)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)


def test_a_sample_has_the_types_that_the_package_agreed_on():
    sample = draw_scene(np.random.default_rng(0), 192)
    assert (sample.image.shape, sample.image.dtype) == ((192, 192, 3), np.uint8)
    assert sample.boxes_xyxy.shape == (len(sample.labels), 4)
    assert (sample.boxes_xyxy.dtype, sample.labels.dtype) == (np.float32, np.int64)


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


def test_the_parameters_lie_beside_the_scenes(tmp_path: Path):
    write_scenes(tmp_path, images={"train": 1}, seed=3)
    parameters = json.loads((tmp_path / "scenes.json").read_text())
    assert parameters == {"version": 1, "images": {"train": 1}, "imgsz": 160, "seed": 3}
