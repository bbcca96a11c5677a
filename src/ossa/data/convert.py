"""Converts a data set to another format, and reports what that format cannot hold."""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import abspath
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from ossa.data.annotations import DatasetIndex, IndexReport, select_images
from ossa.data.description import FORMATS, DataDescription
from ossa.data.formats.common import ids_from_stems, size_or_report
from ossa.data.formats.write import (
    WrittenSplit,
    as_read_back,
    write_coco,
    write_voc,
    write_yolo,
)
from ossa.data.issues import Issue, IssueLog
from ossa.data.paths import is_image
from ossa.data.reading import read_index
from ossa.errors import ConfigError, DataError, os_reason
from ossa.files import open_regular

_NEVER_READ: Final = {
    "coco": "boxes and areas are carried over; outlines and keypoints, if there are any, are not",
    "voc": "boxes are carried over; pose, truncation and parts, if there are any, are not",
    "yolo": "boxes are carried over; polygons, if there are any, as theirs",
}


@dataclass(frozen=True)
class Conversion:
    """A data set written anew."""

    data_yaml: Path
    issues: tuple[Issue, ...]
    """Faults met while reading; what they left out is not in the new data set."""
    notes: tuple[str, ...]
    """What else was left out, as the data.yaml says, and what the new format cannot hold."""


