"""The middleware in front of gradio: who may send a request, for what, how large and how slowly.

Gradio's server can do more than this page needs (proxy, file streams, recordings, live coding),
and its own `auth` leaves routes open: only the routes listed here get through. A request is judged
by its headers before its body is read, or while it comes in: a slow sender blocks nobody.
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

from ossa.app.uploads import Limits

USER: Final = "ossa"
_PAGES: Final = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/study")
_READ: Final = (
    *("/assets/", "/static/", "/image/", "/gradio_api/file=/", "/gradio_api/heartbeat/"),
    *("/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/info"),
    *("/gradio_api/startup-events", "/gradio_api/app_id"),
)
_UPLOAD: Final = "/gradio_api/upload"
_WRITE: Final = (
    *("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
    _UPLOAD,
)
_MOST_BODY: Final = 200_000
"""Bytes of a request other than an upload: thresholds and names."""
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
"""Defaults of every response: a browser sends requests to this server only."""


class _Refused(Exception):  # noqa: N818 - ends a request, also from within the reader of its body
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Guard:
    """An ASGI middleware for every request of any kind."""

    def __init__(
        self, app: ASGIApp, *, uploads: Path, limits: Limits, password: str | None = None
    ) -> None:
        """Args:
        app: answers the requests that get through.
        uploads: folder in which gradio keeps uploads and downloads.
        limits: of the server.
        password: of the user `USER`, if there is one.
        """
        self._app, self._uploads, self._limits = app, uploads.resolve(), limits
        self._password = password
        self._coming = 0
        """Bytes of incomplete uploads."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page needs none
            await send({"type": "websocket.close", "code": 1008})
            return
        body = _Body(scope, receive, self._limits)

        async def send_guarded(message: Message) -> None:
            if body.refused is not None:  # what gradio makes of a broken body is not sent
                return
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
            if scope["path"] == _UPLOAD:
                await self._upload(body, send_guarded)
                return
            if scope["method"] == "POST":
                receive = await body.replayed(self._uploads)
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            refused = body.refused or error
            if not isinstance(refused, _Refused):
                raise
            if refused.status == 401:
                await asyncio.sleep(_WRONG_PASSWORD_SECONDS)
            headers = {"connection": "close", "www-authenticate": f'Basic realm="{USER}"'}
            response = JSONResponse({"detail": str(refused)}, refused.status, headers)
            await response(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        """Raises _Refused for another origin, a wrong password, and other routes."""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise _Refused(403, "requests of other pages are refused")
        if self._password is not None:
            expected = base64.b64encode(f"{USER}:{self._password}".encode())
            found = headers.get("authorization", "").encode()
            if not secrets.compare_digest(found, b"Basic " + expected):
                raise _Refused(401, "this page has a password, printed where ossa app was started")
        if method == "POST":
            is_open = path in _WRITE
        else:
            is_open = method in ("GET", "HEAD") and (path in _PAGES or path.startswith(_READ))
        if not is_open or path.startswith("/gradio_api/file=//"):  # of another server
            raise _Refused(404, "not a part of this page")

    async def _upload(self, body: "_Body", send: Send) -> None:
        """Passes an upload on to gradio while the folder of uploads has room for it."""
        kept = await asyncio.to_thread(sweep, self._uploads)

        async def receive() -> Message:
            message = await body()
            self._coming += len(message.get("body", b""))
            if kept + self._coming > self._limits.kept_bytes:
                raise body.refuse(503, "busy: others are being served, try again in a moment")
            return message

        try:
            await self._app(body.scope, receive, send)
        finally:
            self._coming -= body.received


class _Body:
    """The body of a request; reading it raises _Refused if it is too large or too slow."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self.scope, self._receive, self._limits = scope, receive, limits
        self._most = limits.upload_bytes + _ENVELOPE if scope["path"] == _UPLOAD else _MOST_BODY
        stated = Headers(scope=scope).get("content-length", "0")
        self._stated = int(stated[:18]) if stated.isdecimal() else 0
        self._started, self._is_complete = time.monotonic(), False
        self.received = 0
        self.refused: _Refused | None = None
        """Remembered, since gradio may swallow the exception."""

    def refuse(self, status: int, detail: str) -> _Refused:
        self.refused = _Refused(status, detail)
        return self.refused

    async def __call__(self) -> Message:
        if self._is_complete:  # waits for the disconnection
            return await self._receive()
        limits = self._limits
        seconds = min(limits.body_seconds, limits.grace_seconds + self.received / limits.body_rate)
        try:
            left = self._started + seconds - time.monotonic()
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except TimeoutError:
            raise self.refuse(408, "the request came too slowly: try again") from None
        self.received += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if max(self.received, self._stated) > self._most:
            raise self.refuse(413, f"this page takes up to {max(self._most // 10**6, 0.2)} MB")
        return message

    async def replayed(self, uploads: Path) -> Receive:
        """Reads JSON all of whose values under a key 'path' are uploads; returns its `receive`.

        Raises:
            _Refused: it is not JSON, or names another file.
        """

        def check(pairs: list[tuple[str, Any]]) -> None:
            for key, value in pairs:
                if key == "path" and not Path(value).resolve().is_relative_to(uploads):
                    raise ValueError

        content = bytearray()
        while not self._is_complete:
            content += (await self()).get("body", b"")
        try:
            json.loads(bytes(content) or b"null", object_pairs_hook=check)
        except (ValueError, TypeError, RecursionError, OSError):
            raise _Refused(403, "only uploaded files can be used") from None
        messages = [{"type": "http.request", "body": bytes(content), "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await self._receive()

        return receive


def sweep(uploads: Path) -> int:
    """Deletes old uploads; returns the bytes of the others."""
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
