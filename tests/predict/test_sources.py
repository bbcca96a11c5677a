"""What a user names becomes pictures, videos and streams with names, in order."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from known_detector import write_png

from ossa.errors import DataError
from ossa.predict.sources import (
    LiveSource,
    PictureFile,
    VideoFile,
    find_sources,
    read_annotated,
)


def names_of(source: Path | str) -> list[str]:
    return [found.name for found in find_sources(str(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "sub/c.bmp", "sub/deep/a.jpg", ".hidden.png"):
        write_png(tmp_path / "pics" / name)
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    return tmp_path / "pics"


def test_one_picture_is_its_own_list(folder: Path) -> None:
    assert find_sources(str(folder / "b.png")) == [PictureFile(folder / "b.png", "b")]


def test_a_folder_gives_its_pictures_and_those_of_its_subfolders_in_order(folder: Path) -> None:
    assert names_of(folder) == ["a", "b", "sub/c", "sub/deep/a"]


def test_a_pattern_gives_what_it_matches_named_from_its_first_wildcard_on(folder: Path) -> None:
    assert names_of(folder / "*.*") == ["a", "b"]
    assert names_of(folder / "**" / "a.jpg") == ["a", "sub/deep/a"]
    assert names_of(folder / "s?b" / "*") == ["sub/c"]


def test_a_relative_source_keeps_its_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_sources("*.png") == find_sources("b.png") == [PictureFile(Path("b.png"), "b")]
    assert find_sources(".")[0] == PictureFile(Path("a.jpg"), "a")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    assert names_of(write_png(tmp_path / "shot[1].png")) == ["shot[1]"]


def test_pictures_that_differ_in_their_suffix_alone_get_numbers(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a-2.png", "a.b.png"):
        write_png(tmp_path / name)
    assert names_of(tmp_path) == ["a-2", "a.b", "a", "a-3"]


def test_videos_stand_among_the_pictures(folder: Path) -> None:
    for name in ("aa.MP4", ".hidden.mp4", "sub/c.webm"):
        (folder / name).touch()
    assert names_of(folder) == ["a", "aa", "b", "sub/c-2", "sub/c", "sub/deep/a"]
    assert find_sources(str(folder / "*"))[1] == VideoFile(folder / "aa.MP4", "aa")
    assert find_sources(str(folder / "aa.MP4")) == [VideoFile(folder / "aa.MP4", "aa")]


def test_a_number_is_a_camera_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = find_sources("0")
    assert (camera, camera.name, camera.title) == (LiveSource(0), "camera0", "0")
    (tmp_path / "0").touch()
    assert find_sources("0") == [PictureFile(Path("0"), "0")]


def test_an_address_is_a_stream_whose_password_is_never_told() -> None:
    (stream,) = find_sources("rtsp://me:secret@camera.example:554/a")
    assert stream == LiveSource("rtsp://me:secret@camera.example:554/a")
    assert (stream.name, stream.title) == ("stream", "rtsp://camera.example:554/a")
    assert find_sources("https://a.example/b?c=[d]*")[0].title == "https://a.example/b?***"


def test_a_source_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"the address of a stream, found no .*absent"):
        find_sources(str(folder / "absent"))


def test_a_folder_or_pattern_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected pictures \(.bmp, .*\) or videos \(.avi, .*\) in the folder"
    ):
        find_sources(str(tmp_path))
    with pytest.raises(DataError, match=r"in what .*\*.png matches, found none"):
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


def test_a_fault_of_a_picture_in_two_splits_is_told_once(tmp_path: Path) -> None:
    truth = read_annotated(write_data_set(tmp_path))
    assert [problem.what for problem in truth.problems] == ["box of no area, 0 x 0 pixels"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_links_to_pictures_and_folders_lead_to_the_data_set(tmp_path: Path) -> None:
    truth = read_annotated(write_data_set(tmp_path / "data"))
    (tmp_path / "one.png").symlink_to(tmp_path / "data" / "images" / "val" / "8.png")
    (tmp_path / "all").symlink_to(tmp_path / "data" / "images")
    for file in (tmp_path / "one.png", tmp_path / "all" / "val" / "8.png"):
        known = truth.find(file)
        assert known is not None
        assert known.image_id == 8


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
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
    videos = [source.name for source in sources if isinstance(source, VideoFile)]
    frames = {f"{video}_{number:06d}".casefold() for video in videos for number in range(3)}
    assert frames.isdisjoint(name.casefold() for name in names)
    assert not any(name.casefold().startswith(("crops/", "labels/")) for name in names)
    assert max(len(Path(name).name) for name in names) <= 202


@pytest.mark.parametrize(
    "source",
    [
        "9" * 21,
        "9" * 5000,
        "100",
        "-1",
        "file:///etc/passwd",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "data:image/png;base64,AAAA",
        "ftp://host/a.mp4",
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
    assert str(refused.value).startswith("expected")
    assert len(str(refused.value)) < 600
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
    with pytest.raises(DataError, match=r"list\.txt:1, found that .* outside .*--allow-outside"):
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
