"""One look a model in all figures: the colour and marker of its family, dashes of its own."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ossa.report.figures import LINE_COLOURS

_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("D", "diamond"),
    ("^", "triangle-up"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
)
"""Of matplotlib and of plotly."""
_DASHES = (
    ("-", "solid"),
    ((0, (5, 2)), "dash"),
    ((0, (1.5, 1.5)), "dot"),
    ((0, (5, 2, 1.5, 2)), "dashdot"),
    ((0, (9, 3)), "longdash"),
)


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    family: str
    colour: str
    marker: str
    """Of matplotlib."""
    symbol: str
    """The same, of plotly."""
    dashes: Any
    """Line style of matplotlib."""
    dash: str
    """The same, of plotly."""


def looks_of(models: pd.DataFrame) -> dict[str, Look]:
    """Returns the look of every model.

    Families get colours by their size, so that the largest differ most; beyond the eighth they
    share colours and differ in their markers.

    Args:
        models: with columns `model` and `family`.
    """
    families = [family for family, _ in Counter(models["family"]).most_common()]
    looks: dict[str, Look] = {}
    of_colour: Counter[str] = Counter()
    for model, family in zip(models["model"], models["family"], strict=True):
        number = families.index(family)
        marker, symbol = _MARKERS[number // len(LINE_COLOURS) % len(_MARKERS)]
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        dashes, dash = _DASHES[of_colour[colour] % len(_DASHES)]
        of_colour[colour] += 1
        looks[model] = Look(family, colour, marker, symbol, dashes, dash)
    return looks


def families_of(looks: Mapping[str, Look]) -> dict[str, Look]:
    """Returns the look of the first model of every family, by family."""
    first: dict[str, Look] = {}
    for look in looks.values():
        first.setdefault(look.family, look)
    return first
