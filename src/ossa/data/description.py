"""The data.yaml: where the images and annotations of a data set lie, and what its classes are.

Keys (those of a YOLOv5 data.yaml work as they are):

    format: yolo              # coco | voc | yolo; told by the entries where it is missing
    path: ../datasets/cells   # root, relative to the yaml's folder; default: that folder
    train: images/train       # relative to the root; one entry or a list of entries
    val: val.txt
    test:                     # may be empty, missing or name what is not there
    names: [RBC, WBC]         # or {0: RBC, 1: WBC}; optional for coco
    nc: 2                     # optional; must agree with names
    kpt_shape: [17, 3]        # optional, yolo: what stands behind the box on a line is passed over
    category_ids: [1, 3]      # optional, yolo and voc: ids of the names, as COCO has them
    classes: {blood cell: [RBC, WBC]}  # optional: new name: names of the files; see below
    outside: [/data/photos]   # optional: more folders that lists, JSON and links may lead to
    download: ...             # ignored, as is roboflow

Other keys are passed over, and told, unless they look like one of these misspelt.

`classes` filters, merges and renames, in every format: each new class is made of one or several of
the files' own, and the truths of those that stand nowhere are left out. A list, `[RBC, WBC]`, keeps
these under their names.

An entry is, by format:

    yolo   a folder of images (searched with its subfolders) or a txt list of images; `names` may
           be a file with a name on each line, such as darknet's obj.names
    voc    a list of stems, ImageSets/Main/train.txt, or a folder of images with XML files
    coco   {images: train2017, annotations: annotations/instances_train2017.json}, or only the
           JSON file: its images then lie in the folder of the top-level key `images`, or, without
           that key, in the folder of the JSON file
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from os.path import abspath
from pathlib import Path
from typing import Any, Final

from ossa.data.formats.common import has_xml_alone
from ossa.data.formats.text import listed_lines
from ossa.data.keyed_yaml import KeyedYaml, load_keyed_yaml
from ossa.data.roots import Roots
from ossa.errors import ConfigError, DataError, legible, suggestion

SPLITS: Final = ("train", "val", "test")
_FORMATS: Final = ("coco", "voc", "yolo")
_KEYS: Final = (
    *("format", "path", *SPLITS, "names", "nc", "category_ids", "classes", "images"),
    *("outside", "download", "roboflow", "kpt_shape"),
)


@dataclass(frozen=True)
class SplitSource:
    """The files of one split."""

    sources: tuple[Path, ...]
    """Existing folders and lists of images (yolo), lists of stems (voc), one JSON file (coco)."""
    images: Path | None = None
    """Folder that the file names in a COCO file are relative to; None for the other formats."""


@dataclass(frozen=True)
class DataDescription:
    """What a data.yaml says, with paths made absolute and checked."""

    file: Path
    root: Path
    format: str
    """'coco', 'voc' or 'yolo'."""
    names: tuple[str, ...] | None
    """K class names of the files; None where only the COCO files know them."""
    splits: Mapping[str, SplitSource]
    """Those of 'train', 'val' and 'test' that the file names."""
    roots: Roots
    """Where the files lie that lists, JSON files and links may name."""
    category_ids: tuple[int, ...] | None = None
    """(K,) ids of the names; None where the format numbers them itself."""
    classes: Mapping[str, tuple[str, ...]] | None = None
    """Names of the files by the new name that they get; None: all as they are."""
    classes_line: int | None = None
    """Of key `classes` in the file."""
    keypoint_columns: int = 0
    """Columns behind the box on a line of YOLO's, for keypoints, which are passed over."""
    annotations_only: bool = False
    """Whether COCO's images need not be there."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a split that the file names is none of them: 'test' may be where nothing is."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling that are no faults: keys that were passed over."""


def read_description(
    path: Path | str, *, annotations_only: bool = False, allow_outside: bool | None = None
) -> DataDescription:
    """Returns what a data.yaml, or the data.yaml in a folder, says of a data set.

    Args:
        path: the file or its folder.
        annotations_only: images whose files are missing are read, too, where the annotations
            state their sizes, as COCO's do.
        allow_outside: let lists, JSON files and links lead anywhere; None: only where the
            environment has OSSA_ALLOW_OUTSIDE, which --allow-outside sets.

    Raises:
        ConfigError: bad YAML, or a key that is unknown, missing, malformed or contradicts another.
        DataError: the file, or a folder or file that it names, does not exist.
    """
    file = Path(abspath(path))
    if file.is_dir():
        file = file / "data.yaml"
    content = load_keyed_yaml(file, _KEYS)
    root = Path(abspath(file.parent / _text(content, "path", default=".")))
    place = content.place("path") if "path" in content.lines else str(file)
    if not _is_there(root, where=place) or not root.is_dir():
        raise DataError(f"Expected a folder at {_shown(root)}, as {place} says, found none there.")
    # An empty text is no split, as for YOLOv5; as a path it would be the root with all images.
    entries = {
        split: content.get(split) for split in SPLITS if content.get(split) not in (None, "")
    }
    if not entries:
        raise ConfigError(f"Expected a key train, val or test in {file}, found none of them.")
    data_format = _format(content, entries, root=root)
    if content.get("images") is not None and data_format != "coco":
        raise ConfigError(f"Expected {content.place('images')} only for coco, found {data_format}.")
    coco_source = partial(_coco_source, annotations_only=annotations_only)
    read = coco_source if data_format == "coco" else _list_source
    splits, missing = _sources(content, entries, partial(read, root=root))
    folders = set(_named_folders(root, splits.values(), content))
    roots = Roots.chosen(folders, allow_outside=allow_outside)
    names = _names(content, root=root, roots=roots, required=data_format != "coco")
    return DataDescription(
        file,
        root,
        data_format,
        names,
        splits,
        roots,
        category_ids=_category_ids(content, names, data_format=data_format),
        classes=_classes(content),
        classes_line=content.lines.get("classes"),
        keypoint_columns=_keypoint_columns(content),
        annotations_only=annotations_only,
        missing=missing,
        notes=(*content.notes, *(f"split 'test' is left out: {why}" for why in missing.values())),
    )


