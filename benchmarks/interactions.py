"""Whether the order of models depends on a setting: error rates, coverage and power, by simulation.

    nice python benchmarks/interactions.py                    # 1,000 studies a row
    nice python benchmarks/interactions.py --studies 100      # a quick look

Four models under two levels of a setting, three seeds each, with a deviation of 0.01 over seeds;
the values of the records are drawn as in `verdicts.py` and passed to
`ossa.study.interactions.interaction`. Prints, each with two Monte Carlo standard errors:

- found: how often the test finds an interaction (p < 0.05), right or wrong; beside it, the same of
  a plain analysis of variance with pooled variances over seeds;
- gains: how often all simultaneous intervals of the differences of gains hold; each gain: the same
  of the gains themselves;
- reversed wrongly: how often a pair is called reversed for certain that is not;
- reversed: the share of the pairs whose order is reversed that are called so for certain;
- tau: how often the interval of Kendall's tau holds the tau of the true qualities.
"""

import argparse
import time
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from verdicts import Case

from ossa.evaluate.statistics import Values
from ossa.study.interactions import interaction

_MODELS, _RUNS = 4, 3
_APART = np.array([0.30, 0.32, 0.34, 0.36])
_ONE_GAINS = np.array([0.0, 0.0, 0.0, 0.035])
_FIRST_GAINS = np.array([0.08, 0.0, 0.0, 0.0])
"""The gain of the lowest, which becomes the highest."""
_DEVIATION = np.full(2 * _MODELS, 0.01)
_FAILING = np.array([0.08, *_DEVIATION[1:]])
_FAILS_ALWAYS = np.where(np.arange(2 * _MODELS) % _MODELS == 0, 0.08, 0.01)
_Floats = NDArray[np.floating]


def _case(
    qualities: _Floats,
    gains: _Floats | float = 0.02,
    *,
    deviations: _Floats = _DEVIATION,
    images: bool = False,
) -> Case:
    """Returns a study with these qualities (4,) under the first level, and gains at the other."""
    cells = np.concatenate((qualities, qualities + gains))
    noise = 0.05 if images else 0.0
    return Case(cells, deviations, runs=_RUNS, image_deviation=noise, run_deviation=noise)


_ALIKE = np.full(_MODELS, 0.3)
CASES: Mapping[str, Case] = {
    "no interaction": _case(_APART),
    "no interaction, images": _case(_APART, images=True),
    "no interaction, one failing": _case(_APART, deviations=_FAILING),
    "no interaction, one failing, images": _case(_APART, deviations=_FAILING, images=True),
    "no interaction, one failing under both": _case(_APART, deviations=_FAILS_ALWAYS),
    "no interaction, models alike": _case(_ALIKE),
    "one gains 0.035 more": _case(_ALIKE, _ONE_GAINS),
    "one gains 0.035 more, images": _case(_ALIKE, _ONE_GAINS, images=True),
    "one gains 0.08 and passes all": _case(_APART, _FIRST_GAINS),
}


def rates(case: Case, *, studies: int, draws: int = 1000) -> dict[str, float]:
    """Returns the rates of one case over many studies."""
    first, second = case.qualities.reshape(2, _MODELS)
    pairs = list(combinations(range(_MODELS), 2))
    gain_differences = np.array([(second - first)[i] - (second - first)[j] for i, j in pairs])
    products = np.array(
        [np.sign((first[i] - first[j]) * (second[i] - second[j])) for i, j in pairs]
    )
    counts: dict[str, list[float]] = {}
    for study in range(studies):
        cells = list(case.draw(np.random.default_rng(study)).values())
        levels = [
            {f"m{model}": cells[at + model] for model in range(_MODELS)} for at in (0, _MODELS)
        ]
        found = interaction(levels[0], levels[1], draws=draws, seed=study)
        certain = [(pair.model, pair.reference) for pair, _ in found.certainly_reversed]
        called = np.array([(f"m{i}", f"m{j}") in certain for i, j in pairs])
        gains = [found.gains.pair(f"m{i}", f"m{j}") for i, j in pairs]
        low, high = (np.array([getattr(pair, end) for pair in gains]) for end in ("low", "high"))
        held = (low <= gain_differences) & (gain_differences <= high)
        row: dict[str, float] = {
            "found": found.is_found,
            "found, pooled": _pooled_p(cells) < 0.05,
            "gains": bool(held.all()),
            "each gain": all(
                low <= gain <= high
                for gain, (low, high) in zip(
                    second - first, (found.gain(model) for model in found.models), strict=True
                )
            ),
            "reversed wrongly": bool(called[products >= 0].any()),
        }
        if (products < 0).any():
            row["reversed"] = called[products < 0].mean()
        if found.tau_interval is not None and (products != 0).all():
            low, high = found.tau_interval
            row["tau"] = low - 1e-9 <= products.mean() <= high + 1e-9
        for name, value in row.items():
            counts.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in counts.items()}


def _pooled_p(cells: list[Values]) -> float:
    """Returns the p of the interaction in a plain two-way analysis of variance over seeds."""
    plain = np.stack([cell.plain for cell in cells]).reshape(2, _MODELS, _RUNS)
    means = plain.mean(axis=2)
    left = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    dof, rest = _MODELS - 1, 2 * _MODELS * (_RUNS - 1)
    within = float(plain.var(axis=2, ddof=1).mean())
    return float(stats.f.sf(_RUNS * float((left**2).sum()) / dof / within, dof, rest))


def main() -> None:
    """Prints one row per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    for name, case in CASES.items():
        if options.only not in name:
            continue
        started = time.perf_counter()
        shares = rates(case, studies=options.studies, draws=options.draws)
        texts = [
            f"{key} {share:.3f} ± {2 * (share * (1 - share) / options.studies) ** 0.5:.3f}"
            for key, share in shares.items()
        ]
        print(f"{name}: {', '.join(texts)}  ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
