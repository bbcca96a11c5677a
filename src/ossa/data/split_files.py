"""Writes a divided data set: lists of images or COCO's JSON files, and a data.yaml for them.

No image or label is copied, moved or changed: the new data.yaml leads to where they lie.
"""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from os.path import abspath
from pathlib import Path
from typing import Any, TextIO

import yaml

from ossa.data.annotations import DatasetIndex
from ossa.data.convert import folders_of_images
from ossa.data.description import SPLITS, DataDescription
from ossa.data.formats.coco import as_id
from ossa.data.formats.json_stream import stream_lists
from ossa.data.paths import absolute, annotation_places, label_places
from ossa.data.split import DataSplit
from ossa.errors import ConfigError, DataError, legible, os_reason


def default_output(description: DataDescription) -> Path:
    """Returns the folder `split` beside data.yaml, or `NAME-split` beside NAME.yaml."""
    file = description.file
    if file.is_dir():
        return file / "split"
    return file.parent / ("split" if file.stem == "data" else f"{file.stem}-split")


def write_split(
    split: DataSplit, output: Path | str, *, overwrite: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """Writes lists (YOLO, VOC) or JSON files (COCO) and a data.yaml, which comes last.

    Args:
        split: which images are in which split.
        output: a folder; made where there is none.
        overwrite: replace files of an earlier call.

    Returns:
        The data.yaml, and sentences on what is not as it was.

    Raises:
        ConfigError: a file would replace one that the data set consists of.
        DataError: a file is there already, the folder cannot be written, or a list cannot hold the
            name of an image.
    """
    output, description = Path(abspath(output)), split.description
    is_coco = description.format == "coco"
    data_yaml, files = check_output(description, split.chosen, output, overwrite=overwrite)
    inside = output.is_relative_to(description.root)
    back = os.path.relpath(description.root, output) if inside else None
    lists = {} if is_coco else {name: _list(split, name, back=back) for name in files}
    content, notes = _data_yaml(split, files, inside=inside)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in (data_yaml, *files.values()):  # also a link, through which nothing is written
            file.unlink(missing_ok=True)
        for name, text in lists.items():
            files[name].write_text(text, encoding="utf-8")
        if is_coco:
            _write_json(split, files)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        data_yaml.write_text(text, encoding="utf-8")
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"could not write the split into {output}: {os_reason(error)}",
            path=error.filename,
            advice=None if is_full else "--output chooses another folder",
        ) from error
    return data_yaml, tuple(notes)


def check_output(
    description: DataDescription, splits: Iterable[str], output: Path, *, overwrite: bool
) -> tuple[Path, dict[str, Path]]:
    """Returns the data.yaml that will be written and the file of each split.

    Raises:
        ConfigError: a file would replace one that the data set consists of.
        DataError: a file is there already and `overwrite` is not given.
    """
    suffix = ".json" if description.format == "coco" else ".txt"
    files = {name: Path(abspath(output)) / f"{name}{suffix}" for name in splits}
    targets = (Path(abspath(output)) / "data.yaml", *files.values())
    own = {description.file.resolve()}
    own |= {path.resolve() for one in description.splits.values() for path in one.sources}
    for target in targets:
        if not os.path.lexists(target):
            continue
        if target.resolve() in own:
            raise ConfigError(
                expected="a folder in which nothing of the data set is replaced",
                found=f"{target.name}, which it is read from",
                path=target.parent,
                advice="--output chooses another",
            )
        if not overwrite or target.is_dir():
            raise DataError(
                expected="a folder without files of a split",
                found=f"{target.name} in it",
                path=target.parent,
                advice="--overwrite replaces them, --output chooses another folder",
            )
    return targets[0], files