def _sources(
    content: KeyedYaml, entries: Mapping[str, Any], read: Callable[..., SplitSource]
) -> tuple[dict[str, SplitSource], dict[str, str]]:
    """Returns the sources of the splits, and why 'test' has none, where it leads to nothing."""
    splits: dict[str, SplitSource] = {}
    missing: dict[str, str] = {}
    for split, entry in entries.items():
        try:
            splits[split] = read(entry, content, where=content.place(split))
        except DataError as error:
            if split != "test" or not splits:
                raise
            # Exports name it whether they have one or not, and nobody trains on it.
            missing[split] = str(error)
    return splits, missing


def _named_folders(
    root: Path, sources: Iterable[SplitSource], content: KeyedYaml
) -> Iterator[Path]:
    """Yields the folders that a data.yaml names, and those that its root links to.

    With all that is in them they may be read.
    """
    yield root
    with os.scandir(root) as entries:  # `images` linked to another disk is as good as its path
        yield from (Path(one.path) for one in entries if one.is_symlink() and one.is_dir())
    for source in sources:
        yield from (source.images,) if source.images is not None else ()
        for path in source.sources:
            yield from (path,) if path.is_dir() else (path.parent, path.resolve().parent)
    outside = content.get("outside") or []
    for entry in outside if isinstance(outside, list) else [outside]:
        yield _existing(entry, root=root, where=content.place("outside"))


def _text(content: KeyedYaml, key: str, *, default: str) -> str:
    value = content.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ConfigError(f"Expected a text as {content.place(key)}, found {_shown(value)}.")
    return value


def _format(content: KeyedYaml, entries: dict[str, Any], *, root: Path) -> str:
    told = _text(content, "format", default="").lower()
    if told and told not in _FORMATS:
        raise ConfigError(
            f"Expected coco, voc or yolo as {content.place('format')}, found '{legible(told)}'."
            f"{suggestion(told, _FORMATS)}"
        )
    if told:
        return told
    flat = [str(part) for e in entries.values() for part in (e if isinstance(e, list) else [e])]
    is_json = any(f.lower().endswith(".json") for f in flat)
    if is_json or any(isinstance(e, dict) for e in entries.values()):
        return "coco"
    has_voc_folders = (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()
    if has_voc_folders or any("ImageSets" in Path(f).parts for f in flat):
        return "voc"
    return "voc" if any(has_xml_alone(root / entry) for entry in flat) else "yolo"


def _list_source(entry: Any, _content: KeyedYaml, *, root: Path, where: str) -> SplitSource:
    entries = entry if isinstance(entry, list) else [entry]
    if not entries:
        raise ConfigError(f"Expected a folder or a list file as {where}, found an empty list.")
    return SplitSource(tuple(_existing(one, root=root, where=where) for one in entries))


def _coco_source(
    entry: Any, content: KeyedYaml, *, root: Path, where: str, annotations_only: bool
) -> SplitSource:
    fields = entry if isinstance(entry, dict) else {"annotations": entry}
    for key in fields:
        if key not in ("images", "annotations"):
            near = suggestion(str(key), ("images", "annotations"))
            raise ConfigError(
                f"Expected images and annotations in {where}, found '{legible(str(key))}'.{near}"
            )
    if "annotations" not in fields:
        raise ConfigError(f"Expected annotations: <JSON file> in {where}, found none.")
    annotations = _existing(fields["annotations"], root=root, where=where)
    images = fields.get("images")
    named = where
    if images is None and content.get("images") is not None:
        images, named = content.get("images"), content.place("images")
    if annotations_only and isinstance(images, str) and not annotations.is_dir():
        return SplitSource((annotations,), images=Path(abspath(root / images)))
    folder = annotations.parent if images is None else _existing(images, root=root, where=named)
    if annotations.is_dir() or not folder.is_dir():
        raise DataError(
            f"Expected a JSON file and a folder of images as {where}, "
            f"found {_shown(annotations)} and {_shown(folder)}."
        )
    return SplitSource((annotations,), images=folder)


def _existing(entry: Any, *, root: Path, where: str) -> Path:
    if not isinstance(entry, str) or not entry:
        raise ConfigError(f"Expected a path as {where}, found {_shown(entry)}.")
    candidates = [Path(abspath(root / entry))]
    if "\\" in entry:  # of Windows
        candidates.append(Path(abspath(root / entry.replace("\\", "/"))))
    if entry.startswith("../"):  # exports of Roboflow mean '../train/images' from the root itself
        candidates.append(Path(abspath(root / entry[3:])))
    for path in candidates:
        if _is_there(path, where=where):
            return path
    raise DataError(
        f"Expected a folder or file at {_shown(candidates[0])}, as {where} says, found none."
    )


def _is_there(path: Path, *, where: str) -> bool:
    """Returns whether there is a folder or file.

    Raises:
        DataError: that cannot be told, for want of permission as a rule.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return False
    except OSError as error:
        raise DataError(
            f"Expected a folder or file at {_shown(path)}, as {where} says, found "
            f"{(error.strerror or str(error)).lower()}."
        ) from error
    return True


def _names(
    content: KeyedYaml, *, root: Path, roots: Roots, required: bool
) -> tuple[str, ...] | None:
    value = content.get("names")
    if isinstance(value, str) and value:
        file = _existing(value, root=root, where=content.place("names"))
        if (why := roots.why_not(str(file))) is not None:
            raise DataError(f"Expected class names in the data set, found that {file} {why}.")
        value = [text for _, text in listed_lines(file)]
    if value is None:
        if required or content.get("nc") is not None:
            raise ConfigError(
                f"Expected the class names as key 'names' of {content.file}, found none."
            )
        return None
    place = content.place("names")
    if isinstance(value, dict):
        if set(value) != set(range(len(value))):
            raise ConfigError(
                f"Expected the numbers 0 to {len(value) - 1} before the names of {place}, "
                f"found {legible(', '.join(map(repr, value)))}."
            )
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list) or not value:
        raise ConfigError(f"Expected a list of class names as {place}, found {_shown(value)}.")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ConfigError(f"Expected texts under {place}, found {_shown(name)}; quote it.")
    names = tuple(str(name) for name in value)
    repeated = _repeated(names)
    if repeated is not None:
        raise ConfigError(
            f"Expected every name once under {place}, found '{legible(repeated)}' twice."
        )
    count = content.get("nc")
    if count is not None and count != len(names):
        raise ConfigError(
            f"Expected as many names as {content.place('nc')} says, {_shown(count)}, found "
            f"{len(names)}."
        )
    return names


def _repeated(names: Iterable[str]) -> str | None:
    """Returns the first name that stands twice, if any."""
    counts = Counter(names)
    return next((name for name, count in counts.items() if count > 1), None)


def _shown(value: Any) -> str:
    """Returns a path, or a value as it would be written, as a message may show it."""
    return legible(str(value) if isinstance(value, Path) else repr(value))


def _category_ids(
    content: KeyedYaml, names: tuple[str, ...] | None, *, data_format: str
) -> tuple[int, ...] | None:
    value = content.get("category_ids")
    if value is None:
        return None
    if data_format == "coco":
        raise ConfigError(
            f"Expected no {content.place('category_ids')}, since COCO files have ids of their own."
        )
    count = len(names or ())
    ids = tuple(value) if isinstance(value, list) else ()
    fit = all(type(one) is int and -(2**63) <= one < 2**63 for one in ids)
    if not fit or len(ids) != count or len(set(ids)) < count:
        raise ConfigError(
            f"Expected {count} different whole numbers, one a name, as "
            f"{content.place('category_ids')}, found {_shown(value)}."
        )
    return ids


def _keypoint_columns(content: KeyedYaml) -> int:
    value = content.get("kpt_shape")
    if value is None:
        return 0
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(type(one) is int and 0 <= one < 10_000 for one in numbers):
        raise ConfigError(
            f"Expected number and size of the keypoints, as [17, 3], as "
            f"{content.place('kpt_shape')}, found {_shown(value)}."
        )
    return numbers[0] * numbers[1]


def _classes(content: KeyedYaml) -> dict[str, tuple[str, ...]] | None:
    value = content.get("classes")
    if value is None:
        return None
    place = content.place("classes")
    if not isinstance(value, list | dict) or not value:
        raise ConfigError(
            f"Expected 'new name: [names of the files]' or a list of names as {place}, found "
            f"{_shown(value)}."
        )
    pairs = value.items() if isinstance(value, dict) else [(name, name) for name in value]
    classes = []
    for new, olds in pairs:
        listed = olds if isinstance(olds, list) else [olds]
        if not listed or not all(isinstance(name, str) for name in (new, *listed)):
            raise ConfigError(
                f"Expected texts under {place}, found {_shown(new)}: {_shown(olds)}; quote names "
                "that are no texts."
            )
        classes.append((new, tuple(listed)))
    repeated = _repeated(name for _, olds in classes for name in olds)
    if repeated is not None:
        raise ConfigError(
            f"Expected every class in one place under {place}, found '{legible(repeated)}' in two."
        )
    return dict(classes)
