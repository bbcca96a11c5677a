"""The catalog of architectures: which can be a backbone, which cannot and why, and their cost.

The table was made by probing each once (`ossa.models.probe`, `benchmarks/probe_backbones.py`) with
timm `TABLE_TIMM`, and is shipped as a CSV file.
"""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from ossa.escaping import write_csv
from ossa.files import write_text_atomically
from ossa.types import Level

TABLE_TIMM = "1.0.31"
"""The version of timm whose architectures the shipped table lists."""
TABLE_IMGSZ = 640
"""Side in pixels of the square image for which it has the FLOPs."""

_COLUMNS = ("model", "reason", "strides", "channels", "params", "flops")


@dataclass(frozen=True)
class CatalogRow:
    """One architecture as a backbone with levels at strides 8, 16 and 32."""

    model: str
    reason: str | None = None
    """Why it is not supported, as a clause whose subject is the model; None where it is."""
    levels: tuple[Level, ...] = ()
    """Empty, as params and flops are None, where it cannot be built for `TABLE_IMGSZ` pixels."""
    params: int | None = None
    """Of the backbone, its pyramid included, without classifier."""
    flops: int | None = None
    """Of the backbone for one image."""

    @property
    def supported(self) -> bool:
        return self.reason is None

    @property
    def macs(self) -> int | None:
        return None if self.flops is None else self.flops // 2


def write_table(path: Path, rows: Iterable[CatalogRow]) -> None:
    """Write rows as CSV, sorted by name; what is undefined is empty.

    Raises:
        CheckpointError: the file cannot be written.
    """
    text = io.StringIO()
    cells: list[Sequence[object]] = [_COLUMNS]
    for row in sorted(rows, key=lambda row: row.model):
        strides = " ".join(str(level.stride) for level in row.levels)
        channels = " ".join(str(level.channels) for level in row.levels)
        cells.append([row.model, row.reason, strides, channels, row.params, row.flops])
    write_csv(text, cells)
    write_text_atomically(path, text.getvalue())


def parse_table(text: str) -> dict[str, CatalogRow]:
    """Return the rows that `write_table` wrote, by name."""
    return {
        cells["model"]: CatalogRow(
            cells["model"],
            reason=cells["reason"] or None,
            levels=tuple(
                Level(int(stride), int(channels))
                for stride, channels in zip(
                    cells["strides"].split(), cells["channels"].split(), strict=True
                )
            ),
            params=int(cells["params"]) if cells["params"] else None,
            flops=int(cells["flops"]) if cells["flops"] else None,
        )
        for cells in csv.DictReader(io.StringIO(text))
    }


@cache
def shipped_table() -> Mapping[str, CatalogRow]:
    """Return the rows of the table in the package, by name."""
    folder = resources.files("ossa").joinpath("models", "backbones", "table")
    return parse_table(folder.joinpath(f"timm-{TABLE_TIMM}.csv").read_text(encoding="utf-8"))


def similar_supported(name: str, n: int = 3) -> list[str]:
    """Return up to `n` supported architectures whose names are most like `name`, nearest first.

    Those of its family, whose names begin with the same word, come before all others, of which
    only similar spellings count.
    """
    known = [row.model for row in shipped_table().values() if row.supported and row.model != name]
    family = [other for other in known if _family(other) == _family(name)]
    relatives = difflib.get_close_matches(name, family, n=n, cutoff=0.0)
    strangers = difflib.get_close_matches(name, [o for o in known if o not in relatives], n=n)
    return [*relatives, *strangers][:n]


def _family(name: str) -> str:
    """Return the letters with which a name begins: 'vit' of vit_base_patch16_224."""
    return re.match("[a-z]*", name)[0]  # pyright: ignore[reportOptionalSubscript] - may be ''
