"""Whether the order of the models depends on another setting, such as the head.

Every model is trained under two levels of the setting; its gain is the difference of the two means.
Without an interaction all models gain alike. The variances are those of `ossa.study.estimates`,
with images paired over models and levels; the variance over seeds of a gain is the sum of both
levels' (Welch), moderated over the models.

- **The test** is that of the interaction in an analysis of variance over models, levels and seeds:
  Welch's form of F, which allows every model a variance of its own and adds that over images. Its
  distribution is drawn, with variances over seeds from their posterior and estimated anew in every
  draw, as that of the pairs of models.
- **The order**: Kendall's tau between the levels, with an interval from draws of the true
  qualities; and pairs whose order is reversed, by the simultaneous intervals of both levels.

The error rates are simulated in `benchmarks/interactions.py`.

Dimensions: M models, D draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ossa.errors import DataError
from ossa.evaluate.statistics import LEVEL, Interval, Values, adjust_by_holm
from ossa.study.comparisons import Comparisons, PairwiseComparison, compare_all, compare_estimates
from ossa.study.estimates import (
    ROUNDING,
    Estimates,
    Floats,
    draw_qualities,
    draw_seed_variances,
    square_root,
)

_DRAWS = 8000
_FEWEST_DRAWS, _MOST_DRAWN = 1000, 2**25
"""With many models there are fewer draws, so that draws times pairs are at most `_MOST_DRAWN`."""
_RIDGE = 1e-9
"""Share of a covariance's trace that is added, so that it can be inverted."""


@dataclass(frozen=True)
class Interaction:
    """How the qualities of M models depend on which of two levels a setting has."""

    p: float
    """Of gains that differ as much as these where all models gain alike."""
    tau: float
    """Kendall's, between the means under both levels."""
    tau_interval: Interval | None
    """None where nothing is known of the errors."""
    gains: Comparisons
    """What the models gain from the first level to the second, with simultaneous intervals."""
    levels: tuple[Comparisons, Comparisons]
    """The models under each level, with intervals that hold for both levels together."""
    alpha: float
    """Error rate of the test, and of all intervals of one kind together."""

    @property
    def is_found(self) -> bool:
        """Whether the gains of the models certainly differ."""
        return self.p < self.alpha

    @property
    def keeps_order(self) -> bool:
        """Whether the order of the models is certainly the same under both levels."""
        return self.tau_interval is not None and self.tau_interval.low == 1

    @property
    def models(self) -> tuple[str, ...]:
        """The models with runs under both levels."""
        return self.gains.models

    def gain(self, model: str) -> Interval:
        """Returns the interval of what a model gains; those of all models hold together."""
        level = 1 - self.alpha / len(self.models)
        return self.gains.interval(model, level=level, within=(-1.0, 1.0))

    @property
    def reversed_pairs(self) -> list[tuple[PairwiseComparison, PairwiseComparison]]:
        """The pairs whose measured order differs, under the first level and under the second."""
        first, second = self.levels
        pairs = [(first.pair(*pair), second.pair(*pair)) for pair in combinations(self.models, 2)]
        return [(a, b) for a, b in pairs if a.difference * b.difference < 0]

    @property
    def certainly_reversed(self) -> list[tuple[PairwiseComparison, PairwiseComparison]]:
        """Those of them that differ for certain under both levels."""
        return [(a, b) for a, b in self.reversed_pairs if a.differs and b.differs]


