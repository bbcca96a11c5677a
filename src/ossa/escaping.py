"""Text from anywhere, escaped for the place where it is written: one function for each place.

Class names, file names and messages may come from a stranger's file. A terminal interprets some of
their characters as commands, a spreadsheet a cell that begins with `=` as a formula, a page `<` as
the begin of a tag. Pages of `ossa.viz.page` escape by themselves (jinja2), other HTML by
`html.escape`.
"""

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any, Final, TextIO

_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: control and format characters (bidirectional ones, too), lone surrogates,
what is unassigned, and line separators."""
_MOST_CHARACTERS: Final = 20_000
"""Of a line on a terminal; of a longer one the beginning and the end are shown."""
_JOINERS: Final = "\u200c\u200d"
"""Format characters that words in Persian and Hindi need, and emoji."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_PLAIN_HOST: Final = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d*)?")
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "²": "$^2$",
    "≥": r"$\ge$",
}


def escape_terminal(text: str) -> str:
    r"""Returns `text` on one line that a terminal prints as it is, without credentials.

    Examples:
        >>> escape_terminal("cat\x1b[31m of rtsp://user:secret@camera/1?token=abc")
        'cat\\x1b[31m of rtsp://camera/1?***'
    """
    half = _MOST_CHARACTERS // 2
    text = text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"
    text = hide_credentials(text)
    return text if text.isprintable() else _escape(text, _UNSHOWN, kept=_JOINERS)


def hide_credentials(text: str) -> str:
    """Returns `text` with the user and password of every address left out, its query as `***`.

    Examples:
        >>> hide_credentials("rtsp://user:p@ss/word@camera:554/1?token=abc")
        'rtsp://camera:554/1?***'
    """
    if "@" in text:
        text = re.sub(r"(?<=://)\S+", lambda found: _without_user(found[0]), text)
        text = re.sub(r"(?<![^\s:/@'\"])[^\s:/@'\"]+:[^\s@/]+@(?=[\w\[])", "***@", text)
    return re.sub(r"(://[^\s?#]*[?#])[^\s'\"]+", r"\1***", text)


def _without_user(address: str) -> str:
    """Returns what stands behind `://` without user and password.

    A password may hold / and @ where it should not: all until the last @ is taken for it, unless
    a plain host comes first, and @ stands at most where a name in a path begins.
    """
    host, slash, path = address.partition("/")
    if _PLAIN_HOST.fullmatch(host) and "@" not in f"{slash}{path}".replace("/@", "/"):
        return address
    return address.rpartition("@")[2]


def print_line(text: object = "", *, to: TextIO | None = None) -> None:
    """Prints one line, escaped for a terminal, on stdout or `to`, at once."""
    print(escape_terminal(str(text)), file=to or sys.stdout, flush=True)


def write_csv(stream: TextIO, rows: Iterable[Iterable[object]]) -> None:
    r"""Writes rows as CSV of which no spreadsheet takes a text for a formula.

    A text that begins like a formula and is no number gets an apostrophe in front; control
    characters are written as escapes such as `\x1b`.
    """
    csv.writer(stream, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)


def escape_figure(text: str, *, longest: int = 60) -> str:
    """Returns `text` as matplotlib draws it as it is: no formula, and named in the legend.

    Args:
        text: a name from a file.
        longest: characters; of a longer text the beginning is shown.
    """
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    text = escape_terminal(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def escape_latex(text: str) -> str:
    """Returns `text` as LaTeX sets it as it is."""
    return "".join(_LATEX.get(character, character) for character in escape_terminal(text))


def escape_markdown(text: str) -> str:
    """Returns `text` as a cell of a table of GitHub's Markdown shows it as it is."""
    return re.sub(r"([\\|`<>\[\]])", r"\\\1", escape_terminal(text))


def script_json(value: Any) -> str:
    """Returns `value` as JSON that may stand in a `<script>`: nothing in it ends or opens one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    if cell.startswith(_FORMULA) and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell):
        cell = "'" + cell
    return _escape(cell, ("Cc", "Cs"), kept="\n\t")


def _escape(text: str, categories: Collection[str], *, kept: str) -> str:
    """Returns `text` with the characters of some Unicode categories, but those kept, as escapes."""
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in categories and c not in kept
        else c
        for c in text
    )
