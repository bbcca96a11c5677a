"""From a description to the index of one split, with a report of every fault on the way."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ossa.config import Tiles
from ossa.data.anchors import sizes_at_input_wh
from ossa.data.annotations import (
    DatasetIndex,
    IndexReport,
    paths_of,
    select_classes,
    select_images,
    without_boxes,
)
from ossa.data.cache_files import SourceLog, load_index, store_index
from ossa.data.decode import decode_image
from ossa.data.description import DataDescription, read_description
from ossa.data.formats import coco, voc, yolo
from ossa.data.groups import with_groups
from ossa.data.issues import Issue, IssueKind, IssueLog
from ossa.data.paths import Roots, annotation_places, label_places
from ossa.errors import ConfigError, DataError, legible

_READERS: Final = {"coco": coco.read, "voc": voc.read, "yolo": yolo.read}
_WORTH_KEEPING: Final = 5000
"""Images from which on an index is kept in the cache: fewer are read in a second or two."""
SMALLEST_DECODE: Final = 64
"""JPEGs are decoded for a check as small as the decoder allows: it reads every byte anyway."""
TINY_SIDE: Final = 2.0
"""Pixels of the network input: augmentation drops boxes of which a side is not longer."""
_PLACES_SHOWN: Final = 3
_LONGEST: Final = 1000
"""Characters of a reason, which may quote several names and paths."""


def read_index(description: DataDescription, split: str, *, strict: bool = False) -> IndexReport:
    """Returns the images and annotations of a split, with the faults met.

    Boxes are dropped and reported that have no area, lie outside their image, have an unknown
    class, are stated twice or are not numbers; their image stays. Images are left out and reported
    that are missing or unreadable (only headers are read: a damaged body is found when decoding) or
    whose annotation file is unreadable. Boxes are clipped to their image, and those that reached
    out by more than one pixel reported. COCO's boxes are never clipped, nor dropped as stated
    twice, since pycocotools evaluates them as they are.

    The index of a large split is kept in the user's cache (`ossa.data.cache_files`), with its
    faults, and opened from there as long as no file that it was read from has changed. With
    `strict` the first fault is raised instead of reported.

    Raises:
        ConfigError: the description has no such split, or its classes are not those of the files.
        DataError: the split has no usable image, a list or JSON file is unreadable, or the first
            fault where `strict`.
    """
    if split in description.missing:
        raise description.missing[split]
    if split not in description.splits:
        found = ", ".join(description.splits)
        raise ConfigError(expected=f"a key '{split}'", found=found, path=description.file)
    sources = SourceLog()
    if description.annotations_only:
        report = _read(description, split, strict=strict, sources=sources)
        return replace(report, index=with_groups(report.index, description, split))
    report = load_index(description, split)
    if report is None:
        report = _read(description, split, strict=strict, sources=sources)
        if len(report.index) >= _WORTH_KEEPING:
            report = store_index(report, description, split, sources=sources)
    elif strict and report.issues:
        IssueLog(strict=True).add(report.issues[0])
    index = with_groups(report.index, description, split)
    return replace(report, index=index, notes=(*description.notes, *report.notes))


def _read(
    description: DataDescription, split: str, *, strict: bool, sources: SourceLog
) -> IndexReport:
    log = IssueLog(strict=strict, roots=_roots(description, split))
    index, labels = _READERS[description.format](description, split, log=log, sources=sources)
    if not len(index):
        places = " and ".join(map(str, description.splits[split].sources))
        first = f"; the first of {len(log.issues)} issues: {log.issues[0]}" if log.issues else ""
        raise DataError(
            expected=f"images for split '{split}' in {places}",
            found=f"none that can be used{first}",
            path=description.file,
        )
    notes: tuple[str, ...] = ()
    if description.classes is not None:
        index, notes = select_classes(
            index, description.classes, file=description.file, line=description.classes_line
        )
    if split != "train" and not index.trains.any():  # `training_faults` reports it of train
        what = f"split '{split}' has {without_boxes(index)}"
        kind = IssueKind.SPLIT_WITHOUT_BOXES
        log.report(description.file, None, what, action="nothing is scored", kind=kind)
    return IndexReport(index, log.issues, notes, labels)


def _roots(description: DataDescription, split: str) -> Roots:
    """Returns the roots of a data set with the label folders that belong to them."""
    sources = description.splits[split].sources
    with_labels = (description.root, *sources, *(source.parent for source in sources))
    places = [label_places(str(folder / "_"))[0] for folder in with_labels]
    for source in sources:
        root = voc.voc_root(source)
        if root is not None:
            places += [str(root / name / "_") for name in ("JPEGImages", "Annotations")]
        if description.format == "voc":
            places += annotation_places(str(source / "_"))
    return description.roots.including(*(Path(place).parent for place in places))


def training_faults(
    description: DataDescription,
    reports: Mapping[str, IndexReport],
    *,
    imgsz: int,
    tiles: Tiles | None = None,
) -> tuple[Issue, ...]:
    """Returns why a data set cannot be trained on: every reason, or nothing where it can.

    `reports` are those of the splits that were read; `imgsz` is the side of the network input, and
    larger images are seen in `tiles`.
    """
    faults = []
    if "train" not in description.splits:
        what = "no split 'train': the data can be evaluated on, not trained on"
        faults.append((IssueKind.TRAIN_MISSING, what))
    elif "val" not in description.splits:
        what = (
            "no split 'val': training scores every epoch on it; 'ossa data split DATA --val 0.2' "
            "makes one"
        )
        faults.append((IssueKind.VAL_MISSING, what))
    if "train" in reports:
        index, labels = reports["train"].index, reports["train"].labels
        if 2 * len(labels.unlabelled) > labels.num_images:
            what = (
                f"{len(labels.unlabelled)} of {labels.num_images} training images have no label, "
                f"such as {labels.unlabelled[0]}; looked for in "
                f"{_shown_places(labels.places, description.root)}; go on with --allow-unlabeled "
                "where these are background"
            )
            faults.append((IssueKind.TRAINING_UNLABELLED, what))
        reason = _why_no_box_trains(index, imgsz, tiles)
        if reason is not None:
            faults.append((IssueKind.TRAINING_WITHOUT_BOXES, reason))
        if "val" in reports and reports["val"].index.names != index.names:
            named, scored = (", ".join(reports[one].index.names) for one in ("train", "val"))
            what = f"classes of train ({named}) and of val ({scored}) are not the same"
            faults.append((IssueKind.CLASSES_DIFFER, what))
    return tuple(
        Issue(kind, description.file, None, legible(what, _LONGEST), "training stops")
        for kind, what in faults
    )


def _why_no_box_trains(index: DatasetIndex, imgsz: int, tiles: Tiles | None) -> str | None:
    """Returns why nothing of a training split can be learned, or None where something can."""
    if not index.trains.any():
        return f"the training split has {without_boxes(index)}"
    longest = float(sizes_at_input_wh(index, imgsz, tiles)[index.trains].min(axis=1).max())
    if longest > TINY_SIDE:
        return None
    return (
        f"all {int(index.trains.sum())} training boxes have a side of {TINY_SIDE:g} px or less at "
        f"{imgsz} px, and boxes so small do not train: take a larger --imgsz, or smaller --tiles"
    )


def labels_sentence(reports: Mapping[str, IndexReport]) -> str:
    """Returns how many images of each split have no label, and where labels were looked for."""
    if not any(len(one.labels.unlabelled) for one in reports.values()):
        counts = " and ".join(f"{one.labels.num_images} of {s}" for s, one in reports.items())
        return f"all images have a label: {counts}"
    counts = ", ".join(
        f"{len(one.labels.unlabelled)} of {one.labels.num_images} images of {split}"
        for split, one in reports.items()
    )
    places = [place for one in reports.values() for place in one.labels.places]
    root = next(iter(reports.values())).index.root
    return f"without a label: {counts}; looked for in {_shown_places(places, root)}"


def shared_sentences(reports: Mapping[str, IndexReport]) -> list[str]:
    """Returns a sentence for each split of which images, by their paths, are also in train."""
    trained = set(paths_of(reports["train"].index))
    found = []
    for split in reports.keys() - {"train"}:
        paths = paths_of(reports[split].index)
        shared = sum(path in trained for path in paths)
        if shared:
            found.append(
                f"{shared} of the {len(paths)} images of {split} {'is' if shared == 1 else 'are'} "
                "also in train: AP will not tell how the detector does on new images"
            )
    return sorted(found)


def _shown_places(places: Iterable[str], root: Path) -> str:
    """Returns the first places of a search, relative to the root where they lie in it."""
    paths = [Path(place) for place in dict.fromkeys(places)]
    names = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
    more = len(names) - _PLACES_SHOWN
    listed = ", ".join(legible(name) for name in names[:_PLACES_SHOWN])
    return f"{listed} and {more} more place{'' if more == 1 else 's'}" if more > 0 else listed


def drop_corrupt_images(
    report: IndexReport,
    *,
    strict: bool = False,
    threads: int = 2,
    known: Iterable[str | None] | None = None,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> IndexReport:
    """Returns the report without the images whose files cannot be decoded, which become issues.

    Where `known` states why each image cannot be decoded, or None for it, nothing is decoded.
    `on_image` is called with the number of images checked and their total.

    Raises:
        DataError: an image cannot be decoded and `strict`, or none is left.
    """
    index = report.index

    def fault_of(position: int) -> str | None:
        width, height = index.sizes_wh[position].tolist()
        path = index.image_path(position)
        try:
            decode_image(path, reduce_to=SMALLEST_DECODE, size_wh=(width, height))
        except DataError as error:
            return error.reason
        return None

    log = IssueLog(strict=strict)
    good = np.ones(len(index), dtype=np.bool_)
    pool = ThreadPoolExecutor(threads)
    try:
        faults = pool.map(fault_of, range(len(index))) if known is None else known
        for position, fault in enumerate(faults):
            if fault is not None:
                good[position] = False
                path, kind = index.image_path(position), IssueKind.IMAGE_UNREADABLE
                log.report(path, None, fault, action="image left out", kind=kind)
            on_image(position + 1, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # the first fault or Ctrl-C waits for no other image
    if not good.any():
        found = f"none among {len(index)}; the first: {log.issues[0]}"
        raise DataError(expected="images that can be decoded", found=found, path=index.root)
    kept = index if good.all() else select_images(index, good)
    return replace(report, index=kept, issues=(*report.issues, *log.issues))


def read_data(data: Path | str, split: str = "val", *, strict: bool = False) -> IndexReport:
    """Returns the images and annotations of a split (`.index`) and its faults (`.issues`).

    It is what training and evaluation use: images whose files cannot be decoded are left out.

    Args:
        data: a data.yaml, or the folder of a data set.
        split: 'train', 'val' or 'test'.
        strict: raise at the first fault instead of reporting it.

    Raises:
        ConfigError: a data.yaml that is malformed, or has no such split.
        DataError: files that are missing, no usable image, or the first fault where `strict`.

    Examples:
        >>> report = read_data("scenes", "val")
        >>> len(report.index), report.issues
        (2, ())
    """
    report = read_index(read_description(data), split, strict=strict)
    return drop_corrupt_images(report, strict=strict)
