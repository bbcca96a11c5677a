"""What stands in front of gradio: who may ask, for what, and how large and slow a request may be.

Gradio's server can do more than this page needs (proxy, file streams, recordings, live coding):
only what is listed here gets through. The rest is told from the headers before a byte of the body
is read, or while it comes: a visitor who sends slowly holds nothing that others need.
"""

import asyncio
import base64
import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ossa.app.limits import Limits

BUSY: Final = "busy: others are being served, try again in a moment"
USER: Final = "ossa"

_PAGES: Final = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/study")
_READ: Final = (
    *("/assets/", "/static/", "/picture/", "/gradio_api/file=/", "/gradio_api/heartbeat/"),
    *("/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/info"),
    *("/gradio_api/startup-events", "/gradio_api/app_id"),
)
_UPLOAD: Final = "/gradio_api/upload"
_WRITE: Final = (
    *("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
    _UPLOAD,
)
_MOST_BODY: Final = 200_000
"""Bytes of a request that is no upload: thresholds and names."""
_ENVELOPE: Final = 20_000
"""Bytes around the file in an upload."""
_UPLOADS_KEPT_SECONDS: Final = 600.0
_WRONG_PASSWORD_SECONDS: Final = 0.5
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self'; connect-src 'self' data: blob:; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer that sets none itself: a browser asks nobody but this server for anything."""


class _Refused(Exception):  # noqa: N818 - ends a request, from within whatever reads its body
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Guard:
    """An ASGI middleware through which every request goes, of whatever kind."""

    def __init__(
        self, app: ASGIApp, *, uploads: Path, limits: Limits, password: str | None = None
    ) -> None:
        """Args:
        app: what answers the requests that get through.
        uploads: folder in which gradio keeps what was uploaded and what can be downloaded.
        limits: of the server.
        password: of the user `USER`; None where whoever reaches the page may use it.
        """
        self._app, self._uploads, self._limits = app, uploads.resolve(), limits
        self._password = password
        self._coming = 0
        """Bytes of uploads that are not whole yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page needs none
            await send({"type": "websocket.close", "code": 1008})
            return
        body = _Body(scope, receive, self._limits)
        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
            if scope["path"] == _UPLOAD:
                await self._upload(body, _with_headers(send, body))
                return
            reading = receive
            if scope["method"] == "POST":
                reading = _checked(await body.read(), self._uploads, receive)
            await self._app(scope, reading, _with_headers(send, body))
        except Exception as error:
            why = body.refused or error
            if not isinstance(why, _Refused):
                raise
            if why.status == 401:
                await asyncio.sleep(_WRONG_PASSWORD_SECONDS)
            headers = {"connection": "close", "www-authenticate": f'Basic realm="{USER}"'}
            await JSONResponse({"detail": str(why)}, why.status, headers)(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        """Raises _Refused for who may not ask, and for what is no part of the page."""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise _Refused(403, "this page answers no other page")
        if self._password is not None:
            wanted = base64.b64encode(f"{USER}:{self._password}".encode())
            stated = headers.get("authorization", "").encode()
            if not secrets.compare_digest(stated, b"Basic " + wanted):
                raise _Refused(401, "this page has a password, told where ossa app was started")
        if method == "POST":
            is_open = path in _WRITE
        else:
            is_open = method in ("GET", "HEAD") and (path in _PAGES or path.startswith(_READ))
        if not is_open or path.startswith("/gradio_api/file=//"):  # another server's
            raise _Refused(404, "not a part of this page")

    async def _upload(self, body: "_Body", send: Send) -> None:
        """Has gradio write an upload, as long as there is room for what has come."""
        kept = await asyncio.to_thread(sweep, self._uploads)

        async def receive() -> Message:
            message = await body()
            self._coming += len(message.get("body", b""))
            if kept + self._coming > self._limits.kept_bytes:
                raise body.fail(503, BUSY)
            return message

        try:
            await self._app(body.scope, receive, send)
        finally:
            self._coming -= body.received


class _Body:
    """The body of a request as it comes: reading it fails where it is too large, or too slow."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self.scope, self._receive, self._limits = scope, receive, limits
        self._most = limits.upload_bytes + _ENVELOPE if scope["path"] == _UPLOAD else _MOST_BODY
        self._started, self._is_whole = time.monotonic(), False
        self.received = 0
        self.refused: _Refused | None = None
        """Why reading has failed, whatever became of the error since."""

    def fail(self, status: int, detail: str) -> _Refused:
        self.refused = _Refused(status, detail)
        return self.refused

    async def __call__(self) -> Message:
        if self._is_whole:  # what is waited for now is the end of the visit
            return await self._receive()
        stated = Headers(scope=self.scope).get("content-length", "0")
        limits = self._limits
        seconds = min(limits.body_seconds, limits.grace_seconds + self.received / limits.body_rate)
        try:
            left = self._started + seconds - time.monotonic()
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except TimeoutError:
            raise self.fail(408, "the request came too slowly: try again") from None
        self.received += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        length = int(stated[:18]) if stated.isdecimal() else 0
        if max(self.received, length) > self._most:
            raise self.fail(413, f"this page takes up to {max(self._most // 10**6, 0.2)} MB")
        return message

    async def read(self) -> bytes:
        """Returns all of it."""
        content = bytearray()
        while not self._is_whole:
            content += (await self()).get("body", b"")
        return bytes(content)


def sweep(uploads: Path) -> int:
    """Deletes what was uploaded long ago; returns the bytes that are left."""
    now, kept = time.time(), 0
    for file in list(uploads.rglob("*")):
        with suppress(OSError):  # another request was faster
            status = file.stat()
            if file.is_dir():
                continue
            # The change time: a file that is uploaded again is renamed into its place.
            if now - status.st_ctime > _UPLOADS_KEPT_SECONDS:
                file.unlink()
            else:
                kept += status.st_size
    return kept


def _checked(content: bytes, uploads: Path, receive: Receive) -> Receive:
    """Returns a `receive` that gives a body that was read already, then what follows it.

    Raises:
        _Refused: it is no JSON, or names a file, under the key 'path', that was not uploaded.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:
            if key == "path" and not Path(value).resolve().is_relative_to(uploads):
                raise ValueError

    try:
        json.loads(content or b"null", object_pairs_hook=check)
    except (ValueError, TypeError, RecursionError, OSError):
        raise _Refused(403, "only what was uploaded here can be looked at") from None
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _with_headers(send: Send, body: _Body) -> Send:
    async def guarded(message: Message) -> None:
        if body.refused is not None:  # what was made of a body that broke off concerns nobody
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return guarded
