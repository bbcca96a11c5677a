"""Error rates, coverage and power of the comparisons of a study, by simulation.

    nice python benchmarks/verdicts.py                     # 4,000 studies a row
    nice python benchmarks/verdicts.py --studies 400       # a quick look

Draws the runs of ten models whose true qualities are known, as the metrics of their records, and
passes them to `ossa.study.comparisons`. The true quality is the mean over seeds and images. Prints

- family-wise error: how often a difference is found between any two models that are equal;
- coverage: how often all simultaneous intervals hold their true differences;
- power: the share of true differences that are found; beside it, today's other method (Welch's t
  and Holm) and the bound of a z-test with known variances and the same correction;
- unadjusted: how often the interval of a single model holds its true quality;
- with the best: how often all intervals of Edwards and Hsu hold, and the models left as candidates;
- the same: how often two models that differ by the margin exactly are called practically the same;
- Pareto membership: how often a model with a stated probability is a member.

Each figure has its Monte Carlo error: two standard errors.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ossa.evaluate.statistics import Values, adjust_by_holm
from ossa.study.analysis import pareto_set
from ossa.study.comparisons import Comparisons, compare_all
from ossa.study.estimates import draw_qualities

_MODELS = 10
_IMAGES, _RESAMPLES = 100, 200
_UNEQUAL = (0.036, 0.019, 0.052, 0.016, 0.018, 0.011, 0.002, 0.005, 0.003, 0.082)
"""Standard deviations over seeds: one model fails for some, as happened at 160 px."""
_Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """A study with known qualities and deviations."""

    qualities: _Floats
    """(M,)."""
    deviations: _Floats
    """(M,) over seeds."""
    heavy_tails: bool = False
    """Student's t with three degrees of freedom in place of the normal distribution."""
    image_deviation: float = 0.0
    """Of what an image is worth to one model, beside what it is to all."""
    run_deviation: float = 0.0
    """Of what an image is worth to one run."""
    runs: int = 3

    def draw(self, rng: np.random.Generator) -> dict[str, Values]:
        """Returns the values of one study."""
        models, runs = len(self.qualities), self.runs
        shape = (models, runs)
        seeds = rng.standard_t(3, shape) / 3**0.5 if self.heavy_tails else rng.normal(size=shape)
        plain = self.qualities[:, None] + self.deviations[:, None] * seeds
        images = self.image_deviation * rng.normal(size=(models, 1, _IMAGES))
        images = images + self.run_deviation * rng.normal(size=(models, runs, _IMAGES))
        by_image = plain[:, :, None] + images
        counts = rng.multinomial(_IMAGES, np.full(_IMAGES, 1 / _IMAGES), size=_RESAMPLES)
        resampled = by_image @ counts.T / _IMAGES
        left_out = (by_image.sum(axis=2, keepdims=True) - by_image) / (_IMAGES - 1)
        return {
            f"m{model}": Values(
                by_image[model].mean(axis=1), resampled[model], left_out[model], _IMAGES
            )
            for model in range(models)
        }


_ALIKE, _SMALL = np.full(_MODELS, 0.3), np.full(_MODELS, 0.01)
_FAILING = np.array([0.08, *_SMALL[1:]])
_HALF_BETTER = _ALIKE + 0.03 * (np.arange(_MODELS) % 2)
CASES: Mapping[str, Case] = {
    "equal": Case(_ALIKE, _SMALL),
    "t3 tails": Case(_ALIKE, _SMALL, heavy_tails=True),
    "one failing": Case(_ALIKE, _FAILING),
    "unequal deviations": Case(_ALIKE, np.array(_UNEQUAL)),
    "images": Case(_ALIKE, _SMALL, image_deviation=0.1, run_deviation=0.05),
    "unequal deviations, images": Case(
        _ALIKE, np.array(_UNEQUAL), image_deviation=0.1, run_deviation=0.05
    ),
    "0.03 apart": Case(_HALF_BETTER, _SMALL),
    "0.03 apart, images": Case(_HALF_BETTER, _SMALL, image_deviation=0.05, run_deviation=0.05),
    "0.02 apart, 8 seeds": Case(
        _ALIKE + 0.02 * (np.arange(_MODELS) % 2), np.full(_MODELS, 0.005), runs=8
    ),
}


def error_rates(case: Case, *, studies: int, draws: int = 4000) -> dict[str, float]:
    """Returns the rates of one case over many studies."""
    differences = case.qualities[:, None] - case.qualities[None, :]
    upper = np.triu(np.ones_like(differences, bool), 1)
    equal, unequal = upper & (differences == 0), upper & (differences != 0)
    best = np.array(
        [case.qualities[i] - np.delete(case.qualities, i).max() for i in range(_MODELS)]
    )
    counts: dict[str, list[float]] = {}
    for study in range(studies):
        values = case.draw(np.random.default_rng(study))
        compared = compare_all(values, margin=0.02, draws=draws, seed=study)
        measured = compared.estimates.means[:, None] - compared.estimates.means[None, :]
        low, high = measured - compared.half_widths, measured + compared.half_widths
        found = (low > 0) | (high < 0)
        with_best = np.array(list(compared.with_best().values()))
        tolerance = 1e-12
        row = {
            "family-wise error": found[equal].any(),
            "coverage": ((low <= differences) & (differences <= high))[upper].all(),
            "with the best": (
                (with_best[:, 0] <= best + tolerance) & (best - tolerance <= with_best[:, 1])
            ).all(),
            "unadjusted": np.mean(
                [
                    interval.low <= quality <= interval.high
                    for quality, interval in zip(
                        case.qualities, map(compared.interval, compared.models), strict=True
                    )
                ]
            ),
            "candidates": len(compared.possibly_best()),
        }
        if unequal.any():
            same = np.maximum(-low, high)[unequal] < np.abs(differences[unequal]).min()
            row |= {
                "power": found[unequal].mean(),
                "power, Welch and Holm": _welch_and_holm(values)[unequal].mean(),
                "power, known variances": _known_variances(case, compared)[unequal].mean(),
                "called the same": same.any(),
            }
        for name, value in row.items():
            counts.setdefault(name, []).append(float(value))
    return {name: float(np.mean(rates)) for name, rates in counts.items()}


