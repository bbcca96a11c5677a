"""Where `ossa val` has detections from: a detector that it runs, or a file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ossa.errors import DataError

if TYPE_CHECKING:
    from torch import nn

    from ossa.cli.console import Console
    from ossa.config import EvaluateConfig
    from ossa.data.annotations import DatasetIndex
    from ossa.data.cache import CachePlace
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

    def images_with_gt(self) -> int:
        """Returns how many images have an object that counts."""
        counts = ~(self.index.crowd | self.index.difficult)
        return len(set(self.index.gt_image_positions()[counts].tolist()))


class _Network(NamedTuple):
    """What maps images to predictions, and what a row tells of it."""

    network: "nn.Module"
    names: tuple[str, ...]
    """K class names."""
    imgsz: int
    """Side of its square input in pixels."""
    known: dict[str, Any]


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
    cache: "CachePlace",
    console: "Console",
) -> Scored:
    """Returns what a checkpoint or an exported file finds in a split, scored.

    Args:
        settings: those of `evaluate`.

    Raises:
        CheckpointError, ConfigError, DataError: what does not fit, or a split without objects.
    """
    from ossa.config import EvaluateConfig
    from ossa.evaluate.evaluator import check_classes, evaluate
    from ossa.export.select import is_exported
    from ossa.schema import validated

    config = validated(EvaluateConfig, settings, where="evaluate")
    if is_exported(weights):
        opened = _open_exported(weights, config, imgsz=imgsz, device=device)
    else:
        opened = _open_checkpoint(weights, imgsz=imgsz, device=device)
    read = _read_split(
        data,
        split,
        console,
        check=lambda index: check_classes(opened.names, index, weights=weights, data=data),
        imgsz=opened.imgsz,
        cache=cache,
    )
    index = read.index
    with console.progress("evaluating") as on_images:
        evaluation = evaluate(
            opened.network,
            index,
            pixels=read.pixels,
            imgsz=opened.imgsz,
            config=config,
            batch=batch,
            device=device,
            workers=workers,
            on_images=on_images,
        )
    known = {
        **opened.known,
        "imgsz": opened.imgsz,
        "ms_per_image": 1000.0 * evaluation.seconds / len(index),
        "images_per_second": len(index) / evaluation.seconds,
        "data": data,
        "split": split,
        "weights": str(weights),
        "predictions": None,
    }
    return _scored(index, evaluation.detections, evaluation.metrics, known)


def _open_checkpoint(weights: Path, *, imgsz: int | None, device: str) -> _Network:
    from ossa.config import check_imgsz
    from ossa.evaluate.evaluator import detector_for_evaluation
    from ossa.models.checkpoint import read_checkpoint
    from ossa.models.complexity import count_cost

    checkpoint = read_checkpoint(weights)
    side = checkpoint.imgsz if imgsz is None else imgsz
    check_imgsz(side, stride=max(checkpoint.model.strides))
    detector = detector_for_evaluation(checkpoint, imgsz=side, device=device)
    cost = count_cost(detector, side).total
    known = {"params": cost.params, "flops": cost.flops, "macs": cost.macs}
    return _Network(detector, checkpoint.names, side, {"model": checkpoint.model.name, **known})


def _open_exported(
    weights: Path, config: "EvaluateConfig", *, imgsz: int | None, device: str
) -> _Network:
    from ossa.config import check_imgsz
    from ossa.errors import ConfigError
    from ossa.export.backends import NMSRuntime, RuntimeNetwork
    from ossa.export.select import input_side, open_exported

    exported = open_exported(weights)
    if isinstance(exported, NMSRuntime):
        raise ConfigError(
            f"scoring needs detections from a confidence of {config.confidence:g} on, found NMS in "
            f"the graph of {weights}, which leaves out those below "
            f"{exported.nms.confidence:g}: export it without --nms"
        )
    side = input_side(exported, imgsz, device=device)
    check_imgsz(side, stride=max(exported.description.strides))
    known = {"model": f"{weights.name}, {exported.name} {exported.precision}"}
    return _Network(RuntimeNetwork(exported), exported.description.names, side, known)


def read_predictions(
    file: Path,
    data: str,
    split: str,
    imgsz: int | None,
    *,
    first_class_id: int | None,
    console: "Console",
) -> Scored:
    """Returns the detections of a COCO results file, scored as they are; no image is opened.

    Args:
        first_class_id: from which the file's class ids count; None where they are the data set's.

    Raises:
        ConfigError, DataError: a file that does not fit the split, or a split without objects.
    """
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.evaluate.coco import read_coco_results
    from ossa.evaluate.metrics import evaluate_detections

    report = read_index(read_description(data, annotations_only=True), split)
    console.faults(report)
    index = report.index
    _check_objects(index, data=data, split=split)
    detections = read_coco_results(file, index, first_class_id=first_class_id)
    metrics = evaluate_detections(index, detections)
    if first_class_id is None:
        for sentence in _other_readings(file, index, metrics):
            console.note(sentence)
    known = {
        "model": file.name,
        "imgsz": imgsz,
        "data": data,
        "split": split,
        "weights": None,
        "predictions": str(file),
    }
    return _scored(index, detections, metrics, known)


def _other_readings(file: Path, index: "DatasetIndex", metrics: "Metrics") -> Iterator[str]:
    """Yields what to try where class ids that count from 0 or from 1 would score better."""
    from ossa.evaluate.coco import read_coco_results
    from ossa.evaluate.metrics import evaluate_detections

    for first in (0, 1):
        if index.category_ids.tolist() == list(range(first, first + len(index.names))):
            continue
        try:
            other = read_coco_results(file, index, first_class_id=first)
        except DataError:
            continue  # an id that is none of these
        ap = evaluate_detections(index, other).ap
        if ap is not None and ap > (metrics.ap or 0.0):
            yield (
                f"AP50-95 is {metrics.ap or 0:.3f}, and {ap:.3f} if {file} counts the classes from "
                f"{first}: in that case give --class-ids-from {first}"
            )


def _scored(
    index: "DatasetIndex",
    detections: "Mapping[int, Detections]",
    metrics: "Metrics",
    known: Mapping[str, Any],
) -> Scored:
    from ossa.cli.console import row_of

    return Scored(index, detections, metrics, row_of({**metrics.flat(), **known}))


def _read_split(
    data: str,
    split: str,
    console: "Console",
    *,
    check: Callable[["DatasetIndex"], object] = lambda index: None,
    imgsz: int = 0,
    cache: "CachePlace" = "none",
) -> "Split":
    """Returns the images that can be decoded, with objects to be found.

    Args:
        check: looks at what was read before any image is.
        imgsz: longer side of cached pixels.

    Raises:
        ConfigError, DataError: no such split, or nothing is to be found in it.
    """
    from ossa.data.cache import open_pixels
    from ossa.data.description import read_description
    from ossa.data.reading import drop_corrupt_images, read_index
    from ossa.train.setup import Split

    description = read_description(data)
    report = read_index(description, split)
    check(report.index)
    pixels = open_pixels(
        report.index,
        cache,
        description=description,
        split=split,
        imgsz=imgsz,
        reduced=False,
        listener=console,
    )
    known = None if pixels is None else pixels.faults()
    with console.progress("checking images") as on_image:
        report = drop_corrupt_images(report, known=known, on_image=on_image)
    console.faults(report)
    _check_objects(report.index, data=data, split=split)
    return Split(report, None if pixels is None else pixels.of(report.index))


def _check_objects(index: "DatasetIndex", *, data: str, split: str) -> None:
    """Raises DataError for a split in which nothing is to be found."""
    if (index.crowd | index.difficult).all():
        raise DataError(
            f"expected objects to be found in split '{split}' of {data}, found none in its "
            f"{len(index)} images (crowd regions and difficult objects do not count): evaluate on "
            "a split with annotations"
        )
