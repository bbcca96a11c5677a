"""What may be uploaded, what the server keeps of it, and that it forgets."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from known_models import first_model, runs_of, write_picture, write_video

from ossa.app.uploads import Limits, Session, Sessions
from ossa.data.decode import decode_image
from ossa.errors import DataError
from ossa.predict.video import VideoReader


def test_visitors_who_come_at_once_run_the_network_once_a_picture(tmp_path: Path) -> None:
    model = first_model()
    before = runs_of(model)
    session = Sessions(tmp_path / "kept", Limits()).open(
        "anna", write_picture(tmp_path / "a.png"), "a.png"
    )
    threads = [threading.Thread(target=session.infer, args=([model], 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs_of(model) == before + 1


def test_the_upload_stays_for_others_who_sent_the_same(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits())
    upload = write_picture(tmp_path / "a.png")
    sessions.open("anna", upload, "a.png")
    sessions.close("anna")
    assert upload.is_file()
    assert sessions.open("bert", upload, "a.png").frames[0].size_wh == (64, 64)


def test_the_visitor_who_was_away_longest_is_forgotten(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits(sessions=2))
    upload = write_picture(tmp_path / "a.png")
    for key in ("anna", "bert"):
        sessions.open(key, upload, "a.png")
    assert sessions.find("anna")
    sessions.open("cora", upload, "a.png")
    assert [key for key in ("anna", "bert", "cora") if sessions.find(key)] == ["anna", "cora"]
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_all_that_is_kept_has_a_size(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits(kept_mb=1, upload_mb=1))  # so 2 MB are kept
    upload = tmp_path / "a.bmp"
    write_picture(upload, (600, 500))  # 0.9 MB
    for key in ("anna", "bert", "cora"):
        sessions.open(key, upload, "a.bmp")
    assert len(sessions) == 2
    assert sessions.num_bytes == 2 * upload.stat().st_size


def test_a_file_that_cannot_be_used_leaves_the_last_picture_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits())
    session = sessions.open("anna", write_picture(tmp_path / "a.png"), "a.png")
    cut = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cut.write_bytes(cv2.imencode(".png", noise)[1].tobytes()[:2000])
    with pytest.raises(DataError, match=r"found one that is damaged or cut short \(cut\.png\)"):
        sessions.open("anna", cut, "cut.png")
    assert sessions.find("anna") is session
    assert [folder.name for folder in (tmp_path / "kept").iterdir()] == [session.token]


def test_a_still_is_found_by_the_token_of_its_session_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits())
    session = sessions.open("anna", write_picture(tmp_path / "a.png"), "a.png")
    assert sessions.frame(session.token, 0) == session.frames[0]
    for token, position in ((session.token, 1), (session.token, -1), ("0" * 32, 0), ("é", 0)):
        assert sessions.frame(token, position) is None


def test_of_a_video_evenly_spaced_frames_are_kept(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits(frames=4))
    session = sessions.open("anna", write_video(tmp_path / "a.avi", 10, rate=10), "a.avi")
    assert session.is_video
    assert [frame.seconds for frame in session.frames] == pytest.approx([0, 0.3, 0.6, 0.9])
    greys = [decode_image(frame.file).mean() for frame in session.frames]
    assert np.diff(greys) == pytest.approx([3, 3, 3], abs=0.5)


def test_a_video_that_states_no_length_is_thinned_out_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.predict.video.VideoReader.__setattr__", _without_length)
    sessions = Sessions(tmp_path / "kept", Limits(frames=4))
    session = sessions.open("anna", write_video(tmp_path / "a.avi", 10, rate=10), "a.avi")
    assert [frame.seconds for frame in session.frames] == pytest.approx([0, 0.4, 0.8])
    assert len(list(session.folder.iterdir())) == 3


def _without_length(reader: object, name: str, value: object) -> None:
    object.__setattr__(reader, name, None if name == "num_frames" else value)


def keep(upload: Path, **limits: int) -> Session:
    sessions = Sessions(upload.parent / "kept", Limits(**limits))
    return sessions.open("anna", upload, upload.name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_a_picture_is_told_by_its_content(suffix: str, tmp_path: Path) -> None:
    file = write_picture(tmp_path / f"a{suffix}")
    assert not keep(file.rename(tmp_path / "holiday")).is_video


def test_a_video_is_told_by_its_content(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 3)
    assert keep(file.rename(tmp_path / "photo.jpg")).is_video


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
    with pytest.raises(DataError, match=r"or a video, found neither \(a\.mp4\)\. Give a JPEG"):
        keep(file)


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
    assert keep(tmp_path / "secret.avi").is_video


def test_a_file_may_have_so_many_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(bytes(2_000_001))
    with pytest.raises(DataError, match=r"at most 1 MB, found 2\.0 MB \(a\.png\)"):
        keep(file, upload_mb=1)


def test_a_picture_may_have_so_many_pixels(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "a.png", (1001, 1000))
    assert not keep(file, image_megapixels=2).is_video
    with pytest.raises(DataError, match="at most 1 million pixels, found 1001 x 1000"):
        keep(file, image_megapixels=1)


def test_a_video_may_last_so_many_seconds(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", 30, rate=10)
    assert keep(file, video_seconds=3).is_video
    with pytest.raises(DataError, match=r"at most 2 seconds, found a longer one \(a\.avi\)"):
        keep(file, video_seconds=2)


def test_what_only_begins_like_a_picture_or_a_video_is_damaged(tmp_path: Path) -> None:
    picture, video = tmp_path / "a.png", tmp_path / "a.avi"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nothing else")
    video.write_bytes(b"RIFF\0\0\0\0AVI " + bytes(100))
    for file, kind in ((picture, "an image"), (video, "a video")):
        with pytest.raises(DataError, match=rf"{kind}, found one that is damaged.*\({file.name}\)"):
            keep(file)


def test_a_name_cannot_command_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DataError, match=r"found neither \(\\x1b\[31m\)"):
        Sessions(tmp_path / "kept", Limits()).open("anna", tmp_path / "a", "../\x1b[31m")
