"""Efficiency of models at equal quality, and the quality that the best tenth of the models exceeds.

The efficiency of a model is the cost of the cheapest model that is at least as good, over its own
cost: 1 in the Pareto set, 0.5 for a model whose quality is available at half of its cost.

Dimensions: M models, D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from ossa.evaluate.statistics import LEVEL, Interval
from ossa.study.scaling import InsufficientData, Points

_FEWEST_FOR_CURVE = 20
"""Number of models for the quantile curve: two of them lie above a quantile of 0.9."""
_QUANTILE = 0.9
_NUM_KNOTS = 3
_MOST_NAMED = 5
"""Number of models in a sentence."""


@dataclass(frozen=True)
class Efficiency:
    """The efficiency of one model, between 0 and 1."""

    model: str
    family: str
    complexity: float
    quality: float
    """Mean over seeds."""
    cheapest: str
    """The cheapest model that is at least as good; the model itself if there is no cheaper one."""
    value: float
    """Complexity of the cheapest model over the complexity of this one."""
    interval: Interval | None
    """Middle 95% of the efficiency in the draws; None without draws."""

    def flat(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        low, high = self.interval or (None, None)
        return {**asdict(self), "low": low, "high": high}


def efficiencies(
    points: Points, draws: Mapping[str, NDArray[np.float64]] | None = None
) -> tuple[Efficiency, ...]:
    """Returns the efficiency of every model, ordered by cost and then by quality, best first.

    Args:
        points: the models.
        draws: by model, (D,) draws of the same quality; models without a point are ignored.

    Examples:
        >>> points = Points.of("abc", families="xxy", complexity=[1, 2, 4], quality=[0.3, 0.2, 0.4])
        >>> [(row.model, row.cheapest, row.value) for row in efficiencies(points)]
        [('a', 'a', 1.0), ('b', 'a', 0.5), ('c', 'c', 1.0)]
    """
    order = np.lexsort((-points.quality, points.complexity))
    costs = points.complexity[order]
    models = [points.models[at] for at in order]
    cheapest = _cheapest_as_good(points.quality[order])
    intervals: list[Interval | None] = [None] * len(order)
    if draws is not None and models:
        drawn = np.stack([draws[model] for model in models], axis=1)
        ratios = costs[_cheapest_as_good(drawn)] / costs
        low = np.quantile(ratios, (1 - LEVEL) / 2, axis=0, method="lower")
        high = np.quantile(ratios, (1 + LEVEL) / 2, axis=0, method="higher")
        intervals = [Interval(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True)]
    return tuple(
        Efficiency(
            model=models[rank],
            family=points.families[at],
            complexity=float(points.complexity[at]),
            quality=float(points.quality[at]),
            cheapest=models[cheapest[rank]],
            value=float(costs[cheapest[rank]] / costs[rank]),
            interval=intervals[rank],
        )
        for rank, at in enumerate(order)
    )


def efficiency_sentence(rows: Sequence[Efficiency]) -> str:
    """Returns which models reach their quality at a needless cost, as one sentence."""
    needless = [
        row for row in rows if row.value < 1 and (row.interval is None or row.interval.high < 1)
    ]
    if not needless:
        return "There is no model of which it is clear that a cheaper one is at least as good."
    parts = []
    for row in sorted(needless, key=lambda row: row.value)[:_MOST_NAMED]:
        text = f"{row.cheapest} at {row.value:.2f} of the cost of {row.model}"
        if row.interval is not None:
            text += f" (95% CI {row.interval.low:.2f} to {row.interval.high:.2f})"
        parts.append(text)
    more = f"; and for {len(needless) - len(parts)} more models" * (len(needless) > len(parts))
    return f"At least as good and cheaper: {'; '.join(parts)}{more}."


def _cheapest_as_good(quality: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns (..., M) the first model that is at least as good, of qualities ordered by cost."""
    first = np.empty(quality.shape, np.int64)
    for model in range(quality.shape[-1]):
        as_good = quality[..., : model + 1] >= quality[..., [model]]
        as_good[..., model] = True  # also of a quality that is not a number
        first[..., model] = as_good.argmax(axis=-1)
    return first


@dataclass(frozen=True)
class QuantileCurve:
    """The quality below which about nine tenths of the models of a complexity lie."""

    complexity: NDArray[np.float64]
    """(K,) knots, between which the curve is linear in the logarithm of the complexity."""
    quality: NDArray[np.float64]
    """(K,) never falling."""
    num_models: int

    def expected(self, complexity: ArrayLike) -> NDArray[np.float64]:
        """Returns the curve (Q,) at complexities (Q,); it is constant outside the knots."""
        return np.interp(np.log(complexity), np.log(self.complexity), self.quality)

    def flat(self) -> list[dict[str, Any]]:
        """Returns one row of plain values per knot."""
        pairs = zip(self.complexity.tolist(), self.quality.tolist(), strict=True)
        return [{"complexity": cost, "quality": quality} for cost, quality in pairs]


def quantile_curve(points: Points) -> QuantileCurve | InsufficientData:
    """Returns the monotone 0.9-quantile curve of at least 20 models.

    Quantile regression (Koenker and Bassett, "Regression quantiles", 1978) with a piecewise linear
    curve that may not fall, as a linear program (He and Ng, "COBS: qualitatively constrained
    smoothing via linear programming", 1999). The knots are the smallest, the median and the
    largest complexity.
    """
    if lacking := points.insufficient(fewest=_FEWEST_FOR_CURVE):
        return lacking
    log_cost = np.log(points.complexity)
    knots = np.unique(np.quantile(log_cost, np.linspace(0, 1, _NUM_KNOTS)))
    hats = np.stack([np.interp(log_cost, knots, unit) for unit in np.eye(len(knots))], axis=1)
    steps = hats @ np.tri(len(knots))  # the first value, and the rise to each of the others
    above = np.eye(len(points))
    solution = linprog(
        [*[0.0] * len(knots), *[_QUANTILE] * len(points), *[1 - _QUANTILE] * len(points)],
        A_eq=np.hstack((steps, above, -above)),
        b_eq=points.quality,
    )
    return QuantileCurve(np.exp(knots), np.cumsum(solution.x[: len(knots)]), len(points))
