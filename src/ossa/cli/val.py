"""`ossa val`: how good a detector, or a file of detections, is on a data set."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.cli.options import check_new, check_writable
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from ossa.cli.val_sources import Scored
    from ossa.data.cache import CachePlace

_USUAL_IMGSZ = 640
"""Side of the network's input that a report takes for predictions of an unknown network."""
_OF_A_DETECTOR = (
    "weights",
    "batch",
    "conf",
    "iou",
    "max_det",
    "save_predictions",
    "device",
    "workers",
    "threads",
    "cache",
)
"""Arguments that mean nothing where the detections are there already."""
_RESAMPLES = 200
"""Of the images, for the intervals of a report."""


@command()
def val(
    call: typer.Context,
    data: options.DataPath,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint of ossa, an official yolov5*.pt, or what `ossa export` wrote.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --weights: detections of any detector as COCO results, .json or "
            ".json.gz, by image ids or names of files. They are scored as they are; no model is "
            "run and no image opened.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    class_ids_from: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The category ids of --predictions count the classes from N, as 0 or 1, and are "
            "not those of the data set.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", "--task", help="val, test or train.")] = "val",
    imgsz: Annotated[
        int | None,
        typer.Option(
            *options.IMGSZ_NAMES,
            min=1,
            metavar="PIXELS",
            help="Side of the square input in pixels; of --predictions, at which a report tells "
            "sizes.",
            show_default=f"that of the training; {_USUAL_IMGSZ} for --predictions",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            *options.BATCH_NAMES, min=1, max=65_536, metavar="N", help="Images in one forward."
        ),
    ] = 16,
    conf: Annotated[
        float, typer.Option("--conf", "--conf-thres", help="Detections below it do not count.")
    ] = 0.001,
    iou: Annotated[
        float,
        typer.Option(
            "--iou", "--iou-thres", help="Of two boxes of a class that overlap more, one stays."
        ),
    ] = 0.6,
    max_det: Annotated[int, typer.Option(help="Most detections of an image.")] = 300,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show every class, too.")] = False,
    voc: Annotated[
        Literal["2007", "2010"] | None,
        typer.Option(
            help="Add PASCAL VOC's AP at IoU 0.5 by the rule of 2007 (the mean of eleven "
            "precisions) or of 2010 (the whole area).",
            metavar="YEAR",
            show_default=False,
        ),
    ] = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write the detections as COCO results, .json or .json.gz.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page on it all, index.html, with figures and tables as files: curves, "
            "confusions, AP by size and by crowding, kinds of errors, calibration, worst images.",
            metavar="FOLDER",
            show_default=False,
        ),
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
    image is that of the whole evaluation: loading, network, suppression and scoring.

    [bold]Examples[/bold]

      ossa val --weights runs/yolov5n/best.safetensors --data bccd

      ossa val --weights yolov5n.pt --data coco128 --split train --iou 0.65

      ossa val --weights runs/yolov5n/best.safetensors --data bccd --report pages/yolov5n

      ossa val --weights yolov5n-int8.onnx --data bccd

      ossa val --predictions results.json.gz --data voc --split test --voc 2007 --per-class
    """
    from ossa.cli.console import Console
    from ossa.cli.val_sources import read_predictions, run_detector

    _check_target(save_predictions)
    if report is not None:
        check_new("--report", report)
    with Console() as console:
        if predictions is not None:
            _check_alone(call)
            scored = read_predictions(
                *(predictions, data, split, imgsz), first_class_id=class_ids_from, console=console
            )
        elif weights is not None:
            options.set_threads(threads)
            device = options.choose_device_for(weights, device)
            scored = run_detector(
                *(weights, data, split),
                imgsz=imgsz,
                batch=batch,
                settings={"confidence": conf, "nms_iou": iou, "max_detections": max_det},
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
        given = source is not None and source.name == "COMMANDLINE"
        if given and option.name in _OF_A_DETECTOR:
            raise ConfigError(
                f"--predictions are scored as they are, found {option.opts[0]}, which is for a "
                "detector: leave it out"
            )


def _check_target(file: Path | None) -> None:
    """Raises ConfigError for a file that could not be written after a long evaluation."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(
            f"expected a file in an existing folder for --save-predictions, found {file}"
        )
    check_writable("--save-predictions", file.parent)


def _rows(
    scored: "Scored", voc: Literal["2007", "2010"] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the object of --json and those of every class, with VOC's AP where it is wanted."""
    row, classes = scored.row, scored.metrics.rows()
    if voc is None:
        return row, classes
    from ossa.evaluate.voc import score_as_voc

    scores = score_as_voc(scored.index, scored.detections)
    of_2007 = voc == "2007"
    aps = [one.ap_11_points if of_2007 else one.ap_area for one in scores.per_class]
    key = f"voc{voc}_ap50"
    return (
        {**row, key: scores.map_11_points if of_2007 else scores.map_area},
        [{**one, key: ap} for one, ap in zip(classes, aps, strict=True)],
    )


def _save(scored: "Scored", file: Path) -> None:
    from ossa.evaluate.coco import detections_as_coco_results
    from ossa.files import write_atomically

    content = json.dumps(detections_as_coco_results(scored.index, scored.detections)).encode()
    write_atomically(file, gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)


def _write_report(scored: "Scored", folder: Path) -> Path:
    """Writes the page on an evaluation and returns its path."""
    from ossa import __version__
    from ossa.evaluate.analysis import analyse
    from ossa.evaluate.report import write_report

    row = scored.row
    imgsz = row["imgsz"] or _USUAL_IMGSZ
    facts = {"Ossa": __version__, "image side": f"{imgsz} px"}
    resamples = _RESAMPLES
    if scored.images_with_gt() < 2:
        # One image drawn again and again is always itself: an interval of width 0.
        facts["intervals"] = "none, for they need objects in two images at least"
        resamples = 0
    return write_report(
        analyse(scored.index, scored.detections, imgsz=imgsz, resamples=resamples),
        folder,
        title=f"{row['model']}, {row['data']}",
        subtitle=f"{row['weights'] or row['predictions']}, split {row['split']}, {imgsz} px",
        facts=facts,
    )


def _print(row: Mapping[str, Any], classes: list[dict[str, Any]] | None, *, as_json: bool) -> None:
    """Prints the metrics, and those of every class where they are wanted."""
    from ossa.cli.console import print_json, print_metrics_table

    if as_json:
        print_json(row if classes is None else {**row, "per_class": classes})
        return
    print_metrics_table([row])
    if classes is not None:
        _print_classes(classes)


def _print_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    from ossa.cli.console import fraction, new_table, print_table
    from ossa.evaluate.metrics import METRIC_TITLES

    figures = [key for key in METRIC_TITLES if key in classes[0]]
    table = new_table("class", "objects", "images", *(METRIC_TITLES[key] for key in figures))
    for row in classes:
        counts = (f"{row['num_truths']:,}", f"{row['num_images']:,}")
        table.add_row(row["name"], *counts, *(fraction(row[key]) for key in figures))
    print_table(table)
