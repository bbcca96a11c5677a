"""Unpacking zip and tar files that nobody needs to trust.

Only folders and plain files are made, only below the folder that is named, and never more of them
than the limits allow: a path that leads out, a link, a device, or an archive that swells is refused
as a whole.
"""

import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from ossa.data.public.download import OnBytes
from ossa.errors import DataError

_ALWAYS_HARMLESS_BYTES: Final = 1 << 20
"""Below it any ratio is allowed: a small file of zeros is a legitimate thing."""
_ENCRYPTED: Final = 0x1
"""Bit of a zip member's flags."""
_LEADS_OUT: Final = re.compile(r"/|[A-Za-z]:")
"""Begin of an absolute path, of POSIX or of Windows."""


@dataclass(frozen=True)
class Limits:
    """The most that an archive may hold."""

    total_bytes: int
    members: int = 300_000
    """Files and folders; COCO's largest archive has 118,288."""
    ratio: float = 50.0
    """Bytes unpacked to bytes packed; annotations in JSON reach 4."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    """Bytes unpacked, as stated; both formats give no more than these when read."""
    is_folder: bool
    fault: str | None
    """What it is that is not unpacked."""
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class _Content:
    members: Iterable[_Member]
    total_bytes: int
    """Bytes unpacked, as stated; of a tar, those of the file, which are a little more."""


def unpack(archive: Path, folder: Path, *, limits: Limits, on_bytes: OnBytes) -> None:
    """Unpacks a zip or tar file, told by its suffix, into `folder`.

    Files that an earlier archive left there are replaced by those of the same name. After an error
    the folder holds a part of the archive and should be removed.

    Args:
        archive: .zip, or .tar without compression.
        folder: exists.
        limits: of what is unpacked.
        on_bytes: told the bytes unpacked and those in all.

    Raises:
        DataError: the archive is damaged, or holds a path that leads out of the folder, a link or
            another thing that is no file, a name twice, or more than the limits.
        OSError: the disk is full or cannot be written.
    """
    packed_bytes = archive.stat().st_size
    most = min(limits.total_bytes, max(int(packed_bytes * limits.ratio), _ALWAYS_HARMLESS_BYTES))
    done, seen = 0, set[PurePosixPath]()
    with _damage_told(archive), _opened(archive) as content:
        for count, member in enumerate(content.members, start=1):
            where = f"'{member.name}' of {archive}"
            if count > limits.members:
                raise DataError(f"Expected at most {limits.members:,} files in {archive}.")
            if member.fault is not None:
                raise DataError(f"Expected a file or a folder as {where}, found {member.fault}.")
            path = _safe_path(member.name, where=where)
            if member.is_folder:
                _make_folder(folder / path, where=where)
                continue
            if path in seen:
                raise DataError(f"Expected every file once, found {where} again.")
            if done + member.size > most:
                raise DataError(
                    f"Expected at most {most:,} bytes in {archive} of {packed_bytes:,} bytes, "
                    f"found {done + member.size:,} up to '{member.name}'."
                )
            seen.add(path)
            _make_folder((folder / path).parent, where=where)
            _write_file(member, folder / path, where=where)
            done += member.size
            on_bytes(done, content.total_bytes)


@contextmanager
def _opened(archive: Path) -> Iterator[_Content]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as content:
            infos = content.infolist()
            members = (_zip_member(content, info) for info in infos)
            yield _Content(members, sum(info.file_size for info in infos))
    else:
        with tarfile.open(archive, "r:") as content:
            members = (_tar_member(content, info) for info in content)
            yield _Content(members, archive.stat().st_size)


def _zip_member(content: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was packed without POSIX modes
    fault = None
    if kind == stat.S_IFLNK:
        fault = "a link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        fault = "a device or the like"
    elif info.flag_bits & _ENCRYPTED:
        fault = "one with a password"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = "one of an unusual compression"
    return _Member(info.filename, info.file_size, info.is_dir(), fault, lambda: content.open(info))


def _tar_member(content: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    fault = None
    if info.issym() or info.islnk():
        fault = "a link"
    elif info.issparse():
        fault = "one with holes"  # some bytes can state that they are any number of zeros
    elif not (info.isreg() or info.isdir()):
        fault = "a device or the like"

    def opened() -> IO[bytes]:
        file = content.extractfile(info)
        assert file is not None  # for plain files alone
        return file

    return _Member(info.name, info.size, info.isdir(), fault, opened)


def _safe_path(name: str, *, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if _LEADS_OUT.match(name) or "\\" in name or ".." in path.parts:
        raise DataError(f"Expected a path below the folder of the archive, found {where}.")
    return path


def _make_folder(folder: Path, *, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"Expected a folder, found a file in the place of {where}.") from error


def _write_file(member: _Member, target: Path, *, where: str) -> None:
    if target.is_dir():
        raise DataError(f"Expected a file, found a folder in the place of {where}.")
    with member.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"Expected a whole archive at {archive}, found damage: {error}.") from error
