"""What a detector does wrong, by kind, and what AP each kind costs.

TIDE (Bolya et al. 2020, "TIDE: A general toolbox for identifying object detection errors"), as
hotcoco computes it. A false detection by COCO's matching at IoU 0.5 is of the first kind that fits:

- *localisation*: it overlaps a truth of its class, found or not, by IoU 0.1 to 0.5;
- *classification*: it overlaps a truth of another class by 0.5 or more;
- *duplicate*: it overlaps a truth of its class by 0.5 or more, which a better detection found;
- *background*: it overlaps no truth by more than 0.1;
- *both*: the rest, at the place of no truth and of the class of none that is near.

And a truth that was not found is *missed*, unless it is the one that a detection of the first two
kinds was about.

The cost of a kind is how much AP50 would be higher if that kind alone were repaired: boxes moved
and classes changed to those of the truth (or taken away where the truth has its detection already),
duplicates, background and both taken away, missed truths not asked for. So costs are 0 or more, and
do not add up to what is lacking: a repair of one kind can be in vain because of another.

Detections on a crowd or difficult truth of their class do not count, as in COCO; on one of another
class they are background.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.coco import tide_as_hotcoco
from ossa.types import Detections

_TIDE_NAMES = {
    "localisation": "Loc",
    "classification": "Cls",
    "duplicate": "Dupe",
    "background": "Bkg",
    "both": "Both",
    "missed": "Miss",
}


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error, as the head of this file tells it."""

    kind: str
    count: int
    """Of all classes, those without truths too."""
    cost: float
    """AP at `Errors.iou` that its repair would gain, 0..1."""


@dataclass(frozen=True)
class Errors:
    """All kinds of errors of a detector."""

    iou: float
    ap: float | None
    """At that IoU, mean over the classes with truths; None without any."""
    kinds: tuple[ErrorKind, ...]
    false_cost: float
    """What AP would gain without any false detection."""
    missed_cost: float
    """What AP would gain if no truth that was not found were asked for, whatever the reason."""

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: iou, ap, kinds, false_cost, missed_cost."""
        return asdict(self)


def errors_by_kind(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    iou: float = 0.5,
    background_iou: float = 0.1,
) -> Errors:
    """Returns number and cost of every kind of error.

    Args:
        index: the truths.
        detections: by image id; an image that is absent has none.
        iou: from which a detection can find a truth.
        background_iou: up to which it has nothing to do with a truth; below `iou`.

    Raises:
        ConfigError: not 0 < `background_iou` < `iou` <= 1.
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    if not 0 < background_iou < iou <= 1:
        raise ConfigError(
            "expected IoUs with 0 < background_iou < iou <= 1 for the kinds of errors, found "
            f"{background_iou} and {iou}"
        )
    found = tide_as_hotcoco(index, detections, iou=iou, background_iou=background_iou)
    costs, counts = found["delta_ap"], found["counts"]
    has_gt = bool((~(index.crowd | index.difficult)).any())
    return Errors(
        iou=iou,
        ap=found["ap_base"] if has_gt else None,
        kinds=tuple(
            ErrorKind(kind, counts[short], costs[short]) for kind, short in _TIDE_NAMES.items()
        ),
        false_cost=costs["FP"],
        missed_cost=costs["FN"],
    )
