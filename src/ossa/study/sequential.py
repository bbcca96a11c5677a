"""How many seeds a study needs: planned beforehand, or decided while it runs.

`ossa study run --until decided` looks at the results after numbers of seeds that are fixed in the
study's file. The error rate is split evenly over the looks (Bonferroni), and a decision once made
is kept. A model is trained with more seeds while one of its pairs is not decided and the last look
may decide it. All follows from the finished runs alone, so an interrupted study decides the same.

Error rate and savings are simulated in `benchmarks/sequential.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ossa.errors import ConfigError, DataError
from ossa.evaluate.statistics import FEWEST_RUNS, LEVEL, Values
from ossa.study.comparisons import (
    ZERO,
    Comparisons,
    PairwiseComparison,
    compare_all,
    compare_estimates,
    critical_t,
    difference_variances,
)
from ossa.study.estimates import Estimates, moderated_variances

_MOST_RUNS = 256
"""More seeds than these are never planned."""
_SIMULATED, _CRITICAL_VALUES = 1000, 5
"""Studies from which the power is known, and those of which the critical value is drawn."""


@dataclass(frozen=True)
class SeededValues:
    """One metric of the runs of a model, with the seeds that they belong to."""

    values: Values
    positions: tuple[int, ...]
    """Of the seed of each run, in the study's list of seeds."""
    failed: frozenset[int] = frozenset()
    """Positions of the seeds whose runs failed; they are left out."""

    def is_complete(self, seeds: int) -> bool:
        """Returns whether the runs of the first so many seeds have ended."""
        return set(range(seeds)) <= {*self.positions, *self.failed}

    def first(self, seeds: int) -> Values:
        """Returns the values of the first so many seeds."""
        kept = [row for row, position in enumerate(self.positions) if position < seeds]
        own = self.values
        return Values(own.plain[kept], own.resampled[kept], own.left_out[kept], own.num_images)


@dataclass(frozen=True)
class Decision:
    """A pair of models about which a look decided, or the last look did not."""

    comparison: PairwiseComparison
    seeds: int
    """Of the look."""
    is_promising: bool
    """Whether the last look may decide, if the two are one standard error off."""

    @property
    def is_open(self) -> bool:
        """Whether the two are neither different nor practically the same."""
        return self.comparison.verdict == "not decided"


@dataclass(frozen=True)
class Look:
    """The decisions so far, and the seeds that the models need next."""

    decisions: tuple[Decision, ...]
    """The latest of every pair."""
    wanted: Mapping[str, int]
    """Number of seeds by model, for the models whose runs the next look waits for."""
    learned: bool = True
    """Whether any model is above 0; if not, nothing is decided and no seed is wanted."""


def decide(
    runs: Mapping[str, SeededValues],
    *,
    looks: Sequence[int],
    margin: float,
    alpha: float = 1 - LEVEL,
    draws: int = 8000,
) -> Look:
    """Returns the decisions from the runs that have ended.

    Args:
        runs: by model; runs that a look does not ask for are not looked at.
        looks: increasing numbers of seeds.
        margin: models whose difference is certainly smaller are practically the same.
        alpha: the error rate of all looks together.
        draws: of the joint distribution at every look.
    """
    trained = dict.fromkeys(runs, looks[0])
    latest: dict[tuple[str, str], Decision] = {}
    for seeds in looks:
        active = [pair for pair, made in latest.items() if made.is_open and made.is_promising]
        if latest and not active:
            break
        active = _models_of(active or None, runs)
        trained |= dict.fromkeys(active, seeds)
        wanted = {model: seeds for model in active if not runs[model].is_complete(seeds)}
        if wanted:
            return Look(tuple(latest.values()), wanted)
        if all((seeded.first(seeds).plain < ZERO).all() for seeded in runs.values()):
            return Look((), {}, learned=False)
        compared = _compare_at(runs, trained, margin, alpha / len(looks), draws)
        if compared is None:
            continue
        for pair in compared.pairs():
            key = (min(pair.model, pair.reference), max(pair.model, pair.reference))
            if key not in latest or latest[key].is_open:
                latest[key] = Decision(pair, seeds, _is_promising(compared, pair, looks[-1]))
    return Look(tuple(latest.values()), {})


def _is_promising(compared: Comparisons, pair: PairwiseComparison, runs: int) -> bool:
    """Returns whether so many runs may show a difference of two models, or that there is none."""
    half = compared.half_width_with(pair.model, pair.reference, runs=runs)
    i, j = compared.models.index(pair.model), compared.models.index(pair.reference)
    error, difference = float(compared.standard_errors[i, j]), abs(pair.difference)
    return difference + error > half or max(difference - error, 0.0) + half < pair.margin


def _models_of(
    pairs: Sequence[tuple[str, str]] | None, runs: Mapping[str, SeededValues]
) -> list[str]:
    """Returns the models of the pairs in the order of the study; all models without pairs."""
    named = set(runs) if pairs is None else {model for pair in pairs for model in pair}
    return [model for model in runs if model in named]


