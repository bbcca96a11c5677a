"""What the server remembers of a visitor, and that it forgets."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from known_models import first_model, runs_of, second_model, write_picture, write_video

from ossa.app.limits import Limits
from ossa.app.session import Sessions
from ossa.data.decode import decode_image
from ossa.errors import DataError


def test_a_picture_is_seen_once_by_each_model(tmp_path: Path) -> None:
    first, second = first_model(), second_model()
    before = runs_of(first), runs_of(second)
    session = Sessions(tmp_path / "kept", Limits()).open(
        "anna", write_picture(tmp_path / "a.png"), "a.png"
    )
    session.look([first], 0)
    session.look([first, second], 0)
    session.look([second, first], 0)
    assert (runs_of(first) - before[0], runs_of(second) - before[1]) == (1, 1)


def test_visitors_who_come_at_once_run_the_network_once_a_picture(tmp_path: Path) -> None:
    model = first_model()
    before = runs_of(model)
    session = Sessions(tmp_path / "kept", Limits()).open(
        "anna", write_picture(tmp_path / "a.png"), "a.png"
    )
    threads = [threading.Thread(target=session.look, args=([model], 0)) for _ in range(8)]
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
    assert sessions.open("bert", upload, "a.png").stills[0].size_wh == (64, 64)


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
    with pytest.raises(DataError, match=r"cut\.png cannot be decoded to its end: it is damaged"):
        sessions.open("anna", cut, "cut.png")
    assert sessions.find("anna") is session
    assert [folder.name for folder in (tmp_path / "kept").iterdir()] == [session.token]


def test_a_still_is_found_by_the_token_of_its_session_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits())
    session = sessions.open("anna", write_picture(tmp_path / "a.png"), "a.png")
    assert sessions.still(session.token, 0) == session.stills[0]
    for token, position in ((session.token, 1), (session.token, -1), ("0" * 32, 0), ("é", 0)):
        assert sessions.still(token, position) is None


def test_of_a_video_evenly_spaced_frames_are_kept(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "kept", Limits(frames=4))
    session = sessions.open("anna", write_video(tmp_path / "a.avi", 10, rate=10), "a.avi")
    assert session.is_video
    assert [still.seconds for still in session.stills] == pytest.approx([0, 0.3, 0.6, 0.9])
    greys = [decode_image(still.file).mean() for still in session.stills]
    assert np.diff(greys) == pytest.approx([3, 3, 3], abs=0.5)


def test_a_video_that_states_no_length_is_thinned_out_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.predict.video.VideoReader.__setattr__", _without_length)
    sessions = Sessions(tmp_path / "kept", Limits(frames=4))
    session = sessions.open("anna", write_video(tmp_path / "a.avi", 10, rate=10), "a.avi")
    assert [still.seconds for still in session.stills] == pytest.approx([0, 0.4, 0.8])
    assert len(list(session.folder.iterdir())) == 3


def _without_length(reader: object, name: str, value: object) -> None:
    object.__setattr__(reader, name, None if name == "num_frames" else value)
