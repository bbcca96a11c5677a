"""`ossa val`: how good a detector, or a file of detections, is on a data set."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.config import EvaluateConfig, check_imgsz
from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from ossa.cli.console import Console
    from ossa.data.annotations import DatasetIndex
    from ossa.data.cache import CachePlace
    from ossa.evaluate.metrics import Metrics
    from ossa.train.splits import Split
    from ossa.types import Detections

_USUAL_IMGSZ = 640  # assumed by a report of predictions, whose network is unknown
_OF_A_DETECTOR = (  # options that mean nothing for --predictions
    *("weights", "batch", "confidence", "nms_iou", "max_detections", "save_predictions"),
    *("device", "workers", "threads", "cache"),
)


@dataclass(frozen=True)
class _Scored:
    """The detections on a split, and how good they are."""

    index: "DatasetIndex"
    detections: "Mapping[int, Detections]"
    metrics: "Metrics"
    row: dict[str, Any]  # of --json


@command(*options.nms_settings(), schema=EvaluateConfig)
def val(
    *,
    call: typer.Context,
    data: options.DataPath,
    weights: Annotated[
        options.File | None,
        "A checkpoint of ossa, an official yolov5*.pt, or what `ossa export` wrote.",
    ] = None,
    predictions: Annotated[
        options.File | None,
        "Instead of --weights: detections of any detector as COCO results, .json or .json.gz, by "
        "image ids or names of files. They are scored as they are; no model is run and no image "
        "opened.",
    ] = None,
    class_ids_from: Annotated[
        int | None,
        typer.Option(metavar="N"),
        "The category ids of --predictions count the classes from N, as 0 or 1, and are not those "
        "of the data set.",
    ] = None,
    split: Annotated[str, typer.Option("--split", "--task"), "val, test or train."] = "val",
    imgsz: Annotated[
        options.Pixels | None,
        options.shown(f"that of the training; {_USUAL_IMGSZ} for --predictions"),
        "Side of the square input in pixels; of --predictions, at which a report states sizes.",
    ] = None,
    batch: Annotated[options.Batch, "Images in one forward."] = 16,
    settings: dict[str, Any],
    per_class: Annotated[bool, "Show every class, too."] = False,
    voc: Annotated[
        Literal["2007", "2010"] | None,
        typer.Option(metavar="YEAR"),
        "Add PASCAL VOC's AP at IoU 0.5 by the rule of 2007 (the mean of eleven precisions) or of "
        "2010 (the whole area).",
    ] = None,
    save_predictions: Annotated[
        options.File | None, "Write the detections as COCO results, .json or .json.gz."
    ] = None,
    report: Annotated[
        options.Folder | None,
        "Write a page on it all, index.html, with figures and tables as files: curves, confusions, "
        "AP by size and by crowding, kinds of errors, calibration, worst images.",
    ] = None,
    device: options.Device = None,
    workers: options.Workers = None,
    threads: options.Threads = None,
    cache: options.Cache = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Score a detector, or the detections of any other, on a data set with COCO's metrics.

    Precision and recall are those at IoU 0.5 and the confidence of the best mean F1. The time of an
    image is that of the whole evaluation: loading, network, NMS and scoring.

    [bold]Examples[/bold]

      ossa val --weights runs/yolov5n/best.safetensors --data bccd

      ossa val --weights yolov5n.pt --data coco128 --split train --iou 0.65

      ossa val --weights runs/yolov5n/best.safetensors --data bccd --report pages/yolov5n

      ossa val --weights yolov5n-int8.onnx --data bccd

      ossa val --predictions results.json.gz --data voc --split test --voc 2007 --per-class
    """
    from ossa.cli.console import Console
    from ossa.schema import validated

    if save_predictions is not None:
        _check_target(save_predictions)
    if report is not None:
        options.check_new("--report", report)
    with Console() as console:
        if predictions is not None:
            _check_alone(call)
            scored = _score_predictions(
                *(predictions, data, split), first_class_id=class_ids_from, console=console
            )
            scored.row["imgsz"] = imgsz
        elif weights is not None:
            options.set_threads(threads)
            device = options.choose_device_for(weights, device)
            scored = _score_detector(
                *(weights, data, split),
                imgsz=imgsz,
                batch=batch,
                config=validated(EvaluateConfig, settings, where="evaluate"),
                device=device,
                workers=options.choose_workers(workers, device=device),
                cache=cast("CachePlace", cache or "auto"),
                console=console,
            )
        else:
            raise ConfigError(
                "expected --weights of a detector or its --predictions, found neither"
            )
        row, classes = _rows(scored, voc)
        if save_predictions is not None:
            _save(scored, save_predictions)
            console.note(f"detections written to {save_predictions}")
        if report is not None:
            with console.progress("writing the report"):
                page = _write_report(scored, report)
            console.note(f"report: {page}")
    _print(row, classes if per_class else None, as_json=as_json)


