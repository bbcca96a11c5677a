"""`ossa val`: how good a detector, or a file of detections, is on a data set."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.config import EvaluateConfig, check_imgsz
from ossa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from ossa.cli.console import Console
    from ossa.data.annotations import DatasetIndex
    from ossa.data.cache import PixelCache
    from ossa.evaluate.evaluator import Evaluation
    from ossa.evaluate.metrics import Metrics
    from ossa.types import Detections

_OF_A_DETECTOR = (  # options that mean nothing for --predictions
    *("weights", "batch", "confidence", "nms_iou", "max_detections", "save_predictions"),
    *("tiles", "overlap", "device", "workers", "threads", "cache"),
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
    data: Annotated[options.DataPath | None, options.shown("that of the training")] = None,
    weights: options.AnyWeights | None = None,
    predictions: Annotated[
        options.File | None,
        "Instead of --weights: detections as COCO results, .json, .json.gz or .npz, by image ids "
        "or names of files. No model is run and no image opened.",
    ] = None,
    class_ids_from: Annotated[
        int | None,
        typer.Option(metavar="N"),
        "The category ids of --predictions count the classes from N, as 0 or 1.",
    ] = None,
    split: Annotated[str, typer.Option("--split", "--task"), "val, test or train."] = "val",
    imgsz: Annotated[
        options.Pixels | None,
        options.shown("that of the training; 640 for --predictions"),
        "Side of the square input in pixels; of --predictions, at which a report states sizes.",
    ] = None,
    tiles: options.TileSide = None,
    overlap: options.Overlap = None,
    batch: Annotated[options.Batch, "Images in one forward."] = 16,
    settings: dict[str, Any],
    per_class: Annotated[bool, "Show every class, too."] = False,
    voc: Annotated[
        Literal["2007", "2010"] | None, "Add PASCAL VOC's AP at IoU 0.5 by the rule of that year."
    ] = None,
    save_predictions: Annotated[
        options.File | None, "Write the detections as COCO results, .json or .json.gz."
    ] = None,
    report: Annotated[
        options.Folder | None, "Write a page on it all, index.html, with figures and tables."
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

      ossa val --weights runs/yolov5n/best.safetensors --data bccd --report pages/yolov5n

      ossa val --predictions results.json.gz --data voc --split test --voc 2007 --per-class
    """
    from ossa.cli.console import Console

    _check_files(save_predictions, report)
    with Console() as console:
        if predictions is not None:
            _check_alone(call)
            if data is None:
                raise ConfigError(expected="--data beside --predictions")
            scored = _score_predictions(predictions, data, split, class_ids_from, console)
            scored.row["imgsz"] = imgsz
        elif weights is None:
            expected = "--weights of a detector or its --predictions"
            raise ConfigError(expected=expected, found="neither")
        else:
            options.set_threads(threads)
            device = options.choose_device_for(weights, device)
            machine = {"batch": batch, "device": device, "cache": cache or "auto"}
            machine["tiles"] = (tiles, overlap)
            machine["workers"] = options.choose_workers(workers, device=device)
            scored = _score_detector(weights, data, split, imgsz, settings, console, **machine)
        classes = scored.metrics.rows()
        if voc is not None:
            _add_voc(scored, classes, year=voc)
        if save_predictions is not None:
            _save(scored, save_predictions)
            console.note(f"detections written to {save_predictions}")
        if report is not None:
            with console.progress("writing the report"):
                page = _write_report(scored, report)
            console.note(f"report: {page}")
    _print(scored.row, classes if per_class else None, as_json=as_json)


def _check_files(save_predictions: Path | None, report: Path | None) -> None:
    """Raises ConfigError for what could not be written after a long evaluation."""
    if save_predictions is not None:
        if save_predictions.is_dir() or not save_predictions.parent.is_dir():
            raise ConfigError(
                expected="a file in an existing folder for --save-predictions",
                found=str(save_predictions),
            )
        options.check_writable("--save-predictions", save_predictions.parent)
    if report is not None:
        options.check_new("--report", report)


def _check_alone(call: typer.Context) -> None:
    """Raises ConfigError for options of a detector, given beside its predictions."""
    for option in call.command.params:
        source = call.get_parameter_source(option.name or "")
        if option.name in _OF_A_DETECTOR and source and source.name == "COMMANDLINE":
            raise ConfigError(
                expected="no option of a detector beside --predictions", found=option.opts[0]
            )


