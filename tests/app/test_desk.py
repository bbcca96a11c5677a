"""What a visitor sees, without any web framework."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import cv2
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

from ossa.app.desk import WELCOME, Choice, Desk
from ossa.app.limits import Limits
from ossa.app.models import PageModel
from ossa.app.session import Sessions
from ossa.errors import DataError

BOTH = Choice(("first", "second"), confidence=0.2, nms_iou=0.45)


@pytest.fixture
def models() -> list[PageModel]:
    return [first_model(), second_model()]


@pytest.fixture
def desk(models: list[PageModel], tmp_path: Path) -> Desk:
    return Desk(models, Sessions(tmp_path / "kept", Limits(frames=3, sessions=2)))


def boxes(html: str) -> list[str]:
    """Returns what stands on each box, of all pictures."""
    return re.findall(r'class="ossa-box[^>]*title="([^"]*)"', html)


def test_models_show_side_by_side_with_their_differences_marked(desk: Desk, tmp_path: Path) -> None:
    seen = desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    assert seen.num_stills == 1
    assert boxes(seen.pictures) == [  # the best of each model last, on top
        "bird 0.25, missed by second",
        "dog 0.64, missed by second",
        "dog 0.81",
        "cat 0.49, missed by first",
        "dog 0.81",
    ]
    assert seen.pictures.count("ossa-alone") == 3
    assert "first finds 2 objects (1 dog, 1 bird) that second misses." in seen.notes
    assert "second finds 1 cat that first misses." in seen.notes
    assert "Both find 1 dog." in seen.notes


def test_a_box_stands_where_it_was_found(desk: Desk, tmp_path: Path) -> None:
    choice = Choice(("second",), confidence=0.6, nms_iou=0.45)
    seen = desk.take("anna", write_picture(tmp_path / "a.png", (128, 128)), choice)
    # DOG, from (12, 8) to (28, 16) of 64: as fractions the same in a picture of 128.
    assert "left:18.750%;top:12.500%;width:25.000%;height:12.500%" in seen.pictures


def test_a_slider_changes_the_boxes_and_runs_no_network(
    desk: Desk, models: list[PageModel], tmp_path: Path
) -> None:
    desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    runs = [runs_of(model) for model in models]
    assert len(boxes(desk.show("anna", BOTH).pictures)) == 5
    for change, count in (
        ({"confidence": 0.7}, 2),
        ({"nms_iou": 0.3}, 4),
        ({"classes": ("cat",)}, 1),
        ({"titles": ("second",)}, 2),
    ):
        choice = Choice(**{**vars(BOTH), **change})
        assert len(boxes(desk.show("anna", choice).pictures)) == count
    assert [runs_of(model) for model in models] == runs


def test_a_model_that_is_chosen_later_looks_then(
    desk: Desk, models: list[PageModel], tmp_path: Path
) -> None:
    before = runs_of(models[1])
    desk.take("anna", write_picture(tmp_path / "a.png"), Choice(("first",), 0.2, 0.45))
    assert runs_of(models[1]) == before
    desk.show("anna", BOTH)
    assert runs_of(models[1]) == before + 1


def test_a_bad_file_is_one_sentence_and_the_last_picture_stays(desk: Desk, tmp_path: Path) -> None:
    desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    (tmp_path / "bad.jpg").write_text("hello")
    answer = desk.take("anna", tmp_path / "bad.jpg", BOTH)
    assert 'role="alert"' in answer.pictures
    assert "bad.jpg is neither a picture nor a video" in answer.pictures
    assert len(boxes(desk.show("anna", BOTH).pictures)) == 5


def test_nobody_sees_the_picture_of_another(desk: Desk, tmp_path: Path) -> None:
    desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    assert WELCOME in desk.show("bert", BOTH).pictures


def test_without_a_model_there_is_a_word(desk: Desk, tmp_path: Path) -> None:
    answer = desk.take("anna", write_picture(tmp_path / "a.png"), Choice((), 0.2, 0.45))
    assert "Choose at least one model" in answer.pictures


def test_a_picture_that_is_forgotten_meanwhile_is_asked_for_again(
    desk: Desk, tmp_path: Path
) -> None:
    desk.take("anna", write_picture(tmp_path / "a.png"), Choice(("first",), 0.2, 0.45))
    for file in (tmp_path / "kept").rglob("picture"):
        file.unlink()
    assert "not kept any more: drop it again" in desk.show("anna", BOTH).pictures


def test_names_from_files_are_text_and_no_markup(tmp_path: Path) -> None:
    model = known_model("<b>", [DOG], ("cat", "<script>alert(1)</script>"))
    desk = Desk([model], Sessions(tmp_path / "kept", Limits()))
    seen = desk.take("anna", write_picture(tmp_path / "a.png"), Choice(("<b>",), 0.2, 0.45))
    assert "<script>" not in seen.pictures + seen.notes
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 0.81" in seen.pictures


def test_a_frame_of_a_video_is_chosen_from_those_that_were_kept(desk: Desk, tmp_path: Path) -> None:
    seen = desk.take("anna", write_video(tmp_path / "a.avi", 9), BOTH)
    assert seen.num_stills == 3
    assert re.search(r"picture/[0-9a-f]{32}/0\b", seen.pictures)
    third = desk.show("anna", Choice(**{**vars(BOTH), "still": 3}))
    assert re.search(r"picture/[0-9a-f]{32}/2\b", third.pictures)


def test_results_are_a_zip_of_pictures_and_tables(desk: Desk, tmp_path: Path) -> None:
    desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    done: list[tuple[int, int]] = []
    with zipfile.ZipFile(
        desk.results("anna", BOTH, lambda *so_far: done.append(so_far))
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


def test_a_video_with_boxes_is_as_long_as_the_original(desk: Desk, tmp_path: Path) -> None:
    desk.take("anna", write_video(tmp_path / "a.avi", 9, rate=3), BOTH)
    file = desk.video("anna", BOTH, lambda *_: None)
    capture = cv2.VideoCapture(str(file))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert seconds == pytest.approx(3, abs=0.05)
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 2 * 64  # side by side


def test_where_there_is_nothing_to_write_a_sentence_says_so(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no picture: drop one first"):
        desk.results("anna", BOTH, lambda *_: None)
    desk.take("anna", write_picture(tmp_path / "a.png"), BOTH)
    with pytest.raises(DataError, match="there is no video: drop one first"):
        desk.video("anna", BOTH, lambda *_: None)


def test_no_name_is_more_than_text_on_the_page(tmp_path: Path) -> None:
    def seen(texts: tuple[str, ...]) -> str:
        models = [
            known_model(text, [DOG], names=("b", texts[(number + 1) % len(texts)], "c"))
            for number, text in enumerate(texts)
        ]
        desk = Desk(models, Sessions(tmp_path / "kept", Limits()))
        file = write_picture(tmp_path / "a.png")
        shown = desk.take("anna", file, Choice(texts, confidence=0.01, nms_iou=0.45))
        return shown.pictures + shown.notes

    plain = seen(tuple(f"model {number}" for number in range(len(HOSTILE))))
    hostile = seen(HOSTILE)
    assert structure(hostile) == structure(plain)
    assert structure(hostile)[1] == []
    assert structure(plain)[0]["figure"] == len(HOSTILE)
