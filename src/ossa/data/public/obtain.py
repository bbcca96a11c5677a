"""A public data set on the disk: fetched, unpacked and described, or found there.

    root/downloads/NAME.part, NAME     what is being fetched, what is checked and not yet unpacked
    root/VOCdevkit/VOC2007             a part of a data set; data sets share their parts
    root/voc/data.yaml                 written last

Every step ends with a rename, so that after any interruption the next call goes on.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ossa.data.public.archives import Limits, unpack
from ossa.data.public.download import Progress, bytes_there, check_address, download, silent
from ossa.data.public.known_data import Archive, KnownDataSet, Part
from ossa.errors import DataError, RunFailed
from ossa.files import write_text_atomically

_DOWNLOADS = "downloads"


def obtain(
    known: KnownDataSet,
    root: Path,
    *,
    mirror: str | None = None,
    keep_archives: bool = False,
    progress: Progress = silent,
) -> Path:
    """Returns the data.yaml of a public data set below `root`, fetched where it is not there yet.

    Args:
        known: what to fetch.
        root: folder of all data sets, made where it is missing; nothing is written outside it.
        mirror: address that stands for the official one. Checksums are those of the official files.
        keep_archives: keep them in `root`/downloads after they are unpacked. An archive that lies
            there already is used.
        progress: told of every download, check and unpacking.

    Raises:
        ConfigError: `mirror` is no address.
        DataError: what is there, or what the server has, is not what was expected.
        RunFailed: the disk has too little space or cannot be written, the server cannot be reached,
            or another process is at it.
    """
    address = (mirror or known.address).rstrip("/")
    check_address(address)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            data_yaml = root / known.name / "data.yaml"
            _check_description(data_yaml, known.data_yaml)
            missing = [part for part in known.parts if not _is_there(part, root)]
            _check_space(missing, root)
            for part in missing:
                _obtain_part(part, root, address=address, progress=progress)
                if not keep_archives:
                    _remove_archives(part.archives, root)
            data_yaml.parent.mkdir(exist_ok=True)
            if not data_yaml.exists():
                write_text_atomically(data_yaml, known.data_yaml)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        place = error.filename or root
        raise RunFailed(
            f"Expected to write to {place}, found: {reason}; start again to go on from there."
        ) from error
    return data_yaml


def _obtain_part(part: Part, root: Path, *, address: str, progress: Progress) -> None:
    downloads = root / _DOWNLOADS
    downloads.mkdir(exist_ok=True)
    for archive in part.archives:
        download(
            f"{address}/{archive.path}",
            downloads / archive.name,
            size=archive.size,
            checksum=archive.checksum,
            progress=progress,
        )
    target = root / part.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, since a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        # What is known of the size is rounded; twice as much is not this data set any more.
        limits = Limits(total_bytes=2 * part.unpacked_bytes)
        for archive in part.archives:
            with progress(f"unpacking {archive.name}") as on_bytes:
                unpack(downloads / archive.name, temporary, limits=limits, on_bytes=on_bytes)
        _check_counts(part, temporary / part.inside)
        (temporary / part.inside).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_there(part: Part, root: Path) -> bool:
    folder = root / part.folder
    if not folder.exists():
        return False
    _check_counts(part, folder)
    return True


def _check_counts(part: Part, folder: Path) -> None:
    for name, count in part.file_counts.items():
        subfolder = folder / name
        found = 0
        if subfolder.is_dir():
            found = sum(entry.is_file() for entry in os.scandir(subfolder))
        if found != count:
            raise DataError(
                f"Expected {count:,} files in {subfolder}, found {found:,}; move {folder} away, "
                "or name another folder with --root."
            )


def _check_description(file: Path, text: str) -> None:
    """Raises DataError for a data.yaml that somebody changed, before hours of downloading."""
    if file.exists() and file.read_bytes() != text.encode():
        raise DataError(
            f"Expected no data.yaml at {file} or the one that belongs to this data set, "
            "found another; move it away, or name another folder with --root."
        )


def _check_space(parts: Iterable[Part], root: Path) -> None:
    downloads = root / _DOWNLOADS
    needed = sum(
        part.unpacked_bytes
        + sum(archive.size - bytes_there(downloads / archive.name) for archive in part.archives)
        for part in parts
    )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise RunFailed(
            f"Expected {needed / 1e9:.1f} GB free in {root} for archives and their contents, found "
            f"{free / 1e9:.1f} GB; free some, or name another folder with --root."
        )


def _remove_archives(archives: Iterable[Archive], root: Path) -> None:
    downloads = root / _DOWNLOADS
    for archive in archives:
        (downloads / archive.name).unlink(missing_ok=True)
    with suppress(OSError):  # others lie there
        downloads.rmdir()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps a second process out, which would write into the same files."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed(
                f"Expected {root} for this process alone, found another one that gets data there; "
                "start again when it is done."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
