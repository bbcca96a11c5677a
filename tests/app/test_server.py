"""The server from outside, on loopback: its answers, what it keeps to itself, and a crowd."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from known_models import write_picture
from page_client import Busy, Client
from served_page import Served

pytestmark = pytest.mark.slow


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return write_picture(tmp_path / "a.png").read_bytes()


def test_a_picture_is_answered_with_boxes(served: Served, picture: bytes) -> None:
    with Client(served.url) as visitor:
        html = visitor.look(picture)
        assert html.count('class="ossa-box') == 5
        address = html.split('<img src="')[1].split('"')[0]
        shown = visitor.get(f"/{address}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.content.startswith(b"\xff\xd8")


def test_a_bad_file_is_answered_with_a_sentence(served: Served) -> None:
    with Client(served.url) as visitor:
        assert "found neither (notes.png)" in visitor.look(b"hello", "notes.png")
        damaged = b"\0\0\0\x18ftypmp42" + bytes(500)
        assert "found one that is damaged" in visitor.look(damaged, "a.mp4")


def test_what_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    with Client(served.url) as visitor:
        response = visitor._http.post(
            "/gradio_api/upload", files={"files": ("a.png", bytes(2_100_000))}
        )
    assert response.status_code == 413
    assert response.json()["detail"] == "this page takes up to 2 MB"


def test_nothing_of_the_disk_can_be_read(served: Served, tmp_path: Path) -> None:
    secret = write_picture(tmp_path / "secret.png")
    with Client(served.url) as visitor:
        for path in (f"/gradio_api/file={secret}", "/gradio_api/file=/etc/passwd"):
            assert visitor.get(path).status_code in (403, 404)
        for path in ("/image/..%2f..%2fetc/0", "/assets/..%2f..%2f..%2froutes.py", "/study/x"):
            assert visitor.get(path).status_code >= 400
        assert visitor.join(str(secret)).status_code == 403


def test_gradio_itself_looks_at_no_file_that_was_not_uploaded(tmp_path: Path) -> None:
    # Behind the gate, too: a page that is mounted checks no paths until it is told to.
    gradio = pytest.importorskip("gradio")
    from fastapi import FastAPI
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    from ossa.app.page import mount_page
    from ossa.app.uploads import Limits

    with gradio.Blocks() as page:
        gradio.File()
    mount_page(FastAPI(), page, Limits())
    LocalContext.blocks.set(page)
    with pytest.raises(InvalidPathError, match="was not uploaded"):
        _check_allowed(write_picture(tmp_path / "secret.png"), check_in_upload_folder=True)


def test_the_report_stands_alone(served: Served) -> None:
    with Client(served.url) as visitor:
        report = visitor.get("/study")
    assert "What each buys" in report.text
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")


def test_of_fifty_visitors_at_once_everyone_is_answered_or_told_busy(
    served: Served, picture: bytes
) -> None:
    def crowd() -> tuple[int, int]:
        """Returns how many were answered, and how many were told that the server is busy."""
        outcomes: list[str] = []
        start = threading.Barrier(50)

        def visit() -> None:
            start.wait()
            with Client(served.url) as visitor:
                try:
                    html = visitor.look(picture)
                    outcomes.append("answered" if html.count('class="ossa-box') == 5 else "wrong")
                except Busy:
                    outcomes.append("busy")

        threads = [threading.Thread(target=visit) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert len(outcomes) == 50, "a visitor was lost"
        assert set(outcomes) <= {"answered", "busy"}
        return outcomes.count("answered"), outcomes.count("busy")

    crowd()  # what a first crowd leaves in caches
    before = served.megabytes
    rounds = [crowd() for _ in range(3)]
    growth = served.megabytes - before
    print(f"answered and busy: {rounds}; memory {before:.0f} MB, {growth:+.1f} MB")
    assert all(answered >= 10 for answered, _ in rounds)
    assert growth < 25
    with Client(served.url) as visitor:  # and afterwards all is as before
        assert visitor.look(picture).count('class="ossa-box') == 5


def test_visitors_who_drip_hold_no_place_and_strangers_pages_get_no_answer(
    served: Served, picture: bytes
) -> None:
    host = served.url.removeprefix("http://")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with ExitStack() as connections:
        dripping = [connections.enter_context(connect(host)) for _ in range(8)]
        for one in dripping:
            one.sendall(head.encode())
        half = connections.enter_context(connect(host))
        half.sendall(b"GET / HTTP/1.1\r\nHost: ")
        started = time.monotonic()
        with Client(served.url) as visitor:
            assert visitor.look(picture).count('class="ossa-box') == 5
        assert time.monotonic() - started < 4
        for one in dripping:
            assert one.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 12
    with Client(served.url) as visitor:
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            answer = visitor._http.get("/config", headers=headers)
            assert answer.status_code in (400, 403)
            assert not [name for name in answer.headers if name.startswith("access-control")]


def connect(host: str) -> socket.socket:
    name, port = host.split(":")
    return socket.create_connection((name, int(port)), timeout=30)
