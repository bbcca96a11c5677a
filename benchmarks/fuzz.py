"""What reading does with twenty thousand spoilt files: the count of each outcome.

    python benchmarks/fuzz.py
    python benchmarks/fuzz.py --files 2200 --seed 1 --show 5
    python benchmarks/fuzz.py --only "coco:123"

Files of each kind that Ossa reads (COCO, VOC, YOLO, lists, data.yaml, five kinds of image) are
spoilt: bombs first, then bits, bytes, numbers, words, lines, encodings and pieces are changed at
random; with --real, files of `bccd` and `coco128` in that folder are spoilt as well. Each is read
by `read_index`, or `read_header` and `decode_image`, in this process, under a limit of two
seconds of processor time and one gigabyte of growth. An outcome is a result, a result with problems
told, or a refusal of one sentence; all others are faults of Ossa, told one by one, and exit code 1.
Linux alone. Prints a table, and the commonest messages that name a text's file but no line.
"""

import argparse
import collections
import faulthandler
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing.draw import spoilt_files
from fuzzing.outcomes import Kind, Outcome, count_kinds, read_spoilt
from fuzzing.seeds import Family, write_families

_HANG_SECONDS = 120
"""By the clock, after which a call that no signal interrupts ends the process with its stack."""


def _read_all(family: Family, count: int, seed: int, *, only: int | None) -> list[Outcome]:
    outcomes = []
    for number, (what, data) in enumerate(spoilt_files(family, count, seed)):
        if only is not None and number != only:
            continue
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        outcome = read_spoilt(family, data)
        faulthandler.cancel_dump_traceback_later()
        outcomes.append(outcome)
        if outcome.kind.forbidden or only is not None:
            said = outcome.messages[0] if outcome.messages else ""
            print(f"{family.name}:{number} ({what}) {outcome.kind.value}: {said!a}", flush=True)
    return outcomes


def _table(outcomes_of_family: dict[str, list[Outcome]]) -> str:
    kinds = list(Kind)
    head = [
        "family",
        "files",
        *(kind.value.lower() for kind in kinds),
        "slowest (s)",
        "largest (MB)",
    ]
    rows = [head, ["---"] * len(head)]
    everything = [outcome for outcomes in outcomes_of_family.values() for outcome in outcomes]
    for name, outcomes in [*outcomes_of_family.items(), ("all", everything)]:
        counts = count_kinds(outcomes)
        slowest = max(outcome.seconds for outcome in outcomes)
        largest = max(outcome.grown_bytes for outcome in outcomes) / 2**20
        numbers = [name, len(outcomes), *(counts[kind] for kind in kinds)]
        rows.append([*map(str, numbers), f"{slowest:.2f}", f"{largest:.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _template(message: str) -> str:
    """Returns a message without what differs from file to file."""
    message = re.sub(r"/[^ :,;]*/", "", message)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "N", message)[:140]


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads spoilt files and counts the outcomes.")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="folder that holds bccd and coco128")
    parser.add_argument("--only", help="family:number of one file to read again")
    parser.add_argument("--show", type=int, default=10, help="messages without a line to show")
    options = parser.parse_args()
    chosen, _, number = (options.only or "").partition(":")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        families = write_families(Path(folder), real_data=options.real)
        outcomes_of_family = {}
        for position, (name, family) in enumerate(families.items()):
            count = options.files // len(families) + (position < options.files % len(families))
            if not chosen or chosen == name:
                only = int(number) if chosen else None
                outcomes_of_family[name] = _read_all(family, count, options.seed, only=only)
    print(_table(outcomes_of_family))
    print(f"\n{time.process_time() - start:.0f} s of processor time")
    without = collections.Counter(
        _template(message)
        for name, outcomes in outcomes_of_family.items()
        if families[name].data_yaml is not None  # an image has no lines
        for outcome in outcomes
        if not outcome.kind.forbidden
        for message in outcome.without_line
    )
    print(f"{without.total()} messages on a text without a line where there could be one")
    for message, count in without.most_common(options.show):
        print(f"no line, {count} times: {message}")
    if any(o.kind.forbidden for outcomes in outcomes_of_family.values() for o in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
