"""What gets through to the page's server, and what is told to be too much."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ossa.app.gate import Gate
from ossa.app.limits import Limits


class Inner:
    """An application that answers 200 with what it was sent, once it may."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        message = await receive()
        self.bodies.append(message["body"])
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class Visitor:
    """Sends requests to a gate."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.inner = Inner()
        self.full = False
        self.gate = Gate(
            self.inner,
            uploads=folder,
            limits=Limits(**limits),
            is_full=lambda: self.full,
        )

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, length: int | None = None
    ) -> tuple[int, str, dict[bytes, bytes]]:
        """Returns status, body and headers of the answer."""
        sent: list[dict[str, Any]] = []
        stated = str(len(body) if length is None else length).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"content-length", stated)] if length != -1 else [],
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.gate(scope, receive, send)
        return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])

    def status(self, method: str, path: str, body: bytes = b"", **stated: int) -> int:
        return asyncio.run(self.ask(method, path, body, **stated))[0]


@pytest.fixture
def visitor(tmp_path: Path) -> Visitor:
    return Visitor(tmp_path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/assets/index.js"),
        ("GET", "/picture/0123/0"),
        ("GET", "/study"),
        ("GET", "/gradio_api/queue/data"),
        ("POST", "/gradio_api/cancel"),
    ],
)
def test_what_the_page_needs_gets_through(method: str, path: str, visitor: Visitor) -> None:
    assert visitor.status(method, path) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://example.org"),
        ("GET", "/gradio_api/file=http://example.org"),
        ("GET", "/gradio_api/file=https://example.org"),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/vibe-code"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/look"),
        ("POST", "/"),
        ("DELETE", "/study"),
        ("GET", "/docs"),
    ],
)
def test_what_gradio_can_do_besides_does_not(method: str, path: str, visitor: Visitor) -> None:
    assert visitor.status(method, path) == 404
    assert visitor.inner.bodies == []


def test_a_request_names_files_that_were_uploaded_and_no_others(
    visitor: Visitor, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    for path, status in (
        (str(tmp_path / "a" / "photo.jpg"), 200),
        ("/etc/passwd", 403),
        (str(tmp_path / ".." / "secret.jpg"), 403),
        (str(tmp_path / "link"), 403),
        ("http://example.org/a.jpg", 403),
        ("photo.jpg", 403),
        ({"path": "photo.jpg"}, 403),
        (None, 403),
    ):
        body = json.dumps({"data": [[{"file": {"path": path}}], 0.5]}).encode()
        assert visitor.status("POST", "/gradio_api/queue/join", body) == status, path
    assert len(visitor.inner.bodies) == 1  # as it was sent
    assert b"photo.jpg" in visitor.inner.bodies[0]


def test_what_is_no_json_does_not_get_through(visitor: Visitor) -> None:
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert visitor.status("POST", "/gradio_api/queue/join", body) == 403


def test_a_request_that_is_no_upload_is_small(visitor: Visitor) -> None:
    assert visitor.status("POST", "/gradio_api/queue/join", b" " * 200_001) == 413


def test_when_the_queue_is_full_the_answer_is_busy(visitor: Visitor) -> None:
    visitor.full = True
    status, body, _ = asyncio.run(visitor.ask("POST", "/gradio_api/queue/join", b"{}"))
    assert status == 503
    assert json.loads(body)["detail"].startswith("busy: ")
    assert visitor.status("POST", "/gradio_api/cancel", b"{}") == 200


def test_an_upload_states_a_length_within_the_limit(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, upload_mb=1)
    path = "/gradio_api/upload"
    assert visitor.status("POST", path, length=1_000_000) == 200
    assert visitor.status("POST", path, length=1_100_000) == 413
    assert visitor.status("POST", path, length=-1) == 411


def test_uploads_wait_for_each_other_and_then_are_told_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.app.gate._PATIENCE_SECONDS", 0.2)

    async def crowd() -> list[int]:
        visitor = Visitor(tmp_path, uploads_at_once=2)
        visitor.inner.may_answer.clear()
        asking = [asyncio.create_task(visitor.ask("POST", "/gradio_api/upload")) for _ in range(5)]
        await asyncio.sleep(0.5)
        visitor.inner.may_answer.set()
        statuses = [status for status, _, _ in await asyncio.gather(*asking)]
        assert (await visitor.ask("POST", "/gradio_api/upload"))[0] == 200  # there is room again
        return sorted(statuses)

    assert asyncio.run(crowd()) == [200, 200, 503, 503, 503]


def test_the_folder_of_uploads_has_a_size_and_old_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(tmp_path, upload_mb=1, kept_mb=1)  # so 2 MB are kept
    file = tmp_path / "a" / "b.jpg"
    file.parent.mkdir()
    file.write_bytes(bytes(1_500_000))
    assert visitor.status("POST", "/gradio_api/upload", length=600_000) == 503
    assert visitor.status("POST", "/gradio_api/upload", length=400_000) == 200
    assert file.exists()
    later = time.time() + 601
    monkeypatch.setattr("ossa.app.gate.time.time", lambda: later)
    assert visitor.gate.sweep() == 0
    assert not file.exists()
    assert visitor.status("POST", "/gradio_api/upload", length=600_000) == 200


def test_a_browser_is_told_to_ask_nobody_else(visitor: Visitor) -> None:
    _, _, headers = asyncio.run(visitor.ask("GET", "/"))
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy
