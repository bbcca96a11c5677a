"""Whether the memory of a training grows with its epochs: every process of it, after every epoch.

    python benchmarks/memory.py --data coco128 --epochs 40 --workers 2 --cache disk

Starts `ossa train` and looks at it from outside, in /proc (Linux), whenever an epoch is logged; not
after the last, when processes end. Prints one JSON object; for each process and for `all` together,
in mebibytes,
- `pss`: its memory, what it shares with others divided by their number;
- `anonymous`: the part of it that is no file and no shared memory: where objects are;
- `shared`: the part of it that is shared memory: batches, and a cache in memory; the rest are
  files, mostly libraries, of which a process has the less the more programs use them;
- each after every epoch, as the median of the first and of the last quarter of the epochs, and
  `per_epoch`, the median of the slopes between any two epochs of the last three quarters.
Processes that are there after more than half of the epochs are told, the oldest first: that which
trains, then those that load images.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scipy.stats import theilslopes

from ossa.train.provenance import environment
from ossa.train.run_folder import LOG_FILE

_KINDS = {"pss": "Pss", "anonymous": "Pss_Anon", "shared": "Pss_Shmem"}
_POLL_SECONDS = 0.2

Memory = Mapping[str, float]
"""Mebibytes of each kind."""


def processes_of(first: int) -> Iterator[int]:
    """Yields a process and all that it has started, the oldest first."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in brackets, may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    waiting = [first]
    while waiting:
        process = waiting.pop(0)
        yield process
        waiting.extend(sorted(child for child, parent in parents.items() if parent == process))


def memory_of(process: int) -> Memory:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kibibytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return {name: kibibytes[kind] / 1024 for name, kind in _KINDS.items()}


def watched(command: Sequence[str], log: Path) -> list[dict[int, Memory]]:
    """Runs a training and returns after every epoch the memory of its processes."""
    samples: list[dict[int, Memory]] = []
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while training.poll() is None:
        time.sleep(_POLL_SECONDS)
        if log.exists() and log.read_text().count("\n") > len(samples):
            sample = {}
            for process in processes_of(training.pid):
                with suppress(OSError):  # it has ended meanwhile
                    sample[process] = memory_of(process)
            samples.append(sample)
    if training.returncode:
        sys.exit(f"the training ended with {training.returncode}")
    return samples


def together(parts: Iterable[Memory]) -> Memory:
    return dict(sum((Counter(part) for part in parts), Counter()))


def told(memory: Sequence[Memory]) -> dict[str, Any]:
    quarter = len(memory) // 4
    result = {}
    for kind in _KINDS:
        values = [one[kind] for one in memory]
        slope, *_ = map(float, theilslopes(values[quarter:]))
        result[kind] = {
            "first_quarter": round(statistics.median(values[:quarter]), 1),
            "last_quarter": round(statistics.median(values[-quarter:]), 1),
            "per_epoch": round(slope, 3),
            "after_each": [round(value, 1) for value in values],
        }
    return result


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ossa", "train", "--data", arguments.data]
        settings = {
            "model": arguments.model,
            "imgsz": arguments.imgsz,
            "batch": arguments.batch,
            "epochs": arguments.epochs,
            "workers": arguments.workers,
            "patience": arguments.epochs,
            "project": folder,
            "name": "run",
        }
        if arguments.cache is not None:
            settings["cache"] = arguments.cache
        for option, value in settings.items():
            command += [f"--{option}", str(value)]
        if arguments.no_figures:
            command.append("--no-figures")
        samples = watched(command, Path(folder) / "run" / LOG_FILE)[: arguments.epochs - 1]
    lasting = [
        process
        for process in dict.fromkeys(process for sample in samples for process in sample)
        if sum(process in sample for sample in samples) > len(samples) / 2
    ]
    return {
        **vars(arguments),
        "epochs_seen": len(samples),
        "all": told([together(sample.values()) for sample in samples]),
        "processes": [
            told([sample[process] for sample in samples if process in sample])
            for process in lasting
        ],
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--cache", choices=["auto", "disk", "none"], default="none")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
