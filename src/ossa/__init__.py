"""Ossa: which backbone should my detector have?

The public names are imported when they are first used, so that `import ossa` is immediate.

Examples:
    >>> import ossa
    >>> detector = ossa.create_detector("resnet10t", num_classes=4, neck="n", imgsz=64)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ossa.machine import use_threads_well

if TYPE_CHECKING:
    from ossa.config import RunConfig
    from ossa.data.annotations import DatasetIndex
    from ossa.data.dataset_files import Dataset
    from ossa.data.letterbox import letterbox
    from ossa.data.reading import read_data
    from ossa.data.synthetic import write_scenes
    from ossa.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        OssaError,
        RunFailed,
        UnsupportedBackbone,
    )
    from ossa.evaluate.coco import read_coco_results
    from ossa.evaluate.evaluator import evaluate_detector
    from ossa.evaluate.metrics import Metrics, evaluate_detections
    from ossa.evaluate.statistics import compare_models
    from ossa.export.export import export_detector
    from ossa.models.dense_head import DenseHead
    from ossa.models.detector import Backbone, Detector, create_backbone, create_detector
    from ossa.models.head import AnchorHead
    from ossa.models.neck import FPN, PAFPN, BiFPN
    from ossa.models.postprocess import non_max_suppression
    from ossa.predict.hub import push_to_hub
    from ossa.predict.predictor import Predictor, load
    from ossa.predict.results import Results
    from ossa.predict.video import VideoReader, VideoWriter
    from ossa.study.config import StudyConfig, read_study
    from ossa.study.results import StudyResults, load_study
    from ossa.train.callbacks import Callback
    from ossa.train.loop import train_detector
    from ossa.train.optim import EMA
    from ossa.train.run_folder import read_record
    from ossa.types import Batch, Detections, Letterbox, Level, RawPredictions, Record, Sample
    from ossa.viz.draw import draw_boxes

__version__ = "0.2.0"

_NAMES = {
    "ossa.config": "RunConfig",
    "ossa.data.annotations": "DatasetIndex",
    "ossa.data.dataset_files": "Dataset",
    "ossa.data.letterbox": "letterbox",
    "ossa.data.reading": "read_data",
    "ossa.data.synthetic": "write_scenes",
    "ossa.errors": "CheckpointError ConfigError DataError OssaError RunFailed UnsupportedBackbone",
    "ossa.evaluate.coco": "read_coco_results",
    "ossa.evaluate.evaluator": "evaluate_detector",
    "ossa.evaluate.metrics": "Metrics evaluate_detections",
    "ossa.evaluate.statistics": "compare_models",
    "ossa.export.export": "export_detector",
    "ossa.models.detector": "Backbone Detector create_backbone create_detector",
    "ossa.models.dense_head": "DenseHead",
    "ossa.models.head": "AnchorHead",
    "ossa.models.neck": "BiFPN FPN PAFPN",
    "ossa.models.postprocess": "non_max_suppression",
    "ossa.predict.hub": "push_to_hub",
    "ossa.predict.predictor": "Predictor load",
    "ossa.predict.results": "Results",
    "ossa.predict.video": "VideoReader VideoWriter",
    "ossa.study.config": "StudyConfig read_study",
    "ossa.study.results": "StudyResults load_study",
    "ossa.train.loop": "train_detector",
    "ossa.train.callbacks": "Callback",
    "ossa.train.optim": "EMA",
    "ossa.train.run_folder": "read_record",
    "ossa.types": "Batch Detections Letterbox Level RawPredictions Record Sample",
    "ossa.viz.draw": "draw_boxes",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "EMA",
    "FPN",
    "PAFPN",
    "AnchorHead",
    "Backbone",
    "Batch",
    "BiFPN",
    "Callback",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DatasetIndex",
    "DenseHead",
    "Detections",
    "Detector",
    "Letterbox",
    "Level",
    "Metrics",
    "OssaError",
    "Predictor",
    "RawPredictions",
    "Record",
    "Results",
    "RunConfig",
    "RunFailed",
    "Sample",
    "StudyConfig",
    "StudyResults",
    "UnsupportedBackbone",
    "VideoReader",
    "VideoWriter",
    "compare_models",
    "create_backbone",
    "create_detector",
    "draw_boxes",
    "evaluate_detections",
    "evaluate_detector",
    "export_detector",
    "letterbox",
    "load",
    "load_study",
    "non_max_suppression",
    "push_to_hub",
    "read_coco_results",
    "read_data",
    "read_record",
    "read_study",
    "train_detector",
    "write_scenes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ossa' has no attribute {name!r}")
    use_threads_well()  # before torch is imported, if it is not yet
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