def interaction(
    first: Mapping[str, Values],
    second: Mapping[str, Values],
    *,
    alpha: float = 1 - LEVEL,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Interaction:
    """Returns how the models depend on a setting, from the values of one metric.

    Args:
        first: by model, under the first level of the setting.
        second: under the other level, on the same images. Models that one level lacks are left out.
        alpha: error rate, smaller where several settings are tested.
        draws: D.
        seed: of the draws.

    Raises:
        DataError: fewer than two models have runs under both levels.

    Examples:
        >>> import ossa
        >>> values = ossa.load_study("study").values("ap")
        >>> found = interaction(values, values)
        >>> found.tau, found.is_found, found.reversed_pairs
        (1.0, False, [])
    """
    models = [model for model in first if model in second]
    if len(models) < 2:
        found = str(len(models))
        raise DataError(expected="two models with runs under both settings", found=found)
    levels = [{model: level[model] for model in models} for level in (first, second)]
    estimates = Estimates.of_gains(*levels)
    draws = min(draws, max(_FEWEST_DRAWS, _MOST_DRAWN // len(models) ** 2))
    # Each level at half the error rate: then the intervals of both hold together.
    before, after = (
        compare_all(level, alpha=alpha / 2, draws=draws, seed=seed + number)
        for number, level in enumerate(levels, start=1)
    )
    return Interaction(
        p=_p_of_equal_gains(estimates, draws, np.random.default_rng(seed)),
        tau=float(_tau(before.estimates.means, after.estimates.means)),
        tau_interval=_tau_interval(levels, alpha=alpha, draws=draws, seed=seed),
        gains=compare_estimates(estimates, alpha=alpha, draws=draws, seed=seed),
        levels=(before, after),
        alpha=alpha,
    )


@dataclass(frozen=True)
class Effect:
    """How the qualities of the models of a study depend on one varied setting."""

    setting: str
    """Its dotted name, such as model.head."""
    base: Any
    """The first level."""
    level: Any
    """The second level."""
    interaction: Interaction
    p: float
    """Of the interaction, adjusted by Holm for all effects of the study."""

    @property
    def is_found(self) -> bool:
        """Whether the gains of the models certainly differ."""
        return self.p < 1 - LEVEL


def effects_of(
    factors: Mapping[str, Sequence[Any]],
    base: Mapping[str, Any],
    values: Callable[[Mapping[str, Any]], Mapping[str, Values]],
) -> tuple[Effect, ...]:
    """Returns how models depend on every varied setting, for each of its levels but the base.

    The other settings have their base values. p is adjusted by Holm over all effects, and all
    intervals of one kind hold for all effects together.

    Args:
        factors: the levels by setting.
        base: the base level by setting.
        values: returns the values of one metric by model, for a level of every setting.

    Examples:
        >>> import ossa
        >>> results = ossa.load_study("study")
        >>> levels = {"train.lr": [0.01, 0.03]}
        >>> (found,) = effects_of(levels, {"train.lr": 0.01}, lambda _: results.values("ap"))
        >>> found.level, found.p
        (0.03, 1.0)
    """
    first = values(base)
    levels = [(key, level) for key, each in factors.items() for level in each if level != base[key]]
    others = [(key, level, values({**base, key: level})) for key, level in levels]
    known = [other for other in others if len(first.keys() & other[2].keys()) > 1]
    alpha = (1 - LEVEL) / max(len(known), 1)
    found = [interaction(first, second, alpha=alpha) for _, _, second in known]
    adjusted = adjust_by_holm([each.p for each in found])
    return tuple(
        Effect(key, base[key], level, each, p)
        for (key, level, _), each, p in zip(known, found, adjusted, strict=True)
    )


def _p_of_equal_gains(estimates: Estimates, draws: int, rng: np.random.Generator) -> float:
    """Returns the share of draws without an interaction whose statistic is as large as measured."""
    size = (draws, len(estimates.means))
    true, redrawn = draw_seed_variances(estimates, draws, rng)
    deviations = rng.standard_normal(size) @ square_root(estimates.images)
    deviations += rng.standard_normal(size) * np.sqrt(true)
    dof = float(np.median(estimates.image_dof[np.triu_indices(size[1], 1)]))
    factor = rng.chisquare(dof, size=(draws, 1, 1)) / dof
    drawn = _wald(deviations, factor * estimates.images, redrawn.value)
    observed = _wald(estimates.means, estimates.images, estimates.seeds.value)
    return float((1 + (drawn >= observed * (1 - 1e-9)).sum()) / (1 + draws))


def _wald(gains: Floats, images: Floats, seeds: Floats) -> Floats:
    """Returns the Wald statistic (...) that all gains are equal.

    Args:
        gains: (..., M).
        images: (..., M, M) their covariance over images.
        seeds: (..., M) their variances over seeds.
    """
    count = gains.shape[-1]
    from_last = np.hstack((np.eye(count - 1), -np.ones((count - 1, 1))))
    covariance = from_last @ (images + seeds[..., None] * np.eye(count)) @ from_last.T
    trace = np.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
    covariance = covariance + (_RIDGE * trace + ROUNDING) * np.eye(count - 1)
    differences = (gains @ from_last.T)[..., None]
    return (differences * np.linalg.solve(covariance, differences)).sum(axis=(-2, -1))


def _tau(first: Floats, second: Floats) -> Floats:
    """Returns Kendall's tau (...) between qualities (..., M)."""
    i, j = np.triu_indices(first.shape[-1], 1)
    same = np.sign(first[..., i] - first[..., j]) * np.sign(second[..., i] - second[..., j])
    return same.mean(axis=-1)


def _tau_interval(
    levels: list[dict[str, Values]], *, alpha: float, draws: int, seed: int
) -> Interval | None:
    count = len(levels[0])
    cells = [values for level in levels for values in level.values()]
    named = {str(number): values for number, values in enumerate(cells)}
    drawn = draw_qualities(named, draws=draws, seed=seed)
    if drawn is None or len(drawn) < len(cells):
        return None
    qualities = np.stack(list(drawn.values()), axis=1)
    taus = _tau(qualities[:, :count], qualities[:, count:])
    low, high = np.quantile(taus, [alpha / 2, 1 - alpha / 2], method="nearest")
    return Interval(float(low), float(high))
