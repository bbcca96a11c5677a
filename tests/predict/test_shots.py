"""Sources become pictures to look at, and what is damaged costs one sentence."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Answer, FileServer, served
from known_detector import known_predictor, write_png
from PIL import Image
from videos import break_frames, write_video

from ossa.predict.frames import Shot, predict_shots, shots_of
from ossa.predict.sources import LiveSource, find_sources
from ossa.predict.video import VideoReader


def look_at(source: Path | str, *, every: int = 1) -> tuple[list[Shot], list[str]]:
    """Returns the pictures of a source, and what was told of them."""
    told: list[str] = []
    return list(shots_of(find_sources(str(source)), every=every, tell=told.append)), told


@pytest.fixture
def server() -> Iterator[FileServer]:
    with served() as server:
        yield server


def test_a_folder_of_both_gives_pictures_and_frames(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", (64, 48))
    write_video(tmp_path / "b.avi", 3, rate=10)
    shots, told = look_at(tmp_path)
    assert told == []
    assert [shot.name for shot in shots] == ["a", "b_000000", "b_000001", "b_000002"]
    assert [shot.size_wh for shot in shots] == [(64, 48)] + [(320, 64)] * 3
    assert shots[0].place == {"file": str(tmp_path / "a.png")}
    assert shots[3].place == {"file": str(tmp_path / "b.avi"), "frame": 2, "seconds": 0.2}


def test_what_is_damaged_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    write_video(tmp_path / "b.avi", 0)
    break_frames(write_video(tmp_path / "c.avi", 5), [2])
    (tmp_path / "d.mp4").write_bytes(b"no video")
    write_png(tmp_path / "e.png")
    shots, told = look_at(tmp_path)
    assert [shot.name for shot in shots] == [*(f"c_00000{i}" for i in (0, 1, 3, 4)), "e"]
    assert [sentence.partition(" found ")[2].partition(" ")[0] for sentence in told] == [
        *("no", "one", "", "a"),
    ]
    assert "1 frame cannot be decoded, the first of them number 2" in told[2]


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_an_animation_or_pages_the_first_is_looked_at_and_it_is_told(
    tmp_path: Path, suffix: str
) -> None:
    first, *others = (Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    first.save(tmp_path / f"b.{suffix}")
    shots, told = look_at(tmp_path / f"a.{suffix}")
    assert [shot.image[8, 8].argmax() for shot in shots] == [0]
    assert told == [f"{tmp_path / 'a'}.{suffix}: the first of its 3 pictures is looked at"]
    assert look_at(tmp_path / f"b.{suffix}")[1] == []


def test_frames_that_are_passed_over_count_in_the_numbers(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 7, rate=10)
    shots, _ = look_at(tmp_path / "a.avi", every=3)
    assert [shot.place["frame"] for shot in shots] == [0, 3, 6]
    assert [shot.place["seconds"] for shot in shots] == [0, 0.3, 0.6]


def test_a_stream_that_ends_is_told_in_one_sentence(tmp_path: Path, server: FileServer) -> None:
    server.files["/live"] = write_video(tmp_path / "a.avi", 6).read_bytes()
    shots, told = look_at(f"{server.address}/live")
    assert len(shots) == 6
    assert told == [f"{server.address}/live: it ended or was cut off after 6 frames"]


def test_a_stream_that_drops_gives_what_came_until_then(tmp_path: Path, server: FileServer) -> None:
    content = write_video(tmp_path / "a.avi", 30).read_bytes()
    server.files["/live"] = content
    server.answers = [Answer(announces=-1, sends=len(content) // 2, knows_ranges=False)]
    shots, told = look_at(f"{server.address}/live")
    assert 5 < len(shots) < 25
    assert told == [f"{server.address}/live: it ended or was cut off after {len(shots)} frames"]


def test_a_stream_that_is_not_there_is_told_without_its_password(server: FileServer) -> None:
    shots, told = look_at(server.address.replace("//", "//me:secret@") + "/absent")
    assert shots == []
    assert len(told) == 1
    assert told[0].startswith(f"expected a stream at {server.address}/absent, found none that can")


def test_a_stream_that_never_answers_is_given_up() -> None:
    with pytest.raises(Exception, match=r"found none that can be read within 0\.2 s"):
        _silent_server_read()


def _silent_server_read() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/live"
        VideoReader(LiveSource(address), timeout_seconds=0.2)


def test_shots_are_taken_together_and_come_back_one_by_one(tmp_path: Path) -> None:
    for name in "abcde":
        write_png(tmp_path / f"{name}.png", (64, 64))
    shots = shots_of(find_sources(str(tmp_path)), tell=print)
    answers = list(predict_shots(shots, known_predictor(), {"confidence": 0.5}, batch=2))
    assert [shot.name for shot, _ in answers] == ["a", "b", "c", "d", "e"]
    assert [len(found) for _, found in answers] == [1] * 5


def test_no_more_pictures_are_held_than_a_batch(tmp_path: Path) -> None:
    taken = []

    def counted(shots: Iterator[Shot]) -> Iterator[Shot]:
        for shot in shots:
            taken.append(shot.name)
            yield shot

    file = write_video(tmp_path / "a.avi", 9)
    shots = counted(shots_of(find_sources(str(file)), tell=print))
    answers = predict_shots(shots, known_predictor(), {}, batch=4)
    next(answers)
    assert len(taken) == 4
