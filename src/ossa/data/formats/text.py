"""Lines of text files, and where a file is no text."""

import codecs
from pathlib import Path
from typing import Final

from ossa.errors import DataError

_PIECE: Final = 1 << 22


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """Returns number, from 1, and stripped text of the lines of a UTF-8 file that are not empty.

    Lines end as in any editor, at a line feed, a carriage return or both.
    """
    lines = enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def listed_lines(file: Path) -> list[tuple[int, str]]:
    """Returns the numbered lines of a list that a split cannot do without.

    Raises:
        DataError: the file cannot be read as text.
    """
    try:
        return numbered_lines(file)
    except UnicodeDecodeError as error:
        place = f"{file}:{line_of_fault(file)}"
        raise DataError(f"Expected a list in UTF-8, found another byte at {place}.") from error
    except OSError as error:
        raise DataError(f"Expected a list at {file}, found {error.strerror}.") from error


def line_of_fault(file: Path) -> int:
    """Returns the line, from 1, of the first byte of a file that is not UTF-8; the last if none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with file.open("rb") as stream:
        while True:
            piece = stream.read(_PIECE)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            if not piece:
                return line
