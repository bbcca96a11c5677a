"""Memory that is used again stays with the process."""

import subprocess
import sys

import pytest

SIZE = 40_000_000
"""Bytes: above the largest array that glibc by itself ever keeps, 32 MiB."""
PAGES_OF_TEN_ARRAYS = """
import resource, sys
from ossa.allocator import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("another allocator")
size = int(sys.argv[2])
bytes([1]) * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytes([1]) * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Returns how often the system had to give the process a page."""
    command = [sys.executable, "-c", PAGES_OF_TEN_ARRAYS, how, str(SIZE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "another allocator" in ended.stderr:
        pytest.skip("not glibc")
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_ten_arrays_take_the_memory_of_the_first() -> None:
    assert faults("as it comes") > 5 * max(faults("kept"), 1)
