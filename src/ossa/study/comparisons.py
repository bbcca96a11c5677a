"""Which models of a study differ, by how much at most, and which may be the best.

The quality of a model is its mean over all seeds and images that could have been drawn. Its
estimate varies over images, which are the same for all models, and over the seeds of each model.

- **Variance over seeds.** Three seeds say little about it, so the variances of all models are
  moderated by their common distribution (Smyth, "Linear models and empirical Bayes methods", 2004).
  Its degrees of freedom are capped, and a model that varies more than the others keeps its own
  variance and degrees of freedom, as one failing model would otherwise pass for a stable one.
- **Simultaneous intervals.** One critical value for all pairs (single-step max-t) over their joint
  distribution. Pairs have different degrees of freedom: their t-statistics are compared after the
  transformation to normal scores of Wallace (1959). The distribution is drawn, with the
  variances over seeds from their posterior and estimated anew in every draw.
- **The best.** Comparisons of each model with the best of the others (Edwards and Hsu, "Multiple
  comparisons with the best treatment", 1983) are one-sided and M - 1 instead of M (M - 1) / 2.

The error rates are simulated in `benchmarks/verdicts.py`.

Dimensions: M models, R runs of a model, B resamples, G groups of images, P pairs, D draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from ossa.evaluate.statistics import FEWEST_RUNS, LEVEL, Interval, Values

Verdict: TypeAlias = Literal["better", "worse", "practically the same", "not decided"]
MARGIN = 0.02
"""Models whose difference is certainly smaller are practically the same."""
_MOST_PRIOR_DOF = 6.0
_FEWEST_MODERATED = 3
"""Smallest number of models from which a common distribution of variances is estimated."""
_DRAWS = 8000
_FEWEST_DRAWS, _MOST_DRAWN = 1000, 10_000_000
"""With many pairs there are fewer draws, so that draws times pairs are at most `_MOST_DRAWN`."""
_VALUES_AT_ONCE = 2**21
"""Draws times pairs that are in memory together."""
_ROUNDING = 1e-20
"""A variance below this is none."""
_Floats: TypeAlias = NDArray[np.float64]


class SeedVariances(NamedTuple):
    """Variances of single runs over seeds, on the same images, moderated by their distribution."""

    value: _Floats
    """(M,)."""
    dof: _Floats
    """(M,) degrees of freedom."""
    prior: tuple[float, float]
    """Variance and degrees of freedom of the common distribution; (0, 0) without one."""


def moderated_variances(variance: _Floats, dof: _Floats) -> SeedVariances:
    """Returns the variances (M,) moderated by their common distribution.

    Args:
        variance: (M,) sample variances.
        dof: (M,) their degrees of freedom.

    Examples:
        >>> moderated_variances(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)).dof.tolist()
        [8.0, 8.0, 2.0]
    """
    prior = _variance_prior(variance, dof)
    return SeedVariances(*_moderate(variance, dof, prior), prior)


def _variance_prior(variance: _Floats, dof: _Floats) -> tuple[float, float]:
    """Returns variance and degrees of freedom of the prior, by the moments of the logarithms."""
    positive = (variance > 0) & (dof > 0)
    if positive.sum() < _FEWEST_MODERATED:
        return 0.0, 0.0
    half = dof[positive] / 2
    logs = np.log(variance[positive]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    # Half the degrees of freedom h from trigamma(h) = excess; practically infinite at exp(12).
    log_h = _root(lambda x: np.log(special.polygamma(1, np.exp(x)) / max(excess, 1e-5)), -12, 12)
    prior_variance = np.exp(logs.mean() + special.digamma(np.exp(log_h)) - log_h)
    return float(prior_variance), min(2 * float(np.exp(log_h)), _MOST_PRIOR_DOF)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    root: Any = optimize.brentq(function, low, high)
    return float(root)


def _moderate(
    variance: _Floats, dof: _Floats, prior: tuple[float, float]
) -> tuple[_Floats, _Floats]:
    """Returns variances and degrees of freedom (..., M); where above the prior's, unchanged."""
    prior_variance, prior_dof = prior
    own = (variance > prior_variance) | (prior_dof == 0)
    total = np.where(own, dof, dof + prior_dof)
    weighted = prior_dof * prior_variance + dof * variance
    return np.where(own, variance, weighted / np.maximum(total, 1e-9)), total


