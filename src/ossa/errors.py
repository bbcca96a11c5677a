"""The errors that a user can cause.

Each message is one sentence: what was expected, what was found, where, and what to do.

At the command line every one of them ends with exit code 2 (bad input) and no traceback.
"""

import difflib
from collections.abc import Iterable

from ossa.escaping import escape_terminal

_LONGEST_WORD = 100


class OssaError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(OssaError):
    """A setting, recipe or option is misspelt, out of range or contradicts another."""


class DataError(OssaError):
    """A data set, image or annotation is missing or cannot be used as it is."""


class UnsupportedBackbone(OssaError):  # noqa: N818 - the name users know from the design
    """A model cannot give feature maps at the strides asked for."""


class CheckpointError(OssaError):
    """A weights file is missing, damaged, of another model, or tries to run code."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean a, b or c?' for the nearest of `known`, or '' when none is near."""
    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else ", ".join(near[:-1]) + " or " + near[-1]
    return f" Did you mean {listed}?"


def legible(text: str, limit: int = 200) -> str:
    """Returns a text from a file as a message may show it.

    What a terminal would not print, or take for a command, is escaped; of a long text there are
    the beginning and the end, `limit` characters together.
    """
    return _ends(escape_terminal(_ends(text, limit)), limit)


def _ends(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


class RunFailed(OssaError):  # noqa: N818 - says what happened to the run
    """A run that was in order when it started could not go on (exit code 1 instead of 2)."""