def _compare_at(
    runs: Mapping[str, SeededValues],
    trained: Mapping[str, int],
    margin: float,
    alpha: float,
    draws: int,
) -> Comparisons | None:
    values = {model: seeded.first(trained[model]) for model, seeded in runs.items()}
    usable = {model: own for model, own in values.items() if len(own.plain) >= FEWEST_RUNS}
    if len(usable) < 2:
        return None
    return compare_all(usable, margin=margin, alpha=alpha, draws=draws)


@dataclass(frozen=True)
class SeedsNeeded:
    """What numbers of seeds can find."""

    difference: float
    power: float
    seed_deviation: float
    """Of the runs of a model over seeds."""
    image_deviation: float
    """Of the difference of two models over images; no number of seeds reduces it."""
    planned: int
    detectable: float
    """The smallest difference that the planned seeds find with this power."""
    floor: float
    """The smallest difference that any number of seeds finds with this power."""
    needed: int | None
    """The seeds that find the difference; None where no number does."""


def seeds_needed(
    pilot: Mapping[str, Values],
    *,
    difference: float,
    planned: int,
    models: int,
    power: float = 0.8,
) -> SeedsNeeded:
    """Returns how many seeds find a difference between two of the models of a study.

    Args:
        pilot: the values of an earlier study on such data, with three seeds a model at least.
        difference: of the true qualities of two models.
        planned: number of seeds of the study.
        models: number of models of the study.
        power: the probability with which it is to be found.

    Raises:
        ConfigError: fewer than two models.
        DataError: the pilot has no two models with three seeds.
    """
    if models < 2:
        raise ConfigError(expected="two models at least to tell apart", found=str(models))
    usable = {model: own for model, own in pilot.items() if len(own.plain) >= FEWEST_RUNS}
    if len(usable) < 2:
        raise DataError(
            expected=f"a pilot with two models of {FEWEST_RUNS} finished runs at least",
            found=f"{len(usable)}",
        )
    estimates = Estimates.of(usable)
    seed_deviation = float(np.median(estimates.seeds.value)) ** 0.5
    first, second = np.triu_indices(len(usable), 1)
    variances = np.diag(estimates.images)
    covariances = estimates.images[first, second]
    image_variance = float(np.median(variances[first] + variances[second] - 2 * covariances))
    image_deviation = max(image_variance, 0.0) ** 0.5

    def detectable(runs: int) -> float:
        return detectable_difference(
            seed_deviation,
            runs=runs,
            models=models,
            image_deviation=image_deviation,
            power=power,
        )

    floor = detectable(_MOST_RUNS)
    needed = None
    if floor <= difference:
        low, high = FEWEST_RUNS - 1, _MOST_RUNS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if detectable(middle) <= difference else (middle, high)
        needed = high
    return SeedsNeeded(
        difference=difference,
        power=power,
        seed_deviation=seed_deviation,
        image_deviation=image_deviation,
        planned=planned,
        detectable=detectable(planned) if planned >= FEWEST_RUNS else float("inf"),
        floor=floor,
        needed=needed,
    )


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

    By simulated studies, whose variances are estimated anew: where a model keeps its own variance,
    as one that is above the prior's does, its intervals are much wider than on average.

    Args:
        deviation: of the runs of a model over seeds.
        runs: of each model, at least three.
        models: of the study, all of whose pairs are compared.
        image_deviation: of the difference of two models over images.
        power: the probability.
        alpha: family-wise error rate.
    """
    rng = np.random.default_rng(0)
    pair = np.array([0]), np.array([1])
    images = np.eye(models) * image_deviation**2 / 2

    def simulated() -> Estimates:
        variances = deviation**2 * rng.chisquare(runs - 1, size=models) / (runs - 1)
        return Estimates(
            models=tuple(map(str, range(models))),
            means=np.zeros(models),
            runs=np.full(models, float(runs)),
            over_seeds=True,
            variances=variances,
            dof=np.full(models, runs - 1.0),
            seeds=moderated_variances(variances, np.full(models, runs - 1.0)),
            images=images,
            runs_over_images=images,
            image_dof=np.full((models, models), 100.0),
        )

    # The critical value hardly differs between studies; drawing it for each would take minutes.
    largest = [compare_estimates(simulated(), draws=2000).largest for _ in range(_CRITICAL_VALUES)]
    score = float(np.median([np.quantile(one, 1 - alpha) for one in largest]))
    halves = np.empty(_SIMULATED)
    for study in range(_SIMULATED):
        estimates = simulated()
        variance, dof = difference_variances(estimates, estimates.seeds, *pair)
        halves[study] = (critical_t(score, dof) * np.sqrt(variance))[0]
    noise = rng.standard_normal(_SIMULATED) * (2 * deviation**2 / runs + image_deviation**2) ** 0.5
    return max(float(np.quantile(halves - noise, power)), 0.0)