@dataclass(frozen=True)
class Estimates:
    """The mean qualities of M models with the variances of these means."""

    models: tuple[str, ...]
    means: _Floats
    """(M,) over the runs."""
    runs: _Floats
    """(M,) number of runs."""
    over_seeds: bool
    """Whether the variance over seeds is known: every model has three runs."""
    seeds: SeedVariances
    images: _Floats
    """(M, M) covariance of the means over images; of these runs alone if not `over_seeds`."""
    runs_over_images: _Floats
    """(M, M) the same with what an image is to single runs, which `seeds` counts, too."""
    image_dof: _Floats
    """(M, M) degrees of freedom of the variance of a difference over images."""

    @classmethod
    def of(cls, values: Mapping[str, Values]) -> Self:
        """Returns them from the values of one metric by model, on the same images."""
        each = list(values.values())
        runs = np.array([len(model.plain) for model in each], float)
        over_seeds = bool(runs.min() >= FEWEST_RUNS)
        resampled = np.stack([model.resampled.mean(axis=0) for model in each])
        total = np.atleast_2d(np.cov(resampled))
        images = total
        variances = np.zeros(len(each))
        if over_seeds:
            shared = np.array([model.shared_variance() for model in each])
            images = _positive_semidefinite(total - np.diag(shared))
            variances = np.array([model.plain.var(ddof=1) for model in each])
        return cls(
            models=tuple(values),
            means=np.array([model.plain.mean() for model in each]),
            runs=runs,
            over_seeds=over_seeds,
            seeds=moderated_variances(variances, runs - 1),
            images=images,
            runs_over_images=total,
            image_dof=_image_dof(each),
        )

    def covariance(self) -> _Floats:
        """Returns the covariance (M, M) of the means over images, and over seeds if known."""
        return self.images + np.diag(self.seeds.value / self.runs)


def _positive_semidefinite(matrix: _Floats) -> _Floats:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _image_dof(each: list[Values]) -> _Floats:
    """Returns (M, M), by the kurtosis of the influence of the images on a difference."""
    influences = np.stack([model.left_out.mean(axis=0) for model in each])
    influences -= influences.mean(axis=1, keepdims=True)
    groups, most = influences.shape[1], max(each[0].num_images - 1.0, 1.0)
    dof = np.full((len(each), len(each)), most)
    for row, own in enumerate(influences):
        squares = (own - influences) ** 2
        second, fourth = squares.mean(axis=1), (squares**2).mean(axis=1)
        doubt = fourth - second**2
        known = doubt > 0
        dof[row, known] = np.minimum(2 * groups * second[known] ** 2 / doubt[known], most)
    return dof


def _scores(t: _Floats, dof: _Floats) -> _Floats:
    """Returns normal scores of t-statistics, with their signs (Wallace, 1959)."""
    factor = (8 * dof + 1) / (8 * dof + 3)
    return np.sign(t) * factor * np.sqrt(dof * np.log1p(t**2 / dof))


def _critical_t(score: _Floats | float, dof: _Floats) -> _Floats:
    """Returns the t-statistics of normal scores; the inverse of `_scores`."""
    factor = (8 * dof + 1) / (8 * dof + 3)
    return np.sqrt(dof * np.expm1((score / factor) ** 2 / dof))


def _pair_variance(
    images: _Floats, least: _Floats, seeds: _Floats, seed_dof: _Floats, image_dof: _Floats
) -> tuple[_Floats, _Floats]:
    """Returns the variance of differences and its degrees of freedom (Welch and Satterthwaite).

    Args:
        images: (P,) over images.
        least: (P,) over images of these runs: by chance, runs agree better than images allow.
        seeds: (2, ..., P) of both means over seeds.
        seed_dof: (2, ..., P).
        image_dof: (P,).
    """
    total = images + seeds.sum(axis=0)
    doubt = images**2 / image_dof + (seeds**2 / np.maximum(seed_dof, 1e-9)).sum(axis=0)
    dof = np.divide(total**2, doubt, out=np.ones_like(total), where=doubt > 0)
    below = total < least
    return np.where(below, least, total), np.where(below, image_dof, dof)


