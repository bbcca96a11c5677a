"""Where `ossa val` has detections from: a detector that it runs, or a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import DataError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.data.caching.pixel_store import CachePlace
    from ossa.data.index import DatasetIndex
    from ossa.evaluate.metrics import Metrics
    from ossa.train.setup import Split
    from ossa.types import Detections


@dataclass(frozen=True)
class Scored:
    """The detections on a split, and how good they are."""

    index: "DatasetIndex"
    detections: "Mapping[int, Detections]"
    metrics: "Metrics"
    row: dict[str, Any]
    """The flat object of --json."""

    def images_with_truths(self) -> int:
        """Returns how many images have an object that counts."""
        counts = ~(self.index.crowd | self.index.difficult)
        return len(set(self.index.truth_images()[counts].tolist()))


def run_detector(
    weights: Path,
    data: str,
    split: str,
    *,
    imgsz: int | None,
    batch: int,
    settings: Mapping[str, Any],
    device: str,
    workers: int,
    cache: "CachePlace | None",
    console: "Console",
) -> Scored:
    """Returns what a detector finds in a split, scored; `settings` are those of `evaluate`.

    Raises:
        CheckpointError, ConfigError, DataError: what does not fit, or a split without objects.
    """
    from ossa.config import build_config
    from ossa.evaluate.api import check_classes, detector_for_evaluation
    from ossa.evaluate.run import evaluate
    from ossa.models.count import count_cost
    from ossa.models.weights import read_checkpoint

    checkpoint = read_checkpoint(weights)
    config = build_config(
        {
            "model": checkpoint.model.model_dump(),
            "data": data,
            "train": {"imgsz": checkpoint.imgsz if imgsz is None else imgsz, "batch": batch},
            "evaluate": settings,
        }
    )
    read = _read_split(data, split, console, imgsz=config.train.imgsz, cache=cache)
    index = read.index
    check_classes(checkpoint, index, data=data)
    imgsz = config.train.imgsz
    detector = detector_for_evaluation(checkpoint, imgsz=imgsz, device=device)
    cost = count_cost(detector, imgsz).total
    with console.progress("evaluating") as on_images:
        evaluation = evaluate(
            detector,
            index,
            pixels=read.pixels,
            imgsz=imgsz,
            config=config.evaluate,
            batch=batch,
            device=device,
            workers=workers,
            on_images=on_images,
        )
    known = {
        "model": checkpoint.model.name,
        "imgsz": imgsz,
        "params": cost.params,
        "flops": cost.flops,
        "macs": cost.macs,
        "ms_per_image": 1000.0 * evaluation.seconds / len(index),
        "images_per_second": len(index) / evaluation.seconds,
        "data": data,
        "split": split,
        "weights": str(weights),
        "predictions": None,
    }
    return _scored(index, evaluation.detections, evaluation.metrics, known)


def read_predictions(
    file: Path, data: str, split: str, *, imgsz: int | None, console: "Console"
) -> Scored:
    """Returns the detections of a COCO results file, scored as they are.

    Raises:
        ConfigError, DataError: a file that does not fit the split, or a split without objects.
    """
    from ossa.evaluate.coco import read_coco_results
    from ossa.evaluate.metrics import evaluate_detections

    index = _read_split(data, split, console).index
    detections = read_coco_results(file, index)
    known = {
        "model": file.name,
        "imgsz": imgsz,
        "data": data,
        "split": split,
        "weights": None,
        "predictions": str(file),
    }
    return _scored(index, detections, evaluate_detections(index, detections), known)


def _scored(
    index: "DatasetIndex",
    detections: "Mapping[int, Detections]",
    metrics: "Metrics",
    known: Mapping[str, Any],
) -> Scored:
    from ossa.cli.output import row_of

    return Scored(index, detections, metrics, row_of({**metrics.flat(), **known}))


def _read_split(
    data: str,
    split: str,
    console: "Console",
    *,
    imgsz: int = 0,
    cache: "CachePlace | None" = None,
) -> "Split":
    """Returns the images that can be decoded, with objects to be found; the same for both sources.

    Raises:
        ConfigError, DataError: no such split, or nothing is to be found in it.
    """
    from ossa.data.caching.pixel_store import open_pixels
    from ossa.data.check import keep_decodable
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.train.setup import Split

    description = read_description(data)
    report = read_index(description, split)
    pixels = known = None
    if cache is not None:
        pixels = open_pixels(
            report.index,
            cache,
            description=description,
            split=split,
            imgsz=imgsz,
            reduced=False,
            listener=console,
        )
        known = pixels.faults()
    with console.progress("checking images") as on_image:
        report = keep_decodable(report, known=known, on_image=on_image)
    console.faults(report)
    index = report.index
    if (index.crowd | index.difficult).all():
        raise DataError(
            f"expected objects to be found in split '{split}' of {data}, found none in its "
            f"{len(index)} images (crowd regions and difficult objects do not count): evaluate on "
            "a split with annotations"
        )
    return Split(index, None if pixels is None else pixels.of(index))
