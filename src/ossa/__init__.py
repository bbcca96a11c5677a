"""Ossa: which backbone should my detector have?

The public names are imported when they are first used, so that `import ossa` is immediate.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ossa.allocator import wait_passively

if TYPE_CHECKING:
    from ossa.config import RunConfig
    from ossa.data.reading import read_data
    from ossa.evaluate.evaluator import evaluate_detector
    from ossa.models.detector import Detector, create_backbone, create_detector
    from ossa.models.head import AnchorHead
    from ossa.models.neck import PAFPN
    from ossa.predict.predictor import Predictor, load
    from ossa.train.api import train_detector
    from ossa.types import Detections, Level

__version__ = "0.1.0"

__all__ = [
    "PAFPN",
    "AnchorHead",
    "Detections",
    "Detector",
    "Level",
    "Predictor",
    "RunConfig",
    "create_backbone",
    "create_detector",
    "evaluate_detector",
    "load",
    "read_data",
    "train_detector",
]

_HOMES = {
    "PAFPN": "ossa.models.neck",
    "AnchorHead": "ossa.models.head",
    "Detections": "ossa.types",
    "Detector": "ossa.models.detector",
    "Level": "ossa.types",
    "Predictor": "ossa.predict.predictor",
    "RunConfig": "ossa.config",
    "create_backbone": "ossa.models.detector",
    "create_detector": "ossa.models.detector",
    "evaluate_detector": "ossa.evaluate.evaluator",
    "load": "ossa.predict.predictor",
    "read_data": "ossa.data.reading",
    "train_detector": "ossa.train.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ossa' has no attribute {name!r}")
    wait_passively()  # before torch is imported, if it is not yet
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