def _welch_and_holm(values: Mapping[str, Values]) -> NDArray[np.bool_]:
    """Returns the pairs (M, M) that Welch's t-test over seeds finds, adjusted by Holm."""
    each = list(values.values())
    means = np.array([model.plain.mean() for model in each])
    own = np.array([model.seed_variance().value for model in each])
    images = np.atleast_2d(np.cov(np.stack([model.resampled.mean(axis=0) for model in each])))
    shared = np.diag(images) - np.array([model.shared_variance() for model in each])
    first, second = np.triu_indices(len(each), 1)
    common = shared[first] + shared[second] - 2 * images[first, second]
    variance = np.maximum(common, 0) + own[first] + own[second]
    dof = variance**2 / ((own[first] ** 2 + own[second] ** 2) / (len(each[0].plain) - 1))
    p = 2 * stats.t.sf(np.abs(means[first] - means[second]) / np.sqrt(variance), dof)
    found = np.zeros((len(each), len(each)), bool)
    found[first, second] = np.array(adjust_by_holm(p.tolist())) < 0.05
    return found


def _known_variances(case: Case, compared: Comparisons) -> NDArray[np.bool_]:
    """Returns the pairs (M, M) that a z-test with the true variances finds, by max-z."""
    noise = case.image_deviation**2 + case.run_deviation**2 / case.runs
    own = case.deviations**2 / case.runs + noise / _IMAGES
    errors = np.sqrt(own[:, None] + own[None, :])
    means = compared.estimates.means
    return np.abs(means[:, None] - means[None, :]) > _largest_z(len(means)) * errors


@cache
def _largest_z(models: int) -> float:
    """Returns the 95% quantile of the largest |z| of all pairs of models alike."""
    return float(stats.studentized_range.ppf(0.95, models, 10_000)) / 2**0.5


def membership_rates(spread: float, *, studies: int) -> list[tuple[float, float, int]]:
    """Returns stated mean, true share and number of cases for each tenth of the probability.

    Args:
        spread: of the true qualities, in deviations over seeds.
        studies: number of studies.
    """
    stated, true = [], []
    for study in range(studies):
        rng = np.random.default_rng(study)
        qualities = 0.3 + 0.01 * spread * rng.normal(size=_MODELS)
        values = Case(qualities, _SMALL).draw(rng)
        draws = draw_qualities(values, draws=1000, seed=study)
        assert draws is not None
        complexity = np.arange(1.0, _MODELS + 1)
        drawn = pareto_set(complexity, np.stack(list(draws.values()), axis=1))
        stated.append(drawn.mean(axis=0))
        true.append(pareto_set(complexity, qualities))
    all_stated, all_true = np.concatenate(stated), np.concatenate(true)
    tenths = np.minimum((all_stated * 10).astype(int), 9)
    return [
        (float(all_stated[own].mean()), float(all_true[own].mean()), int(own.sum()))
        for own in (tenths == tenth for tenth in range(10))
        if own.any()
    ]


def _print_timed(work: Callable[[], str]) -> None:
    started = time.perf_counter()
    text = work()
    print(f"{text}  ({time.perf_counter() - started:.0f} s)", flush=True)


def _error_row(name: str, studies: int) -> str:
    rates = error_rates(CASES[name], studies=studies)
    texts = []
    for key, rate in rates.items():
        error = 2 * (rate * (1 - rate) / studies) ** 0.5 if rate <= 1 else 0.0
        texts.append(f"{key} {rate:.3f}" + (f" ± {error:.3f}" if error else ""))
    return f"{name}: " + ", ".join(texts)


def _membership_row(spread: float, studies: int) -> str:
    rows = membership_rates(spread, studies=studies)
    worst = max((abs(a - b) for a, b, count in rows if count >= 1000), default=float("nan"))
    cells = ", ".join(f"{stated:.2f}: {true:.2f} ({count})" for stated, true, count in rows)
    return f"Pareto membership, spread {spread:g}: worst tenth {worst:.3f} off; {cells}"


def main() -> None:
    """Prints one row per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    for name in CASES:
        if options.only in name:
            _print_timed(lambda name=name: _error_row(name, options.studies))
    for spread in (0.5, 1.0, 2.0, 4.0):
        if options.only in "Pareto":
            _print_timed(lambda spread=spread: _membership_row(spread, options.studies))


if __name__ == "__main__":
    main()
