"""The errors that a user can cause: values with fields, rendered as a sentence in one place.

At the command line every one of them ends with exit code 2 (bad input) and no traceback;
`RunFailed` with exit code 1.
"""

import difflib
from collections.abc import Iterable
from os import PathLike
from typing import Final

from ossa.escaping import escape_terminal

_LONGEST_WORD: Final = 100
_LONGEST_PATH: Final = 500
_LONGEST_VALUE: Final = 1000


class OssaError(Exception):
    """Base of all errors that a user can cause and mend.

    An error is made of its fields, or of a message where a fixed sentence says it all; every field
    may be left out. Values from foreign files may be passed as they are: what a terminal would
    take for a command is escaped, and what is too long is shortened.

    Examples:
        >>> error = DataError(
        ...     expected="a box with positive area", found="width 0",
        ...     path="labels/7.txt", line=3, advice="correct or remove the line",
        ... )
        >>> str(error)
        'Expected a box with positive area, found width 0 (labels/7.txt, line 3). Correct or \
remove the line.'
        >>> error.line
        3
    """

    def __init__(
        self,
        message: str = "",
        *,
        expected: str | None = None,
        found: str | None = None,
        path: str | PathLike[str] | None = None,
        line: int | None = None,
        advice: str | None = None,
    ) -> None:
        """Args:
        message: what went wrong, where it is not a matter of expected and found.
        expected: what should have been there, such as 'an image'.
        found: what was there instead; 'none' if not given.
        path: file or folder that is at fault.
        line: in that file, counted from 1.
        advice: what to do, as a clause or sentences.
        """
        super().__init__(message)
        self.expected = expected
        self.found = "none" if expected is not None and found is None else found
        self.path = path
        self.line = line
        self.advice = advice

    @property
    def reason(self) -> str:
        """What went wrong as a clause: without place, advice and full stop."""
        if self.expected is None:
            return str(self.args[0]).rstrip(". ")
        return f"expected {_shown(self.expected)}, found {_shown(self.found or 'none')}"

    @property
    def place(self) -> str:
        """Path and line as they stand in the sentence, or ''."""
        path = "" if self.path is None else legible(str(self.path), _LONGEST_PATH)
        line = "" if self.line is None else f"line {self.line}"
        return ", ".join(filter(None, (path, line)))

    def __str__(self) -> str:
        if self.expected is None and self.path is None and self.advice is None:
            return str(self.args[0])
        reason = self.reason
        place = f" ({self.place})" if self.place else ""
        advice = f" {_sentence(self.advice)}" if self.advice else ""
        return f"{reason[:1].upper()}{reason[1:]}{place}.{advice}"


class ConfigError(OssaError):
    """A setting, recipe or option is misspelt, out of range or contradicts another.

    Examples:
        >>> import ossa
        >>> try:
        ...     ossa.create_detector("resnet81", num_classes=4)
        ... except ossa.ConfigError as error:
        ...     print("Did you mean" in str(error))
        True
    """


class DataError(OssaError):
    """A data set, image or annotation is missing or cannot be used as it is.

    Examples:
        >>> import ossa
        >>> error = ossa.DataError(expected="an image", found="no such file", path="a.jpg")
        >>> error.path, str(error)
        ('a.jpg', 'Expected an image, found no such file (a.jpg).')
    """


class UnsupportedBackbone(OssaError):  # noqa: N818 - the name users know from the design
    """A model cannot be a backbone, or not with the strides or image size asked for.

    Examples:
        >>> str(UnsupportedBackbone("has no feature maps", model="a", similar=("b", "c")))
        'a has no feature maps. Similar backbones that work: b, c'
    """

    def __init__(
        self, message: str, *, model: str | None = None, similar: Iterable[str] = ()
    ) -> None:
        """Args:
        message: what is wrong; a clause whose subject is the model where `model` is given.
        model: name of the backbone.
        similar: names of backbones like it that work.
        """
        super().__init__(message)
        self.model = model
        self.similar = tuple(similar)

    def __str__(self) -> str:
        model = "" if self.model is None else f"{self.model} "
        similar = f". Similar backbones that work: {', '.join(self.similar)}"
        return f"{model}{self.args[0]}{similar if self.similar else ''}"


class CheckpointError(OssaError):
    """A weights file is missing, damaged, of another model, or tries to run code.

    Examples:
        >>> import ossa
        >>> try:
        ...     ossa.load("absent.safetensors")
        ... except ossa.CheckpointError as error:
        ...     print("not loaded")
        not loaded
    """


class RunFailed(OssaError):  # noqa: N818 - says what happened to the run
    """A run that was in order when it started could not go on (exit code 1 instead of 2).

    Examples:
        >>> import ossa
        >>> issubclass(ossa.RunFailed, ossa.OssaError)
        True
    """


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean a, b or c?' for the nearest of `known`, or '' when none is near."""
    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else ", ".join(near[:-1]) + " or " + near[-1]
    return f" Did you mean {listed}?"


def os_reason(error: OSError) -> str:
    """Returns why the system refused, such as 'permission denied'."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror or str(error)).lower()


def legible(text: str, limit: int = 200) -> str:
    """Returns a text from a file as a message may show it.

    What a terminal would not print, or take for a command, is escaped; of a long text there are
    the beginning and the end, `limit` characters together.
    """
    return _ends(escape_terminal(_ends(text, limit)), limit)


def _shown(text: str) -> str:
    return legible(text, _LONGEST_VALUE).rstrip(". ")


def _sentence(text: str) -> str:
    text = legible(text, _LONGEST_VALUE).strip()
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


def _ends(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
