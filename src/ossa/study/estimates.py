"""The mean qualities of the models of a study, with their variances over images and seeds.

The quality of a model is its mean over all seeds and images that could have been drawn. Its
estimate varies over images, which are the same for all models, and over the seeds of each model.

Three seeds say little about the variance over seeds, so the variances of all models are moderated
by their common distribution (Smyth, "Linear models and empirical Bayes methods", 2004). Its degrees
of freedom are capped, and a model that varies more than the others keeps its own variance and
degrees of freedom, as one failing model would otherwise pass for a stable one.

Dimensions: M models, R runs of a model, B resamples, G groups of images, D draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from ossa.evaluate.statistics import FEWEST_RUNS, Values

_MOST_PRIOR_DOF, _MOST_PRIOR_DOF_OF_DRAWS = 6.0, 60.0
_FEWEST_MODERATED = 3
"""Smallest number of models from which a common distribution of variances is estimated."""
ROUNDING = 1e-20
"""A variance below this is none."""
_CELLS_AT_ONCE = 2**21
"""Draws times pairs of models that are in memory together."""
_FEWEST_DRAWS, _MOST_DRAWN = 500, 2**25
"""With many models there are fewer draws, so that draws times pairs are at most `_MOST_DRAWN`."""
Floats: TypeAlias = NDArray[np.float64]


class SeedVariances(NamedTuple):
    """Variances of single runs over seeds, on the same images, moderated by their distribution."""

    value: Floats
    """(M,)."""
    dof: Floats
    """(M,) degrees of freedom."""
    prior: tuple[float, float]
    """Variance and degrees of freedom of the common distribution; (0, 0) without one."""


def moderated_variances(variance: Floats, dof: Floats) -> SeedVariances:
    """Returns the variances (M,) moderated by their common distribution.

    Args:
        variance: (M,) sample variances.
        dof: (M,) their degrees of freedom.

    Examples:
        >>> moderated_variances(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)).dof.tolist()
        [8.0, 8.0, 2.0]
    """
    prior = _variance_prior(variance, dof)
    return SeedVariances(*moderate(variance, dof, prior), prior)


def _variance_prior(
    variance: Floats, dof: Floats, *, most_dof: float = _MOST_PRIOR_DOF
) -> tuple[float, float]:
    """Returns variance and degrees of freedom of the prior, by the moments of the logarithms."""
    positive = (variance > 0) & (dof > 0)
    if positive.sum() < _FEWEST_MODERATED:
        return 0.0, 0.0
    half = dof[positive] / 2
    logs = np.log(variance[positive]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    # Half the degrees of freedom h from trigamma(h) = excess; practically infinite at exp(12).
    log_h = root(lambda x: np.log(special.polygamma(1, np.exp(x)) / max(excess, 1e-5)), -12, 12)
    prior_variance = np.exp(logs.mean() + special.digamma(np.exp(log_h)) - log_h)
    return float(prior_variance), min(2 * float(np.exp(log_h)), most_dof)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    found: Any = optimize.brentq(function, low, high)
    return float(found)


def moderate(variance: Floats, dof: Floats, prior: tuple[float, float]) -> tuple[Floats, Floats]:
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
    means: Floats
    """(M,) over the runs."""
    runs: Floats
    """(M,) number of runs."""
    over_seeds: bool
    """Whether the variance over seeds is known: every model has three runs."""
    variances: Floats
    """(M,) sample variances of the runs; 0 if not `over_seeds`."""
    dof: Floats
    """(M,) their degrees of freedom."""
    seeds: SeedVariances
    """The same, moderated."""
    images: Floats
    """(M, M) covariance of the means over images; of these runs alone if not `over_seeds`."""
    runs_over_images: Floats
    """(M, M) the same with what an image is to single runs, which `seeds` counts, too."""
    image_dof: Floats
    """(M, M) degrees of freedom of variances of differences over images; diagonal: of means."""

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
            variances=variances,
            dof=runs - 1,
            seeds=moderated_variances(variances, runs - 1),
            images=images,
            runs_over_images=total,
            image_dof=_image_dof(each),
        )

    @classmethod
    def of_gains(cls, first: Mapping[str, Values], second: Mapping[str, Values]) -> Self:
        """Returns those of what each model gains from a first setting to a second one.

        Args:
            first: values of one metric by model, under the first setting.
            second: of the same models on the same images, under the second.
        """
        before, after = cls.of(first), cls.of(second)
        gains = {model: second[model].difference(first[model]) for model in first}
        one_each = cls.of(gains)
        over_seeds, images = before.over_seeds and after.over_seeds, one_each.images
        variances, dof = np.zeros(len(gains)), before.dof + after.dof
        if over_seeds:
            shared = [
                first[model].shared_variance() + second[model].shared_variance() for model in first
            ]
            images = _positive_semidefinite(images - np.diag(shared))
            parts = [level.variances / level.runs for level in (before, after)]
            variances = parts[0] + parts[1]
            doubt = parts[0] ** 2 / before.dof + parts[1] ** 2 / after.dof
            dof = np.divide(variances**2, doubt, out=dof, where=doubt > 0)
        return replace(
            one_each,
            over_seeds=over_seeds,
            variances=variances,
            dof=dof,
            seeds=moderated_variances(variances, dof),
            images=images,
        )

    def covariance(self) -> Floats:
        """Returns the covariance (M, M) of the means over images, and over seeds if known."""
        return self.images + np.diag(self.seeds.value / self.runs)


def _positive_semidefinite(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _image_dof(each: list[Values]) -> Floats:
    """Returns (M, M) of differences, and of means on the diagonal, by kurtosis of influences."""
    influences = np.stack([model.left_out.mean(axis=0) for model in each])
    influences -= influences.mean(axis=1, keepdims=True)
    groups, most = influences.shape[1], max(each[0].num_images - 1.0, 1.0)
    dof = np.full((len(each), len(each)), most)
    for row, own in enumerate(influences):
        squares = (own - influences) ** 2
        squares[row] = own**2
        second, fourth = squares.mean(axis=1), (squares**2).mean(axis=1)
        doubt = fourth - second**2
        known = doubt > 0
        dof[row, known] = np.minimum(2 * groups * second[known] ** 2 / doubt[known], most)
    return dof


def square_root(covariance: Floats) -> Floats:
    """Returns the symmetric root, which does not depend on the signs of the eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def draw_seed_variances(
    estimates: Estimates, draws: int, rng: np.random.Generator
) -> tuple[Floats, SeedVariances]:
    """Returns draws (D, M) of the true variances over seeds, and what new runs would estimate."""
    value, dof, prior = estimates.seeds
    size = (draws, len(value))
    if not estimates.over_seeds:
        return np.zeros(size), SeedVariances(np.zeros(size), np.ones(size), prior)
    own = estimates.dof
    true = value * dof / rng.chisquare(dof, size=size)
    return true, SeedVariances(
        *moderate(true * rng.chisquare(own, size=size) / own, own, prior), prior
    )


