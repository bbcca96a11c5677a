"""From a description to the index of one split, with a report of every fault on the way."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ossa.data import index_cache as indexes
from ossa.data.anchors import sizes_at_input_wh
from ossa.data.annotations import (
    DatasetIndex,
    IndexReport,
    LabelSearch,
    select_classes,
    without_boxes,
)
from ossa.data.decode import decode_image
from ossa.data.description import DataDescription, read_description
from ossa.data.formats import coco, voc, yolo
from ossa.data.formats.common import annotation_places, label_places
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import Issue, IssueLog
from ossa.data.roots import Roots
from ossa.data.sources import SourceLog
from ossa.errors import ConfigError, DataError, legible


class _Reader(Protocol):
    def __call__(
        self, description: DataDescription, split: str, *, log: IssueLog, sources: SourceLog
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

    The index of a large split is kept in the user's cache (`ossa.data.index_cache`) and opened
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
    if split in description.missing:
        raise DataError(description.missing[split])
    if split not in description.splits:
        known = ", ".join(description.splits)
        raise ConfigError(f"Expected a key '{split}' in {description.file}, found {known}.")
    if description.annotations_only:
        return _read(description, split, strict=strict, sources=SourceLog())
    kept = indexes.load(description, split)
    if kept is not None:
        log = IssueLog(strict=strict)
        log.num_images = len(kept.index)
        for issue in kept.issues:
            log.add(issue)
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
    log = IssueLog(strict=strict, roots=_roots(description, split))
    index, labels = _READERS[description.format](description, split, log=log, sources=sources)
    if not len(index):
        _raise_empty(description, split, log.issues)
    notes: tuple[str, ...] = ()
    if description.classes is not None:
        index, notes = select_classes(
            index, description.classes, file=description.file, line=description.classes_line
        )
    if split != "train" and not index.trains.any():  # of train `training_faults` tells it
        what = f"split '{split}' has {without_boxes(index)}"
        kind = IssueKind.SPLIT_WITHOUT_BOXES
        log.report(description.file, None, what, action="nothing is scored", kind=kind)
    return IndexReport(index, log.issues, notes, labels)


def _roots(description: DataDescription, split: str) -> Roots:
    """Returns the bound of a data set with the folders that go with those that it names."""
    sources = description.splits[split].sources
    with_labels = (description.root, *sources, *(source.parent for source in sources))
    labels = [Path(label_places(str(folder / "_"))[0]).parent for folder in with_labels]
    voc_roots = [p.parent for source in sources for p in source.parents if p.name == "ImageSets"]
    of_voc = [root / name for root in voc_roots for name in ("JPEGImages", "Annotations")]
    if description.format == "voc":
        places = [place for one in sources for place in annotation_places(str(one / "_"))]
        of_voc += [Path(place).parent for place in places]
    return description.roots.including(*labels, *of_voc)


def _raise_empty(description: DataDescription, split: str, issues: tuple[Issue, ...]) -> None:
    where = " and ".join(map(str, description.splits[split].sources))
    first = f"; the first of {len(issues)} issues: {issues[0]}" if issues else ""
    raise DataError(
        f"Expected images for split '{split}' of {description.file} in {where}, "
        f"found none that can be used{first}."
    )


_SMALLEST_DECODE = 64
"""JPEGs are decoded for the check as small as the decoder allows: it reads every byte anyway."""

TINY_SIDE = 2.0
"""Pixels of the network input: augmentation drops boxes of which a side is not longer."""
_PLACES_SHOWN = 3
_LONGEST = 1000
"""Characters of a reason, which may quote several names and paths."""


def training_faults(
    description: DataDescription, reports: Mapping[str, IndexReport], *, imgsz: int
) -> tuple[Issue, ...]:
    """Returns why a data set cannot be trained on: every reason, or nothing where it can.

    Args:
        description: of the data set.
        reports: of the splits that were read, by name.
        imgsz: side of the square network input in pixels.
    """

    def fault(kind: IssueKind, what: str) -> Issue:
        return Issue(kind, description.file, None, legible(what, _LONGEST), "training stops")

    faults = []
    if "train" not in description.splits:
        what = "no split 'train': the data can be evaluated on, not trained on"
        faults.append(fault(IssueKind.TRAIN_MISSING, what))
    elif "val" not in description.splits:
        what = "no split 'val': training scores every epoch on it"
        faults.append(fault(IssueKind.VAL_MISSING, what))
    if "train" not in reports:
        return tuple(faults)
    train = reports["train"]
    labels = train.labels
    if 2 * len(labels.unlabelled) > labels.num_images:
        what = (
            f"{len(labels.unlabelled)} of {labels.num_images} training images have no label, such "
            f"as {labels.unlabelled[0]}; looked for in "
            f"{_shown_places(labels.places, description.root)}; go on with --allow-unlabeled where "
            "these are background"
        )
        faults.append(fault(IssueKind.TRAINING_UNLABELLED, what))
    reason = _why_no_box_trains(train.index, imgsz)
    if reason is not None:
        faults.append(fault(IssueKind.TRAINING_WITHOUT_BOXES, reason))
    if "val" in reports and reports["val"].index.names != train.index.names:
        named, scored = (", ".join(reports[one].index.names) for one in ("train", "val"))
        what = f"classes of train ({named}) and of val ({scored}) are not the same"
        faults.append(fault(IssueKind.CLASSES_DIFFER, what))
    return tuple(faults)


def _why_no_box_trains(index: DatasetIndex, imgsz: int) -> str | None:
    """Returns why nothing of a training split can be learned, or None where something can."""
    if not index.trains.any():
        return f"the training split has {without_boxes(index)}"
    longest = float(sizes_at_input_wh(index, imgsz)[index.trains].min(axis=1).max())
    if longest > TINY_SIDE:
        return None
    return (
        f"all {int(index.trains.sum())} training boxes have a side of {TINY_SIDE:g} px or less at "
        f"{imgsz} px, and boxes so small do not train: take a larger --imgsz, or cut the images "
        "into tiles"
    )


def labels_sentence(reports: Mapping[str, IndexReport]) -> str:
    """Returns how many images of each split have no label, and where labels were looked for."""
    counts = ", ".join(
        f"{len(one.labels.unlabelled)} of {one.labels.num_images} images of {split}"
        for split, one in reports.items()
    )
    places = [place for one in reports.values() for place in one.labels.places]
    root = next(iter(reports.values())).index.root
    return f"without a label: {counts}; looked for in {_shown_places(places, root)}"


def _shown_places(places: Iterable[str], root: Path) -> str:
    """Returns the first places of a search, relative to the root where they lie in it."""
    paths = map(Path, dict.fromkeys(places))
    told = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
    more = len(told) - _PLACES_SHOWN
    listed = ", ".join(legible(place) for place in told[:_PLACES_SHOWN])
    return f"{listed} and {more} more place{'' if more == 1 else 's'}" if more > 0 else listed


def drop_corrupt_images(
    report: IndexReport,
    *,
    strict: bool = False,
    threads: int = 2,
    known: Iterable[str | None] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Returns the report without the images whose files cannot be decoded, which it now names.

    Args:
        report: of a split.
        strict: raise at the first such image.
        threads: that decode at the same time.
        known: why each image cannot be decoded, or None for it; nothing is decoded then.
        on_image: called with the number of images checked and their total.

    Raises:
        DataError: an image cannot be decoded and `strict`, or none is left.
    """
    index = report.index
    log = IssueLog(strict=strict)
    good = np.ones(len(index), dtype=np.bool_)
    pool = ThreadPoolExecutor(threads)
    try:
        faults = (
            pool.map(lambda position: _fault(index, position), range(len(index)))
            if known is None
            else known
        )
        for position, fault in enumerate(faults):
            if fault is not None:
                good[position] = False
                log.report(
                    index.image_path(position),
                    None,
                    fault,
                    action="image left out",
                    kind=IssueKind.IMAGE_UNREADABLE,
                )
            if on_image is not None:
                on_image(position + 1, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # the first fault or Ctrl-C waits for no other image
    if not good.any():
        raise DataError(
            f"Expected images that can be decoded in {index.root}, found none among {len(index)}; "
            f"the first: {log.issues[0]}."
        )
    return replace(
        report,
        index=index if good.all() else take_images(index, good),
        issues=(*report.issues, *log.issues),
    )


def take_images(index: DatasetIndex, chosen: NDArray[np.bool_]) -> DatasetIndex:
    """Returns the index of the chosen (I,) images alone, with their truths."""
    counts = np.diff(index.gt_offsets)
    truths = np.repeat(chosen, counts)
    return replace(
        index,
        file_names=index.file_names[chosen],
        image_ids=index.image_ids[chosen],
        sizes_wh=index.sizes_wh[chosen],
        gt_offsets=np.concatenate(([0], np.cumsum(counts[chosen]))),
        boxes_xyxy=index.boxes_xyxy[truths],
        labels=index.labels[truths],
        areas=index.areas[truths],
        crowd=index.crowd[truths],
        difficult=index.difficult[truths],
        annotation_ids=index.annotation_ids[truths],
        stated_xywh=None if index.stated_xywh is None else index.stated_xywh[truths],
    )


def _fault(index: DatasetIndex, position: int) -> str | None:
    """Returns why the image cannot be decoded, or None."""
    path: Path = index.image_path(position)
    width, height = (int(side) for side in index.sizes_wh[position])
    try:
        decode_image(path, reduce_to=_SMALLEST_DECODE, size_wh=(width, height))
    except DataError as fault:
        # The issue names the file itself.
        return str(fault).replace(f" at {path}", "").replace(f" in {path}", "").rstrip(".")
    return None


def read_data(data: Path | str, split: str = "val", *, strict: bool = False) -> IndexReport:
    """Returns the images and truths of a split (`.index`) and its faults (`.issues`).

    It is what training and evaluation see: images whose files cannot be decoded are left out.

    Args:
        data: a data.yaml, or the folder that holds one.
        split: 'train', 'val' or 'test'.
        strict: raise at the first fault instead of going past it.

    Raises:
        ConfigError: a data.yaml that is malformed, or has no such split.
        DataError: files that are missing, no usable image, or the first fault where `strict`.

    Example:
        >>> report = read_data("scenes", "val")
        >>> len(report.index), report.issues
        (2, ())
    """
    return drop_corrupt_images(
        read_index(read_description(data), split, strict=strict), strict=strict
    )
