"""What may be uploaded, and the sentence for what may not."""

from pathlib import Path

import cv2
import pytest
from known_models import write_picture, write_video

from ossa.app.limits import Limits, check_upload
from ossa.errors import ConfigError, DataError
from ossa.predict.video import VideoReader


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_a_picture_is_told_by_its_content(suffix: str, tmp_path: Path) -> None:
    file = write_picture(tmp_path / f"a{suffix}")
    assert check_upload(file.rename(tmp_path / "holiday"), "holiday", Limits()) == "picture"


def test_a_video_is_told_by_its_content(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 3)
    assert check_upload(file.rename(tmp_path / "photo.jpg"), "photo.jpg", Limits()) == "video"


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",  # FFmpeg would open it
        b"ffconcat version 1.0\nfile secret.mp4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    ],
)
def test_nothing_but_pictures_and_videos_comes_near_a_decoder(
    content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mp4 is neither a picture nor a video: expected a JPE"):
        check_upload(file, "a.mp4", Limits())


def test_behind_that_check_ffmpeg_itself_opens_no_playlist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "secret.avi", 3)
    playlist = tmp_path / "a.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.avi\n")
    assert cv2.VideoCapture(str(playlist), cv2.CAP_FFMPEG).read()[0]  # if it may
    monkeypatch.setattr("ossa.predict.video.container_of", lambda file: "mov")
    with pytest.raises(DataError):
        VideoReader(playlist)
    monkeypatch.undo()
    assert check_upload(tmp_path / "secret.avi", "secret.avi", Limits()) == "video"


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png is empty"):
        check_upload(tmp_path / "a.png", "a.png", Limits())


def test_a_file_may_have_so_many_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(bytes(2_000_001))
    with pytest.raises(DataError, match=r"a\.png has 2 MB, and this page takes up to 1"):
        check_upload(file, "a.png", Limits(upload_mb=1))


def test_a_picture_may_have_so_many_pixels(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "a.png", (1001, 1000))
    assert check_upload(file, "a.png", Limits(picture_megapixels=2)) == "picture"
    with pytest.raises(DataError, match="1001 x 1000 pixels, more than the 1 million"):
        check_upload(file, "a.png", Limits(picture_megapixels=1))


def test_a_video_may_last_so_many_seconds(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 30, rate=10)
    assert check_upload(file, "a.avi", Limits(video_seconds=3)) == "video"
    with pytest.raises(DataError, match=r"a\.avi is longer than 2 seconds"):
        check_upload(file, "a.avi", Limits(video_seconds=2))


def test_what_only_begins_like_a_picture_or_a_video_is_damaged(tmp_path: Path) -> None:
    picture, video = tmp_path / "a.png", tmp_path / "a.avi"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nothing else")
    video.write_bytes(b"RIFF\0\0\0\0AVI " + bytes(100))
    for file, kind in ((picture, "picture"), (video, "video")):
        with pytest.raises(DataError, match=f"{file.name} begins like a {kind} but cannot be read"):
            check_upload(file, file.name, Limits())


def test_a_name_cannot_command_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^\\x1b\[31m is neither"):
        check_upload(tmp_path / "a", "../\x1b[31m", Limits())


def test_no_upload_at_all_is_no_limit() -> None:
    with pytest.raises(ConfigError, match="at least 1 megabyte for an upload, found 0"):
        Limits(upload_mb=0)
