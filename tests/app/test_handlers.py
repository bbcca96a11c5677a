"""What a visitor sees, without any web framework; what one model finds and another misses."""

import csv
import io
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from known_models import (
    DOG,
    first_model,
    known_model,
    runs_of,
    second_model,
    write_picture,
    write_video,
)
from page_structure import HOSTILE, structure

from ossa.app.handlers import (
    WELCOME,
    Answer,
    Handlers,
    describe_differences,
    find_missed,
    match_objects,
)
from ossa.app.inference import PageModel, Settings
from ossa.app.uploads import Limits, Sessions
from ossa.errors import DataError
from ossa.predict.results import Results

BOTH = Settings(("first", "second"), confidence=0.2, nms_iou=0.45)


@pytest.fixture
def models() -> list[PageModel]:
    return [first_model(), second_model()]


@pytest.fixture
def handlers(models: list[PageModel], tmp_path: Path) -> Handlers:
    return Handlers(models, Sessions(tmp_path / "kept", Limits(frames=3, sessions=2)))


def boxes(html: str) -> list[str]:
    """Returns what stands on each box, of all pictures."""
    return re.findall(r'class="ossa-box[^>]*title="([^"]*)"', html)


def test_models_show_side_by_side_with_their_differences_marked(
    handlers: Handlers, tmp_path: Path
) -> None:
    seen = handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    assert seen.num_frames == 1
    assert boxes(seen.images) == [  # the best of each model last, on top
        "bird 0.25, missed by second",
        "dog 0.64, missed by second",
        "dog 0.81",
        "cat 0.49, missed by first",
        "dog 0.81",
    ]
    assert seen.images.count("ossa-alone") == 3
    assert "first finds 2 objects (1 dog, 1 bird) that second misses." in seen.notes
    assert "second finds 1 cat that first misses." in seen.notes
    assert "Both find 1 dog." in seen.notes


def test_a_box_stands_where_it_was_found(handlers: Handlers, tmp_path: Path) -> None:
    choice = Settings(("second",), confidence=0.6, nms_iou=0.45)
    seen = handlers.open("anna", write_picture(tmp_path / "a.png", (128, 128)), choice)
    # DOG, from (12, 8) to (28, 16) of 64: as fractions the same in a picture of 128.
    assert "left:18.750%;top:12.500%;width:25.000%;height:12.500%" in seen.images


def test_a_slider_changes_the_boxes_and_runs_no_network(
    handlers: Handlers, models: list[PageModel], tmp_path: Path
) -> None:
    handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    runs = [runs_of(model) for model in models]
    assert len(boxes(handlers.show("anna", BOTH).images)) == 5
    for change, count in (
        ({"confidence": 0.7}, 2),
        ({"nms_iou": 0.3}, 4),
        ({"classes": ("cat",)}, 1),
        ({"models": ("second",)}, 2),
    ):
        choice = replace(BOTH, **change)
        assert len(boxes(handlers.show("anna", choice).images)) == count
    assert [runs_of(model) for model in models] == runs


def test_a_model_that_is_chosen_later_looks_then(
    handlers: Handlers, models: list[PageModel], tmp_path: Path
) -> None:
    before = runs_of(models[1])
    handlers.open("anna", write_picture(tmp_path / "a.png"), Settings(("first",), 0.2, 0.45))
    assert runs_of(models[1]) == before
    handlers.show("anna", BOTH)
    assert runs_of(models[1]) == before + 1


def test_a_bad_file_is_one_sentence_and_the_last_picture_stays(
    handlers: Handlers, tmp_path: Path
) -> None:
    handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    (tmp_path / "bad.jpg").write_text("hello")
    answer = handlers.open("anna", tmp_path / "bad.jpg", BOTH)
    assert 'role="alert"' in answer.images
    assert "Expected an image or a video, found neither (bad.jpg)." in answer.images
    assert len(boxes(handlers.show("anna", BOTH).images)) == 5