def _list(split: DataSplit, name: str, *, back: str | None) -> str:
    """Returns the content of a list; `back` leads from its folder to the root, if it lies below.

    For YOLO its entries begin at the list, as other tools read them as well, or are absolute; for
    VOC they are stems where all images are in JPEGImages, else paths.
    """
    description, entries = split.description, []
    for source in split.chosen[name]:
        entries += split.index(name, source).file_names.tolist()
    entries.sort()
    for entry in entries:
        unusual = any(c in "\r\n" or "\ud800" <= c <= "\udfff" for c in entry)
        if unusual or entry != entry.strip():
            raise DataError(
                expected="file names that a list can hold, in UTF-8 and on one line",
                found=legible(repr(entry)),
                path=description.root,
                advice="rename it and its labels",
            )
    if description.format == "voc":
        stems = [_stem(entry) for entry in entries]
        if None not in stems and len(set(stems)) == len(stems):
            entries = stems
        elif back is None:
            entries = [abspath(description.root / entry) for entry in entries]
    elif back is not None:
        entries = [f"./{back}/{entry}" for entry in entries]
    else:
        entries = [abspath(description.root / entry) for entry in entries]
    return "".join(f"{entry}\n" for entry in entries)


def _stem(name: str) -> str | None:
    """Returns the stem of an image of VOC's folders by which alone a list may name it."""
    folder, _, image = name.rpartition("/")
    stem, suffix = os.path.splitext(image)
    is_plain = folder == "JPEGImages" and suffix.lower() in (".jpg", ".jpeg")
    return stem if is_plain and not any(c.isspace() for c in stem) else None


def _data_yaml(
    split: DataSplit, files: Mapping[str, Path], *, inside: bool
) -> tuple[dict[str, Any], list[str]]:
    """Returns the keys of the new data.yaml, and sentences on what is not as it was."""
    description, notes = split.description, []
    root = description.root
    output = next(iter(files.values())).parent
    keys = dict(description.content)
    entries = {name: keys.pop(name, None) for name in SPLITS}
    content: dict[str, Any] = {
        "path": os.path.relpath(root, output) if inside else str(root),
        "format": description.format,
    }
    for name in SPLITS:
        if name in files:
            file = files[name]
            content[name] = os.path.relpath(file, root) if inside else str(file)
            if description.format == "coco":
                images = str(_images_folder(split, name))
                content[name] = {"images": images, "annotations": content[name]}
        elif name in description.splits:
            content[name] = entries[name]
            notes.append(f"split '{name}' is as it was")
    content |= {key: value for key, value in keys.items() if key not in ("path", "format")}
    if split.pattern is not None and set(split.num_groups).issuperset(content.keys() & set(SPLITS)):
        content["groups"] = split.pattern
    evaluated = [name for name in split.num_groups if name != "train"]
    if "groups" in content and any(split.num_groups[name] < 2 for name in evaluated):
        del content["groups"]
        notes.append(
            "a split has one group only, so the new data.yaml names no groups: confidence "
            "intervals count its images as independent"
        )
    outside = content.get("outside") or []
    outside = [outside] if isinstance(outside, str) else list(outside)
    outside += [folder for folder in _folders_beyond(split) if folder not in outside]
    if outside:
        content["outside"] = outside
    return content, notes


def _folders_beyond(split: DataSplit) -> list[str]:
    """Returns the folders outside the root in which images or labels of the lists lie."""
    description, indexes = split.description, _indexes(split)
    found = folders_of_images(indexes, beyond=description.root)
    if description.format == "coco":
        return found
    places_of = label_places if description.format == "yolo" else annotation_places
    folders = {os.path.dirname(index.root / name) for index in indexes for name in index.file_names}
    labels = {
        os.path.dirname(place)
        for folder in folders
        for place in places_of(os.path.join(abspath(folder), "_"))
    }
    root = os.path.join(os.path.realpath(description.root), "")
    real = {os.path.join(os.path.realpath(one), "") for one in labels if os.path.isdir(one)}
    return [*found, *sorted(one for one in real if not one.startswith((root, *found)))]


def _indexes(split: DataSplit) -> list[DatasetIndex]:
    return [split.index(name, source) for name, one in split.chosen.items() for source in one]