def _score_detector(
    weights: Path,
    data: str | None,
    split: str,
    imgsz: int | None,
    settings: dict[str, Any],
    console: "Console",
    *,
    cache: Any,
    tiles: tuple[int | None, float | None],
    **machine: Any,
) -> _Scored:
    """Returns the detections of a checkpoint or an exported file in a split, scored.

    Args:
        tiles: side and overlap, as far as they are given.
        machine: arguments `batch`, `device` and `workers` of `evaluate`.
    """
    from ossa.cli.console import row_of
    from ossa.data.cache import open_pixels
    from ossa.data.description import read_description
    from ossa.data.reading import drop_corrupt_images, read_index
    from ossa.data.tiles import num_windows
    from ossa.evaluate.evaluator import check_classes, evaluate
    from ossa.export.select import is_exported
    from ossa.schema import validated

    config = validated(EvaluateConfig, settings, where="evaluate")
    open_weights = _open_exported if is_exported(weights) else _open_checkpoint
    network, names, side, known = open_weights(weights, config, imgsz, machine["device"])
    cut = options.choose_tiles(*tiles, known.pop("tiles", None))
    trained_on = known.pop("data", None)
    if data is None:
        if not isinstance(trained_on, str):
            expected = "--data, since the file does not name the data of its training"
            raise ConfigError(expected=expected, path=weights)
        data = trained_on
        console.note(f"data: {data}, that of the training")
    description = read_description(data)
    report = read_index(description, split)
    check_classes(names, report.index, weights=weights, data=data)
    where: dict[str, Any] = {"description": description, "split": split}
    where |= {"imgsz": side, "tiles": cut}
    pixels = open_pixels(report.index, cache, **where, reduced=False, callback=console)
    faults = None if pixels is None else pixels.faults()
    with console.progress("checking images") as on_image:
        report = drop_corrupt_images(report, known=faults, on_image=on_image)
    console.faults(report)
    index = report.index
    _check_objects(index, data=data, split=split)
    pixels = None if pixels is None else pixels.of(index)
    with console.progress("evaluating") as on_images:
        how: dict[str, Any] = {"imgsz": side, "tiles": cut, "config": config, **machine}
        found = evaluate(network, index, pixels=pixels, on_images=on_images, **how)
        known |= _other_readings(network, index, found, pixels=pixels, console=console, how=how)
    seconds, count = found.seconds, len(index)
    known |= {"ms_per_image": 1000.0 * seconds / count, "images_per_second": count / seconds}
    if cut is not None:
        known |= {"windows_per_image": float(num_windows(index.sizes_wh, side, cut).mean())}
        console.note(f"{cut}: {known['windows_per_image']:.1f} windows an image on average")
    known |= {"imgsz": side, "data": data, "split": split}
    known |= {"weights": str(weights), "predictions": None}
    row = row_of({**found.metrics.flat(), **known})
    return _Scored(index, found.detections, found.metrics, row)


def _other_readings(
    network: "nn.Module",
    index: "DatasetIndex",
    found: "Evaluation",
    *,
    pixels: "PixelCache | None",
    console: "Console",
    how: dict[str, Any],
) -> dict[str, float]:
    """Returns AP50-95 of other branches of a head, by keys of the row; prints their difference."""
    from ossa.evaluate.evaluator import OtherReading, evaluate

    aps: dict[str, float] = {}
    head: Any = getattr(network, "head", None)  # an exported file has one branch
    for name, read in head.other_readings().items() if head is not None else ():
        ap = evaluate(OtherReading(network, read), index, pixels=pixels, **how).metrics.ap or 0.0
        aps[f"ap_{name.split(' ')[0].replace('-', '_')}"] = ap
        difference = (found.metrics.ap or 0.0) - ap
        console.note(f"{name}: AP50-95 {ap:.3f}; that of inference {difference:+.3f}")
    return aps


_Opened = tuple["nn.Module", tuple[str, ...], int, dict[str, Any]]
"""Network, class names, side of its input in pixels, and what the row says of it, with the data of
its training if known."""


