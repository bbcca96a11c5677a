"""What a user names becomes pictures, videos and streams with names, in order."""

import os
import socket
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Answer, FileServer, served
from known_detector import known_predictor, write_png
from PIL import Image
from videos import break_frames, write_video

from ossa.errors import DataError
from ossa.predict.predictor import predict_frames
from ossa.predict.sources import Frame, Source, find_sources, read_annotated, read_frames
from ossa.predict.video import VideoReader


def names_of(source: Path | str) -> list[str]:
    return [found.name for found in find_sources(str(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "sub/c.bmp", "sub/deep/a.jpg", ".hidden.png"):
        write_png(tmp_path / "pics" / name)
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    return tmp_path / "pics"


def test_a_folder_or_pattern_gives_its_images_in_order(folder: Path) -> None:
    assert names_of(folder) == ["a", "b", "sub/c", "sub/deep/a"]
    assert names_of(folder / "*.*") == ["a", "b"]
    assert names_of(folder / "**" / "a.jpg") == ["a", "sub/deep/a"]
    assert names_of(folder / "s?b" / "*") == ["sub/c"]
    assert names_of(write_png(folder / "frame[1].png")) == ["frame[1]"]


def test_a_relative_source_keeps_its_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_sources("*.png") == find_sources("b.png") == [Source("image", Path("b.png"), "b")]
    assert find_sources(".")[0] == Source("image", Path("a.jpg"), "a")


def test_videos_stand_among_the_pictures(folder: Path) -> None:
    for name in ("aa.MP4", ".hidden.mp4", "sub/c.webm"):
        (folder / name).touch()
    assert names_of(folder) == ["a", "aa", "b", "sub/c-2", "sub/c", "sub/deep/a"]
    assert find_sources(str(folder / "*"))[1] == Source("video", folder / "aa.MP4", "aa")
    assert find_sources(str(folder / "aa.MP4")) == [Source("video", folder / "aa.MP4", "aa")]


def test_a_number_is_a_camera_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = find_sources("0")
    assert (camera, camera.title) == (Source("live", 0, "camera0"), "0")
    (tmp_path / "0").touch()
    assert find_sources("0") == [Source("image", Path("0"), "0")]


def test_an_address_is_a_stream_whose_password_is_never_told() -> None:
    (stream,) = find_sources("rtsp://me:secret@camera.example:554/a")
    assert stream == Source("live", "rtsp://me:secret@camera.example:554/a", "stream")
    assert stream.title == "rtsp://camera.example:554/a"
    assert find_sources("https://a.example/b?c=[d]*")[0].title == "https://a.example/b?***"


def test_a_folder_or_pattern_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Expected images \(.bmp, .*\) or videos \(.avi, .*\) in the folder"
    ):
        find_sources(str(tmp_path))
    with pytest.raises(DataError, match=r"in the files that match .*\*.png, found none"):
        find_sources(str(tmp_path / "*.png"))


def write_data_set(root: Path) -> Path:
    """Writes train 7.png with one box of class b, val 8.png and 7.png; returns the root."""
    for split, name in (("train", "7"), ("val", "8")):
        write_png(root / "images" / split / f"{name}.png", (100, 50))
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "7.txt").write_text("1 0.5 0.5 0.2 0.4\n1 0.5 0.5 0 0\n")
    (root / "data.yaml").write_text(
        "train: images/train\nval: [images/val, images/train]\nnames: [a, b]\n"
    )
    return root


def test_a_data_set_knows_its_pictures_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = read_annotated(write_data_set(tmp_path / "data"))
    assert truth.names == ("a", "b")
    monkeypatch.chdir(tmp_path / "data" / "labels")
    known = truth.find(Path("../images/train/7.png"))
    assert known is not None
    assert known.image_id == 7
    np.testing.assert_allclose(
        known.index.boxes_xyxy[known.index.gt_rows(known.position)], [[40, 15, 60, 35]]
    )
    assert truth.find(Path("../images/train/9.png")) is None


