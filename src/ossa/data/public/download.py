"""Downloads that go on where they broke off and are kept only with the right length and checksum.

The length and the checksum of every file are known beforehand, so that nothing a server says needs
to be believed: what it sends is either the file or is refused.
"""

import hashlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ossa import __version__
from ossa.errors import ConfigError, DataError, RunFailed

OnBytes = Callable[[int, int], object]
"""Is told the bytes done and the bytes in all."""
Progress = Callable[[str], AbstractContextManager[OnBytes]]
"""Is told what begins, and yields whom to tell how far it is."""

PART_SUFFIX: Final = ".part"
_WAITS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt that follows one without progress."""
_PROGRESS_BYTES: Final = 1 << 20
"""An attempt that brought so much makes the attempts count from the first again."""
_TIMEOUT_SECONDS: Final = 30.0
_PIECE_BYTES: Final = 1 << 18
_PASSING_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_NOT_SATISFIABLE: Final = 416


class _BrokenOffError(Exception):
    """The server could not be reached or fell silent: worth another attempt."""


@contextmanager
def silent(_doing: str) -> Iterator[OnBytes]:
    """Yields a function that tells nobody."""
    yield lambda _done, _total: None


def check_address(url: str) -> None:
    """Raises ConfigError for what is no http:// or https:// address."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = named and url.isascii() and not any(sign.isspace() for sign in url)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"Expected an address such as https://example.org/data, found '{url}'.")


def download(
    url: str,
    target: Path,
    *,
    size: int,
    checksum: str,
    progress: Progress = silent,
    waits: Sequence[float] = _WAITS,
) -> None:
    """Fetches a file into `target`, which then has the right length and checksum or is not there.

    What has arrived so far lies beside it with the suffix `.part`, and the next call goes on from
    its end. A `target` that is there already is only checked.

    Args:
        url: http or https; redirections to such addresses are followed.
        target: in a folder that exists.
        size: bytes that the file has.
        checksum: 'sha256:' or 'md5:' and hexadecimal digits.
        progress: told of the download and of the check.
        waits: seconds before each further attempt.

    Raises:
        DataError: the server has no such file or one of another length or checksum; the last is
            removed.
        RunFailed: it could not be reached or broke off, once more than `waits` has entries.
        OSError: the disk is full or cannot be written.
    """
    if target.exists():
        with progress(f"checking {target.name}") as on_bytes:
            _verify(target, url=url, size=size, checksum=checksum, on_bytes=on_bytes)
        return
    part = target.with_name(target.name + PART_SUFFIX)
    with progress(f"downloading {target.name}") as on_bytes:
        _fetch_with_patience(url, part, size=size, on_bytes=on_bytes, waits=waits)
    with progress(f"checking {target.name}") as on_bytes:
        _verify(part, url=url, size=size, checksum=checksum, on_bytes=on_bytes)
    part.replace(target)


def bytes_there(target: Path) -> int:
    """Returns how many bytes of a download are on the disk already."""
    return _length(target) or _length(target.with_name(target.name + PART_SUFFIX))


def _fetch_with_patience(
    url: str, part: Path, *, size: int, on_bytes: OnBytes, waits: Sequence[float]
) -> None:
    if _length(part) > size:
        part.unlink()
    attempts = 0
    while (before := _length(part)) < size:
        try:
            _fetch_rest(url, part, size=size, on_bytes=on_bytes)
            reason = "the connection ended"
        except _BrokenOffError as error:
            reason = str(error)
        arrived = _length(part)
        if arrived == size:
            return
        attempts = 1 if arrived - before >= _PROGRESS_BYTES else attempts + 1
        if attempts > len(waits):
            raise RunFailed(
                f"Expected {size:,} bytes from {url}, found {arrived:,} after {attempts} attempts "
                f"({reason}); start again to go on from there."
            )
        time.sleep(waits[attempts - 1])


def _fetch_rest(url: str, part: Path, *, size: int, on_bytes: OnBytes) -> None:
    """Appends to `part` what one answer of the server brings."""
    have = _length(part)
    with _open(url, have, part=part) as response:
        # A server that knows no ranges answers with 200 and the whole file.
        have = have if response.status == 206 else 0
        _check_answer(response, url, have=have, size=size)
        with part.open("ab" if have else "wb") as file:
            on_bytes(have, size)
            for piece in _pieces(response):
                have += len(piece)
                if have > size:
                    break
                file.write(piece)
                on_bytes(have, size)
    if have > size:
        part.unlink()
        raise DataError(f"Expected {size:,} bytes from {url}, found more; removed them.")


def _open(url: str, have: int, *, part: Path) -> HTTPResponse:
    headers = {"User-Agent": f"ossa/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return _opener().open(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and have:
            part.unlink()  # the file there is shorter than what is here: not the same one
        elif error.code not in _PASSING_STATUSES:
            raise DataError(
                f"Expected a file at {url}, found status {error.code} ({error.reason}); "
                "another address can be named with --mirror."
            ) from None
        raise _BrokenOffError(f"status {error.code}") from None
    except (OSError, HTTPException, UnicodeError) as error:  # the last: 'a..b' is no host
        raise _BrokenOffError(_reason(error)) from None


def _opener() -> urllib.request.OpenerDirector:
    """Returns what opens http and https alone, through the proxies of the environment.

    `urllib.request.urlopen` would also follow a redirection to ftp://.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _check_answer(response: HTTPResponse, url: str, *, have: int, size: int) -> None:
    """Raises DataError where the headers announce other bytes than those that are missing."""
    told = response.headers.get("Content-Range", "") if response.status == 206 else None
    if told is not None:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told.strip())
        if match is None or int(match[1]) != have or match[2] not in (str(size), "*"):
            raise DataError(
                f"Expected the bytes from {have} of {size} of {url}, found '{told}'; "
                "the server has another file: name another with --mirror."
            )
    length = response.headers.get("Content-Length")
    if length is not None and told is None and length.strip() != str(size):
        raise DataError(
            f"Expected {size:,} bytes from {url}, found a length of {length.strip()}; "
            "the server has another file: name another with --mirror."
        )


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read(_PIECE_BYTES):
            yield piece
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(_reason(error)) from None


def _verify(file: Path, *, url: str, size: int, checksum: str, on_bytes: OnBytes) -> None:
    """Removes a file of another length or checksum and raises DataError."""
    algorithm, _, expected = checksum.partition(":")
    digest, length = hashlib.new(algorithm, usedforsecurity=False), 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE_BYTES):
            digest.update(piece)
            length += len(piece)
            on_bytes(length, size)
    found = digest.hexdigest()
    if (length, found) != (size, expected):
        file.unlink()
        raise DataError(
            f"Expected {size:,} bytes with {algorithm} {expected} from {url}, found {length:,} "
            f"with {found}; removed {file}: start again, or name another address with --mirror."
        )


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return text.lower()
