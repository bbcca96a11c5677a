"""From a description to the index of one split, with a report of every fault on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from ossa.data.description import DataDescription
from ossa.data.formats import coco, voc, yolo
from ossa.data.index import DatasetIndex
from ossa.data.problems import Problem, ProblemLog
from ossa.errors import ConfigError, DataError


@dataclass(frozen=True)
class IndexReport:
    """One split, and what was wrong with its files."""

    index: DatasetIndex
    problems: tuple[Problem, ...]
    """In the order they were met."""


class _Reader(Protocol):
    def __call__(
        self, description: DataDescription, split: str, *, log: ProblemLog
    ) -> DatasetIndex: ...


_READERS: Final[Mapping[str, _Reader]] = MappingProxyType(
    {"coco": coco.read, "voc": voc.read, "yolo": yolo.read}
)


def read_index(description: DataDescription, split: str, *, strict: bool = False) -> IndexReport:
    """Returns the images and truths of a split, with the faults met.

    Dropped and reported are boxes of no area, outside their image, of an unknown class, stated
    twice or not numbers; their image stays. Left out and reported are images that are missing
    or unreadable (only headers are read: a damaged body is found when decoding) and those whose
    annotation file is unreadable. Boxes are clipped to their image; what reached out by more
    than one pixel is reported. COCO's boxes are never clipped, nor dropped as stated twice, since
    pycocotools evaluates them as they are.

    Args:
        description: of the data set, from `read_description`.
        split: 'train', 'val' or 'test'.
        strict: raise at the first fault instead of reporting it.

    Raises:
        ConfigError: the description has no such split.
        DataError: the split has no usable image, a list or JSON file is unreadable, or the first
            fault where `strict`.
    """
    if split not in description.splits:
        known = ", ".join(description.splits)
        raise ConfigError(f"Expected a key '{split}' in {description.file}, found {known}.")
    log = ProblemLog(strict=strict)
    index = _READERS[description.format](description, split, log=log)
    if not len(index):
        _raise_empty(description, split, log.problems)
    if not len(index.labels):
        what = f"split '{split}' has {len(index)} images and not one usable box"
        log.report(description.file, None, what, action="all read as background")
    return IndexReport(index, log.problems)


def _raise_empty(description: DataDescription, split: str, problems: tuple[Problem, ...]) -> None:
    where = " and ".join(map(str, description.splits[split].sources))
    first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
    raise DataError(
        f"Expected images for split '{split}' of {description.file} in {where}, "
        f"found none that can be used{first}."
    )
