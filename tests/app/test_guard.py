"""What gets through to the page's server, and what is told to be too much."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ossa.app.guard import Guard, sweep
from ossa.app.uploads import Limits


class Inner:
    """An application that reads a body and answers 200 after some seconds."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.seconds = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        await asyncio.sleep(self.seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class Visitor:
    """Sends requests to a guard."""

    def __init__(self, folder: Path, *, password: str | None = None, **limits: Any) -> None:
        self.inner = Inner()
        self.gate = Guard(self.inner, uploads=folder, limits=Limits(**limits), password=password)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        length: int | None = None,
        drip: float | None = None,
        **stated: str | None,
    ) -> tuple[int, str, dict[bytes, bytes]]:
        """Returns status, body and headers of the answer.

        Args:
            length: what the request states instead of that of its body; -1 for nothing.
            drip: seconds between the bytes of a body that never ends.
            stated: further headers.
        """
        sent: list[dict[str, Any]] = []
        headers = {"host": "127.0.0.1:7860", **stated}
        if length != -1:
            headers["content-length"] = str(len(body) if length is None else length)
        headers["content-length"] = stated.get("stated") or headers.get("content-length")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [
                (name.encode(), value.encode("utf-8", "surrogateescape"))
                for name, value in headers.items()
                if value is not None
            ],
        }

        async def receive() -> dict[str, Any]:
            if drip is not None:
                await asyncio.sleep(drip)
                return {"type": "http.request", "body": b".", "more_body": True}
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.gate(scope, receive, send)
        return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])

    def status(self, method: str, path: str, body: bytes = b"", **stated: int) -> int:
        return asyncio.run(self.ask(method, path, body, **stated))[0]  # type: ignore[arg-type]


@pytest.fixture
def visitor(tmp_path: Path) -> Visitor:
    return Visitor(tmp_path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/assets/index.js"),
        ("GET", "/image/0123/0"),
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


def test_a_body_is_within_the_limit_whatever_it_states(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, upload_mb=1)
    path = "/gradio_api/upload"
    assert visitor.status("POST", path, length=1_000_000) == 200
    assert visitor.status("POST", path, length=1_100_000) == 413
    assert visitor.status("POST", path, bytes(1_100_000), length=7) == 413
    assert visitor.status("POST", path, bytes(1_100_000), length=-1) == 413  # none stated
    for stated in ("-1", "1e9", "9" * 5000, "\u0664"):
        assert asyncio.run(visitor.ask("POST", path, stated=stated))[0] in (200, 413)


def test_bodies_that_drip_are_refused_and_hold_nothing_that_others_need(tmp_path: Path) -> None:
    async def crowd() -> tuple[list[int], int, float]:
        visitor = Visitor(tmp_path, grace_seconds=0.4, body_rate=1000.0)
        paths = ["/gradio_api/upload"] * 20 + ["/gradio_api/queue/join"] * 4
        dripping = [asyncio.create_task(visitor.ask("POST", path, drip=0.05)) for path in paths]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        status, _, _ = await visitor.ask("POST", "/gradio_api/upload", b"whole")
        seconds = time.monotonic() - started
        return [answer[0] for answer in await asyncio.gather(*dripping)], status, seconds

    drips, status, seconds = asyncio.run(crowd())
    assert drips == [408] * 24
    assert status == 200
    assert seconds < 0.3


def test_a_body_that_comes_for_ever_at_a_good_rate_ends(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, body_seconds=0.3, grace_seconds=5.0)
    status, _, _ = asyncio.run(visitor.ask("POST", "/gradio_api/upload", drip=0.01))
    assert status == 408


def test_a_body_that_is_whole_is_not_hurried(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, grace_seconds=0.1, body_seconds=0.1)
    visitor.inner.seconds = 0.3
    assert visitor.status("POST", "/gradio_api/upload", b"whole") == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:7861", ""),
        *("http://127.0.0.1:7860.evil.example", "http://evil.example@127.0.0.1:7860", "x"),
    ],
)
def test_no_other_page_may_use_this_one(origin: str, visitor: Visitor) -> None:
    for method, path in (("GET", "/config"), ("POST", "/gradio_api/upload")):
        status, _, headers = asyncio.run(visitor.ask(method, path, origin=origin))
        assert status == 403
        assert not [name for name in headers if name.startswith(b"access-control")]
    own = asyncio.run(visitor.ask("GET", "/config", origin="http://127.0.0.1:7860"))
    assert own[0] == 200
    assert asyncio.run(visitor.ask("OPTIONS", "/config"))[0] == 404


def test_with_a_password_nothing_is_answered_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.app.guard._WRONG_PASSWORD_SECONDS", 0.0)
    visitor = Visitor(tmp_path, password="sésame")
    routes = (
        *(("GET", path) for path in ("/", "/config", "/study", "/image/x/0", "/assets/a.js")),
        *(("GET", f"/gradio_api/{path}") for path in ("queue/data", "heartbeat/x", "file=/x")),
        *(("POST", f"/gradio_api/{path}") for path in ("upload", "queue/join", "cancel")),
    )
    good = base64.b64encode("ossa:sésame".encode()).decode()
    for method, path in routes:
        for stated in (
            None,
            "",
            "Basic",
            "Basic x",
            "Bearer x",
            f"Basic {good}x",
            "Basic b3NzYTo=",
        ):
            status, _, headers = asyncio.run(visitor.ask(method, path, authorization=stated))
            assert status == 401
            assert headers[b"www-authenticate"].startswith(b"Basic")
    assert visitor.inner.bodies == []
    assert asyncio.run(visitor.ask("GET", "/", authorization=f"Basic {good}"))[0] == 200


def test_a_websocket_is_closed(visitor: Visitor) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(visitor.gate({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_folder_of_uploads_has_a_size_and_old_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(tmp_path, upload_mb=1, kept_mb=1)  # so 2 MB are kept
    file = tmp_path / "a" / "b.jpg"
    file.parent.mkdir()
    file.write_bytes(bytes(1_500_000))
    assert visitor.status("POST", "/gradio_api/upload", bytes(600_000)) == 503
    assert visitor.status("POST", "/gradio_api/upload", bytes(400_000)) == 200
    assert file.exists()
    later = time.time() + 601
    monkeypatch.setattr("ossa.app.guard.time.time", lambda: later)
    assert sweep(tmp_path) == 0
    assert not file.exists()
    assert visitor.status("POST", "/gradio_api/upload", bytes(600_000)) == 200


def test_a_browser_is_told_to_ask_nobody_else(visitor: Visitor) -> None:
    _, _, headers = asyncio.run(visitor.ask("GET", "/"))
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy
