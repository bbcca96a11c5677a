"""The data.yaml: where the images and annotations of a data set lie, and what its classes are.

Keys (those of a YOLOv5 data.yaml work as they are):

    format: yolo              # coco | voc | yolo; recognised by the entries where it is missing
    path: ../datasets/cells   # root, relative to the yaml's folder; default: that folder
    train: images/train       # relative to the root; one entry or a list of entries
    val: val.txt
    test:                     # may be empty, missing or name what is not there
    names: [RBC, WBC]         # or {0: RBC, 1: WBC}; optional for coco
    nc: 2                     # optional; must agree with names
    kpt_shape: [17, 3]        # optional, yolo: columns behind the box on a line, which are ignored
    category_ids: [1, 3]      # optional, yolo and voc: COCO's ids of the names
    classes: {blood cell: [RBC, WBC]}  # optional: new name: names of the files; see below
    groups: (*)_*.jpg         # optional: images that belong together (`ossa.data.groups`)
    outside: [/data/photos]   # optional: more folders that lists, JSON and links may lead to
    download: ...             # ignored, as is roboflow

Other keys are ignored with a note, unless they look like one of these misspelt.

`classes` filters, merges and renames, in every format: each new class is made of one or several of
the files' own, and objects of all other classes are left out. A list, `[RBC, WBC]`, keeps these
under their names.

An entry is a folder or list of images (yolo), a list of stems or a folder of images with XML files
(voc), or {images: FOLDER, annotations: FILE} or the JSON file alone, whose images lie in the folder
of the top-level key `images`, else beside it (coco). `names` may be a file of a name on each line.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from os.path import abspath
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ossa.data.layouts import find_description, format_of, has_entries
from ossa.data.paths import Roots, first_existing, listed_lines
from ossa.errors import ConfigError, DataError, legible, os_reason, suggestion
from ossa.safe_yaml import read_yaml
from ossa.schema import shown

SPLITS: Final = ("train", "val", "test")
FORMATS: Final = ("coco", "voc", "yolo")

_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1)]
_Paths = _Text | Annotated[list[_Text], Field(min_length=1)]
_Names = _Text | Annotated[list[str | int], Field(min_length=1)] | dict[int, str | int]
_Ids = list[Annotated[int, Field(ge=-(2**63), lt=2**63)]]
_Classes = _Texts | Annotated[dict[str, str | _Texts], Field(min_length=1)]
_Shape = Annotated[list[Annotated[int, Field(ge=0, lt=10_000)]], Field(min_length=2, max_length=2)]
_Table = Annotated[dict[Literal["file"], _Text], Field(min_length=1)]
_QUOTED: Final = "(quote words such as 'yes')"
_VALUES: Final[Mapping[str, tuple[Any, str]]] = {
    "format": (str, "coco, voc or yolo"),
    "path": (str, "a folder"),
    **dict.fromkeys(SPLITS, (_Paths | dict[str, Any], "a path or a list of paths")),
    "names": (_Names, f"a list of class names {_QUOTED}"),
    "nc": (int | float, "a number of classes"),
    "category_ids": (_Ids, "different whole numbers, one per name,"),
    "classes": (_Classes, f"a list of class names or {{new name: [names]}} {_QUOTED}"),
    "images": (_Text, "a folder"),
    "groups": (_Text | _Table, "a pattern such as (*)_*.jpg or {file: groups.csv}"),
    "outside": (_Paths, "a path or a list of paths"),
    "kpt_shape": (_Shape, "number and size of the keypoints, such as [17, 3],"),
}
"""Type and description of the value of every key that is read."""
_TYPES: Final = {key: TypeAdapter(kind) for key, (kind, _) in _VALUES.items()}  # type: ignore
_KEYS: Final = (*_VALUES, "download", "roboflow")


@dataclass(frozen=True)
class SplitSource:
    """The files of one split."""

    sources: tuple[Path, ...]
    """Existing folders and lists of images (yolo), lists of stems (voc), one JSON file (coco)."""
    images: Path | None = None
    """Folder that the file names in a COCO file are relative to; None for the other formats."""


@dataclass(frozen=True)
class DataDescription:
    """The content of a data.yaml, with paths made absolute and checked."""

    file: Path
    root: Path
    format: str
    """'coco', 'voc' or 'yolo'."""
    names: tuple[str, ...] | None
    """K class names of the files; None where only the COCO files have them."""
    splits: Mapping[str, SplitSource]
    """Those of 'train', 'val' and 'test' that the file names."""
    roots: Roots
    """Where the files lie that lists, JSON files and links may name."""
    category_ids: tuple[int, ...] | None = None
    """(K,) ids of the names; None where the format numbers them itself."""
    classes: Mapping[str, tuple[str, ...]] | None = None
    """Names of the files by the new name that they get; None: all as they are."""
    classes_line: int | None = None
    keypoint_columns: int = 0
    """Columns of keypoints behind the box on a line of YOLO labels, which are ignored."""
    groups: str | Mapping[str, str] | None = None
    """Which images belong together: a pattern, or the file of a table; see `ossa.data.groups`."""
    annotations_only: bool = False
    """Whether COCO's images need not exist."""
    missing: Mapping[str, DataError] = field(default_factory=dict)
    """Why a split that the file names is not in `splits`: 'test' may name what does not exist."""
    notes: tuple[str, ...] = ()
    """What is worth knowing but no fault, such as ignored keys."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """All keys of the file with their values."""


def read_description(
    path: Path | str,
    *,
    keys: Mapping[str, Any] | None = None,
    annotations_only: bool = False,
    allow_outside: bool | None = None,
) -> DataDescription:
    """Returns the description of a data set from a data.yaml, or from a folder with or without one.

    Layouts of folders without a data.yaml that are known: see `ossa.data.layouts`. For others
    `keys` stand for a data.yaml in the folder `path`.
    With `annotations_only` images whose files are missing are read, too, where the annotations
    state their sizes, as COCO's do. With `allow_outside` lists, JSON files and links may lead
    anywhere; None: only where the environment has OSSA_ALLOW_OUTSIDE, which --allow-outside sets.

    Raises:
        ConfigError: bad YAML, or a key that is unknown, missing, malformed or contradicts another.
        DataError: the file, or a folder or file that it names, does not exist.
    """
    file = Path(abspath(path))
    content = _DataYaml(*(find_description(file) if keys is None else (file, dict(keys))))
    data_format = _format(content)
    splits, missing = _splits(content, data_format, annotations_only=annotations_only)
    roots = Roots.chosen(_named_folders(content, splits), allow_outside=allow_outside)
    names = _names(content, roots, required=data_format != "coco")
    keypoints = content.get("kpt_shape") or (0, 0)
    missing_notes = (f"split 'test' is left out: {error}" for error in missing.values())
    return DataDescription(
        content.file,
        content.root,
        data_format,
        names,
        splits,
        roots,
        category_ids=_category_ids(content, names, data_format),
        classes=_classes(content),
        classes_line=content.lines.get("classes"),
        keypoint_columns=keypoints[0] * keypoints[1],
        groups=content.get("groups"),
        annotations_only=annotations_only,
        missing=missing,
        notes=(*content.notes, *missing_notes),
        content=content.values,
    )


class _DataYaml:
    """The keys of a data.yaml, whose values have the types of `_VALUES`, with their lines."""

    def __init__(self, file: Path, values: dict[str, Any] | None) -> None:
        """`file` is a folder where the values stand for a data.yaml."""
        self.file, self.values, self.lines = file, values or {}, {}
        if values is None:
            self._read(file)
        self._check_keys()
        self.root = file.parent if values is None else file
        self.root = self._existing_root()

    def _read(self, file: Path) -> None:
        try:
            document = read_yaml(file)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            raise DataError(
                expected="the description of a data set",
                found="none" if is_missing else os_reason(error),
                path=file,
                advice="give a data.yaml or a folder that holds one",
            ) from error
        if not isinstance(document.value, dict):
            raise ConfigError(expected="keys such as train, val and names", path=file)
        self.values, self.lines = document.value, document.key_lines

    def _existing_root(self) -> Path:
        try:
            root = self.existing("path", self.get("path") or ".")
        except DataError:  # of another machine, where the file was written
            if not has_entries(self.root, map(self.get, SPLITS)):
                raise
            note = f"{self.file}: no folder {legible(self.get('path'))}, so that of the file counts"
            self.notes = (*self.notes, note)
            return self.root
        if not root.is_dir():
            raise self.error("path", "a folder", str(root), missing=True)
        return root

    def _check_keys(self) -> None:
        others = [key for key in self.lines if key not in _KEYS]
        for key in others:
            # At most three characters more or less: num_classes is not classes misspelt.
            alike = [k for k in _KEYS if k not in self.lines and abs(len(key) - len(k)) <= 3]
            near = get_close_matches(key, alike, cutoff=0.7)
            if near:
                raise ConfigError(
                    expected="a key of a data.yaml",
                    found=f"'{legible(key)}'",
                    path=self.file,
                    line=self.lines[key],
                    advice=suggestion(key, near),
                )
        note = f"{self.file}: keys of other tools are passed over: {legible(', '.join(others))}"
        notes = [note] if others else []
        if self.file.is_dir():
            keys = (f"{key}: {shown(value)}" for key, value in self.values.items())
            notes.append(
                f"{self.file}: without a data.yaml, read by {legible(', '.join(keys), 500)}"
            )
        self.notes = tuple(notes)
        for key, (_, expected) in _VALUES.items():
            value = self.get(key)
            try:
                if value is not None:
                    _TYPES[key].validate_python(value, strict=True)
            except ValidationError:
                raise self.error(key, expected, shown(value)) from None

    def get(self, key: str) -> Any:
        """Returns a value; None where it is empty or missing."""
        value = self.values.get(key)
        # An empty text is no split, as for YOLOv5; as a path it would be the root with all images.
        return None if key in SPLITS and value == "" else value

    def error(
        self,
        key: str,
        expected: str,
        found: str,
        *,
        advice: str | None = None,
        missing: bool = False,
    ) -> ConfigError | DataError:
        """Returns the error of a value, or of a missing file that it names."""
        kind = DataError if missing else ConfigError
        expected, line = f"{expected} as key '{key}'", self.lines.get(key)
        return kind(expected=expected, found=found, path=self.file, line=line, advice=advice)

    def existing(self, key: str, entry: str) -> Path:
        """Returns the absolute file or folder of an entry; DataError where there is none."""
        path, reason = first_existing(self.root, entry)
        if reason is not None:
            expected = f"a folder or file at {legible(str(path))}"
            raise self.error(key, expected, reason, missing=True)
        return path


def _format(content: _DataYaml) -> str:
    entries = [entry for split in SPLITS if (entry := content.get(split)) is not None]
    if not entries:
        raise ConfigError(expected="a key train, val or test", path=content.file)
    stated = (content.get("format") or "").lower()
    if stated and stated not in FORMATS:
        advice = suggestion(stated, FORMATS)
        raise content.error("format", "coco, voc or yolo", f"'{stated}'", advice=advice)
    data_format = stated or format_of(entries, content.root)
    if content.get("images") is not None and data_format != "coco":
        raise content.error("images", "the format coco beside a folder", data_format)
    return data_format


def _splits(
    content: _DataYaml, data_format: str, *, annotations_only: bool
) -> tuple[dict[str, SplitSource], dict[str, DataError]]:
    """Returns the sources of the splits, and why 'test' has none, where it leads to nothing."""
    splits: dict[str, SplitSource] = {}
    missing: dict[str, DataError] = {}
    for split in SPLITS:
        entry = content.get(split)
        if entry is None:
            continue
        try:
            if data_format == "coco":
                splits[split] = _coco_source(content, split, annotations_only=annotations_only)
            elif isinstance(entry, dict):
                raise content.error(split, "a path or a list of paths", shown(entry))
            else:
                entries = entry if isinstance(entry, list) else [entry]
                splits[split] = SplitSource(tuple(content.existing(split, one) for one in entries))
        except DataError as error:
            if split != "test" or not splits:
                raise
            # Exports name it whether they have one or not, and nobody trains on it.
            missing[split] = error
    return splits, missing


def _coco_source(content: _DataYaml, split: str, *, annotations_only: bool) -> SplitSource:
    entry = content.get(split)
    fields = entry if isinstance(entry, dict) else {"annotations": entry}
    for key in fields:
        if key not in ("images", "annotations"):
            near = suggestion(str(key), ("images", "annotations"))
            raise content.error(split, "images and annotations", f"'{key}'", advice=near)
    file, images, images_key = fields.get("annotations"), fields.get("images"), split
    if not isinstance(file, str) or not file:
        raise content.error(split, "annotations: <JSON file>", shown(file) if file else "none")
    if images is None:
        images, images_key = content.get("images"), "images"
    if images is not None and not (isinstance(images, str) and images):
        raise content.error(images_key, "a folder of images", shown(images))
    annotations = content.existing(split, file)
    if annotations_only and images is not None and not annotations.is_dir():
        return SplitSource((annotations,), images=Path(abspath(content.root / images)))
    folder = annotations.parent if images is None else content.existing(images_key, images)
    if annotations.is_dir() or not folder.is_dir():
        found = f"{annotations} and {folder}"
        raise content.error(split, "a JSON file and a folder of images", found, missing=True)
    return SplitSource((annotations,), images=folder)


def _named_folders(content: _DataYaml, splits: Mapping[str, SplitSource]) -> Iterator[Path]:
    """Yields the folders that a data.yaml names, and those that its root links to.

    With all that is in them they may be read.
    """
    yield content.root
    with os.scandir(content.root) as entries:  # `images` linked to another disk is like its path
        yield from (Path(one.path) for one in entries if one.is_symlink() and one.is_dir())
    for source in splits.values():
        yield from (source.images,) if source.images is not None else ()
        for path in source.sources:
            yield from (path,) if path.is_dir() else (path.parent, path.resolve().parent)
    outside = content.get("outside") or []
    for entry in outside if isinstance(outside, list) else [outside]:
        yield content.existing("outside", entry)


def _names(content: _DataYaml, roots: Roots, *, required: bool) -> tuple[str, ...] | None:
    value = content.get("names")
    if value is None:
        if required or content.get("nc") is not None:
            raise ConfigError(expected="the class names as key 'names'", path=content.file)
        return None
    if isinstance(value, str):
        file = content.existing("names", value)
        if (why := roots.why_not(str(file))) is not None:
            raise content.error("names", "a file of the data set", f"{file} {why}", missing=True)
        value = [text for _, text in listed_lines(file)]
    if isinstance(value, dict):
        if set(value) != set(range(len(value))):
            found = legible(", ".join(map(repr, value)))
            raise content.error("names", f"the numbers 0 to {len(value) - 1} before names", found)
        value = [value[number] for number in range(len(value))]
    names, count = tuple(map(str, value)), content.get("nc")
    if not names:
        raise content.error("names", "a list of class names", "an empty one")
    _refuse_repeated(content, "names", names)
    if count not in (None, len(names)):
        raise content.error("nc", f"{len(names)}, the number of names,", shown(count))
    return names


def _refuse_repeated(content: _DataYaml, key: str, names: Iterable[str]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise content.error(key, "every class once", f"'{legible(name)}' twice")


def _category_ids(
    content: _DataYaml, names: tuple[str, ...] | None, data_format: str
) -> tuple[int, ...] | None:
    ids, count = content.get("category_ids"), len(names or ())
    if ids is None:
        return None
    expected, advice = f"{count} different whole numbers, one per name,", None
    if data_format == "coco":
        expected, advice = "no ids", "COCO files have ids of their own"
    elif len(ids) == len(set(ids)) == count:
        return tuple(ids)
    raise content.error("category_ids", expected, shown(ids), advice=advice)


def _classes(content: _DataYaml) -> dict[str, tuple[str, ...]] | None:
    value = content.get("classes")
    if value is None:
        return None
    pairs = value.items() if isinstance(value, dict) else [(name, name) for name in value]
    classes = [(new, (old,) if isinstance(old, str) else tuple(old)) for new, old in pairs]
    _refuse_repeated(content, "classes", (old for _, olds in classes for old in olds))
    return dict(classes)
