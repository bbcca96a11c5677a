"""Where detectors differ on one picture: what one has found and another has not.

Dimensions: N and M detections.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torchvision.ops import box_iou

from ossa.types import Detections

SAME_IOU = 0.5
"""Two boxes of one class that overlap at least so much are taken for one object."""


@dataclass(frozen=True)
class Answer:
    """What one detector found in the picture."""

    title: str
    names: tuple[str, ...]
    """K class names: detectors that know different classes are compared by them."""
    detections: Detections


@dataclass(frozen=True)
class Comparison:
    """Which detections of each answer the other detectors have not."""

    answers: tuple[Answer, ...]
    missed_by: tuple[tuple[tuple[int, ...], ...], ...]
    """Of each answer and each of its detections: the positions of the answers that lack it,
    though they know its class."""

    def sentences(self) -> list[str]:
        """Returns the differences in words, most telling first; nothing of a single answer."""
        if len(self.answers) < 2:
            return []
        if not any(len(answer.detections) for answer in self.answers):
            return ["No model finds anything at these thresholds."]
        told = []
        for i, answer in enumerate(self.answers):
            told += [
                f"{answer.title} finds {_listed(found)} that {self.answers[other].title} misses."
                for other in range(len(self.answers))
                if other != i and (found := self._missed(i, other))
            ]
        everyone = "both" if len(self.answers) == 2 else "all"
        shared = self._shared()
        told.append(
            f"{everyone.title()} find {_listed(shared)}."
            if shared
            else f"Nothing is found by {everyone}."
        )
        return told + self._strangers()

    def _missed(self, finder: int, other: int) -> Counter[str]:
        """Returns by class how many detections of one answer another lacks."""
        answer = self.answers[finder]
        labels = answer.detections.labels.tolist()
        rows = zip(labels, self.missed_by[finder], strict=True)
        return Counter(answer.names[label] for label, missed_by in rows if other in missed_by)

    def _shared(self) -> Counter[str]:
        """Returns by class how many detections every answer has."""
        first = self.answers[0]
        everywhere = set.intersection(*(set(answer.names) for answer in self.answers))
        rows = zip(first.detections.labels.tolist(), self.missed_by[0], strict=True)
        names = (first.names[label] for label, missed_by in rows if not missed_by)
        return Counter(name for name in names if name in everywhere)

    def _strangers(self) -> list[str]:
        """Returns a sentence for each answer that cannot know classes which another has found."""
        told = []
        for answer in self.answers:
            found = {answer.names[label] for label in answer.detections.labels.tolist()}
            for other in self.answers:
                if unknown := sorted(found - set(other.names)):
                    told.append(f"{other.title} was not trained to find {', '.join(unknown)}.")
        return list(dict.fromkeys(told))


def compare(answers: Sequence[Answer]) -> Comparison:
    """Returns which detections the other answers lack."""
    missed_by: list[list[list[int]]] = [
        [[] for _ in answer.detections.scores] for answer in answers
    ]
    for i, j in combinations(range(len(answers)), 2):
        pairs = same_objects(answers[i], answers[j])
        for finder, other, matched in (
            (i, j, {a for a, _ in pairs}),
            (j, i, {b for _, b in pairs}),
        ):
            known = set(answers[other].names)
            for row, label in enumerate(answers[finder].detections.labels.tolist()):
                if row not in matched and answers[finder].names[label] in known:
                    missed_by[finder][row].append(other)
    return Comparison(
        tuple(answers),
        tuple(tuple(tuple(sorted(row)) for row in of_answer) for of_answer in missed_by),
    )


def same_objects(first: Answer, second: Answer) -> list[tuple[int, int]]:
    """Returns pairs of detections of the same object, each in one pair at most.

    Pairs of one class and an IoU of at least `SAME_IOU` are taken, those that overlap most first:
    so it does not matter which answer is the first.
    """
    boxes_xyxy = [torch.from_numpy(one.detections.boxes_xyxy) for one in (first, second)]
    iou = box_iou(boxes_xyxy[0], boxes_xyxy[1]).numpy()
    names = [
        np.array([answer.names[label] for label in answer.detections.labels.tolist()], object)
        for answer in (first, second)
    ]
    iou[names[0][:, None] != names[1][None]] = 0
    rows, columns = np.nonzero(iou >= SAME_IOU)
    order = (-iou[rows, columns]).argsort(kind="stable")
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return sorted(pairs.items())


def _listed(found: Counter[str]) -> str:
    """Returns how many objects of which classes: '3 objects (2 dog, 1 cat)', '1 dog'."""
    total = sum(found.values())
    by_class = ", ".join(f"{count} {name}" for name, count in found.most_common())
    return by_class if len(found) == 1 else f"{total} objects ({by_class})"
