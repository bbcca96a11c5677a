"""Downloads from a server that breaks off, lies and sends the wrong file."""

import io
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import md5, sha256
from pathlib import Path

import pytest
from file_server import Answer, FileServer, served

from ossa.data.download import check_address, download, unpack
from ossa.data.public_datasets import Archive
from ossa.errors import ConfigError, DataError, RunFailed

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served() as server:
        server.files["/a.zip"] = CONTENT
        yield server


def get(
    server: FileServer, folder: Path, *, content: bytes = CONTENT, checksum: str | None = None
) -> Path:
    """Downloads /a.zip, with two further attempts without a wait, and returns where it is put."""
    archive = Archive("a.zip", len(content), checksum or f"sha256:{sha256(content).hexdigest()}")
    download(f"{server.address}/a.zip", folder / "a.zip", archive=archive, waits=(0, 0))
    return folder / "a.zip"


def test_a_file_arrives_whole_and_nothing_else_stays(server: FileServer, tmp_path: Path) -> None:
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_an_md5_sum_is_checked_as_well(server: FileServer, tmp_path: Path) -> None:
    assert get(server, tmp_path, checksum=f"md5:{md5(CONTENT).hexdigest()}").exists()


def test_what_breaks_off_goes_on_at_the_byte_where_it_stopped(
    server: FileServer, tmp_path: Path
) -> None:
    server.answers = [Answer(sends=1000), Answer(sends=500)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-", "bytes=1500-"]


def test_after_the_last_attempt_the_next_call_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(sends=1000), Answer(status=503), Answer(sends=500)]
    with pytest.raises(RunFailed, match=r"found 1,500 after 3 attempts .* Start again"):
        get(server, tmp_path)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:1500]
    server.requests.clear()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/a.zip", "bytes=1500-")]


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(sends=HALF), Answer(knows_ranges=False)]
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [len(CONTENT) + 7, len(CONTENT) - 7])
def test_a_server_that_announces_another_length_is_refused(
    server: FileServer, tmp_path: Path, announced: int
) -> None:
    server.answers = [Answer(announces=announced)]
    with pytest.raises(DataError, match=f"found a length of {announced}"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_does_not_end_is_cut_off(server: FileServer, tmp_path: Path) -> None:
    server.answers = [Answer(announces=-1, appends=bytes(1 << 20))]
    with pytest.raises(DataError, match=r"Expected 102,400 bytes .* Removed"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_removes_the_file(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.zip"] = bytes(len(CONTENT))
    with pytest.raises(DataError, match=r"Expected 102,400 bytes with sha256 .* Removed .*part"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_checked_and_not_fetched(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    get(server, tmp_path)
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="found 102,399"):
        get(server, tmp_path)
    assert server.requests == []


def test_a_missing_file_is_told_at_once(server: FileServer, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(DataError, match="found status 404"):
        get(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_tried_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [Answer(status=status)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_redirection_keeps_the_place(server: FileServer, tmp_path: Path) -> None:
    server.files["/elsewhere"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:HALF])
    server.answers = [Answer(status=302, location="/elsewhere")]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("/elsewhere", f"bytes={HALF}-")


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/a.zip", "file:///etc/hostname"])
def test_a_redirection_away_from_http_is_not_followed(
    server: FileServer, tmp_path: Path, location: str
) -> None:
    server.answers = [Answer(status=302, location=location)] * 3
    with pytest.raises((DataError, RunFailed)):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = FileServer(address=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(RunFailed, match=r"found 0 after 3 attempts \(connection refused\)"):
            get(nobody, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org",
        "file:///etc",
        "example.org",
        "http://",
        "http://[",
        "http://a b",
        "http://x:y",
        "http://ä/",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Expected an address such as"):
        check_address(url)


def tar_with(folder: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return folder / "a.tar"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_an_archive_is_unpacked_byte_by_byte(tmp_path: Path, suffix: str) -> None:
    if suffix == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("VOC/a.txt", b"content")
    else:
        tar_with(tmp_path, tarfile.TarInfo("VOC/a.txt"), b"content")
    unpack(tmp_path / f"a.{suffix}", tmp_path / "out")
    assert (tmp_path / "out/VOC/a.txt").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_nothing_is_unpacked_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    with suppress(DataError):  # absolute names are unpacked below the folder
        unpack(tar_with(tmp_path, tarfile.TarInfo(name), b"x"), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "a.zip", "out"]
    assert not Path("/tmp/out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_tar_with_a_device_or_a_link_that_leads_out_is_refused(
    tmp_path: Path, kind: bytes
) -> None:
    member = tarfile.TarInfo("member")
    member.type, member.linkname = kind, "../../etc/passwd"
    with pytest.raises(DataError, match="Expected an intact archive"):
        unpack(tar_with(tmp_path, member), tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(DataError, match="Expected an intact archive"):
        unpack(tmp_path / name, tmp_path / "out")