def test_links_lead_to_the_data_set_and_a_fault_in_two_splits_is_reported_once(
    tmp_path: Path,
) -> None:
    truth = read_annotated(write_data_set(tmp_path / "data"))
    assert [issue.detail for issue in truth.issues] == ["box of no area, 0 x 0 pixels"]
    (tmp_path / "one.png").symlink_to(tmp_path / "data" / "images" / "val" / "8.png")
    (tmp_path / "all").symlink_to(tmp_path / "data" / "images")
    for file in (tmp_path / "one.png", tmp_path / "all" / "val" / "8.png"):
        known = truth.find(file)
        assert known is not None
        assert known.image_id == 8


def test_a_link_back_to_its_own_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "1.png").touch()
    (tmp_path / "deep" / "back").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    assert [source.name for source in find_sources(str(tmp_path))] == ["deep/1", "linked/1"]


def test_no_result_has_the_name_of_another(tmp_path: Path) -> None:
    files = (
        *("v.avi", "v_000000.jpg", "v_000001.png", "V.mp4"),
        *("A.jpg", "a.jpg", "a.png", "caf\u00e9.png", "cafe\u0301.png"),
        *("crops/cat/a-0.jpg", "Labels/a.jpg", f"{'x' * 250}.jpg", f"{'x' * 249}y.jpg"),
    )
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources(str(tmp_path))
    names = [source.name for source in sources]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(files)
    videos = [source.name for source in sources if source.kind == "video"]
    frames = {f"{video}_{number:06d}".casefold() for video in videos for number in range(3)}
    assert frames.isdisjoint(name.casefold() for name in names)
    assert not any(name.casefold().startswith(("crops/", "labels/")) for name in names)
    assert max(len(Path(name).name) for name in names) <= 202


@pytest.mark.parametrize(
    "source",
    [
        "9" * 5000,
        "100",
        "file:///etc/passwd",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "x" * 5000,
        "a\0b",
        "\x1b[31m.jpg",
        "",
    ],
)
def test_what_is_no_source_is_refused_in_a_sentence(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not source:
        source = str(tmp_path / "empty.m3u8")
    with pytest.raises(DataError) as refused:
        find_sources(source)
    beginnings = ("Expected ", "The file or folder does not exist (")
    assert str(refused.value).startswith(beginnings)
    assert len(str(refused.value)) < 700
    assert "\x1b" not in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"found a device or pipe .*a\.jpg"):
        find_sources(str(tmp_path / "a.jpg"))
    with pytest.raises(DataError, match="found a device or pipe /dev/zero"):
        find_sources("/dev/zero")


def test_a_list_names_files_in_its_folder_or_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("lists/a/1.png", "b/2.png"):
        write_png(tmp_path / place)
    (tmp_path / "lists" / "list.txt").write_text("a/1.png\nb\\2.png\r\n./a/1.png\n")
    found = find_sources("lists/list.txt")
    assert [source.name for source in found] == ["lists/a/1", "b/2"]
    (tmp_path / "lists" / "list.txt").write_text("../../../etc/passwd\n")
    with pytest.raises(
        DataError, match=r"found that .* outside .*list\.txt, line 1\).*--allow-outside"
    ):
        find_sources("lists/list.txt")


def test_hidden_folders_and_links_that_lead_out_of_a_folder_are_not_looked_at(
    tmp_path: Path,
) -> None:
    for place in ("in/1.png", "in/.ipynb_checkpoints/1.png", "in/__MACOSX/1.png", "out/2.png"):
        write_png(tmp_path / place)
    assert [source.name for source in find_sources(str(tmp_path / "in"))] == ["1"]
    (tmp_path / "in" / "more").symlink_to(tmp_path / "out")
    with pytest.raises(DataError, match=r"more leads to .*out, outside .*--allow-outside"):
        find_sources(str(tmp_path / "in"))


