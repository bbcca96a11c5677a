"""From a description to the index of one split, with a report of every fault on the way."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from ossa.data.caching import indexes
from ossa.data.classes import select_classes
from ossa.data.description import DataDescription
from ossa.data.formats import coco, voc, yolo
from ossa.data.formats.common import label_places
from ossa.data.index import DatasetIndex, IndexReport, LabelSearch, without_boxes
from ossa.data.problems import Problem, ProblemKind, ProblemLog
from ossa.data.roots import Roots
from ossa.data.sources import SourceLog
from ossa.errors import ConfigError, DataError


class _Reader(Protocol):
    def __call__(
        self, description: DataDescription, split: str, *, log: ProblemLog, sources: SourceLog
    ) -> tuple[DatasetIndex, LabelSearch]: ...


_READERS: Final[Mapping[str, _Reader]] = MappingProxyType(
    {"coco": coco.read, "voc": voc.read, "yolo": yolo.read}
)
_WORTH_KEEPING: Final = 5000
"""Images from which on an index is kept in the cache: fewer are read in a second or two."""


def read_index(description: DataDescription, split: str, *, strict: bool = False) -> IndexReport:
    """Returns the images and truths of a split, with the faults met.

    Dropped and reported are boxes of no area, outside their image, of an unknown class, stated
    twice or not numbers; their image stays. Left out and reported are images that are missing
    or unreadable (only headers are read: a damaged body is found when decoding) and those whose
    annotation file is unreadable. Boxes are clipped to their image; what reached out by more
    than one pixel is reported. COCO's boxes are never clipped, nor dropped as stated twice, since
    pycocotools evaluates them as they are.

    The index of a large split is kept in the user's cache (`ossa.data.caching.indexes`) and opened
    from there as long as no file that it was read from has changed; its faults are told again.

    Args:
        description: of the data set, from `read_description`.
        split: 'train', 'val' or 'test'.
        strict: raise at the first fault instead of reporting it.

    Raises:
        ConfigError: the description has no such split, or its classes are not those of the files.
        DataError: the split has no usable image, a list or JSON file is unreadable, or the first
            fault where `strict`.
    """
    if split not in description.splits:
        known = ", ".join(description.splits)
        raise ConfigError(f"Expected a key '{split}' in {description.file}, found {known}.")
    if description.annotations_only:
        return _read(description, split, strict=strict, sources=SourceLog())
    kept = indexes.load(description, split)
    if kept is not None:
        log = ProblemLog(strict=strict)
        log.num_images = len(kept.index)
        for problem in kept.problems:
            log.add(problem)
        return _with_notes(kept, description)
    sources = SourceLog()
    report = _read(description, split, strict=strict, sources=sources)
    if len(report.index) >= _WORTH_KEEPING:
        report = indexes.store(report, description, split, sources=sources)
    return _with_notes(report, description)


def _with_notes(report: IndexReport, description: DataDescription) -> IndexReport:
    return replace(report, notes=(*description.notes, *report.notes))


def _read(
    description: DataDescription, split: str, *, strict: bool, sources: SourceLog
) -> IndexReport:
    log = ProblemLog(strict=strict, roots=_roots(description, split))
    index, labels = _READERS[description.format](description, split, log=log, sources=sources)
    if not len(index):
        _raise_empty(description, split, log.problems)
    notes: tuple[str, ...] = ()
    if description.classes is not None:
        index, notes = select_classes(
            index, description.classes, file=description.file, line=description.classes_line
        )
    if split != "train" and not index.trains.any():  # of train `training_faults` tells it
        what = f"split '{split}' has {without_boxes(index)}"
        kind = ProblemKind.SPLIT_WITHOUT_BOXES
        log.report(description.file, None, what, action="nothing is scored", kind=kind)
    return IndexReport(index, log.problems, notes, labels)


def _roots(description: DataDescription, split: str) -> Roots:
    """Returns the bound of a data set with the folders that go with those that it names."""
    sources = description.splits[split].sources
    with_labels = (description.root, *sources, *(source.parent for source in sources))
    labels = [Path(label_places(str(folder / "_"))[0]).parent for folder in with_labels]
    voc_roots = [p.parent for source in sources for p in source.parents if p.name == "ImageSets"]
    of_voc = [root / name for root in voc_roots for name in ("JPEGImages", "Annotations")]
    if description.format == "voc":
        of_voc += [source.parent / "Annotations" for source in sources]
    return description.roots.including(*labels, *of_voc)


def _raise_empty(description: DataDescription, split: str, problems: tuple[Problem, ...]) -> None:
    where = " and ".join(map(str, description.splits[split].sources))
    first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
    raise DataError(
        f"Expected images for split '{split}' of {description.file} in {where}, "
        f"found none that can be used{first}."
    )