def test_a_network_that_returns_nan_is_an_error_and_not_nothing_found(tmp_path: Path) -> None:
    model = known_model("broken", [DOG._replace(probability=float("nan"))])
    handlers = Handlers([model], Sessions(tmp_path / "kept", Limits()))
    settings = Settings(("broken",), 0.2)
    view = handlers.open("anna", write_picture(tmp_path / "a.png"), settings)
    assert 'role="alert"' in view.images
    assert "found NaN" in view.images


def test_nobody_sees_the_picture_of_another(handlers: Handlers, tmp_path: Path) -> None:
    handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    assert WELCOME in handlers.show("bert", BOTH).images


def test_a_picture_that_is_forgotten_meanwhile_is_asked_for_again(
    handlers: Handlers, tmp_path: Path
) -> None:
    handlers.open("anna", write_picture(tmp_path / "a.png"), Settings(("first",), 0.2, 0.45))
    for file in (tmp_path / "kept").rglob("image"):
        file.unlink()
    assert "not kept any more: drop it again" in handlers.show("anna", BOTH).images


def test_names_from_files_are_text_and_no_markup(tmp_path: Path) -> None:
    model = known_model("<b>", [DOG], ("cat", "<script>alert(1)</script>"))
    handlers = Handlers([model], Sessions(tmp_path / "kept", Limits()))
    seen = handlers.open("anna", write_picture(tmp_path / "a.png"), Settings(("<b>",), 0.2, 0.45))
    assert "<script>" not in seen.images + seen.notes
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 0.81" in seen.images


def test_a_frame_of_a_video_is_chosen_from_those_that_were_kept(
    handlers: Handlers, tmp_path: Path
) -> None:
    seen = handlers.open("anna", write_video(tmp_path / "a.avi", 9), BOTH)
    assert seen.num_frames == 3
    assert re.search(r"image/[0-9a-f]{32}/0\b", seen.images)
    third = handlers.show("anna", replace(BOTH, frame=3))
    assert re.search(r"image/[0-9a-f]{32}/2\b", third.images)


def test_results_are_a_zip_of_pictures_and_tables(handlers: Handlers, tmp_path: Path) -> None:
    handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    done: list[tuple[int, int]] = []
    with zipfile.ZipFile(
        handlers.results("anna", BOTH, lambda *so_far: done.append(so_far))
    ) as archive:
        assert sorted(archive.namelist()) == [
            "detections.csv",
            "detections.json",
            "first/000.jpg",
            "second/000.jpg",
        ]
        rows = list(csv.DictReader(io.StringIO(archive.read("detections.csv").decode())))
        documents = json.loads(archive.read("detections.json"))
    assert done == [(1, 1)]
    assert [(row["model"], row["name"], row["missed_by"]) for row in rows] == [
        ("first", "dog", ""),
        ("first", "dog", "second"),
        ("first", "bird", "second"),
        ("second", "dog", ""),
        ("second", "cat", "first"),
    ]
    assert documents[1]["model"] == "second"
    assert documents[1]["detections"][0]["box_xyxy"] == pytest.approx([12, 8, 28, 16], abs=1e-3)


def test_a_video_with_boxes_is_as_long_as_the_original(handlers: Handlers, tmp_path: Path) -> None:
    handlers.open("anna", write_video(tmp_path / "a.avi", 9, rate=3), BOTH)
    file = handlers.video("anna", BOTH, lambda *_: None)
    capture = cv2.VideoCapture(str(file))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert seconds == pytest.approx(3, abs=0.05)
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 2 * 64  # side by side


def test_where_there_is_nothing_to_write_a_sentence_says_so(
    handlers: Handlers, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="There is no image: drop one first"):
        handlers.results("anna", BOTH, lambda *_: None)
    handlers.open("anna", write_picture(tmp_path / "a.png"), BOTH)
    with pytest.raises(DataError, match="There is no video: drop one first"):
        handlers.video("anna", BOTH, lambda *_: None)


