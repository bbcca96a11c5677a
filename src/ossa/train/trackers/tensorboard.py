"""Runs in TensorBoard: event files in the folder of the run, no account and no network."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from ossa.train.callbacks import RunStart
from ossa.train.trackers.callback import numbers, outcome, settings_and_cost
from ossa.types import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes a run's event files; tables are text in Markdown, and weights have no place."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._events: SummaryWriter

    def begin(self, start: RunStart) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = start.folder / _FOLDER
        self._events = SummaryWriter(str(folder))
        self._add_table("settings", ("setting", "value"), settings_and_cost(start).items())
        return f"tensorboard --logdir {folder}"

    def epoch(self, row: Mapping[str, Any]) -> None:
        for key, value in numbers(row).items():
            self._events.add_scalar(key, value, row["epoch"])
        self._events.flush()

    def figure(self, name: str, path: Path, *, epoch: int) -> None:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise OSError(f"{path} cannot be decoded")
        self._events.add_image(name, image, epoch, dataformats="HWC")

    def confusion(
        self, names: Sequence[str], counts: Sequence[Sequence[int]], *, epoch: int
    ) -> None:
        rows = [(name, *row) for name, row in zip(names, counts, strict=True)]
        self._add_table("confusion", ("truth \\ predicted", *names), rows, epoch=epoch)

    def weights(self, path: Path) -> None:
        pass

    def end(self, record: Record | None) -> None:
        if record is not None:
            self._add_table("outcome", ("what", "value"), outcome(record).items())
        self._events.close()

    def _add_table(
        self, tag: str, head: Sequence[str], rows: Iterable[Iterable[Any]], *, epoch: int = 0
    ) -> None:
        lines = [head, ["---"] * len(head), *rows]
        text = "\n".join("|" + "|".join(map(str, line)) + "|" for line in lines)
        self._events.add_text(tag, text, epoch)