def _check_alone(call: typer.Context) -> None:
    """Raises ConfigError for options of a detector, given beside its predictions."""
    for option in call.command.params:
        source = call.get_parameter_source(option.name or "")
        if option.name in _OF_A_DETECTOR and source and source.name == "COMMANDLINE":
            raise ConfigError(
                f"--predictions are scored as they are, found {option.opts[0]}, which is for a "
                "detector: leave it out"
            )


def _check_target(file: Path) -> None:
    """Raises ConfigError for a file that could not be written after a long evaluation."""
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(
            f"expected a file in an existing folder for --save-predictions, found {file}"
        )
    options.check_writable("--save-predictions", file.parent)


def _score_detector(
    weights: Path,
    data: str,
    split: str,
    *,
    imgsz: int | None,
    config: EvaluateConfig,
    cache: "CachePlace",
    console: "Console",
    **machine: Any,
) -> _Scored:
    """Returns the detections of a checkpoint or an exported file in a split, scored.

    Args:
        machine: arguments `batch`, `device` and `workers` of `evaluate`.
    """
    from ossa.cli.console import row_of
    from ossa.evaluate.evaluator import check_classes, evaluate
    from ossa.export.select import is_exported

    if is_exported(weights):
        network, names, imgsz, known = _open_exported(weights, config, imgsz, machine["device"])
    else:
        network, names, imgsz, known = _open_checkpoint(weights, imgsz, machine["device"])
    read = _read_split(
        *(data, split, console),
        check=lambda index: check_classes(names, index, weights=weights, data=data),
        imgsz=imgsz,
        cache=cache,
    )
    with console.progress("evaluating") as on_images:
        how: dict[str, Any] = {"imgsz": imgsz, "config": config, **machine}
        found = evaluate(network, read.index, pixels=read.pixels, on_images=on_images, **how)
    seconds, count = found.seconds, len(read.index)
    known |= {"ms_per_image": 1000.0 * seconds / count, "images_per_second": count / seconds}
    known |= {"imgsz": imgsz, "data": data, "split": split}
    known |= {"weights": str(weights), "predictions": None}
    row = row_of({**found.metrics.flat(), **known})
    return _Scored(read.index, found.detections, found.metrics, row)


def _open_checkpoint(
    weights: Path, imgsz: int | None, device: str
) -> "tuple[nn.Module, tuple[str, ...], int, dict[str, Any]]":
    """Returns network, class names, side of its input in pixels, and what the row says of it."""
    from ossa.evaluate.evaluator import detector_for_evaluation
    from ossa.models.checkpoint import read_checkpoint
    from ossa.models.complexity import count_cost

    checkpoint = read_checkpoint(weights)
    side = checkpoint.imgsz if imgsz is None else imgsz
    check_imgsz(side, stride=max(checkpoint.model.strides))
    detector = detector_for_evaluation(checkpoint, imgsz=side, device=device)
    cost = count_cost(detector, side).total
    known = {"params": cost.params, "flops": cost.flops, "macs": cost.macs}
    return detector, checkpoint.names, side, {"model": checkpoint.model.name, **known}


def _open_exported(
    weights: Path, config: EvaluateConfig, imgsz: int | None, device: str
) -> "tuple[nn.Module, tuple[str, ...], int, dict[str, Any]]":
    """Returns the same as `_open_checkpoint`."""
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
    return RuntimeNetwork(exported), exported.description.names, side, known


