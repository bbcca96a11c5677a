"""The server of the page: gradio behind the gate, the kept pictures, and a study's report."""

import asyncio
import errno
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ossa.app.gate import Gate
from ossa.app.limits import Limits
from ossa.app.models import PageModel
from ossa.app.session import Sessions
from ossa.app.views import shown_picture
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,"
    "mpeg,mpegts,mpegvideo|protocol_whitelist;file",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
}
"""Of the process: nothing calls home; FFmpeg reads no playlist, which would name other files."""
_SWEEP_SECONDS = 60.0
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""The report's scripts draw, and reach neither the page around it nor any server."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int

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
    """Holds the port, so that it is known to be free before any model is read.

    Raises:
        ConfigError: it is in use, or not ours to take.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise ConfigError(
            f"expected an address of this machine for --host, found {address.host!r}"
        ) from None
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(place)
            held.listen(128)
        except OSError as problem:
            raise ConfigError(_no_port(address, problem)) from None
        yield held


def _no_port(address: Address, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} on {address.host} is in use, perhaps by another ossa app: take "
            f"another one with --port {address.port + 1 if address.port < 65535 else 7860}"
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return f"expected an address of this machine for --host, found {address.host!r}"
    return (
        f"port {address.port} on {address.host} cannot be taken ({problem.strerror}): "
        "choose another with --port"
    )


def serve(
    held: socket.socket,
    models: Sequence[PageModel],
    *,
    limits: Limits,
    report: Path | None = None,
    on_start: Callable[[], object] = lambda: None,
) -> None:
    """Answers requests until Ctrl-C, or until it is told to end (SIGTERM).

    Everything it writes lies in one temporary folder, which is gone afterwards.

    Args:
        held: a socket that listens.
        models: on the page.
        limits: of the server.
        report: page of a study's report.
        on_start: is called once requests are answered.
    """
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="ossa-app-") as folder:
        app = build_app(models, Path(folder), limits=limits, report=report)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=2, server_header=False
        )
        with suppress(KeyboardInterrupt):  # before it has started
            asyncio.run(_run(uvicorn.Server(config), held, on_start=on_start, sweep=app.sweep))


async def _run(
    server: "Server",
    held: socket.socket,
    *,
    on_start: Callable[[], object],
    sweep: Callable[[], object],
) -> None:
    """Runs the server until a signal ends it, and sweeps from time to time."""

    def stop() -> None:
        server.force_exit = server.should_exit  # at the second time
        server.should_exit = True

    serving = asyncio.create_task(server.serve(sockets=[held]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    # In place of uvicorn's own handlers, which raise the signal again at the end: the folder would
    # stay, and a traceback.
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop)
    if server.started:
        on_start()
    while not serving.done():
        await asyncio.wait([serving], timeout=_SWEEP_SECONDS)
        await asyncio.to_thread(sweep)
    await serving


def build_app(
    models: Sequence[PageModel], folder: Path, *, limits: Limits, report: Path | None = None
) -> Gate:
    """Returns the ASGI application.

    Args:
        models: on the page.
        folder: private, for uploads, kept pictures and results.
        limits: of the server.
        report: page of a study's report.
    """
    uploads = folder / "uploads"
    uploads.mkdir()
    os.environ.update(SETTINGS)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")  # else in the current folder
    from fastapi import FastAPI

    from ossa.app.page import build_page, mount_page

    sessions = Sessions(folder / "sessions", limits)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(app, sessions, report)
    page = build_page(models, sessions, limits, has_report=report is not None)
    mount_page(app, page, limits)
    return Gate(
        app, uploads=uploads, limits=limits, is_full=lambda: len(page._queue) >= limits.waiting
    )


def _add_routes(app: "FastAPI", sessions: Sessions, report: Path | None) -> None:
    from fastapi import Response

    def picture(token: str, position: int) -> Response:
        still = sessions.still(token, position)
        if still is None:
            return Response(status_code=404)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(shown_picture(still.file), media_type="image/jpeg", headers=headers)

    def study() -> Response:
        if report is None or not report.is_file():
            return Response("there is no report", status_code=404, media_type="text/plain")
        # Read each time: a study that runs writes it again.
        headers = {"content-security-policy": _REPORT_POLICY}
        return Response(report.read_bytes(), media_type="text/html", headers=headers)

    app.add_api_route("/picture/{token}/{position}", picture, methods=["GET"])
    app.add_api_route("/study", study, methods=["GET"])
