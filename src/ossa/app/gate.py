"""The gate of the server: what may be asked, how much may be sent, and how many at once.

It stands in front of gradio, whose server can do more than this page needs (proxy, file streams,
live coding, component calls): only what is listed here gets through. Everything else it does is
counting, so that a crowd is told 'busy' instead of filling memory and disk.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ossa.app.limits import Limits

Scope = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]

BUSY: Final = "busy: others are being served, try again in a moment"

_PAGES: Final = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/study")
_READ: Final = (
    *("/assets/", "/static/", "/picture/", "/gradio_api/file=", "/gradio_api/heartbeat/"),
    *("/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/info"),
    *("/gradio_api/startup-events", "/gradio_api/app_id"),
)
_WRITE: Final = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
_UPLOAD: Final = "/gradio_api/upload"

_MOST_BODY: Final = 200_000
"""Bytes of a request that is no upload: thresholds and names."""
_ENVELOPE: Final = 20_000
"""Bytes around the file in an upload."""
_PATIENCE_SECONDS: Final = 20.0
"""An upload waits so long for those before it."""
_UPLOADS_KEPT_SECONDS: Final = 600.0

_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"media-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'self'; "
        b"connect-src 'self' data: blob:; object-src 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
"""Of every answer that sets none itself: a browser asks nobody but this server for anything."""


class Gate:
    """An ASGI application in front of another one."""

    def __init__(
        self, app: Any, *, uploads: Path, limits: Limits, is_full: Callable[[], bool]
    ) -> None:
        """Args:
        app: what answers the requests that get through.
        uploads: folder in which gradio keeps what was uploaded and what can be downloaded.
        limits: of the server.
        is_full: whether as many requests wait as may.
        """
        self._app = app
        self._uploads = uploads.resolve()
        self._limits = limits
        self._is_full = is_full
        self._uploading = asyncio.Semaphore(limits.uploads_at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http" or not _is_open(scope["method"], scope["path"]):
            await _refuse(send, 404, "not a part of this page")
            return
        send = _guarded(send)
        if scope["path"] == _UPLOAD:
            await self._upload(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            await _refuse(send, 411, "an upload must state its length")
            return
        if int(length) > self._limits.upload_bytes + _ENVELOPE:
            await _refuse(send, 413, f"this page takes up to {self._limits.upload_mb} MB")
            return
        try:
            await asyncio.wait_for(self._uploading.acquire(), _PATIENCE_SECONDS)
        except TimeoutError:
            await _refuse(send, 503, BUSY)
            return
        try:
            if await asyncio.to_thread(self._has_room, int(length)):
                await self._app(scope, receive, send)
            else:
                await _refuse(send, 503, BUSY)
        finally:
            self._uploading.release()

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > _MOST_BODY:
                await _refuse(send, 413, f"a request may have {_MOST_BODY} bytes")
                return
            if not message.get("more_body"):
                break
        if not self._names_uploads_only(body):
            await _refuse(send, 403, "only what was uploaded here can be looked at")
        elif scope["path"].endswith("/join") and self._is_full():
            await _refuse(send, 503, BUSY)
        else:
            await self._app(scope, _replayed(bytes(body), receive), send)

    def _names_uploads_only(self, body: bytes | bytearray) -> bool:
        """Returns whether every file that a request names lies in the folder of uploads."""
        try:
            paths = list(_paths_in(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            return False
        return all(
            isinstance(path, str) and Path(path).resolve().is_relative_to(self._uploads)
            for path in paths
        )

    def _has_room(self, num_bytes: int) -> bool:
        return self.sweep() + num_bytes <= self._limits.kept_bytes

    def sweep(self) -> int:
        """Deletes what was uploaded long ago; returns the bytes that are left."""
        now, kept = time.time(), 0
        for file in list(self._uploads.rglob("*")):
            try:
                status = file.stat()
                if file.is_dir():
                    continue
                # The change time: a file that is uploaded again is renamed into its place.
                if now - status.st_ctime > _UPLOADS_KEPT_SECONDS:
                    file.unlink()
                else:
                    kept += status.st_size
            except OSError:  # another request was faster
                continue
        return kept


def _is_open(method: str, path: str) -> bool:
    if method == "POST":
        return path in (_UPLOAD, *_WRITE)
    if path.startswith(("/gradio_api/file=http", "/gradio_api/file=//")):
        return False  # gradio would fetch it
    return method in ("GET", "HEAD") and (path in _PAGES or path.startswith(_READ))


def _paths_in(value: Any) -> Iterator[Any]:
    """Yields what stands under the key 'path' anywhere in a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "path":
                yield inner
            else:
                yield from _paths_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths_in(inner)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives a body that was read already, then what follows it."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _guarded(send: Send) -> Send:
    async def with_headers(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            known = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _HEADERS if name not in known]
            message = {**message, "headers": headers}
        await send(message)

    return with_headers


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
