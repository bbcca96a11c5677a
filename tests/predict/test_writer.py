"""What is written of detections, with numbers that can be checked by hand."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from known_detector import NAMES, shape_of, write_png
from videos import break_frames, rate_of, read_numbers, write_video

from ossa.data.decode import decode_image
from ossa.errors import ConfigError, RunFailed
from ossa.predict.results import Results
from ossa.predict.sources import Frame, find_sources, read_annotated, read_frames
from ossa.predict.writer import ResultFolder, SaveOptions, Window

NO_DRAWINGS = SaveOptions(drawings=False)
GREY = np.full((50, 100, 3), 90, np.uint8)


def found_in(frame: Frame, *, names: tuple[str, ...] = NAMES) -> Results:
    """Returns a dog at (10, 5, 30, 25) with 0.75 and a fire truck at (0, 0, 100, 50) with 0.5."""
    return Results(
        boxes_xyxy=np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        labels=np.array([1, 2]),
        image=frame.image,
        names=names,
    )


def write_all(folder: ResultFolder, source: Path) -> None:
    with folder:
        for frame in read_frames(find_sources(str(source)), on_warning=print):
            folder.add(frame, found_in(frame))


def written(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in files)


def test_drawings_keep_names_and_subfolders_and_only_jpegs_stay_jpegs(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.bmp", "sub/c.png"):
        write_png(tmp_path / "pics" / name, (100, 50))
    (tmp_path / "out").mkdir()
    write_all(ResultFolder(tmp_path / "out", SaveOptions()), tmp_path / "pics")
    assert written(tmp_path / "out") == ["a.jpg", "b.png", "sub/c.png"]
    assert shape_of(tmp_path / "out" / "b.png") == (50, 100, 3)


def test_without_a_data_set_pictures_count_from_one_and_classes_from_zero(tmp_path: Path) -> None:
    for name in ("x.png", "sub/y.png"):
        write_png(tmp_path / "pics" / name, (100, 50))
    wanted = NO_DRAWINGS._replace(label_files=True, coco_file=True)
    with ResultFolder(tmp_path, wanted) as folder:
        for frame in read_frames(find_sources(str(tmp_path / "pics")), on_warning=print):
            folder.add(frame, found_in(frame).above(0.6 if frame.name == "sub/y" else 0.9))
    label = "1 0.200000 0.300000 0.200000 0.400000\n"
    assert (tmp_path / "labels" / "x.txt").read_text() == ""
    assert (tmp_path / "labels" / "sub" / "y.txt").read_text() == label
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    assert (entry["image_id"], entry["file_name"], entry["category_id"]) == (1, "sub/y.png", 1)


def test_a_table_names_file_and_frame_and_quotes_what_needs_it(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a, b.avi", 2)
    write_png(tmp_path / "a, b.png", (100, 50))
    (tmp_path / "out").mkdir()
    write_all(ResultFolder(tmp_path / "out", NO_DRAWINGS._replace(table=True)), tmp_path)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["frame"]) for row in rows] == [
        *[(str(file), "0")] * 2,
        *[(str(file), "1")] * 2,
        *[(str(tmp_path / "a, b.png"), "")] * 2,
    ]
    assert rows[0]["name"] == "dog"
    assert [float(rows[0][key]) for key in ("score", "xmin", "ymax")] == [0.75, 10, 25]


def test_crops_lie_in_the_folder_of_their_class(tmp_path: Path) -> None:
    write_png(tmp_path / "pics" / "sub" / "a.png", (100, 50))
    write_video(tmp_path / "pics" / "b.avi", 1)
    (tmp_path / "out").mkdir()
    write_all(ResultFolder(tmp_path / "out", NO_DRAWINGS._replace(crops=True)), tmp_path / "pics")
    assert written(tmp_path / "out") == [
        "crops/dog/b_000000-0.jpg",
        "crops/dog/sub/a-0.png",
        "crops/fire truck/b_000000-1.jpg",
        "crops/fire truck/sub/a-1.png",
    ]
    assert shape_of(tmp_path / "out" / "crops" / "dog" / "sub" / "a-0.png") == (20, 20, 3)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("../../etc", "_.._etc"), ("a/b", "a_b"), ("..", "class1"), ("chien ☂", "chien _")],
)
def test_the_name_of_a_class_leads_to_no_other_folder(
    tmp_path: Path, name: str, folder: str
) -> None:
    write_png(tmp_path / "pics" / "a.png", (100, 50))
    (tmp_path / "out").mkdir()
    with ResultFolder(tmp_path / "out", NO_DRAWINGS._replace(crops=True)) as results:
        for frame in read_frames(find_sources(str(tmp_path / "pics")), on_warning=print):
            results.add(frame, found_in(frame, names=("cat", name, "fire truck")).above(0.6))
    assert written(tmp_path / "out") == [f"crops/{folder}/a-0.png"]


def test_every_video_becomes_one_of_its_rate_and_length(tmp_path: Path) -> None:
    break_frames(write_video(tmp_path / "in" / "a.avi", 6, rate=10), [2])
    write_video(tmp_path / "in" / "sub" / "b.mp4", 4, rate=25)
    write_png(tmp_path / "in" / "c.png")
    (tmp_path / "out").mkdir()
    write_all(ResultFolder(tmp_path / "out", SaveOptions(label_files=True)), tmp_path / "in")
    assert [name for name in written(tmp_path / "out") if "." in name and "labels" not in name] == [
        "a.webm",
        "c.png",
        "sub/b.webm",
    ]
    assert len(read_numbers(tmp_path / "out" / "a.webm")) == 6
    assert len(read_numbers(tmp_path / "out" / "sub" / "b.webm")) == 4
    assert [rate_of(tmp_path / "out" / name) for name in ("a.webm", "sub/b.webm")] == [10, 25]
    labels = [name for name in written(tmp_path / "out") if name.startswith("labels/a")]
    assert labels == [f"labels/a_00000{i}.txt" for i in (0, 1, 3, 4, 5)]


def test_what_was_written_until_a_failure_can_be_read(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 9)
    (tmp_path / "out").mkdir()

    def fail_behind(num_frames: int) -> None:
        with ResultFolder(tmp_path / "out", SaveOptions(coco_file=True)) as folder:
            for number, frame in enumerate(read_frames(find_sources(str(file)), on_warning=print)):
                folder.add(frame, found_in(frame))
                if number + 1 == num_frames:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_behind(4)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    places = [(entry["image_id"], entry["file_name"], entry["frame"]) for entry in entries]
    assert places == [(number // 2 + 1, "a.avi", number // 2) for number in range(8)]
    assert len(read_numbers(tmp_path / "out" / "a.webm")) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115 - the folder closes it
    monkeypatch.setattr(Path, "open", lambda *_, **options: full)
    with pytest.raises(RunFailed, match=r"Could not write it: no space left .*predictions\.json"):
        ResultFolder(tmp_path, NO_DRAWINGS._replace(coco_file=True)).__exit__(None, None, None)


def test_with_a_data_set_its_ids_are_stated_and_its_ground_truth_stand_below(
    tmp_path: Path,
) -> None:
    known = write_png(tmp_path / "images" / "7.png", (100, 50))
    stranger = write_png(tmp_path / "8.png", (100, 50))
    (tmp_path / "instances.json").write_text(
        json.dumps(
            {
                "images": [{"id": 500, "file_name": "7.png", "width": 100, "height": 50}],
                "categories": [{"id": 10 * (i + 1), "name": n} for i, n in enumerate(NAMES)],
                "annotations": [
                    {"id": 1, "image_id": 500, "category_id": 10, "iscrowd": 0}
                    | {"bbox": [60, 20, 20, 20], "area": 400}
                ],
            }
        )
    )
    (tmp_path / "data.yaml").write_text("val: {images: images, annotations: instances.json}\n")
    (tmp_path / "out").mkdir()
    truth = read_annotated(tmp_path)
    with ResultFolder(tmp_path / "out", SaveOptions(coco_file=True), ground_truth=truth) as folder:
        for file in (known, stranger):
            frame = Frame(find_sources(str(file))[0], GREY)
            folder.add(frame, found_in(frame))
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(e["image_id"], e["category_id"]) for e in entries] == [(500, 20), (500, 30)]

    both = decode_image(tmp_path / "out" / "7.png")
    assert shape_of(tmp_path / "out" / "8.png") == (50, 100, 3)
    # Two pictures of 50 rows under titles of 24, with gaps of 4: the lower one begins at row 106.
    assert both.shape == (160, 108, 3)
    upper, lower = both[28:78, 4:104], both[106:156, 4:104]
    assert (upper[15, 10] != 90).any()  # left edge of the detection (10, 5, 30, 25)
    assert (upper[30, 60] == 90).all()
    assert (lower[30, 60] != 90).any()  # left edge of the truth (60, 20, 80, 40)
    assert (lower[15, 10] == 90).all()


# The live window; there is no display where tests run.


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A display, and an OpenCV that opens windows and gets no key."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(cv2, "imshow", lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    return monkeypatch


def test_without_a_display_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"found neither DISPLAY nor WAYLAND_DISPLAY .* --show"):
        Window()


def test_with_the_headless_opencv_the_pip_line_is_named(display: pytest.MonkeyPatch) -> None:
    display.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(ConfigError, match=r"pip install 'opencv-python>=5\.0'"):
        Window()


@pytest.mark.parametrize(
    ("key", "visible", "goes_on"),
    [(-1, 1.0, True), (ord("x"), 1.0, True), (ord("q"), 1.0, False), (-1, 0.0, False)],
)
def test_q_or_closing_the_window_ends(
    display: pytest.MonkeyPatch, key: int, visible: float, goes_on: bool
) -> None:
    display.setattr(cv2, "waitKey", lambda _: key)
    display.setattr(cv2, "getWindowProperty", lambda *_: visible)
    assert Window().show(GREY, wait=False) is goes_on


def test_a_picture_waits_for_a_key_and_a_frame_does_not(display: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    display.setattr(cv2, "waitKey", lambda milliseconds: waits.append(milliseconds) or -1)
    for wait in (True, False):
        Window().show(GREY, wait=wait)
    assert waits == [0, 1]


def test_the_window_gets_bgr(display: pytest.MonkeyPatch) -> None:
    shown = []
    display.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    Window().show(np.array([[[1, 2, 3]]], np.uint8), wait=False)
    assert shown[0].tolist() == [[[3, 2, 1]]]
