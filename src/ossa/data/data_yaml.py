"""The keys of a data.yaml with types and lines; their meaning is in `ossa.data.description`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from os.path import abspath
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from ossa.errors import ConfigError, DataError, legible, os_reason, suggestion
from ossa.safe_yaml import read_yaml
from ossa.schema import shown

SPLITS: Final = ("train", "val", "test")

_Text = Annotated[str, Field(min_length=1)]
_Split: Final = _Text | Annotated[list[_Text], Field(min_length=1)] | dict[str, Any]
_Name = str | int
_Names = Annotated[list[_Name], Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1)]
_VALUES: Final[Mapping[str, tuple[Any, str]]] = MappingProxyType(
    {
        "format": (str, "coco, voc or yolo"),
        "path": (str, "a folder"),
        **dict.fromkeys(SPLITS, (_Split, "a path or a list of paths")),
        "names": (
            _Text | _Names | dict[int, _Name],
            "a list of class names (quote words such as 'yes')",
        ),
        "nc": (int | float, "a number of classes"),
        "category_ids": (
            list[Annotated[int, Field(ge=-(2**63), lt=2**63)]],
            "different whole numbers, one per name,",
        ),
        "classes": (
            _Texts | Annotated[dict[str, str | _Texts], Field(min_length=1)],
            "a list of class names or {new name: [names]} (quote words such as 'yes')",
        ),
        "images": (_Text, "a folder"),
        "outside": (_Text | list[_Text], "a path or a list of paths"),
        "kpt_shape": (
            Annotated[
                list[Annotated[int, Field(ge=0, lt=10_000)]], Field(min_length=2, max_length=2)
            ],
            "number and size of the keypoints, such as [17, 3],",
        ),
    }
)
"""Type and description of the value of every key that is read."""
_TYPES: Final = {key: TypeAdapter(kind) for key, (kind, _) in _VALUES.items()}
_KEYS: Final = (*_VALUES, "download", "roboflow")
_NEAR: Final = 0.7
_LONGER: Final = 3
"""Characters that a misspelt key is longer or shorter by, at most."""


@dataclass(frozen=True)
class DataYaml:
    """The keys of a data.yaml, whose values have the types of `_VALUES`."""

    file: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    notes: tuple[str, ...]
    root: Path

    def get(self, key: str) -> Any:
        """Returns a value; None where it is empty or missing."""
        return self.values.get(key)

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
        """Returns the file or folder that an entry of a key names, made absolute.

        Raises:
            DataError: it does not exist, or may not be looked at.
        """
        candidates = [entry]
        if "\\" in entry:  # of Windows
            candidates.append(entry.replace("\\", "/"))
        if entry.startswith("../"):  # exports of Roboflow mean '../train/images' from the root
            candidates.append(entry[3:])
        paths = [Path(abspath(self.root / candidate)) for candidate in candidates]
        reason = "none"
        for path in paths:
            try:
                path.stat()
                return path
            except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
                pass
            except OSError as error:
                reason = os_reason(error)
                break
        expected = f"a folder or file at {legible(str(paths[0]))}"
        raise self.error(key, expected, reason, missing=True)


def read_data_yaml(file: Path) -> DataYaml:
    """Returns the keys of a data.yaml.

    Raises:
        ConfigError: it is no YAML, or has a key that looks misspelt or a value of another type.
        DataError: there is no such file, or no root folder.
    """
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
    values, lines = document.value, document.key_lines
    if not isinstance(values, dict):
        raise ConfigError(expected="keys such as train, val and names", path=file)
    # An empty text is no split, as for YOLOv5; as a path it would be the root with all images.
    values = {
        key: None if key in SPLITS and value == "" else value for key, value in values.items()
    }
    others = [key for key in lines if key not in _KEYS]
    for key in others:
        near = [known for known in _KEYS if known not in lines and _is_near(key, known)]
        if near:
            raise ConfigError(
                expected="a key of a data.yaml",
                found=f"'{legible(key)}'",
                path=file,
                line=lines[key],
                advice=suggestion(key, near),
            )
    note = f"{file}: keys of other tools are passed over: {legible(', '.join(others))}"
    content = DataYaml(file, values, lines, (note,) if others else (), file.parent)
    for key, (_, expected) in _VALUES.items():
        value = content.get(key)
        try:
            _TYPES[key].validate_python(value, strict=True)
        except ValidationError:
            if value is not None:
                raise content.error(key, expected, shown(value)) from None
    root = content.existing("path", content.get("path") or ".")
    if not root.is_dir():
        raise content.error("path", "a folder", str(root), missing=True)
    return replace(content, root=root)


def _is_near(key: str, known: str) -> bool:
    """Returns whether a key may be another one misspelt; num_classes is not classes."""
    is_as_long = abs(len(key) - len(known)) <= _LONGER
    return is_as_long and SequenceMatcher(None, key, known).ratio() >= _NEAR
