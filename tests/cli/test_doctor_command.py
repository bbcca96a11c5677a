"""`ossa doctor`."""

import json
import os

import pytest
from running import Ossa


def test_what_an_issue_report_needs_is_in_the_json(ossa: Ossa) -> None:
    found = json.loads(ossa("doctor", "--json").stdout)
    assert {"torch", "timm", "hotcoco"} <= set(found["libraries"])
    assert 1 <= found["processors_allowed"] <= found["processors"] == os.cpu_count()
    assert found["free_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("policy", "free", "expected"),
    [
        ("PASSIVE", 1_500_000_000, "1.5 GB of memory are free: use a smaller --batch"),
        ("ACTIVE", 8_000_000_000, "OMP_WAIT_POLICY is not PASSIVE"),
    ],
)
def test_what_makes_training_slow_is_named(
    ossa: Ossa, monkeypatch: pytest.MonkeyPatch, policy: str, free: int, expected: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr("ossa.cli.doctor.free_memory", lambda: free)
    monkeypatch.setattr("ossa.cli.doctor.others_busy", lambda: None)
    done = ossa("doctor")
    assert done.stderr.startswith(expected)
    assert f"{free / 1e9:.1f} GB" in done.stdout
