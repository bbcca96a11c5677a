"""The demo, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossa.train.run_folder import read_log


def _demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ossa", "demo", "--output", str(folder), "--json"]
    # With all the threads that a user's terminal gives it.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_both_detectors_of_the_demo_learn_the_scenes_and_know_little_after_one_epoch(
    tmp_path: Path,
) -> None:
    finished = _demo(tmp_path / "demo")
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(finished.stdout)
    assert len(rows) == 2
    for row in rows:
        # 0.83 to 0.93, by processor: four epochs are few.
        assert row["ap50"] >= 0.75, row
        assert row["ap"] >= 0.50, row
        run = tmp_path / "demo" / "study" / "runs" / f"{row['model']}-seed0"
        first_epoch = read_log(run)[0]
        assert first_epoch["ap50"] < row["ap50"] / 2
    page = (tmp_path / "demo" / "report" / "index.html").read_text()
    assert "cspdarknet_n" in page
    assert "data:image/jpeg;base64," in page
    # Namespaces of SVG are names, not addresses: what would be fetched is a source or a link.
    for attribute in ("src=", "href="):
        assert f'{attribute}"http' not in page


@pytest.mark.slow
def test_the_demo_never_overwrites_a_folder(tmp_path: Path) -> None:
    taken = tmp_path / "demo"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    finished = _demo(taken, "--epochs", "1")
    assert finished.returncode == 0, finished.stderr
    assert [entry.name for entry in taken.iterdir()] == ["mine.txt"]
    assert (tmp_path / "demo-2" / "report" / "index.html").is_file()
