import hashlib
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ossa.errors import CheckpointError
from ossa.files import (
    folder_of_results,
    new_folder,
    open_regular,
    open_to_append,
    read_regular,
    sha256_of,
    write_atomically,
    write_json_atomically,
    write_text_atomically,
)


def test_the_hash_of_a_file_is_the_published_one_of_abc(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    # The example of FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


def test_the_hash_of_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no such file .*gone\.pt"):
        sha256_of(tmp_path / "gone.pt")


def test_bytes_and_writers_give_the_same_file_and_leave_nothing_else(tmp_path: Path):
    write_atomically(tmp_path / "a", b"bones")
    write_atomically(tmp_path / "b", lambda file: file.write(b"bones"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"bones", "b": b"bones"}


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path):
    write_atomically(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "last.pt").write_bytes(b"old")

    def write_half(file):
        file.write(b"ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "last.pt", write_half)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("last.pt", b"old")]


def _bytes(file):
    file.write(bytes(200_000))


def _torch_save(file):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(50_000)}, file)


@pytest.mark.parametrize("write", [_bytes, _torch_save])
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_write_that_the_system_refuses_half_way_leaves_the_old_file(tmp_path: Path, write):
    import resource

    target = tmp_path / "last.pt"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError) as raised:
            write_atomically(target, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.path == target
    assert str(raised.value).startswith(f"Could not write it: file too large ({target}). What was")
    assert "--resume" in str(raised.value)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("last.pt", b"old")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path):
    def write_to_full_disk(file):
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"new")

    with pytest.raises(CheckpointError, match=r"no space left on device .* What was .* free some"):
        write_atomically(tmp_path / "last.pt", write_to_full_disk)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_or_a_file_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(CheckpointError, match=f"Could not write it: n.*{folder}.x"):
            write_atomically(tmp_path / folder / "x", b"")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write into any folder"
)
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path):
    tmp_path.chmod(0o555)
    with pytest.raises(CheckpointError, match=r"permission denied.*choose a folder"):
        write_atomically(tmp_path / "x", b"")


def test_a_runtime_error_of_the_writer_itself_is_not_called_a_full_disk(tmp_path: Path):
    def fail(file):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        write_atomically(tmp_path / "x", fail)


def test_text_is_utf8(tmp_path: Path):
    write_text_atomically(tmp_path / "x", "é")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa9"


def test_json_has_null_for_what_is_not_finite_and_the_value_stays_as_it_was(tmp_path: Path):
    value = {"ap": math.nan, "rows": [(1.5, math.inf), -math.inf], "name": "é"}
    write_json_atomically(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"ap": None, "rows": [[1.5, None], None], "name": "é"}
    assert text.endswith("}\n")
    assert math.isnan(value["ap"])


def test_a_folder_gets_the_next_free_number(tmp_path: Path):
    wanted = tmp_path / "runs" / "first"
    assert [new_folder(wanted).name for _ in range(3)] == ["first", "first-2", "first-3"]


def test_an_empty_folder_is_used_and_one_with_a_file_is_not(tmp_path: Path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    assert new_folder(tmp_path / "empty") == tmp_path / "empty"
    assert new_folder(tmp_path / "full") == tmp_path / "full-2"
    assert new_folder(tmp_path / "file") == tmp_path / "file-2"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "run"), range(64)))
    assert len(set(folders)) == 64


def test_a_folder_of_results_keeps_only_what_was_written(tmp_path: Path):
    with folder_of_results(tmp_path / "runs" / "a") as folder:
        assert new_folder(folder) == tmp_path / "runs" / "a-2"
        (folder / "result").touch()
    assert [file.name for file in folder.iterdir()] == ["result"]
    assert new_folder(folder) == tmp_path / "runs" / "a-3"
    with folder_of_results(folder) as empty:
        assert empty == tmp_path / "runs" / "a-4"
    with folder_of_results(tmp_path / "new" / "b"):
        pass
    (tmp_path / "given").mkdir()
    with folder_of_results(tmp_path / "given") as given:
        assert given == tmp_path / "given"
    assert not empty.exists()
    assert not (tmp_path / "new").exists()
    assert list(given.iterdir()) == []


def test_a_folder_of_a_process_that_was_killed_has_no_mark_and_is_free(tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from ossa.files import new_folder;"
        "print(new_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == str(tmp_path / "a").encode()
        assert new_folder(tmp_path / "a") == tmp_path / "a-2"  # while it lives
        owner.kill()
    assert list((tmp_path / "a").iterdir()) == []
    assert new_folder(tmp_path / "a") == tmp_path / "a"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="not a directory"):
        new_folder(tmp_path / "file" / "run")


def test_a_large_file_is_hashed_like_its_bytes(tmp_path: Path):
    content = bytes(range(256)) * 4096
    write_atomically(tmp_path / "large", content)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_a_link_to_nothing_is_no_place_for_a_folder(tmp_path: Path):
    (tmp_path / "link").symlink_to("nothing")
    for path in (tmp_path / "link" / "run", tmp_path / "link" / "deeper" / "run"):
        with pytest.raises(CheckpointError, match="not a directory"):
            new_folder(path)


def test_a_regular_file_is_opened_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", most_bytes=5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, of which at most 4 are read"):
        read_regular(tmp_path / "file", most_bytes=4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe and no regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device and no regular file"):
        open_regular("/dev/zero")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="a name that no file can have"):
        open_regular("a\0b")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux alone has it")
def test_a_file_of_the_system_that_hides_its_size_is_not_read() -> None:
    with pytest.raises(OSError, match="more bytes than the file says"):
        read_regular("/proc/self/environ", most_bytes=10**6)


def test_what_is_added_to_a_file_goes_through_no_link_or_pipe_that_lay_there(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "log"):
        for word in (b"a", b"b"):
            with open_to_append(tmp_path / name) as file:
                file.write(word)
        assert (tmp_path / name).read_bytes() == b"ab"
    assert (tmp_path / "precious").read_text() == "mine"
