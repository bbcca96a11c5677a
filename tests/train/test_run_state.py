"""A run's folder has one owner, its state holds the log, and changed images are noticed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import (
    BATCHES,
    CtrlC,
    Notes,
    config_of,
    log_without_times,
)

from ossa.data import cache_files
from ossa.data.cache_files import content_fingerprint
from ossa.data.reading import read_data
from ossa.errors import CheckpointError, ConfigError, DataError
from ossa.files import held, is_held
from ossa.train.loop import train
from ossa.train.resume import STATE_FILE
from ossa.train.run_folder import LOG_FILE, RECORD_FILE, read_log, read_record

HOLDS = """
import sys, time
from pathlib import Path
from ossa.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    {then}
"""


@contextmanager
def another_owner(folder: Path, then: str = "time.sleep(60)") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDS.format(then=then), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_training_in_a_folder_is_refused_by_name(scenes: Path, tmp_path: Path):
    with another_owner(tmp_path) as owner:
        assert is_held(tmp_path)
        with pytest.raises(ConfigError, match=f"in use by process {owner.pid} on "):
            train(config_of(scenes), tmp_path)
    assert not (tmp_path / LOG_FILE).exists()


def test_a_killed_owner_holds_nothing_although_its_workers_live_on(tmp_path: Path):
    forks = "import os; child = os.fork(); time.sleep(60)"
    with another_owner(tmp_path, forks) as owner:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert not is_held(tmp_path)
        with held(tmp_path):
            assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_an_owner_may_hold_twice_and_leaves_no_word_behind(tmp_path: Path):
    with held(tmp_path):
        with held(tmp_path):
            pass
        assert is_held(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", [".lock", ".lock-owner"])
def test_a_link_that_came_with_the_folder_leads_no_owner_elsewhere(tmp_path: Path, name: str):
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    folder.mkdir()
    (folder / name).symlink_to(precious)
    with suppress(CheckpointError), held(folder):
        assert name == ".lock-owner"
    assert precious.read_text() == "mine"


def test_an_owner_waits_for_no_reader_of_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / ".lock-owner")
    with held(tmp_path):
        assert "process" in (tmp_path / ".lock-owner").read_text()


def test_who_waits_is_told_for_whom_and_goes_on_when_that_ends(tmp_path: Path):
    told: list[str] = []
    with another_owner(tmp_path, "time.sleep(1)") as owner, held(tmp_path, on_wait=told.append):
        pass
    assert told == [f"process {owner.pid} on {os.uname().nodename}"]


LOGS: dict[str, Callable[[str], str | None]] = {
    "deleted": lambda log: None,
    "duplicated and cut": lambda log: log + log[: len(log) // 2],
    "edited": lambda log: log.replace('"epoch": 0', '"epoch": 7'),
    "junk": lambda log: "\x00\x01[[[[",
}


@pytest.mark.parametrize("loss", ["NaN", "1" + "0" * 400])
def test_every_number_of_a_log_fits_into_a_float(tmp_path: Path, loss: str):
    row = f'{{"epoch": 0, "train_box": {loss}, "train_objectness": 1, "train_classes": 1}}'
    (tmp_path / LOG_FILE).write_text(row)
    assert not math.isfinite(read_log(tmp_path)[0]["train_box"])


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ({"batch_number": 999 * BATCHES}, "found 999 epochs"),
        ({"metrics": {}}, "metrics of none"),
        ({"metrics": {"last": {"epoch": 1, "ap": 0, "ap50": 0}, "best": {}}}, "of last, best"),
    ],
)
def test_a_state_of_other_epochs_or_without_their_metrics_is_refused(
    uninterrupted: Path,
    scenes: Path,
    tmp_path: Path,
    lie: dict[str, Any],
    found: str,
):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    (folder / RECORD_FILE).unlink()
    state = torch.load(folder / STATE_FILE, weights_only=True)
    state["progress"].update(lie)
    torch.save(state, folder / STATE_FILE)
    with pytest.raises(CheckpointError, match=f"expected metrics of at most .* {found}"):
        train(config_of(scenes), folder, resume=True)


@pytest.mark.parametrize("damage", LOGS)
def test_a_resumed_log_is_that_of_a_run_without_a_stop(
    uninterrupted: Path,
    scenes: Path,
    tmp_path: Path,
    damage: str,
):
    # The state after the last epoch: what is left is to write the record.
    shutil.copy(uninterrupted / STATE_FILE, tmp_path)
    log = LOGS[damage]((uninterrupted / LOG_FILE).read_text())
    if log is not None:
        (tmp_path / LOG_FILE).write_text(log)
    train(config_of(scenes), tmp_path, resume=True)
    assert (tmp_path / LOG_FILE).read_bytes() == (uninterrupted / LOG_FILE).read_bytes()


def test_a_log_that_is_lost_in_the_middle_of_a_run_is_whole_in_the_end(
    uninterrupted: Path,
    scenes: Path,
    tmp_path: Path,
):
    train(config_of(scenes), tmp_path, callback=CtrlC(BATCHES + 1))
    (tmp_path / LOG_FILE).unlink()
    train(config_of(scenes), tmp_path, resume=True)
    assert log_without_times(tmp_path) == log_without_times(uninterrupted)


def as_an_older_state(run: Path, folder: Path, **identity: str) -> None:
    """Writes a run's state without what older versions did not save."""
    state = torch.load(run / STATE_FILE, weights_only=True)
    del state["progress"]["rows"], state["identity"]["images"]
    torch.save(state | {"identity": state["identity"] | identity}, folder / STATE_FILE)


