"""Lines of text files, and where a file is no text."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ossa.errors import DataError
from ossa.files import open_regular, read_regular

MOST_BYTES_OF_AN_IMAGE: Final = 16_000_000
"""Of a file with the annotations of one image; ten thousand polygons take less."""
_MOST_BYTES_OF_A_LIST: Final = 512_000_000
_LINE: Final = re.compile(r"\S[^\n]*")
_PIECE: Final = 1 << 22


def numbered_lines(
    file: Path, *, most_bytes: int = MOST_BYTES_OF_AN_IMAGE
) -> Iterator[tuple[int, str]]:
    """Returns number, from 1, and stripped text of the lines of a UTF-8 file that are not empty.

    Lines end as in any editor, at a line feed, a carriage return or both.

    Raises:
        OSError: as `ossa.files.read_regular`.
        UnicodeDecodeError: it is no text.
    """
    text = read_regular(file, most_bytes=most_bytes).decode("utf-8-sig")
    return _lines(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    line, at = 1, 0
    for found in _LINE.finditer(text):
        line += text.count("\n", at, found.start())
        at = found.start()
        yield line, found[0].rstrip()


def listed_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Returns the numbered lines of a list that a split cannot do without.

    Raises:
        DataError: the file cannot be read as text.
    """
    try:
        return numbered_lines(file, most_bytes=_MOST_BYTES_OF_A_LIST)
    except UnicodeDecodeError as error:
        place = f"{file}:{line_of_fault(file)}"
        raise DataError(f"Expected a list in UTF-8, found another byte at {place}.") from error
    except OSError as error:
        raise DataError(f"Expected a list at {file}, found {error.strerror}.") from error


def line_of_fault(file: Path) -> int:
    """Returns the line, from 1, of the first byte of a file that is not UTF-8; the last if none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open_regular(file) as stream:
        while True:
            piece = stream.read(_PIECE)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            if not piece:
                return line
