"""Public data sets: `ossa data get` downloads, checks, unpacks and describes them.

    root/downloads/NAME.part, NAME     an archive while it arrives, and until it is unpacked
    root/VOCdevkit/VOC2007             a part of a data set; data sets share their parts
    root/voc/data.yaml                 written last

Every step ends with a rename, so that the next call continues after any interruption. The length
and the checksum of every archive are known beforehand, so nothing that a server says is trusted.
"""

import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ossa import __version__
from ossa.data.public_datasets import Archive, DatasetInfo, Part
from ossa.errors import ConfigError, DataError, RunFailed, os_reason
from ossa.files import held, write_text_atomically

OnBytes = Callable[[int, int], object]
"""Called with the bytes done and the bytes in all."""
Progress = Callable[[str], AbstractContextManager[OnBytes]]
"""Called with what begins; yields the function to call with the bytes."""

_WAITS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt that follows one without progress."""
_PROGRESS_BYTES: Final = 1 << 20  # an attempt that brought so much resets their number
_TIMEOUT_SECONDS: Final = 30.0
_CHUNK_BYTES: Final = 1 << 18
_TRANSIENT_STATUSES: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


def no_progress(_title: str) -> AbstractContextManager[OnBytes]:
    """Returns a context of a function that does nothing."""
    return nullcontext(lambda _done, _total: None)


def download_dataset(
    info: DatasetInfo,
    root: Path,
    *,
    mirror: str | None = None,
    keep_archives: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Returns the data.yaml of a public data set below `root`, downloaded where it is missing.

    Nothing is written outside `root`, the folder of all data sets. A `mirror` must have the
    official archives. They are kept in `root`/downloads where `keep_archives`, and used if there.
    `progress` is called for every download, check and unpacking.

    Raises:
        ConfigError: `mirror` is no address, or another process downloads into the same folder.
        DataError: what is there, or what the server has, is not what was expected.
        RunFailed: the disk has too little space or cannot be written, or the server cannot be
            reached.
    """
    address = (mirror or info.address).rstrip("/")
    check_address(address)
    data_yaml, downloads = root / info.name / "data.yaml", root / "downloads"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with held(root):
            if data_yaml.exists() and data_yaml.read_bytes() != info.data_yaml.encode():
                raise DataError(
                    expected="none or the data.yaml of this data set",
                    found="another",
                    path=data_yaml,
                    advice="move it away, or name another folder with --root",
                )
            missing = [part for part in info.parts if not (root / part.folder).exists()]
            for part in info.parts:
                if part not in missing:
                    _check_counts(part, root / part.folder)
            _check_space(missing, root)
            for part in missing:
                downloads.mkdir(exist_ok=True)
                _download_part(part, root, address=address, progress=progress)
                for archive in () if keep_archives else part.archives:
                    (downloads / archive.name).unlink(missing_ok=True)
            with suppress(OSError):  # other archives lie there
                downloads.rmdir()
            data_yaml.parent.mkdir(exist_ok=True)
            if not data_yaml.exists():
                write_text_atomically(data_yaml, info.data_yaml)
    except OSError as error:
        raise RunFailed(
            f"could not write there: {os_reason(error)}",
            path=error.filename or root,
            advice="start again to continue from there",
        ) from error
    return data_yaml


