"""What laws, frontiers and predictions are about: models, each with a quality and a complexity.

A model is one point, at the mean of its seeds: seeds are not points, or three runs of eight models
would pass for 24 models.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ossa.errors import DataError

FEWEST_MODELS = 8
"""For a law, and whatever rests on one."""
_FEWEST_COMPLEXITIES = 3
"""Different ones: with two, a line may hang on a single model, and without it there is none."""
_SAME = 1e-6
"""Complexities within one in a million are the same."""


@dataclass(frozen=True)
class LeftOut:
    """A model that is no point, and why."""

    model: str
    family: str
    reason: str


@dataclass(frozen=True)
class NoLaw:
    """What stands in the place of a law, a ranking or a prediction that cannot be had."""

    reason: str
    """One sentence: what is needed, what was found."""


@dataclass(frozen=True)
class Points:
    """One quality and one complexity of M models, all positive, so that they have logarithms."""

    models: tuple[str, ...]
    families: tuple[str, ...]
    complexity: NDArray[np.float64]
    """(M,) in the unit it came in."""
    quality: NDArray[np.float64]
    """(M,) means over seeds, in the unit they came in."""
    left_out: tuple[LeftOut, ...] = ()
    """Models whose numbers are missing, 0 or not finite."""

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        *,
        families: Sequence[str],
        complexity: ArrayLike | Sequence[float | None],
        quality: ArrayLike | Sequence[float | None],
    ) -> "Points":
        """Returns the points of the models that have both numbers; the others are named.

        Args:
            models: (N,) names.
            families: (N,) of the models.
            complexity: (N,) None or NaN where it was not measured.
            quality: (N,) mean over the seeds of each.

        Raises:
            DataError: a model that is there twice.
        """
        twice = [f"{count} of {model}" for model, count in Counter(models).items() if count > 1]
        if twice:
            raise DataError(
                f"expected one point a model, the mean of its seeds, found {', '.join(twice)}"
            )
        costs, values = np.asarray(complexity, np.float64), np.asarray(quality, np.float64)
        usable: list[bool] = []
        left_out: list[LeftOut] = []
        for model, family, cost, value in zip(models, families, costs, values, strict=True):
            wrong = [
                f"expected a positive {name}, found {number:g}"
                for name, number in (("complexity", cost), ("quality", value))
                if not 0 < number < np.inf
            ]
            usable.append(not wrong)
            if wrong:
                left_out.append(LeftOut(model, family, ", and ".join(wrong)))
        everyone = cls(tuple(models), tuple(families), costs, values)
        return replace(everyone.where(usable), left_out=tuple(left_out))

    def __len__(self) -> int:
        return len(self.models)

    def where(self, kept: ArrayLike) -> "Points":
        """Returns some of them, as if there were no others.

        Args:
            kept: (M,) bool.
        """
        mask = np.asarray(kept, bool)
        return Points(
            models=_where(self.models, mask),
            families=_where(self.families, mask),
            complexity=self.complexity[mask],
            quality=self.quality[mask],
        )

    def family(self, name: str) -> "Points":
        """Returns those of one family, with what was left out of it."""
        own = self.where([family == name for family in self.families])
        left_out = tuple(model for model in self.left_out if model.family == name)
        return replace(own, left_out=left_out)

    def why_no_line(self, *, fewest: int = FEWEST_MODELS) -> str | None:
        """Returns why no line is drawn through them, in a sentence; None where one can be."""
        if len(self) < fewest:
            without = "; ".join(f"{model.model}: {model.reason}" for model in self.left_out)
            return f"expected {fewest} models at least, found {len(self)}" + (
                f" (left out: {without})" if without else ""
            )
        different = 1 + int((np.diff(np.sort(np.log(self.complexity))) > _SAME).sum())
        if different < _FEWEST_COMPLEXITIES:
            return (
                f"expected {_FEWEST_COMPLEXITIES} different complexities at least, found "
                f"{different} among {len(self)} models"
            )
        return None


def _where(names: Iterable[str], kept: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, keep in zip(names, kept, strict=True) if keep)
