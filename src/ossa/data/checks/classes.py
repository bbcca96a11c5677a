"""Classes that no box has, that are not trained or not evaluated, and that are rare.

Dimensions: K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ossa.data.checks.findings import MOST_CASES, Case, Finding
from ossa.data.index import DatasetIndex

RARE: Final = 100
"""A class is rare where the most frequent one has more than so many times its boxes."""

ClassCounts = Mapping[str, Mapping[str, int]]
"""The boxes that train, neither crowd nor difficult, by class name and by split."""


def count_classes(indexes: Mapping[str, DatasetIndex]) -> ClassCounts:
    """Returns the boxes of every class in every split; a name that a split has not counts 0."""
    names = dict.fromkeys(name for index in indexes.values() for name in index.names)
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(indexes, 0) for name in names}
    for split, index in indexes.items():
        labels = index.labels[~(index.crowd | index.difficult)]
        boxes = np.bincount(labels, minlength=len(index.names)).tolist()
        for name, number in zip(index.names, boxes, strict=True):
            counts[name][split] = number
    return counts


def find_strange_classes(counts: ClassCounts, data_yaml: Path) -> list[Finding]:
    """Returns findings of classes that are unused, untrained, unevaluated or rare.

    What needs two splits is not said of a data set that has one alone.

    Args:
        counts: from `count_classes`.
        data_yaml: where classes are named.
    """
    splits = next(iter(counts.values()), {}).keys()
    unused, untrained, unevaluated = [], [], []
    for name, of_split in counts.items():
        evaluated = [f"in {split} {of_split[split]}" for split in splits if split != "train"]
        scored = any(number for split, number in of_split.items() if split != "train")
        trained = of_split.get("train", 0)
        if not any(of_split.values()):
            unused.append(name)
        elif "train" in splits and scored and not trained:
            untrained.append(f"{name}: boxes in train 0, {', '.join(evaluated)}")
        elif "val" in splits and trained and not of_split["val"]:
            unevaluated.append(f"{name}: boxes in train {trained}, in val 0")
    found = {
        "class-untrained": untrained,
        "class-unevaluated": unevaluated,
        "class-unused": unused,
    }
    findings = [
        Finding(kind, None, len(whats), _cases(data_yaml, whats))
        for kind, whats in found.items()
        if whats
    ]
    return findings + _find_rare(counts, data_yaml)


def _find_rare(counts: ClassCounts, data_yaml: Path) -> list[Finding]:
    """Returns a finding of the rare classes of train, or of the first split where there is none."""
    splits = list(next(iter(counts.values()), {}))
    if not splits:
        return []
    split = "train" if "train" in splits else splits[0]
    boxes = {name: of_split[split] for name, of_split in counts.items() if of_split[split]}
    if not boxes:
        return []
    frequent = max(boxes, key=lambda name: boxes[name])
    rare = sorted(
        (name for name in boxes if boxes[frequent] > RARE * boxes[name]),
        key=lambda name: boxes[name],
    )
    if not rare:
        return []
    whats = [f"boxes of {name} {boxes[name]}, of {frequent} {boxes[frequent]}" for name in rare]
    note = f"under 1 to {RARE}"
    return [Finding("class-imbalance", split, len(rare), _cases(data_yaml, whats), note=note)]


def _cases(data_yaml: Path, whats: list[str]) -> tuple[Case, ...]:
    return tuple(Case(data_yaml, what) for what in whats[:MOST_CASES])
