"""Groups of images that are not independent, such as the frames of one flight or of one video.

A data.yaml names them by a pattern on file names or by a table:

    groups: (*)_*.jpg           # DJI_0005_0032.jpg is of group DJI: * is as short as possible
    groups: (flight*)/*         # the folder is the group
    groups: {file: groups.csv}  # with the columns image and group

In a pattern `*` stands for any characters but the slash, and the group is what is in parentheses.
It is compared with as many last parts of a path as it has itself. Every image must be of a group.

Dimensions: I images.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.description import DataDescription
from ossa.errors import ConfigError, legible, os_reason
from ossa.files import read_regular

_LARGEST_TABLE = 200 * 2**20
_LONGEST_PATTERN = 500
_SIDE = 16
"""Rows, and differences in a row, of the grey levels by which images are compared."""
ALIKE = 0.25
"""Of these differences, at most so many have another sign in images that are much alike. In 4,000
random pairs of each of four public data sets hardly any are, of frames of one flight many."""
_FEWEST_ALIKE, _SHARE_ALIKE = 3, 0.02
"""Pairs, and their share of the images, from which on they are not chance."""


def with_groups(index: DatasetIndex, description: DataDescription, split: str) -> DatasetIndex:
    """Returns the index with the groups that the data.yaml names, if any.

    Raises:
        ConfigError: a pattern or table that not every image has a group by, or, but for train, that
            all images are in one group by.
    """
    if description.groups is None:
        return index
    names = index.file_names.tolist()
    if isinstance(description.groups, str):
        groups = _by_pattern(names, description.groups, description)
    else:
        groups = _by_table(names, description)
    lacking = [name for name, group in zip(names, groups, strict=True) if group is None]
    if lacking:
        found = f"none for {len(lacking):,} of {len(names):,}, such as {legible(lacking[0])}"
        raise _error(description, f"a group for every image of split '{split}'", found)
    found, numbers = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if len(found) < 2 and split != "train":
        raise _error(description, f"two groups at least in split '{split}'", legible(found[0]))
    return replace(index, groups=numbers.astype(np.int64))


def _error(description: DataDescription, expected: str, found: str) -> ConfigError:
    expected += " by key 'groups'"
    return ConfigError(expected=expected, found=found, path=description.file)


def _by_pattern(
    names: Sequence[str], pattern: str, description: DataDescription
) -> list[str | None]:
    expression = _compiled(pattern)
    if expression is None:
        expected = "a pattern with one part in parentheses, such as (*)_*.jpg,"
        raise _error(description, expected, legible(pattern))
    parts = pattern.count("/") + 1
    found = (expression.fullmatch("/".join(name.split("/")[-parts:])) for name in names)
    return [None if one is None else one["group"] for one in found]


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Returns the expression of a pattern, None for one without exactly one part in parentheses.

    It takes the first place at which the text behind a `*` stands and does not go back, so that no
    pattern takes longer than linear time.
    """
    if len(pattern) > _LONGEST_PATTERN or not re.fullmatch(
        r"[^()\\]*\([^()\\]+\)[^()\\]*", pattern
    ):
        return None
    tokens = re.split(r"([*()])", pattern)
    expression = ""
    for at, token in enumerate(tokens):
        if token == "*":
            rest = "".join(t for t in tokens[at + 1 :] if t not in "()")
            text, star, _ = rest.partition("*")
            behind = re.escape(text) + ("" if star else r"\Z")
            expression += f"(?>[^/]*?(?={behind}))"
        else:
            expression += {"(": "(?P<group>", ")": ")"}.get(token, re.escape(token))
    return re.compile(expression)


def _by_table(names: Sequence[str], description: DataDescription) -> list[str | None]:
    groups: Any = description.groups
    file = Path(description.root, groups["file"])
    why = description.roots.why_not(str(file))
    try:
        if why is not None:
            raise _error(description, "a table of the data set", f"{file} {why}")
        text = read_regular(file, most_bytes=_LARGEST_TABLE).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise _error(description, f"a table at {file}", os_reason(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _error(description, "a table in CSV", f"another file: {error}") from None
    if not rows or not {"image", "group"} <= rows[0].keys():
        raise _error(description, "a table with the columns image and group", "none")
    of_image = {row["image"]: row["group"] for row in rows}
    return [of_image.get(name, of_image.get(name.rpartition("/")[2])) for name in names]


def gradients(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns (256,) whether each of 16 x 16 grey levels is above the one to its left.

    Args:
        image: (H, W, 3) RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).ravel()


def much_alike(
    paths: Sequence[str], looks: Mapping[str, NDArray[np.bool_]]
) -> list[tuple[str, str]]:
    """Returns the pairs of neighbours by file name that are much alike, unless they are few.

    Args:
        paths: of the images of a split.
        looks: their `gradients`; images without them, and blank ones, are passed over.
    """
    known = sorted(path for path in paths if path in looks and looks[path].any())
    pairs = [(a, b) for a, b in pairwise(known) if (looks[a] != looks[b]).mean() <= ALIKE]
    return pairs if len(pairs) >= max(_FEWEST_ALIKE, _SHARE_ALIKE * len(paths)) else []
