"""The classes that key `classes` of a data.yaml makes of those in the files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ossa.data.index import DatasetIndex, take_truths
from ossa.errors import ConfigError, legible, suggestion


def select_classes(
    index: DatasetIndex, classes: Mapping[str, tuple[str, ...]], *, file: Path, line: int | None
) -> tuple[DatasetIndex, tuple[str, ...]]:
    """Returns the index with the classes asked for, and a sentence on what was left out.

    Truths of classes that are not named go; their images stay, as background where nothing is
    left. A class has the id of the first of those that it is made of.

    Args:
        index: of a split.
        classes: the names of the files by the new name; no name of the files stands twice.
        file: the data.yaml, for errors and sentences.
        line: of key `classes` in it.

    Raises:
        ConfigError: the files have no class of such a name.
    """
    label_of = {name: label for label, name in enumerate(index.names)}
    unknown = next((old for olds in classes.values() for old in olds if old not in label_of), None)
    if unknown is not None:
        raise ConfigError(
            f"Expected names of its classes under key 'classes' at {file}:{line}, found "
            f"'{legible(unknown)}'."
            + (suggestion(unknown, index.names) or f" There are {legible(', '.join(index.names))}.")
        )
    new_labels = np.full(len(index.names), -1)
    for new_label, olds in enumerate(classes.values()):
        new_labels[[label_of[old] for old in olds]] = new_label
    chosen = new_labels[index.labels] >= 0
    kept = index if chosen.all() else take_truths(index, chosen)
    selected = replace(
        kept,
        names=tuple(classes),
        category_ids=index.category_ids[[label_of[olds[0]] for olds in classes.values()]],
        labels=new_labels[kept.labels],
    )
    left_out = int((~chosen).sum())
    if not left_out:
        return selected, ()
    num_classes = len(np.unique(index.labels[~chosen]))
    return selected, (
        f"left out: {left_out} {'box' if left_out == 1 else 'boxes'} of {num_classes} "
        f"{'class' if num_classes == 1 else 'classes'} that key 'classes' of {file} does not name",
    )
