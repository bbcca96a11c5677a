"""Lists of a large JSON file, element by element: memory for one element, not for the file.

Python's own decoder reads each element, so that numbers, escapes and NaN mean what they mean
elsewhere; this module only finds where the next element begins.
"""

import json
from collections.abc import Collection, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from ossa.data.paths import line_of_fault
from ossa.errors import DataError, os_reason
from ossa.files import open_regular

_PIECE: Final = 1 << 22
"""Characters read at a time."""
_LONGEST_ELEMENT: Final = 1 << 23
"""Characters: decoded, they may take twenty times as many bytes."""
_LONGEST_WORD: Final = 16
"""Characters that are enough to tell any word, or escape within a text, from a wrong one."""
_BLANK: Final = " \t\n\r"
_AFTER_A_VALUE: Final = frozenset(f"{_BLANK}:,]}}")


def stream_lists(
    file: Path, keys: Collection[str], *, optional: Collection[str] = ()
) -> Iterator[tuple[str, int, Any]]:
    """Yields key, line and element for every element of the lists under `keys` of a JSON object.

    Lists under the keys `optional` are as well, if there are any.

    The line, counted from 1, is where the element begins. They come in the order of the file; other
    keys are skipped.

    Raises:
        DataError: the file is unreadable or no JSON, or one of `keys` is no list, stands twice or,
            raised after the last element, not at all.
    """
    found, wanted = set(), {*keys}
    try:
        with TextIOWrapper(open_regular(file), encoding="utf-8-sig") as stream:
            window = _Window(stream, file)
            for key in _keys(window):
                if key in keys and (key in found or window.peek() != "["):
                    window.value()  # a syntax error is reported as one
                    what = "a second" if key in found else "no list"
                    expected = f"one list of objects as '{key}'"
                    raise DataError(expected=expected, found=what, path=file, line=window.line())
                found.add(key)
                if window.peek() != "[":
                    window.value()
                    continue
                wanted |= {key}.intersection(optional)
                for _ in _between(window, "[", "]"):
                    line = window.line() if key in wanted else 0
                    element = window.value()
                    if key in wanted:
                        yield key, line, element
    except UnicodeDecodeError as error:
        line = line_of_fault(file)
        raise DataError(
            expected="JSON in UTF-8", found="another byte", path=file, line=line
        ) from error
    except OSError as error:
        raise DataError(expected="a JSON file", found=os_reason(error), path=file) from error
    for key in keys:
        if key not in found:
            raise DataError(expected=f"a list of objects as '{key}'", path=file)


def _keys(window: "_Window") -> Iterator[str]:
    """Yields the keys of the outermost object, with the window at the value of each."""
    if window.peek() == "[":  # a list, perhaps of detections, is JSON, but has no keys
        return
    for _ in _between(window, "{", "}"):
        if window.peek() != '"':
            window.fail("Expecting property name enclosed in double quotes")
        key = window.value()
        window.take(":")
        yield key
    if window.peek():
        window.fail("extra data")


def _between(window: "_Window", opening: str, closing: str) -> Iterator[None]:
    """Yields before each of the values between two brackets, which the caller takes."""
    window.take(opening)
    if window.peek() != closing:
        yield
        while window.peek() == ",":
            window.take(",")
            yield
    window.take(closing)


class _Window:
    """The part of a text file that is in memory, and a place in it."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self._stream = stream
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0
        """A line and a place in the text that is in it, at or before the current place."""

    def peek(self) -> str:
        """Goes to the next character that is not blank and returns it, '' at the end."""
        while True:
            for at in range(self._at, len(self._text)):
                if self._text[at] not in _BLANK:
                    self._at = at
                    return self._text[at]
            self._at = len(self._text)
            if not self._read_more():
                return ""

    def take(self, character: str) -> None:
        """Goes past a character, which must be the next one."""
        if self.peek() != character:
            self.fail(f"Expecting '{character}'")
        self._at += 1

    def value(self) -> Any:
        """Returns the value that begins here, and goes past it."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Cut off where the text in memory ends, or wrong: more of the file tells.
                is_cut = error.pos > len(self._text) - _LONGEST_WORD
                is_cut |= error.msg.startswith("Unterminated string")
                if not is_cut or not self._read_more():
                    self.fail(error.msg, at=error.pos)
                continue
            except RecursionError:
                self.fail("lists and objects nested too deeply")
            except ValueError:  # Python reads no whole number of more than 4300 digits
                self.fail("a number of too many digits")
            # A number may go on behind the end of the text in memory.
            if self._text[end : end + 1] in _AFTER_A_VALUE or not self._read_more():
                self._at = end
                return value

    def line(self) -> int:
        """Returns the line, from 1, of the next character that is not blank."""
        self.peek()
        self._count_lines()
        return self._line

    def fail(self, what: str, *, at: int | None = None) -> NoReturn:
        """Raises the DataError of a syntax error, with its line."""
        end = self._at if at is None else at
        line = self._line + self._text.count("\n", self._counted, end)
        found = f"a syntax error: {what}"
        raise DataError(expected="JSON", found=found, path=self._file, line=line)

    def _read_more(self) -> bool:
        """Appends to the text in memory, drops what lies before the place; False at the end."""
        if len(self._text) - self._at > _LONGEST_ELEMENT:
            self.fail(f"an element of more than {_LONGEST_ELEMENT:,} characters")
        # As much again as there is: a long element is decoded few times.
        more = self._stream.read(max(_PIECE, len(self._text) - self._at))
        if not more:
            return False
        self._count_lines()
        self._text, self._at, self._counted = self._text[self._at :] + more, 0, 0
        return True

    def _count_lines(self) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
