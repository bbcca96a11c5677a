"""A web server on this machine that answers as badly as it is told to."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """How one request is answered; by default as it should be."""

    status: int | None = None
    location: str | None = None
    """Where the client is sent."""
    sends: int | None = None
    """Bytes after which the connection is closed."""
    announces: int | None = None
    """Content-Length instead of the true one; -1: none."""
    appends: bytes = b""
    """Sent behind the end of the file."""
    knows_ranges: bool = True


@dataclass
class FileServer:
    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, such as '/a.zip'."""
    answers: list[Answer] = field(default_factory=list)
    """To the next requests; those after them are answered as they should be."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request so far."""


@contextmanager
def served() -> Iterator[FileServer]:
    """Yields a server on a free port of 127.0.0.1, which ends with the `with`."""
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append((self.path, self.headers.get("Range")))
            answer = served.answers.pop(0) if served.answers else Answer()
            _reply(self, served.files.get(self.path), answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _reply(handler: BaseHTTPRequestHandler, content: bytes | None, answer: Answer) -> None:
    if answer.status is not None or content is None:
        handler.send_response(answer.status or 404)
        if answer.location is not None:
            handler.send_header("Location", answer.location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and answer.knows_ranges else 0
    if start and start >= len(content):
        _reply(handler, None, Answer(status=416))
        return
    told = f"bytes {start}-{len(content) - 1}/{len(content)}"
    body = content[start:] + answer.appends
    length = len(content) - start if answer.announces is None else answer.announces
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", told)
    if length >= 0:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    with suppress(ConnectionError):  # the client has left
        handler.wfile.write(body[: answer.sends])