def test_an_older_state_goes_on_with_its_log(uninterrupted: Path, scenes: Path, tmp_path: Path):
    as_an_older_state(uninterrupted, tmp_path)
    log = (uninterrupted / LOG_FILE).read_text()
    (tmp_path / LOG_FILE).write_text(log + log.splitlines()[0] + "\n{")
    callback = Notes()
    assert train(config_of(scenes), tmp_path, resume=True, callback=callback).status == "done"
    assert (tmp_path / LOG_FILE).read_text() == log
    assert not [note for note in callback.notes if "lacks" in note]


def test_an_older_state_says_which_epochs_its_log_lost(
    uninterrupted: Path,
    scenes: Path,
    tmp_path: Path,
):
    as_an_older_state(uninterrupted, tmp_path)
    (tmp_path / LOG_FILE).write_text((uninterrupted / LOG_FILE).read_text().splitlines()[1])
    callback = Notes()
    train(config_of(scenes), tmp_path, resume=True, callback=callback)
    assert [row["epoch"] for row in read_log(tmp_path)] == [1]
    assert sum("log.jsonl lacks 1 of 2 epochs" in note for note in callback.notes) == 1


def test_changed_pixels_are_refused(uninterrupted: Path, scenes: Path, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(uninterrupted / STATE_FILE, folder)
    for split in ("train", "val"):
        changed = shutil.copytree(scenes.parent, tmp_path / split)
        first, second = sorted((changed / "images" / split).iterdir())[:2]
        shutil.copy(first, second)
        with pytest.raises(CheckpointError, match="was saved with other images than are given now"):
            train(config_of(changed / "data.yaml"), folder, resume=True)
    # A state of before images were hashed cannot tell, and goes on.
    as_an_older_state(uninterrupted, folder)
    assert train(config_of(changed / "data.yaml"), folder, resume=True).status == "done"


def test_images_that_did_not_change_are_hashed_once(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_files, "_SETTLED_NS", -(10**18))
    read: list[Path] = []
    real = cache_files.sha256_of
    monkeypatch.setattr(cache_files, "sha256_of", lambda file: (read.append(file), real(file))[1])
    copy = shutil.copytree(scenes.parent, tmp_path / "scenes")
    index = read_data(copy, "train").index
    before = content_fingerprint(index)
    assert (content_fingerprint(index), len(read)) == (before, len(index))
    content_fingerprint(read_data(copy, "val").index)
    assert len(read) == len(index) + 4
    # Of two equal times and sizes the inode's tells what was written over.
    image = index.image_path(3)
    times = image.stat()
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_fingerprint(index) != before
    assert read[-1] == image
    assert len(read) == len(index) + 5
    for file in (tmp_path / "cache").glob("contents-*"):
        file.write_bytes(b"damaged")
    assert content_fingerprint(index) != before
    image.unlink()
    with pytest.raises(DataError, match=f"Could not read it: .*{image}"):
        content_fingerprint(index)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


RECORDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown key": lambda r: r.update(surprise=1),
    "a missing key": lambda r: r.pop("metrics"),
    "null metrics": lambda r: r.update(metrics=None),
    "metrics that are a list": lambda r: r.update(metrics=[1, 2]),
    "a metric that is a word": lambda r: r["metrics"]["last"].update(ap="high"),
    "a metric that is not a number": lambda r: r["metrics"]["last"].update(ap=float("nan")),
    "a metric without an end": lambda r: r["metrics"]["last"].update(ap=float("inf")),
    "junk in a metric": lambda r: r["metrics"]["last"].update(ap=nested(50)),
    "deep junk": lambda r: r.update(times=nested(900)),
    "a cost that is a word": lambda r: r["cost"].update(params="many"),
    "a metric that no float holds": lambda r: r["metrics"]["last"].update(ap=10**400),
    "a metric that no integer of numpy holds": lambda r: r["metrics"]["best"].update(epoch=10**20),
    "a cost that no float holds": lambda r: r["cost"].update(flops=10**400),
    "a negative cost": lambda r: r["cost"].update(params=-1),
    "times beyond all": lambda r: r["times"].update(train=1e300),
    "times that are null": lambda r: r["times"].update(train=None),
    "a seed that is a truth": lambda r: r.update(seed=True),
    "an unknown status": lambda r: r.update(status="great"),
    "a file elsewhere": lambda r: r["files"].update({"../../passwd": "0" * 64}),
    "a hash that is a number": lambda r: r["files"].update({"log.jsonl": 7}),
    "no digest": lambda r: r.pop("digest"),
    "no schema": lambda r: r.pop("schema"),
    "a schema in words": lambda r: r.update(schema="2"),
    "a schema that is a truth": lambda r: r.update(schema=True),
    "schema 0": lambda r: r.update(schema=0),
    "a schema of tomorrow": lambda r: r.update(schema=10**30),
    "an environment of numbers": lambda r: r.update(environment={"torch": 2}),
}


