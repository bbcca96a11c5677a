"""The frontier: the models that no other one beats, and how sure it is that each belongs to it.

A model is on the frontier if no other is at least as good and cheaper, or better and at most as
expensive (Pareto). It is a set of models that were trained, not a curve: the law is the middle of
the models, and half of them lie above it.

How sure: other images and other seeds could have been drawn. Each draw is a resample of the images,
the same one for all models, so what is hard for all of them changes nothing; and for each model its
own seeds, drawn with replacement and averaged (Owen, "The pigeonhole bootstrap", 2007: both factors
of a crossed design are resampled). The probability that a model belongs is the share of the draws
in which it does. Complexity is taken as it is.

Of few seeds a bootstrap knows little: the variance over S of them comes out (S - 1) / S of what it
is, two thirds of it with three, and none at all with one.

Dimensions: M models, D draws, S seeds of a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossa.study.points import LeftOut, Points


@dataclass(frozen=True)
class Draws:
    """A quality of M models under D joint draws of images and seeds."""

    models: tuple[str, ...]
    values: NDArray[np.float64]
    """(D, M)."""
    single_seed: tuple[str, ...]
    """The models with one run, of which other seeds are not in the draws."""


@dataclass(frozen=True)
class Standing:
    """Where a model stands."""

    model: str
    family: str
    complexity: float
    quality: float
    """The mean over seeds."""
    on_frontier: bool
    """By the qualities as they were measured."""
    probability: float | None
    """Share of the draws in which it is on the frontier; None without draws."""


@dataclass(frozen=True)
class Frontier:
    """Where all models stand; `members` are the frontier."""

    standings: tuple[Standing, ...]
    """The cheapest first, of equal ones the best first."""
    left_out: tuple[LeftOut, ...]
    single_seed: tuple[str, ...]
    """Those whose probability is over images alone."""

    @property
    def members(self) -> tuple[Standing, ...]:
        return tuple(standing for standing in self.standings if standing.on_frontier)

    @property
    def over(self) -> str:
        """What the probabilities are over, in words."""
        if any(standing.probability is None for standing in self.standings):
            return "no probabilities: nothing was drawn"
        if not self.single_seed:
            return "over seeds and images"
        if len(self.single_seed) == len(self.standings):
            return "over images alone: every model has a single seed"
        return f"over seeds and images; over images alone for {', '.join(self.single_seed)}"


def pareto_set(
    complexity: NDArray[np.floating], quality: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Returns (..., M) which models no other one beats.

    Equals in both numbers do not beat each other. A quality of 0 is never on the frontier: it is to
    be had for nothing. Nor is one that is NaN.

    Args:
        complexity: (M,).
        quality: (..., M), 0 and up.
    """
    belongs = quality > 0
    for model, cost in enumerate(complexity):
        own = quality[..., [model]]
        as_good_for_less = (quality[..., complexity < cost] >= own).any(axis=-1)
        better_for_no_more = (quality[..., complexity <= cost] > own).any(axis=-1)
        belongs[..., model] &= ~(as_good_for_less | better_for_no_more)
    return belongs


def joint_draws(runs: Mapping[str, NDArray[np.floating]], *, seed: int = 0) -> Draws:
    """Returns a draw of seeds and images for every resample of the images.

    Args:
        runs: (S, D) by model: a quality of its S runs on D resamples of the images, which are the
            same for all models. Of a quality that images have no part in, each run's value D times.
        seed: of the draws of seeds.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for values in runs.values():
        picked = rng.integers(len(values), size=values.shape)  # (S, D): S seeds for every resample
        columns.append(np.take_along_axis(values, picked, axis=0).mean(axis=0))
    return Draws(
        models=tuple(runs),
        values=np.stack(columns, axis=1),
        single_seed=tuple(model for model, values in runs.items() if len(values) == 1),
    )


def find_frontier(points: Points, draws: Draws | None = None) -> Frontier:
    """Returns where every model stands.

    Args:
        points: the models.
        draws: of the same quality, of all these models; any others are not used.
    """
    measured = pareto_set(points.complexity, points.quality).tolist()
    probabilities: list[float | None] = [None] * len(points)
    if draws is not None:
        columns = [draws.models.index(model) for model in points.models]
        drawn = pareto_set(points.complexity, draws.values[:, columns])
        probabilities = drawn.mean(axis=0).tolist()
    rows = zip(
        points.models,
        points.families,
        points.complexity.tolist(),
        points.quality.tolist(),
        measured,
        probabilities,
        strict=True,
    )
    standings = sorted(
        (Standing(*row) for row in rows), key=lambda row: (row.complexity, -row.quality)
    )
    single = () if draws is None else draws.single_seed
    return Frontier(
        standings=tuple(standings),
        left_out=points.left_out,
        single_seed=tuple(model for model in points.models if model in single),
    )
