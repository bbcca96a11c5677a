"""Unpacking archives that want to do harm."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ossa.data.public.archives import Limits, unpack
from ossa.errors import DataError

ROOMY = Limits(total_bytes=1 << 30)
MEBIBYTE = 1 << 20


def write_zip(path: Path, files: Mapping[str, bytes], *, mode: int = 0o100644) -> Path:
    """Writes files of a POSIX type and mode."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            content.writestr(info, data)
    return path


def write_tar(path: Path, *members: tuple[str, bytes], **fields: object) -> Path:
    """Writes members whose headers have `fields`, such as type=tarfile.SYMTYPE."""
    with tarfile.open(path, "w") as content:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            content.addfile(info, io.BytesIO(data))
    return path


def unpacked(archive: Path, limits: Limits = ROOMY) -> dict[str, bytes]:
    """Unpacks into a new folder and returns its files by name."""
    folder = archive.parent / "there"
    folder.mkdir(exist_ok=True)
    unpack(archive, folder, limits=limits, on_bytes=lambda _done, _total: None)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_files_and_folders_arrive_byte_by_byte(tmp_path: Path, suffix: str) -> None:
    files = {"a/b/c.txt": b"one", "a/d.txt": b"", "./e.txt": bytes(range(256))}
    archive = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        write_zip(archive, files)
    else:
        write_tar(archive, *files.items())
    expected = {name.removeprefix("./"): data for name, data in files.items()}
    assert unpacked(archive) == expected


def test_an_empty_folder_of_an_archive_is_made(tmp_path: Path) -> None:
    unpacked(write_tar(tmp_path / "x.tar", ("empty", b""), type=tarfile.DIRTYPE))
    assert (tmp_path / "there" / "empty").is_dir()


def test_bytes_are_told_up_to_all_of_them(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    archive = write_zip(tmp_path / "x.zip", {"a": bytes(300), "b": bytes(100)})
    unpack(archive, tmp_path, limits=ROOMY, on_bytes=lambda *both: told.append(both))
    assert told == [(300, 400), (400, 400)]


def test_a_second_archive_adds_to_the_first(tmp_path: Path) -> None:
    unpacked(write_tar(tmp_path / "1.tar", ("lists/train.txt", b"1"), ("readme", b"old")))
    second = write_tar(tmp_path / "2.tar", ("lists/test.txt", b"2"), ("readme", b"new"))
    assert unpacked(second) == {"lists/train.txt": b"1", "lists/test.txt": b"2", "readme": b"new"}


def test_modes_are_not_taken_over(tmp_path: Path) -> None:
    unpacked(write_tar(tmp_path / "x.tar", ("program", b"#!"), mode=0o6777))
    mode = stat.S_IMODE((tmp_path / "there" / "program").stat().st_mode)
    assert mode & 0o7111 == 0


OUTSIDE = ["../x", "a/../../x", "/tmp/ossa-x", "a/..", "C:/x", "c:x", "..\\x", "a\\b"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, suffix: str, name: str) -> None:
    archive = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        write_zip(archive, {name: b"x"})
    else:
        write_tar(archive, (name, b"x"))
    with pytest.raises(DataError, match="Expected a path below the folder"):
        unpacked(archive)
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert left == [archive]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "one with holes"),
    ],
)
def test_a_tar_with_what_is_no_file_is_refused(tmp_path: Path, kind: bytes, found: str) -> None:
    archive = write_tar(tmp_path / "x.tar", ("a", b""), type=kind, linkname="/etc/hostname")
    with pytest.raises(DataError, match=f"Expected a file or a folder as 'a' .* found {found}"):
        unpacked(archive)


@pytest.mark.parametrize(
    ("kind", "found"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device"), (stat.S_IFIFO, "a d")]
)
def test_a_zip_with_what_is_no_file_is_refused(tmp_path: Path, kind: int, found: str) -> None:
    archive = write_zip(tmp_path / "x.zip", {"a": b"/etc/hostname"}, mode=kind | 0o777)
    with pytest.raises(DataError, match=f"Expected a file or a folder as 'a' .* found {found}"):
        unpacked(archive)


def test_a_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"a": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flags in the directory
    archive.write_bytes(content)
    with pytest.raises(DataError, match="found one with a password"):
        unpacked(archive)


def test_a_zip_of_an_unusual_compression_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as content:
        content.writestr("a", b"x")
    with pytest.raises(DataError, match="found one of an unusual compression"):
        unpacked(tmp_path / "x.zip")


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"zeros": bytes(4 * MEBIBYTE)})
    assert archive.stat().st_size < 5000
    with pytest.raises(DataError, match=r"found 4,194,304 up to 'zeros'"):
        unpacked(archive)
    assert list((tmp_path / "there").iterdir()) == []


def test_many_small_bombs_are_one(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {str(i): bytes(MEBIBYTE // 2) for i in range(8)})
    with pytest.raises(DataError, match="found 1,572,864 up to '2'"):
        unpacked(archive)


def test_a_zip_that_states_less_than_it_holds_is_damaged(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"zeros": bytes(4 * MEBIBYTE)})
    size = (4 * MEBIBYTE).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="found damage"):
        unpacked(archive)
    assert (tmp_path / "there" / "zeros").stat().st_size <= 100


def test_more_bytes_than_the_limit_are_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", ("a", bytes(600)), ("b", bytes(500)))
    with pytest.raises(DataError, match=r"at most 1,000 bytes .* found 1,100 up to 'b'"):
        unpacked(archive, Limits(total_bytes=1000))
    assert len(unpacked(archive, Limits(total_bytes=1100))) == 2


def test_more_files_than_the_limit_are_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", *((str(i), b"") for i in range(6)))
    with pytest.raises(DataError, match="Expected at most 5 files"):
        unpacked(archive, Limits(total_bytes=1000, members=5))
    assert len(unpacked(archive, Limits(total_bytes=1000, members=6))) == 6


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr("a", b"1")
            content.writestr("./a", b"2")
    else:
        write_tar(archive, ("a", b"1"), ("./a", b"2"))
    with pytest.raises(DataError, match=r"Expected every file once, found '\./a'"):
        unpacked(archive)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_cannot_be_file_and_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    archive = write_tar(tmp_path / "x.tar", *((name, b"x") for name in names))
    with pytest.raises(DataError, match="in the place of"):
        unpacked(archive)


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_what_is_no_archive_is_told(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"x.{suffix}"
    archive.write_bytes(b"<html>" * 1000)
    with pytest.raises(DataError, match=r"Expected a whole archive at .* found damage"):
        unpacked(archive)


def test_a_tar_that_ends_in_a_file_is_damaged(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", ("a", bytes(5000)))
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(DataError, match="found damage"):
        unpacked(archive)


def test_a_flipped_bit_in_a_zip_is_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as content:
        content.writestr("a", b"0123456789")
    damaged = (tmp_path / "x.zip").read_bytes().replace(b"0123456789", b"0123556789")
    (tmp_path / "x.zip").write_bytes(damaged)
    with pytest.raises(DataError, match="found damage: Bad CRC-32"):
        unpacked(tmp_path / "x.zip")
