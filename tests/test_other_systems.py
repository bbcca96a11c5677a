"""Windows and macOS, as far as Linux can tell: without its modules and calls, under spawn."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_LINUX = """
import multiprocessing, os, signal, sys

import filelock  # which locks files there, too: by msvcrt

for module in ("fcntl", "resource"):
    sys.modules[module] = None  # an import of it fails
for owner, names in (
    (os, "EX_SOFTWARE O_DIRECTORY geteuid getloadavg memfd_create"),
    (os, "sched_getaffinity setsid statvfs"),
    (signal, "SIGKILL SIGUSR2"),
):
    for name in names.split():
        delattr(owner, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""
IMPORT_ALL = """
import importlib, pkgutil
import ossa

for module in pkgutil.walk_packages(ossa.__path__, "ossa."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
ONE_EPOCH_OF_BATCHES = """
import multiprocessing
from pathlib import Path

import ossa
from ossa.cli.main import main
from ossa.data.dataset import LetterboxedDataset
from ossa.data.loader import evaluation_loader

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    data = ossa.write_scenes(Path(sys.argv[1]), images={"train": 6, "val": 2}, seed=0)
    dataset = LetterboxedDataset(ossa.read_data(data.parent, "train").index, imgsz=64)
    loader = evaluation_loader(dataset, batch=2, workers=1)
    print(sum(len(batch.image_ids) for batch in loader), len(dataset))
"""
TRAIN = """
if __name__ == "__main__":
    sys.argv = ["ossa", *sys.argv[1:]]
    from ossa.cli.main import main
    main()
"""


def run(program: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program, from a file as spawn wants it, on a system that is not Linux."""
    program.write_text(WITHOUT_LINUX + text)
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_module_is_imported_without_what_only_linux_has(tmp_path: Path) -> None:
    done = run(tmp_path / "program.py", IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_workers_that_are_spawned_load_every_image(tmp_path: Path) -> None:
    done = run(tmp_path / "program.py", ONE_EPOCH_OF_BATCHES, str(tmp_path / "scenes"))
    assert done.returncode == 0, done.stderr
    loaded, images = map(int, done.stdout.split())
    assert loaded == images > 2


@pytest.mark.slow
def test_a_training_and_a_study_of_one_run_end_well(tmp_path: Path) -> None:
    done = run(
        tmp_path / "p.py", TRAIN, "demo", "--epochs", "1", "--output", str(tmp_path / "demo")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo/report/index.html").exists()