@pytest.mark.parametrize("damage", RECORDS)
def test_a_damaged_record_is_refused_in_a_sentence(
    uninterrupted: Path,
    tmp_path: Path,
    damage: str,
):
    record = json.loads((uninterrupted / RECORD_FILE).read_text())
    RECORDS[damage](record)
    (tmp_path / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(DataError) as refused:
        read_record(tmp_path)
    assert str(tmp_path / RECORD_FILE) in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 2',
        b"[" * 100_000,
        b'{"schema": ' + b"9" * 9999,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_record_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(DataError, match="found a damaged one"):
        read_record(tmp_path)


def test_a_record_is_a_regular_file_of_a_bounded_size(tmp_path: Path):
    os.mkfifo(tmp_path / RECORD_FILE)
    with pytest.raises(DataError, match="a pipe and no regular file"):
        read_record(tmp_path)
    (tmp_path / RECORD_FILE).unlink()
    with (tmp_path / RECORD_FILE).open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match="found 1,000,000,000,000 bytes"):
        read_record(tmp_path)


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_records_of_every_older_schema_are_read(
    uninterrupted: Path,
    tmp_path: Path,
    schema: int,
):
    record = json.loads((uninterrupted / RECORD_FILE).read_text())
    assert record.pop("image_fingerprint").count("-") == 1
    assert len(record.pop("digest")) == 64
    (tmp_path / RECORD_FILE).write_text(json.dumps(record | {"schema": schema}))
    read = read_record(tmp_path)
    assert (read.schema, read.image_fingerprint, read.digest) == (4, None, None)
    assert read.metrics == record["metrics"]