def test_no_name_is_more_than_text_on_the_page(tmp_path: Path) -> None:
    def seen(texts: tuple[str, ...]) -> str:
        models = [
            known_model(text, [DOG], names=("b", texts[(number + 1) % len(texts)], "c"))
            for number, text in enumerate(texts)
        ]
        handlers = Handlers(models, Sessions(tmp_path / "kept", Limits()))
        file = write_picture(tmp_path / "a.png")
        shown = handlers.open("anna", file, Settings(texts, confidence=0.01, nms_iou=0.45))
        return shown.images + shown.notes

    plain = seen(tuple(f"model {number}" for number in range(len(HOSTILE))))
    hostile = seen(HOSTILE)
    assert structure(hostile) == structure(plain)
    assert structure(hostile)[1] == []
    assert structure(plain)[0]["figure"] == len(HOSTILE)


def answer(
    title: str, *boxes: tuple[str, int, int], names: tuple[str, ...] = ("cat", "dog")
) -> Answer:
    """Boxes of 10 x 10 pixels with the given class and left top corner."""
    corners = [[x, y, x + 10, y + 10] for _, x, y in boxes]
    results = Results(
        np.array(corners, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        np.array([names.index(name) for name, _, _ in boxes], np.int64),
        image=np.zeros((100, 100, 3), np.uint8),
        names=names,
    )
    return Answer(title, results)


def differences(*answers: Answer) -> list[str]:
    return describe_differences(answers, find_missed(answers))


def test_a_box_of_the_same_class_in_nearly_the_same_place_is_the_same_object() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50))
    # Moved by 3 of 10 pixels: 70 of 130 pixels are shared, IoU 0.54; by 4: 60 of 140, 0.43.
    assert match_objects(first.results, answer("b", ("cat", 3, 0), ("dog", 54, 50)).results) == [
        (0, 0)
    ]
    assert match_objects(first.results, answer("b", ("dog", 0, 0), ("cat", 50, 50)).results) == []


def test_an_object_is_matched_once_and_by_what_overlaps_most() -> None:
    one = answer("a", ("cat", 0, 0))
    two = answer("b", ("cat", 2, 0), ("cat", 1, 0))
    assert match_objects(one.results, two.results) == [(0, 1)]
    assert match_objects(two.results, one.results) == [(1, 0)]


def test_the_differences_are_marked_and_told_in_words() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50), ("dog", 70, 50))
    second = answer("b", ("cat", 1, 0), ("cat", 30, 0))
    assert find_missed([first, second]) == [[[], [1], [1]], [[], [0]]]
    assert differences(first, second) == [
        "a finds 2 dog that b misses.",
        "b finds 1 cat that a misses.",
        "Both find 1 cat.",
    ]


def test_of_several_classes_there_are_a_sum_and_the_parts() -> None:
    first = answer("a", ("cat", 0, 0), ("dog", 50, 50), ("dog", 70, 50))
    assert differences(first, answer("b")) == [
        "a finds 3 objects (2 dog, 1 cat) that b misses.",
        "Nothing is found by both.",
    ]


def test_a_class_that_a_model_does_not_know_is_not_missed() -> None:
    first = answer("a", ("cat", 0, 0))
    second = answer("b", ("car", 40, 40), names=("car",))
    assert find_missed([first, second]) == [[[]], [[]]]
    assert differences(first, second) == [
        "Nothing is found by both.",
        "b was not trained to find cat.",
        "a was not trained to find car.",
    ]


def test_three_models_are_compared_two_by_two_and_a_single_one_with_nothing() -> None:
    a, b, c = answer("a", ("cat", 0, 0)), answer("b", ("cat", 0, 0)), answer("c")
    assert find_missed([a, b, c]) == [[[2]], [[2]], []]
    assert differences(a, b, c)[-1] == "Nothing is found by all."
    assert differences(a) == []
    assert differences(c, answer("d")) == ["No model finds anything at these thresholds."]
