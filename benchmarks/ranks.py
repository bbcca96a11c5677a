"""Ranks of models over several data sets with known qualities: coverage and width, by simulation.

    nice python benchmarks/ranks.py                    # 4,000 studies a row
    nice python benchmarks/ranks.py --studies 100      # a quick look

Twelve models on eight data sets, three seeds each. The true qualities of a data set have a stated
standard deviation over the models, of which a stated share is common to all data sets; the values
of the records are drawn as in `verdicts.py` and passed to `ossa.study.ranks.rank_models`. Prints,
each with two Monte Carlo standard errors:

- how often the intervals of all twelve ranks hold on a data set, and of the mean over the eight,
  and how often the interval of one model does;
- the median number of ranks in an interval;
- how often the interval of an interquartile mean holds.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from verdicts import Case

from ossa.study.ranks import Ranking, RankInterval, rank_intervals, rank_models

_MODELS, _DATA_SETS = 12, 8
_DEVIATION = 0.01
"""Of the runs over seeds."""


@dataclass(frozen=True)
class Row:
    """A kind of study."""

    spread: float
    """Standard deviation of the true qualities over the models."""
    common: float = 0.7
    """Share of its variance that is the same on all data sets."""
    image_deviation: float = 0.1
    """Of one of 100 images, for each model on its own: 0.01 of the mean."""
    heavy_tails: bool = False
    failing: bool = False
    """Whether one model varies eight times as much over seeds."""


ROWS: Mapping[str, Row] = {
    "spread 0.1": Row(0.1),
    "spread 0.05": Row(0.05),
    "spread 0.1, t3 tails": Row(0.1, heavy_tails=True),
    "spread 0.1, one failing": Row(0.1, failing=True),
}


def ranks_of(qualities: np.ndarray) -> np.ndarray:
    return stats.rankdata(-qualities)


def _holds(intervals: Mapping[str, RankInterval], qualities: np.ndarray) -> np.ndarray:
    """Returns (M,) whether each interval holds the true rank."""
    pairs = zip(intervals.values(), ranks_of(qualities), strict=True)
    return np.array([low <= rank <= high for (low, high), rank in pairs])


def simulate(row: Row, study: int, draws: int) -> dict[str, float]:
    """Returns the rates of one study."""
    rng = np.random.default_rng(study)
    shared = row.common**0.5 * rng.normal(size=_MODELS)
    own = (1 - row.common) ** 0.5 * rng.normal(size=(_DATA_SETS, _MODELS))
    level = 0.4 + 0.05 * rng.normal(size=(_DATA_SETS, 1))
    qualities = level + row.spread * (shared + own)
    deviations = np.full(_MODELS, _DEVIATION)
    if row.failing:
        deviations[0] *= 8
    values = {
        f"d{data}": Case(
            qualities[data],
            deviations,
            heavy_tails=row.heavy_tails,
            image_deviation=row.image_deviation,
            run_deviation=0.05,
        ).draw(rng)
        for data in range(_DATA_SETS)
    }
    ranking = rank_models(values, draws=draws, seed=study)
    each = [rank_intervals(one) for one in ranking.by_data.values()]
    held = np.array([_holds(one, q) for one, q in zip(each, qualities, strict=True)])
    of_mean = rank_intervals(ranking.mean)
    mean_held = _holds(of_mean, qualities.mean(axis=0))
    return {
        "all ranks of a data set": float(held.all(axis=1).mean()),
        "a rank of a data set": float(held.mean()),
        "all ranks of the mean": float(mean_held.all()),
        "a rank of the mean": float(mean_held.mean()),
        "width on a data set": float(np.median([i.width for one in each for i in one.values()])),
        "width of the mean": float(np.median([i.width for i in of_mean.values()])),
        "an interquartile mean": _means_held(ranking, qualities),
    }


def _means_held(ranking: Ranking, qualities: np.ndarray) -> float:
    """Returns the share of intervals that hold the true interquartile mean."""
    order = [int(model[1:]) for model in ranking.models]
    middle = stats.trim_mean(qualities[:, order], 0.25, axis=0)
    ends = np.array([[row["iqm_low"], row["iqm_high"]] for row in ranking.mean_rows()])
    return float(((ends[:, 0] <= middle) & (middle <= ends[:, 1])).mean())


def main() -> None:
    """Prints one line per kind of study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=600, help="of the joint distribution")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    for name, row in ROWS.items():
        if options.only not in name:
            continue
        started, rates = time.perf_counter(), []
        for study in range(options.studies):
            rates.append(simulate(row, study, options.draws))
            if len(rates) in (options.studies, *range(500, options.studies, 500)):
                print(f"{name}, {len(rates)} studies ({time.perf_counter() - started:.0f} s)")
                _print(rates)


def _print(rates: Sequence[Mapping[str, float]]) -> None:
    for key in rates[0]:
        each = np.array([one[key] for one in rates])
        middle = np.median(each) if key.startswith("width") else each.mean()
        error = 2 * each.std(ddof=1) / len(each) ** 0.5
        print(f"  {key:26} {middle:.4f} ± {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
