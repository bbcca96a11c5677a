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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

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
CLOSELY_ALIKE = 0.15
"""The same for images whose names say nothing: of all 6 million pairs of 3,426 photographs of
animals (VOC2012) none is so much alike, and 48 would be by `ALIKE`."""
_PAIRS_AT_A_TIME = 1 << 22
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
    groups = groups_of(index.file_names.tolist(), description, f"split '{split}'")
    found, numbers = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if len(found) < 2 and split != "train":
        raise _error(description, f"two groups at least in split '{split}'", legible(found[0]))
    return replace(index, groups=numbers.astype(np.int64))


def groups_of(names: Sequence[str], description: DataDescription, where: str) -> list[str]:
    """Returns (I,) the groups that key 'groups' says of file names relative to the root.

    Raises:
        ConfigError: not every image has one; `where` says in the message what the images are of.
    """
    if isinstance(description.groups, str):
        groups = _by_pattern(names, description.groups, description)
    else:
        groups = _by_table(names, description)
    lacking = [name for name, group in zip(names, groups, strict=True) if group is None]
    if lacking:
        found = f"none for {len(lacking):,} of {len(names):,}, such as {legible(lacking[0])}"
        raise _error(description, f"a group for every image of {where}", found)
    return [str(group) for group in groups]


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
    pairs = _alike_neighbours(paths, looks)
    return pairs if len(pairs) >= max(_FEWEST_ALIKE, _SHARE_ALIKE * len(paths)) else []


def _alike_neighbours(
    paths: Iterable[str], looks: Mapping[str, NDArray[np.bool_]]
) -> list[tuple[str, str]]:
    known = sorted(path for path in paths if path in looks and looks[path].any())
    return [(a, b) for a, b in pairwise(known) if (looks[a] != looks[b]).mean() <= ALIKE]


def near_duplicates(
    paths: Sequence[str], looks: Mapping[str, NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """Returns (I,) a number for each image, the same for images that a chain of likeness connects.

    Neighbours by file name are compared as `ossa data check` does (`much_alike`), any other two
    more strictly.

    Args:
        paths: of the images, each once.
        looks: their `gradients`; images without them, and blank ones, are like no other.
    """
    position = {path: place for place, path in enumerate(paths)}
    neighbours = _alike_neighbours(paths, looks)
    numbers = np.arange(len(paths))
    first, second = (np.array([position[pair[end]] for pair in neighbours], int) for end in (0, 1))
    numbers = _connected(numbers, first, second)
    known = np.array([position[path] for path in paths if path in looks], np.int64)
    if not len(known):
        return numbers
    bits = np.array([looks[path] for path in paths if path in looks])
    words = np.packbits(bits, axis=1).view(np.uint64)
    words, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    num_set = np.bitwise_count(words).sum(axis=1)
    copies = np.flatnonzero(num_set[inverse] > 0)
    numbers = _connected(numbers, known[copies], known[first[inverse[copies]]])
    known = known[first]
    # Images with few edges hardly ever differ much.
    most = np.minimum(CLOSELY_ALIKE * _SIDE**2, num_set / 2).astype(np.int16)
    rows = max(1, _PAIRS_AT_A_TIME // len(known))
    for start in range(0, len(known), rows):
        block, others = slice(start, start + rows), slice(start, None)
        unlike = sum(
            np.bitwise_count(column[block, None] ^ column[None, others]).astype(np.int16)
            for column in words.T
        )
        here, there = np.nonzero(unlike <= np.minimum(most[block, None], most[None, others]))
        numbers = _connected(numbers, known[start + here], known[start + there])
    return numbers


def join_groups(*groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (I,) the groups in which images are that any of the given (I,) puts together.

    They are numbered from 0 in the order of their first images.

    Examples:
        >>> join_groups(np.array([0, 1, 2, 2]), np.array([5, 7, 5, 6])).tolist()
        [0, 1, 0, 0]
    """
    joined = np.arange(len(groups[0]))
    for one in groups:
        _, first, inverse = np.unique(one, return_index=True, return_inverse=True)
        joined = _connected(joined, np.arange(len(one)), first[inverse])
    _, first, inverse = np.unique(joined, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _connected(
    groups: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns the groups after those of the images at `first` and at `second` were made one."""
    if not len(first):
        return groups
    size = int(groups.max()) + 1
    ends = (groups[first], groups[second])
    graph = coo_matrix((np.ones(len(first), np.bool_), ends), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)[groups]
