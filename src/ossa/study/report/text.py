"""Formatted numbers and parts of sentences of the report."""

import math
from collections.abc import Callable, Mapping, Sequence

_UNITS = ("", " k", " M", " G", " T")
_MINUTE = 60.0

MEASURES: Mapping[str, str] = {
    "params": "parameters",
    "flops": "FLOPs",
    "macs": "MACs",
    "ms_per_image": "milliseconds per image",
    "train_seconds": "training time",
    "peak_bytes": "memory",
}
"""Names of the measures of complexity in sentences."""


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
            return f"{duration(value)} of training"
        case _:
            return f"{compact(value)}B of memory"


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


def probability(share: float) -> str:
    """Returns a probability as '0.87', never as 1.00 or 0.00: draws cannot tell so much."""
    if share > 0.99:
        return "> 0.99"
    return "< 0.01" if share < 0.01 else f"{share:.2f}"


def extremes(values: Mapping[str, float], write: Callable[[float], str]) -> str:
    """Returns ', from 7% (a) to 30% (b)', or nothing if all are the same."""
    ends = [min(values, key=values.__getitem__), max(values, key=values.__getitem__)]
    low, high = (f"{write(values[model])} ({model})" for model in ends)
    return "" if values[ends[0]] == values[ends[1]] else f", from {low} to {high}"