def _score_predictions(
    file: Path, data: str, split: str, *, first_class_id: int | None, console: "Console"
) -> _Scored:
    """Returns the detections of a COCO results file, scored as they are; no image is opened."""
    from ossa.cli.console import row_of
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
    known = {"data": data, "split": split, "weights": None, "predictions": str(file)}
    row = row_of({**metrics.flat(), "model": file.name, **known})
    return _Scored(index, detections, metrics, row)


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


def _read_split(
    data: str,
    split: str,
    console: "Console",
    *,
    check: Callable[["DatasetIndex"], object],
    imgsz: int,
    cache: "CachePlace",
) -> "Split":
    """Returns the images that can be decoded, once `check` has seen what the split holds."""
    from ossa.data.cache import open_pixels
    from ossa.data.description import read_description
    from ossa.data.reading import drop_corrupt_images, read_index
    from ossa.train.splits import Split

    description = read_description(data)
    report = read_index(description, split)
    check(report.index)
    where: dict[str, Any] = {"description": description, "split": split, "imgsz": imgsz}
    pixels = open_pixels(report.index, cache, **where, reduced=False, listener=console)
    known = None if pixels is None else pixels.faults()
    with console.progress("checking images") as on_image:
        report = drop_corrupt_images(report, known=known, on_image=on_image)
    console.faults(report)
    _check_objects(report.index, data=data, split=split)
    return Split(report, None if pixels is None else pixels.of(report.index))


def _check_objects(index: "DatasetIndex", *, data: str, split: str) -> None:
    if (index.crowd | index.difficult).all():
        raise DataError(
            f"expected objects to be found in split '{split}' of {data}, found none in its "
            f"{len(index)} images (crowd regions and difficult objects do not count): evaluate on "
            "a split with annotations"
        )


def _rows(
    scored: _Scored, voc: Literal["2007", "2010"] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the object of --json and those of every class, with VOC's AP where it is wanted."""
    row, classes = scored.row, scored.metrics.rows()
    if voc is None:
        return row, classes
    from ossa.evaluate.voc import score_as_voc

    scores, key = score_as_voc(scored.index, scored.detections), f"voc{voc}_ap50"
    mean = scores.map_11_points if voc == "2007" else scores.map_area
    for one, score in zip(classes, scores.per_class, strict=True):
        one[key] = score.ap_11_points if voc == "2007" else score.ap_area
    return {**row, key: mean}, classes


def _save(scored: _Scored, file: Path) -> None:
    from ossa.evaluate.coco import detections_as_coco_results
    from ossa.files import write_atomically

    content = json.dumps(detections_as_coco_results(scored.index, scored.detections)).encode()
    write_atomically(file, gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)


def _write_report(scored: _Scored, folder: Path) -> Path:
    """Writes the page on an evaluation and returns its path."""
    from ossa import __version__
    from ossa.evaluate.analysis import analyse
    from ossa.evaluate.report import write_report

    row, index = scored.row, scored.index
    imgsz = row["imgsz"] or _USUAL_IMGSZ
    facts = {"Ossa": __version__, "image side": f"{imgsz} px"}
    resamples = 200
    if len(set(index.gt_image_positions()[~(index.crowd | index.difficult)].tolist())) < 2:
        # One image drawn again and again is always itself: an interval of width 0.
        facts["intervals"] = "none, for they need objects in two images at least"
        resamples = 0
    return write_report(
        analyse(index, scored.detections, imgsz=imgsz, resamples=resamples),
        folder,
        title=f"{row['model']}, {row['data']}",
        subtitle=f"{row['weights'] or row['predictions']}, split {row['split']}, {imgsz} px",
        facts=facts,
    )


def _print(row: Mapping[str, Any], classes: Sequence[Any] | None, *, as_json: bool) -> None:
    """Prints the metrics, and those of every class where they are wanted."""
    from ossa.cli.console import fraction, new_table, print_json, print_metrics_table, print_table
    from ossa.evaluate.metrics import METRIC_TITLES

    if as_json:
        print_json(row if classes is None else {**row, "per_class": classes})
        return
    print_metrics_table([row])
    if classes is None:
        return
    titles = {key: title for key, title in METRIC_TITLES.items() if key in classes[0]}
    table = new_table("class", "objects", "images", *titles.values())
    for one in classes:
        counts = (f"{one['num_truths']:,}", f"{one['num_images']:,}")
        table.add_row(one["name"], *counts, *(fraction(one[key]) for key in titles))
    print_table(table)
