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

LOOPBACK: Final = ["localhost", "127.0.0.1", "[::1]"]
"""Host names under which only this machine reaches a page."""
_ENVIRONMENT: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_SWEEP_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 20.0
"""After which a connection without a complete request is closed."""
_MOST_CONNECTIONS: Final = 256
_SHOWN_SIDE: Final = 1280
"""Longer side in pixels of the images that a browser receives."""
_REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""Scripts of the report reach neither the page around it nor any server."""


def require_gradio() -> None:
    """Raises ConfigError, with the line that installs it, where gradio is missing."""
    if find_spec("gradio") is None:
        raise ConfigError("ossa app needs the package gradio: pip install 'ossa[app]'")


def host_names(host: str) -> list[str]:
    """Returns the names under which browsers may request a page at this address.

    They are `LOOPBACK` if only this machine reaches it. A foreign page can resolve a name of its
    own to this server (DNS rebinding), so requests under other names are refused.
    """
    with suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return LOOPBACK
    own = socket.gethostname()
    addresses: list[Any] = [host]
    with suppress(OSError):
        addresses += [one[4][0] for one in socket.getaddrinfo(own, None)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks for the outgoing address
        addresses.append(probe.getsockname()[0])
    hosts = [f"[{one}]" if ":" in str(one) else str(one) for one in addresses]
    return [*LOOPBACK, own, f"{own}.local", socket.getfqdn(), *hosts]


def page_url(host: str, port: int) -> str:
    """Returns the address to type into a browser of this machine."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def report_of(study: Path) -> Path:
    """Returns the page of a study's report; raises ConfigError if there is none."""
    choices = (study / "report" / "index.html", study / "index.html")
    for page in choices:
        if page.is_file():
            return page
    advice = f"write it with ossa study report {study}"
    raise ConfigError(expected="the report of a study", path=choices[0], advice=advice)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Holds the port, before any model is read.

    Raises:
        ConfigError: the port is in use or not permitted, or the host is no address of this machine.
    """
    unknown = ConfigError(expected="an address of this machine for --host", found=repr(host))
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
            reason = "in use, perhaps by another ossa app"
            if error.errno != errno.EADDRINUSE:
                reason = f"that cannot be used ({error.strerror})"
            raise ConfigError(
                expected="a free port",
                found=f"port {port} on {host} {reason}",
                advice="choose another one with --port",
            ) from None
        yield held


def serve(
    held: socket.socket,
    models: Sequence[PageModel],
    *,
    limits: Limits,
    report: Path | None = None,
    names: Sequence[str] = LOOPBACK,
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

    with tempfile.TemporaryDirectory(prefix="ossa-app-") as folder:
        uploads = Path(folder) / "uploads"
        uploads.mkdir()
        app = _build_app(models, uploads, limits, report, names, password)
        config = uvicorn.Config(
            app,
            log_level="error",  # bad requests are answered, not logged
            timeout_graceful_shutdown=2,
            server_header=False,
            ws="none",
            limit_concurrency=_MOST_CONNECTIONS,
        )
        with suppress(KeyboardInterrupt):  # before it has started
            asyncio.run(_run(uvicorn.Server(config), held, uploads, on_start))


async def _run(
    server: "Server", held: socket.socket, uploads: Path, on_start: Callable[[], object]
) -> None:
    """Runs the server until a signal ends it, with regular sweeps of old uploads."""
    from ossa.app.guard import sweep

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
    sweep_at, idle_before = 0.0, set()
    while not serving.done():
        await asyncio.wait([serving], timeout=_IDLE_SECONDS)
        # Uvicorn waits forever for the first request of a connection, and for the rest of its
        # headers: those that were idle the last time, too, are closed.
        idle = {
            connection
            for connection in server.server_state.connections
            if (cycle := getattr(connection, "cycle", None)) is None or cycle.response_complete
        }
        for connection in idle & idle_before:
            connection.transport.close()  # type: ignore[attr-defined]
        idle_before = idle
        if time.monotonic() > sweep_at:
            sweep_at = time.monotonic() + _SWEEP_SECONDS
            await asyncio.to_thread(sweep, uploads)
    await serving


def _build_app(
    models: Sequence[PageModel],
    uploads: Path,
    limits: Limits,
    report: Path | None,
    names: Sequence[str],
    password: str | None,
) -> "ASGIApp":
    """Returns the application; sessions are kept beside the empty folder of uploads."""
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
    return encode_jpeg(resize_long_side(image, min(max(image.shape[:2]), _SHOWN_SIDE)))