@dataclass(frozen=True)
class PairwiseComparison:
    """The difference of two models: the model minus the reference."""

    model: str
    reference: str
    difference: float
    low: float
    high: float
    """Ends of the simultaneous 95% interval, which decides."""
    p: float
    """Adjusted for all pairs of the study."""
    margin: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def within(self) -> float:
        """The smallest margin at which the two are equivalent."""
        return max(-self.low, self.high)

    @property
    def at_most_lower(self) -> float:
        """By how much the model is lower at most; 0 where it is certainly higher."""
        return max(-self.low, 0.0)

    @property
    def is_equivalent(self) -> bool:
        """Whether the difference is certainly below the margin, in either direction."""
        return self.within < self.margin

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model."""
        if self.differs:
            return "better" if self.difference > 0 else "worse"
        return "practically the same" if self.is_equivalent else "not decided"

    def flat(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        names = ("model", "reference", "difference", "low", "high", "p", "within", "verdict")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparisons:
    """All pairs of models of a study in one metric, with simultaneous intervals.

    Examples:
        >>> import ossa
        >>> compared = compare_all(ossa.load_study("study").values("ap"))
        >>> compared.pair("resnet10t", "mobilenetv2_100").verdict
        'not decided'
    """

    estimates: Estimates
    standard_errors: _Floats
    """(M, M) of the differences."""
    dof: _Floats
    """(M, M) degrees of freedom."""
    largest: _Floats
    """(D,) drawn largest absolute normal scores over all pairs, sorted."""
    largest_below: _Floats
    """(D, M) drawn largest normal scores of other models minus this one, sorted."""
    alpha: float
    margin: float

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of the values."""
        return self.estimates.models

    @property
    def over(self) -> str:
        """What the intervals cover: 'seeds and images' or 'images alone'."""
        return "seeds and images" if self.estimates.over_seeds else "images alone"

    @cached_property
    def half_widths(self) -> _Floats:
        """(M, M) half the width of the simultaneous interval of every difference."""
        critical = float(np.quantile(self.largest, 1 - self.alpha))
        return _critical_t(critical, self.dof) * self.standard_errors

    def pair(self, model: str, reference: str) -> PairwiseComparison:
        """Returns the comparison of two models."""
        i, j = self.models.index(model), self.models.index(reference)
        difference = float(self.estimates.means[i] - self.estimates.means[j])
        half, error = float(self.half_widths[i, j]), float(self.standard_errors[i, j])
        p = 1.0 if difference == 0 else 0.0
        if error > 0:
            score = float(_scores(np.array(difference / error), self.dof[i, j]))
            above = len(self.largest) - np.searchsorted(self.largest, abs(score) - 1e-12)
            p = (1 + float(above)) / (1 + len(self.largest))
        low, high = max(difference - half, -1.0), min(difference + half, 1.0)
        return PairwiseComparison(model, reference, difference, low, high, p, self.margin)

    def pairs(self) -> list[PairwiseComparison]:
        """Returns every pair once, best models first, the better one as the model."""
        best_first = sorted(zip(-self.estimates.means, self.models, strict=True))
        return [self.pair(a, b) for a, b in combinations([name for _, name in best_first], 2)]

    def with_best(self) -> dict[str, Interval]:
        """Returns the simultaneous 95% interval of each model minus the best of the others.

        A model whose interval ends at 0 is certainly not the best; one that begins at 0 is.
        """
        means, count = self.estimates.means, len(self.models)
        critical = np.quantile(self.largest_below, 1 - self.alpha, axis=0)
        # [i, j]: the least by which j is better than i, were j compared as the best.
        lead = means[None, :] - means[:, None]
        upper = -lead + _critical_t(critical[:, None], self.dof) * self.standard_errors
        lower = -lead - _critical_t(critical[None, :], self.dof) * self.standard_errors
        others = ~np.eye(count, dtype=bool)
        high = np.where(others, upper, np.inf).min(axis=1).clip(min=0)
        candidates = high > 0
        intervals = {}
        for i, model in enumerate(self.models):
            rivals = others[i] & candidates
            low = min(float(lower[i, rivals].min()), 0.0) if rivals.any() else 0.0
            intervals[model] = Interval(low, float(high[i]) if count > 1 else 0.0)
        return intervals

    def possibly_best(self) -> list[str]:
        """Returns the models that may be the best, the highest mean first."""
        intervals = self.with_best()
        means = dict(zip(self.models, self.estimates.means, strict=True))
        candidates = [model for model in self.models if intervals[model].high > 0]
        return sorted(candidates or self.models[:1], key=lambda model: -means[model])


