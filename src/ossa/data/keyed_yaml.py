"""A small YAML file of keys, each with its line, so that what is wrong is told with its place.

Only what such a file needs is read: no aliases, which can be made to stand for billions of values,
and no deep nesting.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from ossa.data.formats.text import line_of_fault
from ossa.errors import ConfigError, DataError, legible, suggestion

_DEEPEST: Final = 20
"""Lists and mappings within others."""


@dataclass(frozen=True)
class KeyedYaml:
    """The keys of a YAML file."""

    file: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    """Of the keys, counted from 1."""

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
        known: the keys that it may have.

    Raises:
        ConfigError: it is no YAML, has an alias, or a key that is unknown or stands twice.
        DataError: there is no such file.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{file}:{line_of_fault(file)}"
        raise ConfigError(f"Expected UTF-8 text, found another byte at {place}.") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        found = "none" if missing else (error.strerror or str(error)).lower()
        raise DataError(
            f"Expected the description of a data set at {file}, found {found} there; "
            "give a data.yaml or a folder that holds one."
        ) from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"Expected keys such as train, val and names in {file}, found none.")
        lines = _lines_of_keys(node, known, file=file)
        return KeyedYaml(file, loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        place, problem = f"{file}:{_line(error, text)}", _problem(error)
        raise ConfigError(f"Expected YAML, found a syntax error at {place}: {problem}.") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, depth and repeated keys, with the line of errors."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias is not read here", problem_mark=mark)
        self._depth += 1
        if self._depth > _DEEPEST:
            problem = f"lists and keys nested more than {_DEEPEST} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # YAML forbids it; PyYAML would keep the last alone.
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"key {key.value} again, in the same place"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:  # a date of month 99, 5000 digits
            problem, mark = str(error), node.start_mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark) from error


def _line(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None)
    return text.count("\n", 0, getattr(error, "position", 0)) + 1 if mark is None else mark.line + 1


def _problem(error: yaml.YAMLError) -> str:
    return legible(getattr(error, "problem", None) or str(error).splitlines()[0])


def _lines_of_keys(node: yaml.MappingNode, known: Collection[str], *, file: Path) -> dict[str, int]:
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
        if key not in known:
            raise ConfigError(
                f"Expected a key of a data.yaml, found '{legible(key)}' at {file}:{line}."
                f"{suggestion(key, known)}"
            )
        if key in lines:
            raise ConfigError(f"Expected every key once, found '{key}' again at {file}:{line}.")
        lines[key] = line
    return lines