def _images_folder(split: DataSplit, name: str) -> Path:
    """Returns the folder that the file names of a new JSON file are relative to."""
    description = split.description
    sources = [description.splits[source] for source in split.chosen[name]]
    folders = [str(one.images or one.sources[0].parent) for one in sources]
    folder = Path(os.path.commonpath(folders))
    root = description.root
    return folder.relative_to(root) if folder.is_relative_to(root) else folder


def _write_json(split: DataSplit, files: Mapping[str, Path]) -> None:
    """Writes the JSON files in one pass over each that they are made of; rows keep all keys."""
    description = split.description
    with ExitStack() as stack:
        writers = {
            name: _JsonWriter(
                stack.enter_context(file.open("x", encoding="utf-8")),
                description.root / _images_folder(split, name),
                renumbered=len(split.chosen[name]) > 1,
            )
            for name, file in files.items()
        }
        for source in split.reports:
            writer_of = {
                image_id: writers[name]
                for name, one in split.chosen.items()
                if source in one
                for image_id in split.index(name, source).image_ids.tolist()
            }
            _copy_rows(description, source, writer_of)
        for writer in writers.values():
            writer.finish()


def _copy_rows(
    description: DataDescription, source: str, writer_of: Mapping[int, "_JsonWriter"]
) -> None:
    places = description.splits[source]
    (file,) = places.sources
    folder, seen = places.images or file.parent, set()
    shared: dict[str, list[Any]] = {"categories": [], "licenses": []}
    keys = ("images", "annotations", "categories")
    for key, _, row in stream_lists(file, keys, optional=("licenses",)):
        if key in shared:
            shared[key].append(row)
            continue
        image_id = as_id(row.get("id" if key == "images" else "image_id"))
        writer = writer_of.get(image_id) if isinstance(image_id, int) else None
        if writer is None or (key == "images" and image_id in seen):
            continue
        if key == "images":
            seen.add(image_id)
            writer.add_image(row, (source, image_id), folder)
        else:
            writer.add_annotation(row, (source, image_id))
    for writer in set(writer_of.values()):
        writer.shared = writer.shared or shared


class _JsonWriter:
    """One JSON file of COCO; annotations are written as they come, the rest at the end."""

    def __init__(self, stream: TextIO, folder: Path, *, renumbered: bool) -> None:
        self.shared: dict[str, list[Any]] = {}
        self._stream, self._folder = stream, folder
        self._renumbered = renumbered
        self._ids: dict[tuple[str, int], int] = {}
        self._images: list[str] = []
        self._num_annotations = 0
        stream.write('{"annotations": [')

    def add_image(self, row: dict[str, Any], key: tuple[str, int], folder: Path) -> None:
        """Adds an image whose name is relative to a folder."""
        if folder != self._folder:
            name = os.path.relpath(absolute(row["file_name"], folder), self._folder)
            row["file_name"] = name.replace(os.sep, "/")
        if self._renumbered:
            row["id"] = self._id(key)
        self._images.append(json.dumps(row))

    def add_annotation(self, row: dict[str, Any], key: tuple[str, int]) -> None:
        """Adds an annotation."""
        self._stream.write(",\n" if self._num_annotations else "\n")
        self._num_annotations += 1
        if self._renumbered:
            row |= {"id": self._num_annotations, "image_id": self._id(key)}
        self._stream.write(json.dumps(row))

    def finish(self) -> None:
        """Writes the images, and what all JSON files share."""
        images = ",\n".join(self._images)
        self._stream.write(f'\n],\n"images": [\n{images}\n]')
        for key, rows in self.shared.items():
            self._stream.write(f',\n"{key}": {json.dumps(rows)}')
        self._stream.write("}\n")

    def _id(self, key: tuple[str, int]) -> int:
        """Returns the new id of an image: 1, 2, ... in the order in which they are met."""
        return self._ids.setdefault(key, len(self._ids) + 1)
