"""Videos are read frame by frame, and written with the rate and the length of what was read."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from videos import (
    break_frames,
    cut_behind,
    frame_image,
    number_of,
    rate_of,
    read_numbers,
    write_video,
)

from ossa.errors import DataError, RunFailed
from ossa.predict.video import VideoReader, VideoWriter, container_of


def reader(file: Path, *, every: int = 1) -> VideoReader:
    return VideoReader(file, every=every)


def numbers_of(file: Path, *, every: int = 1) -> tuple[list[int], str | None]:
    """Returns the numbers of the frames that are read, and what is said at the end."""
    with reader(file, every=every) as video:
        return [frame.number for frame in video.frames()], video.ending()


def copied(file: Path, *, every: int = 1) -> list[int]:
    """Returns which frames a video shows that was written frame by frame from another."""
    copy = file.with_name("copy.webm")
    with reader(file, every=every) as video:
        writer = VideoWriter(copy, video.rate / every)
        for frame in video.frames():
            writer.add(frame.image, frame.seconds)
        writer.close(video.length_seconds)
    return read_numbers(copy)


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_come_in_order_in_rgb_and_with_their_times(tmp_path: Path, suffix: str) -> None:
    file = write_video(tmp_path / f"a{suffix}", 5, rate=12.5)
    with reader(file) as video:
        frames = list(video.frames())
        assert (video.rate, video.num_frames, video.ending()) == (12.5, 5, None)
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
    assert frames[0].image.shape == (64, 320, 3)


def test_a_video_of_vp8_has_the_rate_and_the_frames_of_its_source(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 20, rate=12.5)
    assert copied(file) == list(range(20))
    assert rate_of(tmp_path / "copy.webm") == 12.5
    with reader(tmp_path / "copy.webm") as video:
        codec = int(video._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert codec == b"VP80"


def test_broken_frames_end_nothing_and_the_last_good_one_stands_in(tmp_path: Path) -> None:
    file = break_frames(write_video(tmp_path / "a.avi", 10), [3, 4, 7])
    numbers, told = numbers_of(file)
    assert numbers == [0, 1, 2, 5, 6, 8, 9]
    assert told == (
        f"{file}: 3 frames cannot be decoded, the first of them number 3, and the last good one "
        "stands in for them"
    )
    assert copied(file) == [0, 1, 2, 2, 2, 5, 6, 6, 8, 9]


@pytest.mark.parametrize(("broken", "shown"), [(0, [1, 1, 2, 3, 4]), (4, [0, 1, 2, 3, 3])])
def test_where_the_first_or_last_frame_is_broken_the_length_stays(
    tmp_path: Path, broken: int, shown: list[int]
) -> None:
    assert copied(break_frames(write_video(tmp_path / "a.avi", 5), [broken])) == shown


def test_a_video_that_is_cut_short_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    file = cut_behind(write_video(tmp_path / "a.avi", 30), 12)
    numbers, told = numbers_of(file)
    assert numbers == list(range(12))
    assert told == f"{file}: it breaks off after 12 frames of the 30 it states"
    assert copied(file) == list(range(12))


def test_of_every_third_frame_a_third_of_the_rate_keeps_the_length(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 30, rate=12.5)
    assert numbers_of(file, every=3) == (list(range(0, 30, 3)), None)
    assert copied(file, every=3) == list(range(0, 30, 3))
    assert rate_of(tmp_path / "copy.webm") == pytest.approx(12.5 / 3, rel=1e-3)


def test_pictures_that_come_irregularly_are_shown_at_their_times(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.webm", 10)
    for number, seconds in enumerate((0, 0.1, 0.4, 0.5)):
        writer.add(frame_image(number), seconds)
    writer.close(0.8)
    assert read_numbers(tmp_path / "a.webm") == [0, 1, 1, 1, 2, 3, 3, 3]


def test_red_stays_red_and_other_sizes_become_the_first(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.webm", 10)
    for number, (height, width) in enumerate(((32, 64), (64, 96))):
        writer.add(np.full((height, width, 3), (250, 0, 0), np.uint8), number / 10)
    writer.close()
    with reader(tmp_path / "a.webm") as video:
        frames = list(video.frames())
    assert [frame.image.shape for frame in frames] == [(32, 64, 3), (32, 64, 3)]
    for frame in frames:
        np.testing.assert_allclose(frame.image.mean(axis=(0, 1)), [250, 0, 0], atol=6)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 0)
    with pytest.raises(DataError, match=rf"Expected a video, found one without frames \({file}\)"):
        numbers_of(file)


@pytest.mark.parametrize("content", [b"", b"no video", bytes(4096)])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"found a file that cannot be read as one .*a\.mp4"):
        reader(tmp_path / "a.mp4")


def test_a_file_that_names_other_files_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", 3)
    for number, text in enumerate(
        (
            "ffconcat version 1.0\nfile secret.mp4\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
            "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period/></MPD>",
            ";FFMETADATA1\ntitle=x\n",
            "GIF89a",
            "Gffconcat version 1.0\nfile secret.mp4\n".ljust(188, " ") + "G" + " " * 187 + "G",
            "RIFF....AVI ffconcat version 1.0\nfile secret.mp4\n",
            "\x1aE\xdf\xa3ffconcat version 1.0\nfile secret.mp4\n",
            "....ftypffconcat version 1.0\nfile secret.mp4\n",
            "FLV\x01ffconcat version 1.0\nfile secret.mp4\n",
        )
    ):
        file = tmp_path / f"{number}.mp4"
        file.write_bytes(text.encode("latin1"))
        with pytest.raises(DataError, match="Expected a video, found"):
            numbers_of(file)


def test_containers_are_told_by_content_whatever_they_are_called(tmp_path: Path) -> None:
    for suffix, container in ((".avi", "avi"), (".mp4", "mov")):
        file = write_video(tmp_path / f"a{suffix}", 2).rename(tmp_path / "a.mkv")
        assert container_of(file) == container
        assert numbers_of(file)[0] == [0, 1]
    writer = VideoWriter(tmp_path / "b.webm", 10)
    writer.add(np.zeros((32, 64, 3), np.uint8), 0)
    writer.close()
    assert container_of(tmp_path / "b.webm") == "matroska"


def test_the_users_own_options_of_ffmpeg_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1|format_whitelist;concat")
    assert numbers_of(write_video(tmp_path / "a.avi", 2))[0] == [0, 1]
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "threads;1|format_whitelist;concat"


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "rtsp:a.avi", 2)
    assert numbers_of(Path("rtsp:a.avi"))[0] == [0, 1]


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"Expected a camera .*, found none that can be opened \(97\)"
    ):
        VideoReader(97)


def test_what_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "absent" / "a.webm", 10)
    with pytest.raises(RunFailed, match=r"Could not write a video of 64x32 pixels \(.*a\.webm"):
        writer.add(np.zeros((32, 64, 3), np.uint8), 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.webm").symlink_to("/dev/full")
    writer = VideoWriter(tmp_path / "a.webm", 10)
    for number in range(3):
        writer.add(frame_image(number), number / 10)
    with pytest.raises(RunFailed, match=r"Could not write all 3 frames .*a\.webm"):
        writer.close()


def test_nothing_is_printed_by_the_libraries(tmp_path: Path) -> None:
    file = break_frames(write_video(tmp_path / "a.avi", 5), [2])
    program = "import sys; from test_video import copied, Path; print(copied(Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", program, file],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[0, 1, 1, 3, 4]\n", "")