def check_address(url: str) -> None:
    """Raises ConfigError for what is no http:// or https:// address."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = named and url.isascii() and not any(sign.isspace() for sign in url)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(expected="an address such as https://example.org/data", found=f"'{url}'")


def _check_counts(part: Part, folder: Path) -> None:
    for name, count in part.file_counts.items():
        subfolder = folder / name
        found = sum(entry.is_file() for entry in os.scandir(subfolder)) if subfolder.is_dir() else 0
        if found != count:
            raise DataError(
                expected=f"{count:,} files",
                found=f"{found:,}",
                path=subfolder,
                advice=f"move {folder} away, or name another folder with --root",
            )


def _check_space(parts: Sequence[Part], root: Path) -> None:
    needed = sum(part.unpacked_bytes for part in parts)
    for archive in (archive for part in parts for archive in part.archives):
        file = root / "downloads" / archive.name
        needed += archive.size - (_length(file) or _length(_partial(file)))
    free = shutil.disk_usage(root).free
    if needed > free:
        raise RunFailed(
            expected=f"{needed / 1e9:.1f} GB free for archives and their contents",
            found=f"{free / 1e9:.1f} GB",
            path=root,
            advice="free some, or name another folder with --root",
        )


def _download_part(part: Part, root: Path, *, address: str, progress: Progress) -> None:
    files = {archive: root / "downloads" / archive.name for archive in part.archives}
    for archive, file in files.items():
        download(f"{address}/{archive.path}", file, archive=archive, progress=progress)
    target = root / part.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, since a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for file in files.values():
            with progress(f"unpacking {file.name}"):
                unpack(file, temporary)
        _check_counts(part, temporary / part.inside)
        (temporary / part.inside).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def download(
    url: str,
    target: Path,
    *,
    archive: Archive,
    progress: Progress = no_progress,
    waits: Sequence[float] = _WAITS,
) -> None:
    """Downloads a file to `target`, which then has the right length and checksum or is not there.

    What has arrived lies beside it with the suffix `.part`, and the next call continues from its
    end. A `target` that is there already is only checked. `waits` are the seconds before each
    further attempt.

    Raises:
        DataError: the server has no such file, or one of another length or checksum, which is
            removed.
        RunFailed: the server could not be reached or broke off more often than `waits` allows.
        OSError: the disk is full or cannot be written.
    """
    file, size = target if target.exists() else _partial(target), archive.size
    if file != target:
        if _length(file) > size:
            file.unlink()
        with progress(f"downloading {target.name}") as on_bytes:
            attempts = 0
            while (before := _length(file)) < size:
                reason = _download_rest(url, file, size=size, on_bytes=on_bytes)
                arrived = _length(file)
                if reason is None or arrived >= size:
                    break
                attempts = 1 if arrived - before >= _PROGRESS_BYTES else attempts + 1
                if attempts > len(waits):
                    raise RunFailed(
                        expected=f"{size:,} bytes from {url}",
                        found=f"{arrived:,} after {attempts} attempts ({reason})",
                        advice="start again to continue from there",
                    )
                time.sleep(waits[attempts - 1])
    with progress(f"checking {target.name}") as on_bytes:
        _verify(file, url, archive, on_bytes=on_bytes)
    file.replace(target)


def _download_rest(url: str, part: Path, *, size: int, on_bytes: OnBytes) -> str | None:
    """Appends one answer of the server to `part`; returns why another attempt is worthwhile."""
    have = _length(part)
    headers = {"User-Agent": f"ossa/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with http_opener().open(request, timeout=_TIMEOUT_SECONDS) as response:
            if response.status != 206:  # the server knows no ranges and sends the whole file
                have = 0
            length = response.headers.get("Content-Length", "").strip()
            if length.isdigit() and int(length) != size - have:  # before gigabytes of it arrive
                raise DataError(
                    expected=f"{size - have:,} bytes from {url}",
                    found=f"a length of {length}",
                    advice="the server has another file: --mirror names another address",
                )
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                while have <= size and (chunk := response.read(_CHUNK_BYTES)):
                    file.write(chunk)
                    have += len(chunk)
                    on_bytes(have, size)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in _TRANSIENT_STATUSES:
            found, advice = (
                f"status {error.code} ({error.reason})",
                "--mirror names another address",
            )
            raise DataError(expected=f"a file at {url}", found=found, advice=advice) from None
        if error.code == 416:  # the file there is shorter than what is here: not the same one
            part.unlink(missing_ok=True)
        return f"status {error.code}"
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException, UnicodeError) as e:
        cause = e.reason if isinstance(e, urllib.error.URLError) else e
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()
    return "the connection ended"


def http_opener() -> urllib.request.OpenerDirector:
    """Returns an opener of http and https alone: a redirection to ftp:// is not followed."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _verify(file: Path, url: str, archive: Archive, *, on_bytes: OnBytes) -> None:
    """Removes a file of another length or checksum and raises DataError."""
    algorithm, _, expected = archive.checksum.partition(":")
    digest, length = hashlib.new(algorithm, usedforsecurity=False), 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)
            on_bytes(length, archive.size)
    if (length, digest.hexdigest()) != (archive.size, expected):
        file.unlink()
        raise DataError(
            expected=f"{archive.size:,} bytes with {algorithm} {expected} from {url}",
            found=f"{length:,} with {digest.hexdigest()}",
            advice=f"removed {file}: start again, or name another address with --mirror",
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar file, whose checksum is pinned; nothing is written outside `folder`.

    Raises:
        DataError: it is damaged, or a tar holds a path or link that leads out, or a device.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)
        else:
            with tarfile.open(archive, "r:") as content:
                content.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(expected="an intact archive", found=str(error), path=archive) from error


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
