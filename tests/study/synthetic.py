"""The benchmark's generator of studies that were never trained, for the tests of reports."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_FILE = Path(__file__).parents[2] / "benchmarks" / "synthetic_study.py"


def load() -> ModuleType:
    """Returns the module of the benchmark."""
    specification = importlib.util.spec_from_file_location("synthetic_study", _FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look for their module there
    specification.loader.exec_module(module)
    return module