def compare_all(
    values: Mapping[str, Values],
    *,
    margin: float = MARGIN,
    alpha: float = 1 - LEVEL,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Comparisons:
    """Returns the comparisons of all pairs of models.

    Args:
        values: of one metric by model, on the same images.
        margin: differences that are certainly smaller do not matter.
        alpha: family-wise error rate.
        draws: number of draws of the joint distribution.
        seed: of these draws.
    """
    estimates = Estimates.of(values)
    return compare_estimates(estimates, margin=margin, alpha=alpha, draws=draws, seed=seed)


def compare_estimates(
    estimates: Estimates,
    *,
    margin: float = MARGIN,
    alpha: float = 1 - LEVEL,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Comparisons:
    """Returns the comparisons of all pairs of models from their estimates."""
    count = len(estimates.models)
    first, second = np.triu_indices(count, 1)
    errors, dofs = np.zeros((count, count)), np.ones((count, count))
    variance, dof = _differences(estimates, estimates.seeds, first, second)
    errors[first, second] = errors[second, first] = np.sqrt(variance)
    dofs[first, second] = dofs[second, first] = dof
    draws = min(draws, max(_FEWEST_DRAWS, _MOST_DRAWN // max(len(first), 1)))
    rng = np.random.default_rng(seed)
    at_once = max(1, _VALUES_AT_ONCE // max(len(first), 1))
    chunks = [
        _draw_largest(estimates, min(at_once, draws - start), first, second, rng)
        for start in range(0, draws, at_once)
    ]
    return Comparisons(
        estimates=estimates,
        standard_errors=errors,
        dof=dofs,
        largest=np.sort(np.concatenate([largest for largest, _ in chunks])),
        largest_below=np.sort(np.concatenate([below for _, below in chunks]), axis=0),
        alpha=alpha,
        margin=margin,
    )


def _differences(
    estimates: Estimates,
    seeds: SeedVariances,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    image_factor: _Floats | float = 1.0,
) -> tuple[_Floats, _Floats]:
    """Returns variance and degrees of freedom (..., P) of the differences of pairs."""

    def of_pairs(covariance: _Floats) -> _Floats:
        diagonal = np.diag(covariance)
        return np.maximum(diagonal[first] + diagonal[second] - 2 * covariance[first, second], 0.0)

    mean_variance = seeds.value / estimates.runs
    pairs = (first, second)
    return _pair_variance(
        of_pairs(estimates.images) * image_factor,
        of_pairs(estimates.runs_over_images) * image_factor,
        np.stack([mean_variance[..., side] for side in pairs]),
        np.stack([seeds.dof[..., side] for side in pairs]),
        estimates.image_dof[first, second],
    )


def _draw_largest(
    estimates: Estimates,
    draws: int,
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[_Floats, _Floats]:
    """Returns drawn largest scores where no models differ: (D,) of all pairs, (D, M) below each."""
    count = len(estimates.models)
    deviations = rng.standard_normal((draws, count)) @ _square_root(estimates.images)
    true, redrawn = draw_seed_variances(estimates, draws, rng)
    deviations += rng.standard_normal((draws, count)) * np.sqrt(true / estimates.runs)
    dof = float(np.median(estimates.image_dof[first, second])) if len(first) else 1.0
    factor = rng.chisquare(dof, size=(draws, 1)) / dof
    variance, dofs = _differences(estimates, redrawn, first, second, factor)
    difference = deviations[:, first] - deviations[:, second]
    t = np.divide(difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 0)
    scores = _scores(t, dofs)
    below = np.full((count, draws), -np.inf)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        np.maximum(below[j], scores[:, pair], out=below[j])
        np.maximum(below[i], -scores[:, pair], out=below[i])
    return np.abs(scores).max(axis=1, initial=0.0), np.where(np.isfinite(below), below, 0.0).T


def _square_root(covariance: _Floats) -> _Floats:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))).T


def draw_seed_variances(
    estimates: Estimates, draws: int, rng: np.random.Generator
) -> tuple[_Floats, SeedVariances]:
    """Returns draws (D, M) of the true variances over seeds, and what new runs would estimate."""
    value, dof, prior = estimates.seeds
    size = (draws, len(value))
    if not estimates.over_seeds:
        return np.zeros(size), SeedVariances(np.zeros(size), np.ones(size), prior)
    own = estimates.runs - 1
    true = value * dof / rng.chisquare(dof, size=size)
    return true, SeedVariances(
        *_moderate(true * rng.chisquare(own, size=size) / own, own, prior), prior
    )


def draw_qualities(
    values: Mapping[str, Values], *, draws: int = 4000, seed: int = 0
) -> dict[str, _Floats] | None:
    """Returns draws (D,) of the true quality of every model; None if nothing is known of its error.

    The measured means scatter more than the true qualities, and the highest are high by luck in
    part: the qualities are drawn from their posterior under a normal prior, whose mean and
    deviation are estimated from the study, and drawn, too.

    Args:
        values: of one metric by model, on the same images.
        draws: D.
        seed: of the draws.
    """
    estimates = Estimates.of(values)
    count = len(estimates.models)
    covariance = estimates.covariance()
    if np.diag(covariance).max() < _ROUNDING:
        return None
    rng = np.random.default_rng(seed)
    deviations = _draw_prior_deviations(estimates.means, covariance, draws, rng)
    true, _ = draw_seed_variances(estimates, draws, rng)
    drawn = estimates.images + (true / estimates.runs)[:, :, None] * np.eye(count)
    prior = (deviations**2)[:, None, None] * np.eye(count)
    total = drawn + prior
    ones = np.ones((draws, count, 1))
    solved = np.linalg.solve(total, np.concatenate((ones, _columns(estimates.means, draws)), 2))
    precision = solved[..., 0].sum(axis=1)
    mean = solved[..., 1].sum(axis=1) / precision
    mean = mean + rng.standard_normal(draws) / np.sqrt(precision)
    # The posterior, by a draw from the prior that is corrected to the data (Matheron's rule).
    at_random = mean[:, None] + deviations[:, None] * rng.standard_normal((draws, count))
    noise = rng.standard_normal((draws, count)) @ _square_root(estimates.images)
    noise += rng.standard_normal((draws, count)) * np.sqrt(true / estimates.runs)
    gap = (estimates.means - at_random - noise)[..., None]
    qualities = at_random + (deviations**2)[:, None] * np.linalg.solve(total, gap)[..., 0]
    return dict(zip(estimates.models, qualities.T, strict=True))


def _columns(row: _Floats, draws: int) -> _Floats:
    return np.broadcast_to(row[None, :, None], (draws, len(row), 1))


def _draw_prior_deviations(
    means: _Floats, covariance: _Floats, draws: int, rng: np.random.Generator
) -> _Floats:
    """Returns draws (D,) of the deviation of the true qualities, a priori uniform."""
    count = len(means)
    scale = float(np.sqrt(np.diag(covariance).mean()) + means.std())
    if count < 3:
        return np.full(draws, 10 * scale)
    grid = np.linspace(0.0, 4 * scale, 201)[1:]
    logs = []
    for deviation in grid:
        total = covariance + deviation**2 * np.eye(count)
        inverse = np.linalg.inv(total)
        precision = inverse.sum()
        residuals = means - (inverse @ means).sum() / precision
        _, size = np.linalg.slogdet(total)
        logs.append(-0.5 * (size + np.log(precision) + residuals @ inverse @ residuals))
    weights = np.exp(np.array(logs) - max(logs))
    return rng.choice(grid, size=draws, p=weights / weights.sum())


class RankChange(NamedTuple):
    """How the order of models differs between two settings."""

    num_pairs: int
    swapped: int
    """Pairs of models whose order is reversed."""
    decided: int
    """Swapped pairs that differ under both settings."""


def rank_change(first: Comparisons, second: Comparisons) -> RankChange:
    """Returns how the order of the models that both have differs between two settings."""
    pairs = list(combinations([model for model in first.models if model in second.models], 2))
    both = [(first.pair(*pair), second.pair(*pair)) for pair in pairs]
    swapped = [rows for rows in both if rows[0].difference * rows[1].difference < 0]
    return RankChange(len(pairs), len(swapped), sum(a.differs and b.differs for a, b in swapped))


def detectable_difference(
    deviation: float,
    *,
    runs: int,
    models: int,
    image_deviation: float = 0.0,
    power: float = 0.8,
    alpha: float = 1 - LEVEL,
) -> float:
    """Returns the smallest difference of two models that is found with a probability of `power`.

    Args:
        deviation: of the runs of a model over seeds.
        runs: of each model, at least three.
        models: of the study, all of whose pairs are compared.
        image_deviation: of the difference of two models over images.
        power: the probability.
        alpha: family-wise error rate.
    """
    variances = np.full(models, deviation**2)
    estimates = Estimates(
        models=tuple(map(str, range(models))),
        means=np.zeros(models),
        runs=np.full(models, float(runs)),
        over_seeds=True,
        seeds=moderated_variances(variances, np.full(models, runs - 1.0)),
        images=np.eye(models) * image_deviation**2 / 2,
        runs_over_images=np.eye(models) * image_deviation**2 / 2,
        image_dof=np.full((models, models), 100.0),
    )
    compared = compare_estimates(estimates, alpha=alpha)
    half, error = float(compared.half_widths[0, 1]), float(compared.standard_errors[0, 1])
    dof = float(compared.dof[0, 1])
    if error == 0:
        return 0.0
    critical = half / error

    def lacking(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, dof, noncentrality)) - power

    return error * _root(lacking, 0.0, critical + 20.0)
