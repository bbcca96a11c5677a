"""Tries every architecture of the installed timm, and ours, as a backbone and writes the table.

    python benchmarks/probe_backbones.py --processes 2

Half an hour of one core, nothing downloaded and hardly any memory: all is built on torch's meta
device. A second call goes on where the first was stopped and tries again what was too slow.
With --summary it only prints, as Markdown, what the table says: how many are supported, and why
the others are not.
"""

import argparse
import multiprocessing
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import FrameType

import timm
import torch

from ossa.models.backbones import catalog
from ossa.models.backbones.catalog import CatalogRow, parse_table, write_table
from ossa.models.detector import known_backbones
from ossa.models.probe import probe_backbone

_FOLDER = Path(catalog.__file__).parent / "table"
_TOO_SLOW = "took more than"
_KINDS = (
    ("no map at one of the strides 8, 16 and 32", "are missing$"),
    ("patches of another size than 8, 14, 16 or 32", "pyramid$"),
    ("square images of one size only", "^takes only square"),
    ("timm gives no feature maps of it", "^gives no feature maps"),
    ("images of one of the sizes fail", "^cannot take"),
    ("its maps are others than it declares", "but returns|^returns maps"),
    ("not tried to the end", f"^{_TOO_SLOW}"),
)
"""What to call the reasons that match an expression."""


class _TooSlow(BaseException):
    """No `Exception`, which those who try a thousand models catch."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Probe every architecture as a backbone.")
    parser.add_argument("--table", type=Path, default=_FOLDER / f"timm-{timm.__version__}.csv")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=120, help="seconds for one architecture")
    parser.add_argument("--summary", action="store_true", help="print what the table says")
    arguments = parser.parse_args()
    table: Path = arguments.table
    rows = parse_table(table.read_text()) if table.exists() else {}
    if not arguments.summary:
        probe_all(rows, table, processes=arguments.processes, timeout=arguments.timeout)
    print(summary(rows.values()))


def probe_all(rows: dict[str, CatalogRow], table: Path, *, processes: int, timeout: int) -> None:
    """Adds the rows that are missing, and writes the table after each of them."""
    left = [name for name in known_backbones() if name not in rows or _gave_up(rows[name])]
    print(f"{len(rows)} known, {len(left)} to be probed", file=sys.stderr)
    # Not forked: torch's threads do not live on in a copy of the process.
    with multiprocessing.get_context("spawn").Pool(processes, _start) as pool:
        found = pool.imap_unordered(partial(_probe, timeout=timeout), left)
        for done, row in enumerate(found, start=1):
            rows[row.model] = row
            write_table(table, rows.values())
            print(f"{done}/{len(left)} {row.model}: {row.reason or 'ok'}", file=sys.stderr)


def summary(rows: Iterable[CatalogRow]) -> str:
    """Returns a Markdown table of the kinds of reasons with numbers and examples."""
    rows = list(rows)
    by_kind: dict[str, list[CatalogRow]] = defaultdict(list)
    for row in rows:
        by_kind[_kind(row)].append(row)
    lines = ["| | architectures | for example |", "|---|---|---|"]
    for kind, members in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        examples = ", ".join(f"`{row.model}`" for row in members[:: -(-len(members) // 3)])
        lines.append(f"| {kind} | {len(members)} | {examples} |")
    return "\n".join([*lines, f"| in all | {len(rows)} | |"])


def _kind(row: CatalogRow) -> str:
    if row.supported:
        return "supported"
    reason = row.reason or ""
    return next((kind for kind, pattern in _KINDS if re.search(pattern, reason)), "other")


def _gave_up(row: CatalogRow) -> bool:
    return (row.reason or "").startswith(_TOO_SLOW)


def _start() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _TooSlow


def _probe(name: str, *, timeout: int) -> CatalogRow:
    signal.alarm(timeout)
    try:
        return probe_backbone(name)
    except _TooSlow:
        return CatalogRow(name, reason=f"{_TOO_SLOW} {timeout} s to be probed")
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