def convert(
    description: DataDescription,
    output: Path | str,
    *,
    to: str,
    splits: Sequence[str] | None = None,
    copy_images: bool = False,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Conversion:
    """Writes the splits of a data set in another format, and a data.yaml for them.

    COCO refers to the images where they lie; VOC and YOLO, which must have them in a folder of
    their own, get symbolic links. The data.yaml is written last: without it a folder is not whole.

    Args:
        description: of the data set; its `classes` are applied.
        output: a folder that is empty or not there yet.
        to: 'coco', 'voc' or 'yolo'.
        splits: those to write; all where None.
        copy_images: write copies instead of referring or linking to the images.
        on_image: called with the number of images of a split that are placed, and their total.

    Raises:
        ConfigError: an unknown format or split, or class names that VOC's XML cannot hold.
        DataError: nothing can be read, the splits have different classes, the folder is in use or
            cannot be written.
    """
    if to not in FORMATS:
        raise ConfigError(expected="coco, voc or yolo as the format to write", found=f"'{to}'")
    chosen = description.splits if splits is None else splits
    reports = {split: read_index(description, split) for split in chosen}
    if copy_images:
        reports = {split: _only_images(report) for split, report in reports.items()}
    if to != "coco":
        _check_names({split: report.index for split, report in reports.items()}, to=to)
    output = Path(abspath(output))
    _claim(output)
    notes = list(dict.fromkeys(note for report in reports.values() for note in report.notes))
    notes.append(_NEVER_READ[description.format])
    try:
        notes += _write_splits(
            reports, description, output, to=to, copy_images=copy_images, on_image=on_image
        )
    except OSError as error:
        # A link has two names; a full disk would not take copies either.
        no_links = not copy_images and bool(error.filename2) and error.errno != errno.ENOSPC
        instead = ", with copied images, since links cannot be made there" if no_links else ""
        raise DataError(
            f"could not write the data set into {output}: {os_reason(error)}",
            path=error.filename2 or error.filename,
            advice=f"what is there is not whole, so remove it and try again{instead}",
        ) from error
    issues = tuple(issue for report in reports.values() for issue in report.issues)
    return Conversion(output / "data.yaml", issues, tuple(notes))


def _write_splits(
    reports: Mapping[str, IndexReport],
    description: DataDescription,
    output: Path,
    *,
    to: str,
    copy_images: bool,
    on_image: Callable[[int, int], None],
) -> list[str]:
    """Writes all splits and the data.yaml; returns sentences on what was lost."""
    content: dict[str, Any] = {"format": to}
    root = description.root if to == "coco" and not copy_images else None
    if root is not None:
        content["path"] = str(root)
    losses = []
    stems: dict[tuple[str, str], str] = {}
    for split, report in reports.items():
        index, changes = as_read_back(_with_readable_names(report.index, to=to), to)
        placed = 0

        def place(source: str, target: Path, total: int = len(index)) -> None:
            nonlocal placed
            target.parent.mkdir(parents=True, exist_ok=True)
            if copy_images:
                with open_regular(source) as image, target.open("xb") as copy:
                    shutil.copyfileobj(image, copy)
            else:
                target.symlink_to(abspath(source))
            placed += 1
            on_image(placed, total)

        if to == "coco":
            written = write_coco(index, split, output, place_image=place if copy_images else None)
        elif to == "voc":
            written = write_voc(index, split, output, place_image=place, stems=stems)
        else:
            written = write_yolo(index, split, output, place_image=place)
        content[split] = written.entry
        changes["images"] = len(report.index) - len(index)
        found = _losses(index, changes, written, source=description.format, to=to)
        losses += [f"{split}: {loss}" for loss in found]
    indexes = [] if copy_images else [report.index for report in reports.values()]
    outside = folders_of_images(indexes, beyond=root or output)
    if outside:  # where the links lead
        content["outside"] = outside
    if to != "coco":
        first = next(iter(reports.values())).index
        content["names"], ids = list(first.names), first.category_ids.tolist()
        if ids != list(range(len(ids))):
            content["category_ids"] = ids
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (output / "data.yaml").write_text(text, encoding="utf-8")
    return losses


def _only_images(report: IndexReport) -> IndexReport:
    """Returns the report without files that are no images: COCO's reader opens none of them."""
    log = IssueLog()
    paths = map(str, map(report.index.image_path, range(len(report.index))))
    good = np.array([size_or_report(path, log=log) is not None for path in paths], np.bool_)
    if not good.any():
        raise DataError(f"Expected images to copy, found none; the first: {log.issues[0]}.")
    index = select_images(report.index, good)
    return replace(report, index=index, issues=(*report.issues, *log.issues))


def _claim(output: Path) -> None:
    """Makes the folder, which must be empty.

    Raises:
        DataError: it is in use or cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        used = next(output.iterdir(), None)
    except OSError as error:
        raise DataError(
            expected="a folder that can be made", found=os_reason(error), path=output
        ) from error
    if used is not None:
        raise DataError(
            expected="a new or empty folder",
            found=f"{used.name} in it",
            path=output,
            advice="nothing is overwritten, so choose another",
        )


def _check_names(indexes: Mapping[str, DatasetIndex], *, to: str) -> None:
    (first, names), *others = indexes.items()
    for split, index in others:
        same_ids = np.array_equal(index.category_ids, names.category_ids)
        if index.names != names.names or not same_ids:
            raise DataError(
                expected=f"the same classes in all splits for {to.upper()}",
                found=f"others in '{split}' than in '{first}'",
                advice="key 'classes' of the data.yaml chooses common ones, or convert one split "
                "at a time",
            )
    for name in names.names if to == "voc" else ():
        if not name.isprintable() or name != name.strip() or not name:
            raise ConfigError(
                expected="class names that XML keeps",
                found=repr(name),
                advice="rename it by key 'classes' of the data.yaml",
            )


def _with_readable_names(index: DatasetIndex, *, to: str) -> DatasetIndex:
    """Returns the index without images that a reader of VOC or YOLO would pass over."""
    names = (name.rpartition("/")[2] for name in index.file_names.tolist())
    readable = np.array([to == "coco" or is_image(name) for name in names], np.bool_)
    if not readable.any():
        expected = f"images with the suffix of one, such as .jpg, for {to.upper()}"
        raise DataError(expected=expected, found=str(index.file_names[0]))
    return index if readable.all() else select_images(index, readable)


def _losses(
    index: DatasetIndex, changes: Mapping[str, int], written: WrittenSplit, *, source: str, to: str
) -> list[str]:
    """Returns a sentence for each thing of a split that the format does not hold."""
    title = to.upper()
    difficult = "{} difficult object{s} left out: YOLO txt has no such flag"
    if to == "voc":
        difficult = "{} crowd region{s} no longer difficult, which VOC says of every crowd"
    sentences = {
        "difficult": difficult,
        "crowd": "{} crowd region{s} left out: YOLO txt has no crowd flag",
        "images": f"{{}} image{{s}} left out, whose file name {title} readers do not take for one",
        "thin": "{} box{es} of at most one pixel left out, which VOC readers drop",
        "duplicates": f"{{}} box{{es}} left out, stated twice, which {title} readers drop",
        "clipped": "{} box{es} clipped to the image, which COCO alone does not do",
        "areas": f"the area of {{}} object{{s}} is lost: {title} has the box's alone",
    }
    losses = [
        sentence.format(changes[kind], s="s" * (changes[kind] > 1), es="es" * (changes[kind] > 1))
        for kind, sentence in sentences.items()
        if changes[kind]
    ]
    if to == "coco":
        ordered = {"classes": index.category_ids, "images": index.image_ids}
        return losses + [
            f"{what} stand in the order of their ids, not in the given one"
            for what, ids in ordered.items()
            if (np.diff(ids) < 0).any()
        ]
    if index.image_ids.tolist() != ids_from_stems(list(written.files)):
        others = f"lost: {title} has none, so they" if source == "coco" else "others: they"
        losses.append(f"image ids are {others} come from names or places")
    if source == "coco" and (index.annotation_ids != np.arange(1, len(index.labels) + 1)).any():
        losses.append(f"annotation ids are lost: {title} has none, so they are counted from 1")
    pairs = zip(index.file_names.tolist(), written.files, strict=True)
    renamed = sum(os.path.basename(old) != os.path.basename(new) for old, new in pairs)
    if renamed:
        names = f"{renamed} image{'s' * (renamed > 1)}"
        losses.append(f"{names} renamed, which shared a stem or had blanks in their names")
    return losses


def folders_of_images(indexes: Iterable[DatasetIndex], *, beyond: Path) -> list[str]:
    """Returns the folders outside another one in which images lie, none within one of these."""
    paths = {os.path.realpath(index.root / name) for index in indexes for name in index.file_names}
    folders: list[str] = []
    for folder in sorted({os.path.join(os.path.dirname(path), "") for path in paths}):
        known = [os.path.join(os.path.realpath(beyond), ""), *folders[-1:]]
        if not folder.startswith(tuple(known)):
            folders.append(folder)
    return folders