def look_at(source: Path | str) -> tuple[list[Frame], list[str]]:
    """Returns the images of a source, and the warnings about them."""
    told: list[str] = []
    return list(read_frames(find_sources(str(source)), on_warning=told.append)), told


@pytest.fixture
def server() -> Iterator[FileServer]:
    with served() as server:
        yield server


def test_a_folder_of_both_gives_pictures_and_frames(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", (64, 48))
    write_video(tmp_path / "b.avi", 3, rate=10)
    frames, told = look_at(tmp_path)
    assert told == []
    assert [frame.name for frame in frames] == ["a", "b_000000", "b_000001", "b_000002"]
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] + [(64, 320, 3)] * 3
    assert frames[0].location == {"file": str(tmp_path / "a.png")}
    assert frames[3].location == {"file": str(tmp_path / "b.avi"), "frame": 2, "seconds": 0.2}


def test_what_is_damaged_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    write_video(tmp_path / "b.avi", 0)
    break_frames(write_video(tmp_path / "c.avi", 5), [2])
    (tmp_path / "d.mp4").write_bytes(b"no video")
    write_png(tmp_path / "e.png")
    frames, told = look_at(tmp_path)
    assert [frame.name for frame in frames] == [*(f"c_00000{i}" for i in (0, 1, 3, 4)), "e"]
    assert [sentence.partition(" found ")[2].partition(" ")[0] for sentence in told] == [
        *("no", "one", "", "a"),
    ]
    assert "1 frame cannot be decoded, the first of them number 2" in told[2]


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_of_an_animation_or_pages_the_first_is_looked_at_and_it_is_told(
    tmp_path: Path, suffix: str
) -> None:
    first, *others = (Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    first.save(tmp_path / f"b.{suffix}")
    frames, told = look_at(tmp_path / f"a.{suffix}")
    assert [frame.image[8, 8].argmax() for frame in frames] == [0]
    assert told == [f"{tmp_path / 'a'}.{suffix}: the first of its 3 images is used"]
    assert look_at(tmp_path / f"b.{suffix}")[1] == []


def test_a_stream_that_ends_is_told_in_one_sentence(tmp_path: Path, server: FileServer) -> None:
    server.files["/live"] = write_video(tmp_path / "a.avi", 6).read_bytes()
    frames, told = look_at(f"{server.address}/live")
    assert len(frames) == 6
    assert told == [f"{server.address}/live: it ended or was cut off after 6 frames"]


def test_a_stream_that_drops_gives_what_came_until_then(tmp_path: Path, server: FileServer) -> None:
    content = write_video(tmp_path / "a.avi", 30).read_bytes()
    server.files["/live"] = content
    server.answers = [Answer(announces=-1, sends=len(content) // 2, knows_ranges=False)]
    frames, told = look_at(f"{server.address}/live")
    assert 5 < len(frames) < 25
    assert told == [f"{server.address}/live: it ended or was cut off after {len(frames)} frames"]


def test_a_stream_that_is_not_there_is_told_without_its_password(server: FileServer) -> None:
    frames, told = look_at(server.address.replace("//", "//me:secret@") + "/absent")
    assert frames == []
    assert len(told) == 1
    assert told[0].startswith("Expected a stream, found none that can be read")
    assert f"({server.address}/absent)" in told[0]


def test_a_stream_that_never_answers_is_given_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DataError, match=r"found none that can be read within 0\.2 s"),
    ):
        VideoReader(f"http://127.0.0.1:{silent.getsockname()[1]}/live", timeout_seconds=0.2)


def test_no_more_pictures_are_held_than_a_batch(tmp_path: Path) -> None:
    taken = []

    def counted(frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            taken.append(frame.name)
            yield frame

    file = write_video(tmp_path / "a.avi", 9)
    frames = counted(read_frames(find_sources(str(file)), on_warning=print))
    answers = predict_frames(frames, known_predictor(), batch=4)
    frame, results = next(answers)
    assert (frame.name, len(results), len(taken)) == ("a_000000", 2, 4)
