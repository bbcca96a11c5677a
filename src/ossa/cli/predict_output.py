"""Where `ossa predict` sends what it finds: stdout, a folder, a window."""

import json
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from ossa.cli.console import plain
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.predict.results import Results
    from ossa.predict.sources import Frame, Source
    from ossa.predict.writer import ResultFolder, Window


class Stdout:
    """Prints the results: as one JSON document, a line each, or as counts at the end.

    Whichever it is, each result is printed as soon as it is known, and none is kept.
    """

    def __init__(self, *, as_document: bool, as_lines: bool) -> None:
        self._as_document = as_document
        self._as_lines = as_lines
        self._counts: Counter[str] = Counter()
        self.num_pictures = 0
        self.num_frames = 0
        self.num_unreadable = 0

    @property
    def num_shots(self) -> int:
        return self.num_pictures + self.num_frames

    def add(self, frame: "Frame", found: "Results") -> None:
        """Prints or counts the results of one picture."""
        if self._as_document or self._as_lines:
            text = json.dumps(plain(found.to_dict(**frame.location)))
            if self._as_document:
                text = (",\n" if self.num_shots else "[\n") + text
            print(text, end="" if self._as_document else "\n", flush=True)  # noqa: T201 - JSON
        self._counts.update(found.names[label] for label in found.labels)
        self.num_pictures += frame.number is None
        self.num_frames += frame.number is not None

    def lose(self, source: "Source") -> None:
        """Counts a source that cannot be read."""
        self.num_unreadable += 1

    def close(self) -> None:
        """Ends the document, or prints the counts."""
        if not self.num_shots:
            return
        if self._as_document:
            print_line()
            print_line("]")
        elif not self._as_lines:
            print_line(self.summary())

    def summary(self) -> str:
        """Returns '2 pictures, 30 frames: 3 person, 1 dog', the most frequent class first.

        What could not be read is between them: '2 pictures (1 file unreadable): 3 person'.
        """
        if not self.num_shots:
            return "nothing was looked at"
        of_kinds = ((self.num_pictures, "picture"), (self.num_frames, "frame"))
        shots = [f"{count} {kind}{'s' * (count > 1)}" for count, kind in of_kinds if count]
        names = [f"{count} {name}" for name, count in self._counts.most_common()]
        lost = self.num_unreadable
        missing = f" ({lost} {'files' if lost > 1 else 'file'} unreadable)" if lost else ""
        return f"{', '.join(shots)}{missing}: {', '.join(names) or 'nothing found'}"


class Outputs:
    """All that want to know what was found; leaving the `with` ends their files, and stdout."""

    def __init__(
        self,
        stdout: Stdout,
        folder: "ResultFolder | None" = None,
        window: "Window | None" = None,
    ) -> None:
        self.stdout = stdout
        self._folder = folder
        self._window = window
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._folder is not None:
            self._open.enter_context(self._folder)
        if self._window is not None:
            self._open.callback(self._window.close)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._open.close()
        if not isinstance(error, BrokenPipeError):
            self.stdout.close()

    def add(self, frame: "Frame", found: "Results") -> bool:
        """Hands on what was found in a picture; returns False once the user wants no more."""
        self.stdout.add(frame, found)
        drawing = None if self._folder is None else self._folder.add(frame, found)
        if self._window is None:
            return True
        drawing = found.draw() if drawing is None else drawing
        return self._window.show(drawing, wait=frame.number is None)