def _draw_probable_variances(estimates: Estimates, draws: int, rng: np.random.Generator) -> Floats:
    """Returns draws (D, M) of the true variances over seeds, neither too large nor too small.

    `draw_seed_variances` guards an error rate, and so errs on the side of large ones. A probability
    is to be right in both directions: the prior has the degrees of freedom that are estimated, and
    a model keeps its own variance only where that is significantly above the prior's (F, 5%).
    """
    own, variances = estimates.runs - 1, estimates.variances
    if not estimates.over_seeds:
        return np.zeros((draws, len(own)))
    prior, prior_dof = _variance_prior(variances, own, most_dof=_MOST_PRIOR_DOF_OF_DRAWS)
    keeps_own = np.ones(len(own), bool)
    if prior_dof > 0:
        keeps_own = variances > prior * stats.f.ppf(0.95, own, prior_dof)
    dof = np.where(keeps_own, own, own + prior_dof)
    weighted = (prior_dof * prior + own * variances) / (own + prior_dof)
    value = np.where(keeps_own, variances, weighted)
    return value * dof / rng.chisquare(dof, size=(draws, len(own)))


def without_images(plain: Mapping[str, Sequence[float | None]], like: Values) -> dict[str, Values]:
    """Returns the values of runs by model, the same for all images; None becomes NaN."""
    values = {}
    for model, numbers in plain.items():
        runs = np.array(numbers, float)
        resampled = np.repeat(runs[:, None], like.resampled.shape[1], axis=1)
        left_out = np.repeat(runs[:, None], like.left_out.shape[1], axis=1)
        values[model] = Values(runs, resampled, left_out, like.num_images)
    return values


def draw_qualities(
    values: Mapping[str, Values], *, draws: int = 4000, seed: int = 0
) -> dict[str, Floats] | None:
    """Returns draws (D,) of the true quality of every model; None if nothing is known of its error.

    The measured means scatter more than the true qualities, and the highest are high by luck in
    part: the qualities are drawn from their posterior under a normal prior, whose mean and
    deviation are estimated from the study, and drawn, too.

    Args:
        values: of one metric by model, on the same images.
        draws: D.
        seed: of the draws.
    """
    known = {name: own for name, own in values.items() if np.isfinite(own.plain).all()}
    if not known:
        return None
    estimates = Estimates.of(known)
    covariance = estimates.covariance()
    if np.diag(covariance).max() < ROUNDING:
        return None
    cells = len(known) ** 2
    draws = min(draws, max(_FEWEST_DRAWS, _MOST_DRAWN // cells))
    rng = np.random.default_rng(seed)
    deviations = _draw_prior_deviations(estimates.means, covariance, draws, rng)
    at_once = max(1, _CELLS_AT_ONCE // cells)
    chunks = [
        _draw_posterior(estimates, deviations[start : start + at_once], rng)
        for start in range(0, draws, at_once)
    ]
    return dict(zip(estimates.models, np.concatenate(chunks).T, strict=True))


def _draw_posterior(estimates: Estimates, deviations: Floats, rng: np.random.Generator) -> Floats:
    """Returns draws (D, M) of the true qualities, under priors of these deviations (D,)."""
    draws, count = len(deviations), len(estimates.models)
    true = _draw_probable_variances(estimates, draws, rng)
    own = true / estimates.runs + (deviations**2)[:, None]
    total = estimates.images + own[:, :, None] * np.eye(count)
    ones = np.ones((draws, count, 1))
    solved = np.linalg.solve(total, np.concatenate((ones, _columns(estimates.means, draws)), 2))
    precision = solved[..., 0].sum(axis=1)
    mean = solved[..., 1].sum(axis=1) / precision
    mean = mean + rng.standard_normal(draws) / np.sqrt(precision)
    # The posterior, by a draw from the prior that is corrected to the data (Matheron's rule).
    at_random = mean[:, None] + deviations[:, None] * rng.standard_normal((draws, count))
    noise = rng.standard_normal((draws, count)) @ square_root(estimates.images)
    noise += rng.standard_normal((draws, count)) * np.sqrt(true / estimates.runs)
    gap = (estimates.means - at_random - noise)[..., None]
    return at_random + (deviations**2)[:, None] * np.linalg.solve(total, gap)[..., 0]


def _columns(row: Floats, draws: int) -> Floats:
    return np.broadcast_to(row[None, :, None], (draws, len(row), 1))


def _draw_prior_deviations(
    means: Floats, covariance: Floats, draws: int, rng: np.random.Generator
) -> Floats:
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
