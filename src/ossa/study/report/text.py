"""Formatted numbers and sentences of the report; sentences are built from rows of its tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ossa.study.analysis import MeasureRanking, Relation
from ossa.study.comparisons import RankChange
from ossa.study.prediction import Validation
from ossa.study.scaling import InsufficientData

_UNITS = ("", " k", " M", " G", " T")
_MINUTE, _HOUR = 60.0, 3600.0

MEASURES: Mapping[str, str] = {
    "params": "parameters",
    "flops": "FLOPs",
    "macs": "MACs",
    "ms_per_image": "milliseconds per image",
    "train_seconds": "training time",
    "peak_bytes": "memory",
}
"""Names of the measures of complexity in sentences."""
OBJECTS: Mapping[str, str] = {
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
    "ap_isolated": "isolated",
    "ap_touching": "touching",
    "ap_crowded": "crowded",
}
"""Kinds of objects by metric."""
_PERHAPS = 0.25
"""Smallest probability at which a model outside the measured Pareto set is mentioned."""


def compact(number: float) -> str:
    """Returns a number with three significant digits and a unit: 4,076,456 is '4.08 M'."""
    if not number:
        return "0"
    rounded = float(f"{number:.3g}")  # first, so that 999,999 becomes 1 M and not 1000 k
    power = min(max(math.floor(math.log10(abs(rounded)) / 3), 0), len(_UNITS) - 1)
    return f"{rounded / 1000**power:g}{_UNITS[power]}"


def duration(seconds: float) -> str:
    """Returns a duration such as '12.3 s', '4 min 05 s' or '2 h 07 min'."""
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def amount(measure: str, value: float) -> str:
    """Returns a value of a measure of complexity with its unit: '4.08 M parameters'."""
    match measure:
        case "params":
            return f"{compact(value)} parameters"
        case "flops" | "macs":
            unit = MEASURES[measure]
            return f"{compact(value)}{unit}" if value >= 1000 else f"{value:g} {unit}"
        case "ms_per_image":
            return f"{value:.3g} ms per image"
        case "train_seconds":
            return f"{_round_duration(value)} of training"
        case _:
            return f"{compact(value)}B of memory"


def _round_duration(seconds: float) -> str:
    if seconds and seconds % _HOUR == 0:
        return f"{seconds / _HOUR:g} h"
    if seconds and seconds < _HOUR and seconds % _MINUTE == 0:
        return f"{seconds / _MINUTE:g} min"
    return duration(seconds)


def signed(value: float, *, decimals: int = 3) -> str:
    """Returns a number with its sign, such as '+0.012' or '−0.012', with a true minus sign."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{decimals}f}") == 0 else text


def mean_and_deviation(mean: float | None, deviation: float | None, *, decimals: int = 3) -> str:
    """Returns '0.412 ± 0.006', the mean alone without a deviation, or a dash without a mean."""
    if mean is None or not math.isfinite(mean):
        return "–"
    text = f"{mean:.{decimals}f}".replace("-", "−")
    if deviation is None or not math.isfinite(deviation):
        return text
    return f"{text} ± {deviation:.{decimals}f}"


def listed(names: Sequence[str], *, most: int = 12) -> str:
    """Returns 'a, b and c'; after `most` names, the others are counted."""
    if len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: '1 model', '2 models', 'no model'."""
    if number == 0:
        return f"no {noun}"
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def p_value(p: float) -> str:
    """Returns a p-value as '0.012' or '< 0.001'."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"95% CI {signed(row['low'])} to {signed(row['high'])}"


def budget_sentence(row: Mapping[str, Any]) -> str:
    """Returns a sentence on the best model under a budget, from a row of the budgets table."""
    return (
        f"Up to {row['budget']}: {row['best']}, AP50-95 "
        f"{mean_and_deviation(row['ap'], row['ap_std'])}, the best of "
        f"{counted(row['models'], 'model')}; no difference found from it: {row['alternatives']}."
    )


def comparison_sentence(row: Mapping[str, Any]) -> str:
    """Returns a sentence on the difference of two models, from a row of the comparisons table."""
    return (
        f"{row['model']} − {row['reference']}: {signed(row['difference'])} AP50-95 "
        f"(simultaneous {_interval(row)}, over {row['over']}): {row['verdict']}, the same within "
        f"{row['within']:.3f}."
    )


def rank_change_sentence(base: str, other: str, change: RankChange) -> str:
    """Returns a sentence on the pairs of models whose order changes with another setting."""
    return (
        f"With {other} in place of {base}: {change.swapped} of "
        f"{counted(change.num_pairs, 'pair')} of models change their order, "
        f"{change.decided} of them with a difference found under both settings."
    )


def fit_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence per power-law fit; without any fit, the first reason."""
    sentences = [
        f"AP50-95 and {MEASURES[row['measure']]}: {signed(row['doubling'], decimals=1)}% when the "
        f"cost doubles (slope {row['slope']:.3f}, {_interval(row)}; R² {row['r_squared']:.2f}; "
        f"{row['models']} models)."
        for row in rows
        if "slope" in row
    ]
    reasons = dict.fromkeys(row["reason"] for row in rows if "reason" in row)
    return sentences + [f"No power-law fit: {reason}." for reason in list(reasons)[:1]]


def pareto_sentence(relation: Relation) -> str:
    """Returns a sentence on a Pareto set, with the probability of each member."""

    def names(points: Sequence[Any]) -> str:
        return listed(
            [
                point.model
                if point.probability is None
                else f"{point.model} ({point.probability:.2f})"
                for point in points
            ]
        )

    text = f"AP50-95 and {MEASURES[relation.complexity]}: {names(relation.members)}"
    others = [
        point
        for point in relation.pareto
        if not point.is_member and (point.probability or 0) >= _PERHAPS
    ]
    return text + (f"; perhaps also {names(others)}." if others else ".")


def ranking_sentence(title: str, ranking: MeasureRanking) -> str:
    """Returns a sentence on the measure of complexity that predicts a quality best."""
    errors = listed([f"{name} {100 * error:.1f}%" for name, error in ranking.errors.items()])
    best = "best" if len(ranking.best) == 1 else "not distinguishable"
    return f"{title}, mean leave-one-out error: {errors}; {best}: {listed(ranking.best)}."


def validation_sentence(
    measure: str, validations: Mapping[str, Validation | InsufficientData]
) -> str | None:
    """Returns a sentence on the accuracy of predictions, None if none could be tested."""
    parts = []
    for group, validation in validations.items():
        if isinstance(validation, Validation):
            low, high = validation.coverage_interval
            parts.append(
                f"one {group} left out, mean absolute error {validation.mean_absolute_error:.3f}, "
                f"{validation.coverage} prediction intervals (80%) contain the measured value "
                f"(95% CI {low:.0%} to {high:.0%})"
            )
    return f"From {MEASURES[measure]}: {'; '.join(parts)}." if parts else None
