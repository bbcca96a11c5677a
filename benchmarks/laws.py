"""Do the intervals of laws and predictions hold what they promise? Simulated studies.

    nice -n 10 python benchmarks/laws.py                     # 4,000 studies a row
    nice -n 10 python benchmarks/laws.py --studies 400 --only families

Every study has models with a cost and a quality around a known law. Models of one family share a
part of their deviation (correlation 0.8) and of their cost (half of the variance of its logarithm).
All figures come from the functions that a report calls. The error behind ± is the Monte Carlo
standard error.

- families: coverage of the 95% interval of the slope, and of the 80% prediction for a model of a
  new family within the range, beside the intervals for independent models ("today");
- forms: how often the true form is chosen, and errors within the range;
- extrapolation: errors and coverage of the 80% interval for a model that costs 1 to 2 times as much
  as the costliest one;
- quantile: share of new models below the 0.9-quantile curve.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.statistics import Interval
from ossa.study.efficiency import QuantileCurve, quantile_curve
from ossa.study.laws import FORMS, Form, LawComparison, compare_laws, fit_law
from ossa.study.prediction import Prediction, predict
from ossa.study.scaling import Points, PowerLaw, fit_power_law

_CORRELATION = 0.8
_SHARED_COST = 0.5
_COST_DEVIATION = 1.1
"""Of the logarithm: 20 models span a factor of about 60."""
_SLOPE = 0.15
_SCATTER = 0.06
"""Deviation from the law: relative to the quality for the power law, to 0.36 for the others."""
_FAMILIES = ((5,) * 4, (4,) * 5, (3,) * 4, (3,) * 5, (8, 4, 2, 1, 1), (4,) * 3)
"""Number of models of each family."""
_UNBOUNDED: tuple[Form, ...] = ("power", "error")
Row = Mapping[str, float]

CURVES: Mapping[Form, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "power": lambda cost: 0.35 * cost**_SLOPE,
    "error": lambda cost: 1 - 0.62 * cost**-0.12,
    "saturating": lambda cost: 0.5 - 0.14 * cost**-0.35,
}
"""True laws; all go through about 0.36 at a cost of 1, the middle."""


class Study:
    """Random models of one study around a law, and one more model that was not trained."""

    def __init__(
        self,
        rng: np.random.Generator,
        sizes: Sequence[int],
        *,
        form: Form = "power",
        scatter: float = _SCATTER,
        beyond: bool = False,
        correlation: float = _CORRELATION,
    ) -> None:
        """Args:
        rng: random numbers.
        sizes: number of models of each family.
        form: of the true law.
        scatter: deviation from it.
        beyond: whether the new model costs 1 to 2 times as much as the costliest, or as much as
            those of the study.
        correlation: between the deviations of the models of a family.
        """
        families = np.repeat(np.arange(len(sizes) + 1), [*sizes, 1])
        shared_cost, shared = rng.normal(size=(2, len(sizes) + 1))
        own_cost, own = rng.normal(size=(2, len(families)))
        log_cost = _mixed(shared_cost[families], own_cost, _SHARED_COST) * _COST_DEVIATION
        low, high = log_cost[:-1].min(), log_cost[:-1].max()
        if beyond:
            log_cost[-1] = high + rng.uniform(0, np.log(2))
        else:
            log_cost[-1] = rng.uniform(low, high)
        deviation = scatter * _mixed(shared[families], own, correlation)
        expected = CURVES[form](np.exp(log_cost))
        relative = form == "power"
        quality = expected * np.exp(deviation) if relative else expected + 0.36 * deviation
        names = [f"f{family}" for family in families]
        self.new_cost, self.new_quality = float(np.exp(log_cost[-1])), float(quality[-1])
        self.points = Points.of(
            [f"m{number}" for number in range(len(families) - 1)],
            families=names[:-1],
            complexity=np.exp(log_cost[:-1]),
            quality=np.clip(quality[:-1], 0.01, 0.99),
        )

    @property
    def one_family(self) -> Points:
        """The points as of one family, for which intervals take models for independent."""
        points = self.points
        return Points(points.models, ("all",) * len(points), points.complexity, points.quality)


def _mixed(
    shared: NDArray[np.float64], own: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    return share**0.5 * shared + (1 - share) ** 0.5 * own


def studies(count: int, sizes: Sequence[int], **settings: object) -> Iterator[Study]:
    """Yields studies; the same numbers give the same studies."""
    for number in range(count):
        yield Study(np.random.default_rng([number, *sizes]), sizes, **settings)  # pyright: ignore[reportArgumentType]


def _holds(interval: object, value: float) -> float:
    """Returns whether an interval holds a value, NaN without an interval."""
    if not isinstance(interval, Interval):
        return float("nan")
    return float(interval.low <= value <= interval.high)


def _width(interval: object) -> float:
    return interval.high - interval.low if isinstance(interval, Interval) else float("nan")


def _prediction(points: Points, study: Study, **settings: object) -> Prediction:
    found = predict(points, study.new_cost, **settings)  # pyright: ignore[reportArgumentType]
    assert isinstance(found, Prediction)
    return found


def family_rows(count: int, sizes: Sequence[int], correlation: float) -> Iterator[Row]:
    """Yields the figures of slope and prediction of each study."""
    for study in studies(count, sizes, correlation=correlation):
        laws = [fit_power_law(points) for points in (study.one_family, study.points)]
        today = _prediction(study.one_family, study, family="all", forms=("power",)).interval
        new = _prediction(study.points, study).interval
        row = {}
        for name, law in zip(("today", "clustered"), laws, strict=True):
            assert isinstance(law, PowerLaw)
            row[f"slope, {name}"] = _holds(law.slope_interval, _SLOPE)
        yield {
            **row,
            "new family, today": _holds(today, study.new_quality),
            "new family, by families": _holds(new, study.new_quality),
            "has interval": float(isinstance(new, Interval)),
            "width today": _width(today),
            "width": _width(new),
        }


def form_rows(count: int, models: int, form: Form, scatter: float) -> Iterator[Row]:
    """Yields which form is chosen and how well each predicts within the range."""
    for study in studies(count, [1] * models, form=form, scatter=scatter):
        comparison = compare_laws(study.points)
        assert isinstance(comparison, LawComparison)
        chosen = _prediction(study.points, study)
        wrong = [row for row in comparison.differences if row.form == form]
        yield {
            **{f"chosen {name}": float(comparison.best.form == name) for name in FORMS},
            "saturating identified": float(comparison.laws["saturating"].identified),
            "true form worse, says the interval": float(any(x.distinguishable for x in wrong)),
            **_errors(study, chosen),
            "coverage": _holds(chosen.interval, study.new_quality),
        }


def extrapolation_rows(
    count: int, sizes: Sequence[int], form: Form, scatter: float
) -> Iterator[Row]:
    """Yields errors and coverage beyond the costliest model."""
    for study in studies(count, sizes, form=form, scatter=scatter, beyond=True):
        chosen = _prediction(study.points, study)
        yield {
            **_errors(study, chosen),
            "coverage": _holds(chosen.interval, study.new_quality),
            "width": _width(chosen.interval),
            "has interval": float(isinstance(chosen.interval, Interval)),
        }


def _errors(study: Study, chosen: Prediction) -> Row:
    """Returns the errors of the chosen form, and of the two forms without a ceiling."""
    expected = {"chosen form": chosen.expected}
    for form in _UNBOUNDED:
        expected[FORMS[form]] = float(fit_law(study.points, form).expected([study.new_cost])[0])
    return {f"error, {name}": abs(study.new_quality - at) for name, at in expected.items()}


def quantile_rows(count: int, models: int) -> Iterator[Row]:
    """Yields the share of the models, and whether a new one, is at or below the curve."""
    for study in studies(count, [1] * models):
        curve, points = quantile_curve(study.points), study.points
        assert isinstance(curve, QuantileCurve)
        below = points.quality <= curve.expected(points.complexity) + 1e-9
        yield {
            "of the study": float(below.mean()),
            "new": float(study.new_quality <= curve.expected([study.new_cost])[0]),
        }


def print_row(title: str, rows: Iterator[Row]) -> None:
    """Prints the means of the figures with their Monte Carlo errors, and the seconds they took."""
    started = time.process_time()
    values = list(rows)
    print(f"\n{title}")
    for name in values[0]:
        numbers = np.array([row[name] for row in values])
        known = numbers[np.isfinite(numbers)]
        if len(known):
            error = known.std(ddof=1) / len(known) ** 0.5
            print(f"    {name:36} {known.mean():.4f} ± {error:.4f}   ({len(known)} studies)")
    print(f"    {time.process_time() - started:.0f} s of processor", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulated coverage of laws and predictions.")
    parser.add_argument("--studies", type=int, default=4000, help="in each row")
    parser.add_argument("--only", choices=["families", "forms", "extrapolation", "quantile"])
    options = parser.parse_args()
    count = options.studies

    def wanted(name: str) -> bool:
        return options.only in (None, name)

    if wanted("families"):
        alike = [(sizes, _CORRELATION) for sizes in _FAMILIES]
        for sizes, correlation in (*alike, ((4,) * 5, 0.0)):
            title = f"families of {', '.join(map(str, sizes))} models, correlation {correlation}"
            print_row(title, family_rows(count, sizes, correlation))
    for form in FORMS:
        for sizes in ((4,) * 5, (1,) * 12):
            if wanted("extrapolation"):
                title = f"beyond {sum(sizes)} models in {len(sizes)} families"
                rows = extrapolation_rows(count, sizes, form, _SCATTER)
                print_row(f"{title} around {FORMS[form]}", rows)
    for form in FORMS:
        for models in (10, 20):
            if wanted("forms"):
                rows = form_rows(count, models, form, _SCATTER)
                print_row(f"{models} independent models around {FORMS[form]}", rows)
    for models in (20, 100):
        if wanted("quantile"):
            print_row(f"quantile curve of {models} models", quantile_rows(count, models))


if __name__ == "__main__":
    main()
