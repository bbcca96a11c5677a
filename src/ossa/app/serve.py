"""The server of the page: gradio behind the guard, the kept pictures, and a study's report."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.app.limits import Limits
from ossa.app.models import PageModel
from ossa.app.session import Sessions
from ossa.app.views import shown_picture
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp
    from uvicorn import Server

SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Of the process: nothing calls home."""
_SWEEP_SECONDS = 60.0
_IDLE_SECONDS = 20.0
"""A connection that has sent no whole request for so long is closed."""
_MOST_CONNECTIONS = 256
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
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
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def names(self) -> list[str]:
        """Names under which a browser may ask for the page.

        A page of a stranger can have the browser find its own name here (DNS rebinding): so what
        is asked for under another name is refused.
        """
        if self.is_private:
            return list(_LOOPBACK)
        own = socket.gethostname()
        found = [address[4][0] for address in _addresses_of(own)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which way out there is
            found.append(probe.getsockname()[0])
        found = [f"[{one}]" if ":" in str(one) else str(one) for one in (*found, self.host)]
        return [*_LOOPBACK, own, f"{own}.local", socket.getfqdn(), *found]

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


def _addresses_of(name: str) -> list[Any]:
    try:
        return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []


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
    names: Sequence[str] = _LOOPBACK,
    password: str | None = None,
    on_start: Callable[[], object] = lambda: None,
) -> None:
    """Answers requests until Ctrl-C, or until it is told to end (SIGTERM).

    Everything it writes lies in one temporary folder, which is gone afterwards.

    Args:
        held: a socket that listens.
        models: on the page.
        limits: of the server.
        report: page of a study's report.
        names: under which the page may be asked for.
        password: of the user 'ossa'; without it whoever reaches the page may use it.
        on_start: is called once requests are answered.
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
            log_level="error",  # a visitor who sends nonsense is told so, the owner is not
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
    sweep_at, idle = 0.0, set()
    while not serving.done():
        await asyncio.wait([serving], timeout=_IDLE_SECONDS)
        idle = _close_idle(server, idle)
        if time.monotonic() > sweep_at:
            sweep_at = time.monotonic() + _SWEEP_SECONDS
            await asyncio.to_thread(sweep)
    await serving


def _close_idle(server: "Server", idle_before: set[Any]) -> set[Any]:
    """Closes the connections that are as idle as before, and returns those that are now.

    Uvicorn waits for ever for the first request of a connection, and for the rest of its headers.
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
        models: on the page.
        uploads: an empty folder, for what visitors send; what is kept of it lies beside it.
        limits, report, names, password: see `serve`.
    """
    os.environ.update(SETTINGS)
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