def _open_checkpoint(
    weights: Path, config: EvaluateConfig, imgsz: int | None, device: str
) -> _Opened:
    from ossa.evaluate.evaluator import detector_for_evaluation
    from ossa.models.checkpoint import read_checkpoint
    from ossa.models.complexity import count_cost

    checkpoint = read_checkpoint(weights)
    side = checkpoint.imgsz if imgsz is None else imgsz
    check_imgsz(side, stride=max(checkpoint.model.strides))
    detector = detector_for_evaluation(checkpoint, imgsz=side, device=device)
    cost = count_cost(detector, side).total
    known = {"params": cost.params, "flops": cost.flops, "macs": cost.macs}
    run = checkpoint.details.get("run")
    known |= {"data": run.get("data") if isinstance(run, dict) else None}
    known |= {"tiles": checkpoint.tiles}
    return detector, checkpoint.names, side, {"model": checkpoint.model.name, **known}


def _open_exported(
    weights: Path, config: EvaluateConfig, imgsz: int | None, device: str
) -> _Opened:
    from ossa.export.backends import NMSRuntime, RuntimeNetwork
    from ossa.export.select import input_side, open_exported

    exported = open_exported(weights)
    if isinstance(exported, NMSRuntime):
        raise ConfigError(
            expected=f"detections from a confidence of {config.confidence:g} on",
            found=f"NMS in the graph from {exported.nms.confidence:g} on",
            path=weights,
            advice="export it without --nms",
        )
    side = input_side(exported, imgsz, device=device)
    check_imgsz(side, stride=max(exported.description.strides))
    known = {"model": f"{weights.name}, {exported.name} {exported.precision}"}
    return RuntimeNetwork(exported), exported.description.names, side, known


def _score_predictions(
    file: Path, data: str, split: str, first_class_id: int | None, console: "Console"
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
    for first in (0, 1):  # would class ids that count from here score better?
        counted = list(range(first, first + len(index.names)))
        if first_class_id is not None or index.category_ids.tolist() == counted:
            continue
        try:
            other = read_coco_results(file, index, first_class_id=first)
        except DataError:
            continue  # an id that is none of these
        ap = evaluate_detections(index, other).ap
        if ap is not None and ap > (metrics.ap or 0.0):
            console.note(
                f"AP50-95 is {metrics.ap or 0:.3f}, and {ap:.3f} if {file} counts the classes from "
                f"{first}: in that case give --class-ids-from {first}"
            )
    known = {"data": data, "split": split, "weights": None, "predictions": str(file)}
    row = row_of({**metrics.flat(), "model": file.name, **known})
    return _Scored(index, detections, metrics, row)


def _check_objects(index: "DatasetIndex", *, data: str, split: str) -> None:
    if (index.crowd | index.difficult).all():
        raise DataError(
            expected=f"objects in split '{split}', other than crowd regions and difficult ones",
            found=f"none in {len(index)} images",
            path=data,
            advice="evaluate on a split with annotations",
        )


def _add_voc(scored: _Scored, classes: list[dict[str, Any]], *, year: str) -> None:
    """Adds PASCAL VOC's AP to the row and to those of every class."""
    from ossa.evaluate.voc import score_as_voc

    scores, key = score_as_voc(scored.index, scored.detections), f"voc{year}_ap50"
    scored.row[key] = scores.map_11_points if year == "2007" else scores.map_area
    for one, score in zip(classes, scores.per_class, strict=True):
        one[key] = score.ap_11_points if year == "2007" else score.ap_area


def _save(scored: _Scored, file: Path) -> None:
    from ossa.evaluate.coco import detections_as_coco_results
    from ossa.files import write_atomically

    content = json.dumps(detections_as_coco_results(scored.index, scored.detections)).encode()
    write_atomically(file, gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)


def _write_report(scored: _Scored, folder: Path) -> Path:
    """Writes the page on an evaluation and returns its path."""
    from ossa import __version__
    from ossa.evaluate.error_analysis import analyse
    from ossa.evaluate.report import write_report

    row, index = scored.row, scored.index
    imgsz = row["imgsz"] or 640
    facts = {"Ossa": __version__, "image side": f"{imgsz} px"}
    if len(set(index.gt_image_positions()[~(index.crowd | index.difficult)].tolist())) < 2:
        facts["intervals"] = "none, for they need objects in two images at least"
    return write_report(
        analyse(index, scored.detections, imgsz=imgsz),
        folder,
        title=f"{row['model']}, {row['data']}",
        subtitle=f"{row['weights'] or row['predictions']}, split {row['split']}, {imgsz} px",
        facts=facts,
    )


def _print(row: dict[str, Any], classes: list[Any] | None, *, as_json: bool) -> None:
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
