"""How long `ossa data check` takes on annotations of COCO's size, and how much memory.

    python benchmarks/data_check.py
    python benchmarks/data_check.py --images 118000 --boxes 860000

Generates the JSON file of `benchmarks/index.py` in a temporary folder, in the layout of
instances_train2017.json, with an empty file for each image, and checks it by the command, without
--images: once as it is read first, and once more with the index from the cache. Prints one JSON
object: `first` and `later`, each with
- `cpu_seconds`: of the whole process, imports included, user and system;
- `seconds`: the same by the clock;
- `peak_bytes`: the most memory that the process held.
Takes 1 GB of disk. No time is promised by a test: machines differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from index import write_coco

_SETTLING_SECONDS = 3
"""No index is kept of files that changed in the last two seconds before they were read."""
_CHECK = r"""
import json, re, sys, time
from pathlib import Path
from ossa.cli.main import app
start = time.perf_counter()
try:
    app(["data", "check", sys.argv[1], "--json"])
except SystemExit as end:
    # Not getrusage: a new process has the peak of the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    measured = {
        "exit_code": end.code,
        "cpu_seconds": time.process_time(),
        "seconds": time.perf_counter() - start,
        "peak_bytes": int(peak) * 1024,
    }
    Path(sys.argv[2]).write_text(json.dumps(measured))
"""


def _check(folder: Path) -> dict[str, Any]:
    """Returns what a process of its own took to check the data set, and what it found."""
    measured = folder / "measured.json"
    output = subprocess.run(
        [sys.executable, "-c", _CHECK, str(folder / "data"), str(measured)],
        env=os.environ | {"OSSA_CACHE": str(folder / "cache")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = json.loads(output)
    split = found["splits"]["train"]
    return {
        **json.loads(measured.read_text()),
        **{key: split[key] for key in ("num_images", "num_boxes", "num_crowd")},
        **{key: found[key] for key in ("num_faults", "num_remarks")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a check of COCO's annotations takes.")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco(folder / "data", options.images, options.boxes, np.random.default_rng(0))
        time.sleep(_SETTLING_SECONDS)
        results = {"first": _check(folder), "later": _check(folder)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
