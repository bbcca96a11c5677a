"""Fixtures shared by all tests, and one thread for each process of them.

Several threads make small networks slower, the more so where processes test side by side.
"""

import gc
import os
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Spares the garbage collector the hundred thousands of objects that the imports made.

    They live as long as the process; looking through them again and again takes a fifth of the
    processor time of tests that build networks.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Lets them go at the end: libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps indexes out of the user's cache, in the processes that tests start, too."""
    os.environ["OSSA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights: $OSSA_SHARED, or `shared` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("OSSA_SHARED", default))
    if not (folder / "data" / "README.md").is_file():
        pytest.skip(f"no real data at {folder} (set OSSA_SHARED)")
    return folder
