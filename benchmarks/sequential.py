"""Error rate and savings of `ossa study run --until decided`, and the power that is planned for.

    nice python benchmarks/sequential.py                   # 4,000 studies a row
    nice python benchmarks/sequential.py --studies 400     # a quick look

Draws the runs of ten models with known qualities, eight seeds each, and passes them to
`ossa.study.sequential.decide`, which sees only the runs that it asks for. Prints

- wrong: how often any pair is decided wrongly: a difference found where there is none or with the
  wrong sign, or called practically the same although the true difference is the margin or more;
- runs: the share of the runs of the plan with eight seeds for every model;
- open: the share of pairs that the last look leaves open.

Each figure has its Monte Carlo error: two standard errors.
"""

import argparse
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.statistics import Values
from ossa.study.comparisons import compare_all
from ossa.study.sequential import Look, SeededValues, decide, detectable_difference

_LOOKS, _MARGIN = (3, 5, 8), 0.02
_FAR = np.array([0.0] * 7 + [0.05, 0.10, 0.15])
"""24 of 45 pairs differ by 0.05 or more, the others are equal."""
_EVEN = 0.0125 * np.arange(10)
"""21 of 45 pairs differ by 0.05 or more, all by 0.0125 or more."""
CASES: Mapping[str, tuple[NDArray[np.floating], float]] = {
    "equal, deviation 0.01": (np.zeros(10), 0.01),
    "equal, deviation 0.005": (np.zeros(10), 0.005),
    "half of the pairs 0.05 apart, deviation 0.01": (_FAR, 0.01),
    "half of the pairs 0.05 apart, deviation 0.005": (_FAR, 0.005),
    "half of the pairs 0.05 apart, deviation 0.003": (_FAR, 0.003),
    "evenly spread, deviation 0.005": (_EVEN, 0.005),
    "a margin apart, deviation 0.005": (0.02 * (np.arange(10) % 2), 0.005),
}


def outcome(
    qualities: NDArray[np.floating], deviation: float, *, seed: int, draws: int = 2000
) -> tuple[bool, float, float]:
    """Returns whether any pair is decided wrongly, the share of runs, and of open pairs."""
    rng = np.random.default_rng(seed)
    plain = 0.3 + qualities[:, None] + deviation * rng.standard_normal((len(qualities), 8))
    trained = dict.fromkeys(range(len(qualities)), 0)
    found = Look((), dict.fromkeys(map(str, trained), _LOOKS[0]))
    while found.wanted:
        trained |= {int(model): seeds for model, seeds in found.wanted.items()}
        runs = {str(model): _seeded(plain[model, :seeds]) for model, seeds in trained.items()}
        found = decide(runs, looks=_LOOKS, margin=_MARGIN, draws=draws)
    wrong = False
    for made in found.decisions:
        pair = made.comparison
        true = float(qualities[int(pair.model)] - qualities[int(pair.reference)])
        wrong |= pair.differs and pair.difference * true <= 0
        wrong |= pair.verdict == "practically the same" and abs(true) >= _MARGIN - 1e-12
    still_open = np.mean([made.is_open for made in found.decisions])
    return wrong, sum(trained.values()) / (8 * len(qualities)), float(still_open)


def _seeded(plain: NDArray[np.float64]) -> SeededValues:
    column = plain[:, None]
    values = Values(plain, np.repeat(column, 20, 1), np.repeat(column, 10, 1), 10)
    return SeededValues(values, tuple(range(len(plain))))


def detected_share(deviation: float, *, runs: int, studies: int) -> tuple[float, float]:
    """Returns the difference that should be found in 80%, and the share in which it is."""
    difference = detectable_difference(deviation, runs=runs, models=10)
    found = []
    for study in range(studies):
        rng = np.random.default_rng(study)
        plain = 0.3 + deviation * rng.standard_normal((10, runs))
        plain[1] += difference
        values = {str(model): _seeded(own).values for model, own in enumerate(plain)}
        found.append(compare_all(values, draws=2000, seed=study).pair("1", "0").differs)
    return difference, float(np.mean(found))


def main() -> None:
    """Prints one row per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    for name, (qualities, deviation) in CASES.items():
        started = time.perf_counter()
        rows = np.array([outcome(qualities, deviation, seed=seed) for seed in range(studies)])
        wrong, runs, still_open = rows.mean(axis=0)
        error = 2 * (wrong * (1 - wrong) / studies) ** 0.5
        print(
            f"{name}: wrong {wrong:.3f} ± {error:.3f}, runs {runs:.2f} of the plan, "
            f"open {still_open:.2f}  ({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
    for seeds in (3, 5, 8):
        difference, share = detected_share(0.01, runs=seeds, studies=studies)
        error = 2 * (share * (1 - share) / studies) ** 0.5
        print(
            f"{seeds} seeds, deviation 0.01: {difference:.4f} should be found in 80%, is found in "
            f"{100 * share:.1f} ± {100 * error:.1f}%",
            flush=True,
        )


if __name__ == "__main__":
    main()
