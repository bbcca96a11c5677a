"""Numbers and lists as a reader says them."""

import math
from collections.abc import Mapping, Sequence

from ossa.evaluate.statistics import Interval

_UNITS = ("", " k", " M", " G", " T")
_MINUTE, _HOUR = 60.0, 3600.0


def compact(number: float) -> str:
    """Returns three significant digits with a unit: 4,076,456 is '4.08 M'."""
    if not number:
        return "0"
    rounded = float(f"{number:.3g}")  # first, so that 999,999 becomes 1 M and not 1000 k
    power = min(max(math.floor(math.log10(abs(rounded)) / 3), 0), len(_UNITS) - 1)
    return f"{rounded / 1000**power:g}{_UNITS[power]}"


def duration(seconds: float) -> str:
    """Returns '12.3 s', '4 min 05 s' or '2 h 07 min'."""
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


MEASURES: Mapping[str, str] = {
    "params": "parameters",
    "flops": "FLOPs",
    "macs": "MACs",
    "ms_per_image": "milliseconds an image",
    "train_seconds": "training time",
    "peak_bytes": "memory",
}
"""Measures of complexity as they are called in a sentence."""


def amount(measure: str, value: float) -> str:
    """Returns a value of a measure of `COMPLEXITIES` with its unit: '4.08 M parameters'."""
    match measure:
        case "params":
            return f"{compact(value)} parameters"
        case "flops":
            return f"{compact(value)}FLOPs" if value >= 1000 else f"{value:g} FLOPs"
        case "macs":
            return f"{compact(value)}MACs" if value >= 1000 else f"{value:g} MACs"
        case "ms_per_image":
            return f"{value:.3g} ms an image"
        case "train_seconds":
            return f"{_round_duration(value)} of training"
        case "peak_bytes":
            return f"{compact(value)}B of memory"
        case _:
            return f"{value:g} {measure}"


def _round_duration(seconds: float) -> str:
    if seconds and seconds % _HOUR == 0:
        return f"{seconds / _HOUR:g} h"
    if seconds and seconds < _HOUR and seconds % _MINUTE == 0:
        return f"{seconds / _MINUTE:g} min"
    return duration(seconds)


def signed(value: float, *, decimals: int = 3) -> str:
    """Returns '+0.012', '−0.012' or '0.000', with a true minus."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{decimals}f}") == 0 else text


def signed_interval(interval: Interval) -> str:
    """Returns '−0.012 to +0.034'."""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def mean_and_deviation(mean: float | None, deviation: float | None, *, decimals: int = 3) -> str:
    """Returns '0.412 ± 0.006', the mean alone where there is no deviation, a dash for neither."""
    if mean is None or not math.isfinite(mean):
        return "–"
    text = f"{mean:.{decimals}f}".replace("-", "−")
    if deviation is None or not math.isfinite(deviation):
        return text
    return f"{text} ± {deviation:.{decimals}f}"


def listed(words: Sequence[str], *, most: int = 12) -> str:
    """Returns 'a, b and c'; beyond `most` the rest is counted."""
    if len(words) > most:
        return ", ".join(words[:most]) + f" and {len(words) - most} more"
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Returns '1 model', '2 models', 'no model'."""
    if number == 0:
        return f"no {noun}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def p_value(p: float) -> str:
    """Returns 'p = 0.012' or 'p < 0.001'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
