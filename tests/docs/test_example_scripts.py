"""The scripts of examples/, run as a user runs them, in an empty folder."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_two_and_each_says_how_it_is_run() -> None:
    assert [example.name for example in EXAMPLES] == ["compare_backbones.py", "predict.py"]
    for example in EXAMPLES:
        assert f"python examples/{example.name}" in example.read_text()


@pytest.mark.slow
def test_predictions_are_printed_and_drawn(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "predict.py")]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(printed.stdout.splitlines()) == 5
    assert (tmp_path / "example" / "found.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_comparison_ends_in_a_table_with_intervals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "compare_backbones.py"))
    example["main"](tmp_path, num_scenes=12, epochs=1)
    *runs, _, head, first, second, note = capfd.readouterr().out.splitlines()
    assert sorted(runs) == sorted(
        f"{model}-seed{seed} done" for model in example["MODELS"] for seed in range(3)
    )
    assert head.split()[:2] == ["backbone", "params"]
    assert re.fullmatch(r"cspdarknet_n +\d\.\d\d M  \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", first)
    assert re.search(r"[+-]\d\.\d{3} \(-?\d\.\d{3} to -?\d\.\d{3}\): (not dist|better|wor)", second)
    assert note == "intervals of 95 %, over other images and other seeds"
