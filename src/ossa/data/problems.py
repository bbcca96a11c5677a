"""What is wrong with the files of a data set, with file and line, and what was done about it."""

from dataclasses import dataclass
from pathlib import Path

from ossa.errors import DataError


@dataclass(frozen=True)
class Problem:
    """One fault of a data set that reading went past."""

    file: Path
    line: int | None
    """Counted from 1; None where the fault has no line (an image, an entry of a JSON file)."""
    what: str
    action: str
    """What reading did about it: 'box dropped', 'image left out', ..."""

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what} ({self.action})"


class ProblemLog:
    """Collects problems in the order they are met; a strict log raises at the first."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._problems: list[Problem] = []

    def report(self, file: Path, line: int | None, what: str, *, action: str) -> None:
        """Appends a problem.

        Raises:
            DataError: the log is strict.
        """
        problem = Problem(file, line, what, action)
        if self._strict:
            place = str(file) if line is None else f"{file}:{line}"
            raise DataError(f"{place}: {what}; mend it, or read without strict.")
        self._problems.append(problem)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)
