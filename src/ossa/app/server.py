"""The server of the page: gradio behind the guard, the images, and the report of a study."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ossa.app.inference import PageModel
from ossa.app.uploads import Limits, Sessions
from ossa.data.decode import decode_image
from ossa.data.letterbox import resize_long_side
from ossa.errors import ConfigError
from ossa.viz.draw import encode_jpeg

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp
    from uvicorn import Server

_ENVIRONMENT: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SWEEP_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 20.0
"""After which a connection without a complete request is closed."""
_MOST_CONNECTIONS: Final = 256
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_SHOWN_SIDE: Final = 1280
"""Longer side in pixels of the images that a browser receives."""
_REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""Scripts of the report reach neither the page around it nor any server."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def names(self) -> list[str]:
        """Host names under which browsers may request the page.

        A foreign page can resolve a name of its own to this server (DNS rebinding), so requests
        under other names are refused.
        """
        if self.is_private:
            return list(_LOOPBACK)
        own = socket.gethostname()
        addresses: list[Any] = [self.host]
        with suppress(OSError):
            addresses += [one[4][0] for one in socket.getaddrinfo(own, None)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks for the outgoing address
            addresses.append(probe.getsockname()[0])
        hosts = [f"[{one}]" if ":" in str(one) else str(one) for one in addresses]
        return [*_LOOPBACK, own, f"{own}.local", socket.getfqdn(), *hosts]

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def require_gradio() -> None:
    """Raises ConfigError, with the line that installs it, where gradio is missing."""
    if find_spec("gradio") is None:
        raise ConfigError("ossa app needs the package gradio: pip install 'ossa[app]'")


def report_of(study: Path) -> Path:
    """Returns the page of a study's report.

    Raises:
        ConfigError: there is none.
    """
    choices = (study / "report" / "index.html", study / "index.html")
    for page in choices:
        if page.is_file():
            return page
    raise ConfigError(
        f"expected a study's report at {choices[0]}, found none: ossa study report {study} "
        "writes it"
    )


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """Holds the port, before any model is read.

    Raises:
        ConfigError: the port is in use or not permitted, or the host is no address of this machine.
    """
    host, port = address.host, address.port
    unknown = ConfigError(f"expected an address of this machine for --host, found {host!r}")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise unknown from None
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(place)
            held.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise unknown from None
            reason = f"cannot be used ({error.strerror})"
            if error.errno == errno.EADDRINUSE:
                reason = "is in use, perhaps by another ossa app"
            other = port + 1 if port < 65535 else 7860
            raise ConfigError(
                f"port {port} on {host} {reason}: choose another one with --port {other}"
            ) from None
        yield held


def serve(
    held: socket.socket,
    models: Sequence[PageModel],
    *,
    limits: Limits,
    report: Path | None = None,
    names: Sequence[str] = _LOOPBACK,
    password: str | None = None,
    on_start: Callable[[], object] = lambda: None,
) -> None:
    """Answers requests until Ctrl-C or SIGTERM.

    It writes into one temporary folder only, which is deleted at the end.

    Args:
        held: a listening socket.
        models: to show.
        limits: of the server.
        report: page of the report of a study.
        names: host names under which browsers may request the page.
        password: of the user 'ossa', if there is one.
        on_start: called when the server accepts requests.
    """
    import uvicorn

    from ossa.app.guard import sweep

    with tempfile.TemporaryDirectory(prefix="ossa-app-") as folder:
        uploads = Path(folder) / "uploads"
        uploads.mkdir()
        app = build_app(
            models, uploads, limits=limits, report=report, names=names, password=password
        )
        config = uvicorn.Config(
            app,
            log_level="error",  # bad requests are answered, not logged
            timeout_graceful_shutdown=2,
            server_header=False,
            ws="none",
            limit_concurrency=_MOST_CONNECTIONS,
        )
        with suppress(KeyboardInterrupt):  # before it has started
            server = uvicorn.Server(config)
            asyncio.run(_run(server, held, on_start=on_start, sweep=lambda: sweep(uploads)))


async def _run(
    server: "Server",
    held: socket.socket,
    *,
    on_start: Callable[[], object],
    sweep: Callable[[], object],
) -> None:
    """Runs the server until a signal ends it, with regular sweeps."""

    def stop() -> None:
        server.force_exit = server.should_exit  # at the second signal
        server.should_exit = True

    serving = asyncio.create_task(server.serve(sockets=[held]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    # Instead of uvicorn's handlers, which raise the signal again at the end: the folder would stay.
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop)
    if server.started:
        on_start()
    sweep_at, idle = 0.0, set()
    while not serving.done():
        await asyncio.wait([serving], timeout=_IDLE_SECONDS)
        idle = _close_idle(server, idle)
        if time.monotonic() > sweep_at:
            sweep_at = time.monotonic() + _SWEEP_SECONDS
            await asyncio.to_thread(sweep)
    await serving


def _close_idle(server: "Server", idle_before: set[Any]) -> set[Any]:
    """Closes the connections that have been idle since the last call; returns the idle ones.

    Uvicorn waits forever for the first request of a connection, and for the rest of its headers.
    """
    idle = {
        connection
        for connection in server.server_state.connections
        if (cycle := getattr(connection, "cycle", None)) is None or cycle.response_complete
    }
    for connection in idle & idle_before:
        connection.transport.close()
    return idle


def build_app(
    models: Sequence[PageModel],
    uploads: Path,
    *,
    limits: Limits,
    report: Path | None = None,
    names: Sequence[str] = _LOOPBACK,
    password: str | None = None,
) -> "ASGIApp":
    """Returns the ASGI application.

    Args:
        models: to show.
        uploads: an empty folder for uploads; the sessions are kept beside it.
        limits, report, names, password: see `serve`.
    """
    os.environ.update(_ENVIRONMENT)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(uploads.parent / "examples")  # else in the cwd
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from ossa.app.guard import Guard
    from ossa.app.page import build_page, mount_page

    sessions = Sessions(uploads.parent / "sessions", limits)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(app, sessions, report)
    mount_page(app, build_page(models, sessions, limits, has_report=report is not None), limits)
    guard = Guard(app, uploads=uploads, limits=limits, password=password)
    return TrustedHostMiddleware(guard, allowed_hosts=list(names), www_redirect=False)


def _add_routes(app: "FastAPI", sessions: Sessions, report: Path | None) -> None:
    from fastapi import Response

    def image(token: str, position: int) -> Response:
        frame = sessions.frame(token, position)
        if frame is None:
            return Response(status_code=404)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(_shown_image(frame.file), media_type="image/jpeg", headers=headers)

    def study() -> Response:
        if report is None or not report.is_file():
            return Response("there is no report", status_code=404, media_type="text/plain")
        # Read each time: a running study writes it again.
        headers = {"content-security-policy": _REPORT_POLICY}
        return Response(report.read_bytes(), media_type="text/html", headers=headers)

    app.add_api_route("/image/{token}/{position}", image, methods=["GET"])
    app.add_api_route("/study", study, methods=["GET"])


@lru_cache(maxsize=32)
def _shown_image(file: Path) -> bytes:
    """Returns an image as a JPEG of the size of a screen."""
    image = decode_image(file)
    if max(image.shape[:2]) > _SHOWN_SIDE:
        image = resize_long_side(image, _SHOWN_SIDE)
    return encode_jpeg(image)
