"""`ossa weights get`, against a server with a small file in place of the official one."""

import hashlib
from pathlib import Path

import pytest
from file_server import FileServer, served
from running import Ossa

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def get(ossa: Ossa, server: FileServer, folder: Path, *options: str) -> tuple[int, str]:
    """Returns the exit code, and what is said on stderr."""
    place = ("--mirror", server.address, "--output", str(folder))
    done = ossa("weights", "get", "yolov5s", *place, *options)
    return done.exit_code, done.stderr


def test_the_file_is_fetched_once_its_licence_is_accepted(ossa: Ossa, tmp_path: Path) -> None:
    with served() as server:
        server.files["/yolov5s.pt"] = CONTENT
        code, said = get(ossa, server, tmp_path, "--sha256", SHA256)
        assert (code, server.requests, list(tmp_path.iterdir())) == (2, [], [])
        assert "AGPL-3.0" in said
        code, said = get(ossa, server, tmp_path, "--sha256", SHA256, "--accept-license")
        assert (code, (tmp_path / "yolov5s.pt").read_bytes()) == (0, CONTENT)
        assert f"next: ossa val --weights {tmp_path / 'yolov5s.pt'}" in said


def test_a_file_of_another_checksum_is_removed(ossa: Ossa, tmp_path: Path) -> None:
    with served() as server:
        server.files["/yolov5s.pt"] = CONTENT
        code, said = get(ossa, server, tmp_path, "--sha256", "0" * 64, "--accept-license")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert f"with {SHA256}" in said


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--accept-license",), 2, "Expected --sha256 with the 64 hex digits of yolov5s.pt"),
        (("--accept-license", "--sha256", "beef"), 2, "found beef"),
        (("--accept-license", "--sha256", SHA256), 2, "found status 404"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    ossa: Ossa, tmp_path: Path, options: tuple[str, ...], code: int, expected: str
) -> None:
    with served() as server:
        ended, said = get(ossa, server, tmp_path, *options)
    assert (ended, len(said.splitlines()) <= 2) == (code, True)
    assert expected in said


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n.pt"])
def test_a_missing_preset_says_where_it_comes_from(ossa: Ossa, name: str) -> None:
    done = ossa("export", "--weights", name)
    assert done.exit_code == 2
    assert "'ossa weights get yolov5n'" in done.stderr
