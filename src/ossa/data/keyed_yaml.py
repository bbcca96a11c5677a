"""The keys of a data.yaml, each with its line, so that what is wrong is told with its place."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final

from ossa.errors import ConfigError, DataError, legible, suggestion
from ossa.safe_yaml import read_yaml

_NEAR: Final = 0.7
_LONGER: Final = 3
"""Characters that a misspelt key is longer or shorter by, at most."""


@dataclass(frozen=True)
class KeyedYaml:
    """The keys of a data.yaml."""

    file: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    """Of the keys, counted from 1."""
    notes: tuple[str, ...]
    """A sentence on the keys that are passed over, if there are any."""

    def get(self, key: str) -> Any:
        """Returns a value, None where it is empty or there is no such key."""
        return self.values.get(key)

    def place(self, key: str) -> str:
        """Returns how to name a key and its place, such as "key 'names' at data.yaml:3"."""
        return f"key '{key}' at {self.file}:{self.lines[key]}"


def load_keyed_yaml(file: Path, known: Collection[str]) -> KeyedYaml:
    """Returns the keys of a YAML file.

    Args:
        file: in UTF-8.
        known: the keys that are read; others are passed over.

    Raises:
        ConfigError: it is no YAML that is read here, or has a key that may be one of these
            misspelt that is not given.
        DataError: there is no such file.
    """
    try:
        document = read_yaml(file)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        found = "none" if missing else (error.strerror or str(error)).lower()
        raise DataError(
            f"Expected the description of a data set at {file}, found {found} there; "
            "give a data.yaml or a folder that holds one."
        ) from error
    if not isinstance(document.value, dict):
        raise ConfigError(f"Expected keys such as train, val and names in {file}, found none.")
    others = [key for key in document.key_lines if key not in known]
    for key in others:
        near = [one for one in known if one not in document.key_lines and _is_near(key, one)]
        if near:
            raise ConfigError(
                f"Expected a key of a data.yaml, found '{legible(key)}' at "
                f"{file}:{document.key_lines[key]}.{suggestion(key, near)}"
            )
    note = f"{file}: keys of other tools are passed over: {legible(', '.join(others))}"
    return KeyedYaml(file, document.value, document.key_lines, (note,) if others else ())


def _is_near(key: str, known: str) -> bool:
    """Returns whether a key may be another one misspelt; num_classes is not classes."""
    is_as_long = abs(len(key) - len(known)) <= _LONGER
    return is_as_long and SequenceMatcher(None, key, known).ratio() >= _NEAR
