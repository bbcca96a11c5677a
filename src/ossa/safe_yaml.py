"""YAML from anywhere: the values of JSON, bounded in size, depth and what aliases multiply."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from ossa.errors import ConfigError, legible
from ossa.files import read_regular

_MOST_BYTES: Final = 2_500_000
_MOST_CONTENT: Final = 2_500_000
"""Characters of all values and keys, those of an alias counted wherever it stands."""
_CONTENT_OF_A_VALUE: Final = 32
"""Each counts as so many characters more."""
_DEEPEST: Final = 20
"""Lists and mappings within others."""
_MOST_DIGITS: Final = 100
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{tag}" for tag in ("null", "bool", "int", "float", "str", "seq", "map")
)
_TEXTS: Final = frozenset({"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"})
"""What PyYAML makes of 2020-01-01 and =, for which JSON has no other word."""


@dataclass(frozen=True)
class YamlDocument:
    """A parsed YAML text."""

    value: Any
    key_lines: Mapping[str, int]
    """Line of each outermost key, counted from 1."""


def read_yaml(file: Path) -> YamlDocument:
    """Returns the content of a YAML file in UTF-8; see `parse_yaml`.

    Raises:
        ConfigError: it is no YAML of the kind that is read here.
        OSError: there is no such file, it is no regular one or has over 2.5 MB.
    """
    content = read_regular(file, most_bytes=_MOST_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            expected="UTF-8 text", found="another byte", path=file, line=line
        ) from None
    return _parse(text, path=file)


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns the value of a YAML text: None, bool, int, float, str, list and dict of these.

    Dates stay texts. Anchors, aliases and `<<` are read as long as what they stand for, written
    out, is not more than any text may hold.

    Args:
        text: from anywhere.
        where: it stands, for errors, such as 'the value of train.lr'.

    Raises:
        ConfigError: no YAML; a key stands twice, an alias within what it stands for; too large.
    """
    return _parse(text, where=f" in {where}").value


def _parse(text: str, *, where: str = "", path: Path | None = None) -> YamlDocument:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlDocument(None, {})
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        lines = {key.value: key.start_mark.line + 1 for key, _ in pairs}
        return YamlDocument(loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = text.count("\n", 0, getattr(error, "position", 0)) if mark is None else mark.line
        problem = legible(getattr(error, "problem", None) or getattr(error, "reason", "no YAML"))
        raise ConfigError(
            expected=f"YAML{where}", found=f"a syntax error: {problem}", path=path, line=line + 1
        ) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds, without repeated keys, and with the line of errors."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._content = 0
        self._content_of_anchor: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        mark, before = event.start_mark, self._content
        anchor = getattr(event, "anchor", None)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _fault(f"lists and keys nested more than {_DEEPEST} deep", mark)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in self._content_of_anchor:
                raise _fault(f"alias {anchor} of nothing that stands complete before it", mark)
            self._content += self._content_of_anchor[anchor]
        else:
            self._content += _CONTENT_OF_A_VALUE + len(getattr(event, "value", ""))
        if self._content > _MOST_CONTENT:
            raise _fault("more values, those of aliases counted, than are read here", mark)
        node = super().compose_node(parent, index)
        if anchor is not None:
            self._content_of_anchor[anchor] = self._content - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a list or mapping as a key", key.start_mark)
            if (key.tag, key.value) in seen:  # YAML forbids it; PyYAML would keep the last alone
                raise _fault(f"key {key.value} again, in the same place", key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in _TEXTS:
            node.tag = self.DEFAULT_SCALAR_TAG
        if node.tag not in _TAGS:
            raise _fault(f"a value of the kind {node.tag}", node.start_mark)
        if node.tag.endswith(("int", "float")) and len(node.value) > _MOST_DIGITS:
            raise _fault(f"a number of {len(node.value):,} characters", node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except LookupError as error:  # !!bool text, !!int ''
            kind = node.tag.rpartition(":")[2]
            problem = f"{node.value!r} said to be of the kind {kind}"
            raise _fault(problem, node.start_mark) from error
        except (ValueError, OverflowError, RecursionError) as error:  # !!int text
            raise _fault(str(error), node.start_mark) from error


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
