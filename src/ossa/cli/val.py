"""`ossa val`: how good a detector is on a data set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.config import RunConfig
    from ossa.data.index import DatasetIndex
    from ossa.evaluate.metrics import Metrics
    from ossa.evaluate.run import Evaluation
    from ossa.models.weights import Checkpoint
    from ossa.types import Detections


def val(
    data: options.Data,
    weights: Annotated[
        Path,
        typer.Option(
            help="A checkpoint of ossa, or an official yolov5*.pt.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option("--split", "--task", help="val, test or train.")] = "val",
    imgsz: Annotated[
        int | None,
        typer.Option(
            *options.IMGSZ_NAMES,
            metavar="PIXELS",
            help="Side of the square input in pixels.",
            show_default="that of the training",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(*options.BATCH_NAMES, min=1, metavar="N", help="Images in one forward.")
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
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write the detections as COCO results.", metavar="FILE.json", show_default=False
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
    as_json: options.AsJson = False,
) -> None:
    """Score a detector on a data set with COCO's metrics.

    Precision and recall are those at IoU 0.5 and the confidence of the best mean F1. The time of an
    image is that of the whole evaluation: loading, network, suppression and scoring.

    [bold]Examples[/bold]

      ossa val --weights runs/yolov5n/best.safetensors --data bccd

      ossa val --weights yolov5n.pt --data coco128 --split train --iou 0.65

      ossa val --weights runs/yolov5n/best.safetensors --data bccd --report pages/yolov5n
    """
    from ossa.cli.console import Console
    from ossa.cli.output import print_json, print_metrics_table
    from ossa.config import build_config
    from ossa.models.weights import read_checkpoint

    _check_target(save_predictions)
    _check_report(report)
    checkpoint = read_checkpoint(weights)
    config = build_config(
        {
            "model": checkpoint.model.model_dump(),
            "data": data,
            "train": {"imgsz": checkpoint.imgsz if imgsz is None else imgsz, "batch": batch},
            "evaluate": {"confidence": conf, "nms_iou": iou, "max_detections": max_det},
        }
    )
    device = options.choose_device(device)
    with Console() as console:
        index = _read_split(config, split, checkpoint, console)
        row, evaluation = _evaluate(
            checkpoint,
            index,
            config,
            device=device,
            workers=options.choose_workers(workers),
            console=console,
        )
        row |= {"data": data, "split": split, "weights": str(weights)}
        if save_predictions is not None:
            _save(evaluation, index, save_predictions)
            console.note(f"detections written to {save_predictions}")
        if report is not None:
            with console.progress("writing the report"):
                page = _write_report(evaluation.detections, index, row, report)
            console.note(f"report: {page}")
    if as_json:
        classes = {"per_class": evaluation.metrics.rows()} if per_class else {}
        print_json({**row, **classes})
    else:
        print_metrics_table([row])
        if per_class:
            _print_classes(evaluation.metrics)


def _check_target(file: Path | None) -> None:
    """Raises ConfigError for a file that could not be written after a long evaluation."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise ConfigError(
            f"expected a file in an existing folder for --save-predictions, found {file}"
        )


def _check_report(folder: Path | None) -> None:
    """Raises ConfigError for a folder with files that a report would mix with."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"expected a new or empty folder for --report, found {folder} in use: name another"
        )


def _read_split(
    config: "RunConfig", split: str, checkpoint: "Checkpoint", console: "Console"
) -> "DatasetIndex":
    """Returns the split, whose classes must be the checkpoint's."""
    from ossa.data.check import keep_decodable
    from ossa.data.description import read_description
    from ossa.data.reading import read_index
    from ossa.evaluate.api import check_classes

    report = read_index(read_description(config.data), split)
    with console.progress("checking images") as on_image:
        report = keep_decodable(report, on_image=on_image)
    console.problems(report.problems)
    check_classes(checkpoint, report.index, data=config.data)
    return report.index


def _evaluate(
    checkpoint: "Checkpoint",
    index: "DatasetIndex",
    config: "RunConfig",
    *,
    device: str,
    workers: int,
    console: "Console",
) -> "tuple[dict[str, Any], Evaluation]":
    """Returns the flat object of --json and the evaluation."""
    from ossa.cli.output import row_of
    from ossa.evaluate.api import detector_for_evaluation
    from ossa.evaluate.run import evaluate
    from ossa.models.count import count_cost

    imgsz = config.train.imgsz
    detector = detector_for_evaluation(checkpoint, imgsz=imgsz, device=device)
    cost = count_cost(detector, imgsz).total
    with console.progress("evaluating") as on_images:
        evaluation = evaluate(
            detector,
            index,
            imgsz=imgsz,
            config=config.evaluate,
            batch=config.train.batch,
            device=device,
            workers=workers,
            on_images=on_images,
        )
    row = row_of(
        {
            "model": checkpoint.model.name,
            "imgsz": imgsz,
            **evaluation.metrics.flat(),
            "params": cost.params,
            "flops": cost.flops,
            "macs": cost.macs,
            "ms_per_image": 1000.0 * evaluation.seconds / len(index),
            "images_per_second": len(index) / evaluation.seconds,
        }
    )
    return row, evaluation


def _save(evaluation: "Evaluation", index: "DatasetIndex", file: Path) -> None:
    from ossa.evaluate.coco import detections_as_coco_results
    from ossa.files import write_text_atomically

    results = detections_as_coco_results(index, evaluation.detections)
    write_text_atomically(file, json.dumps(results))


def _write_report(
    detections: "Mapping[int, Detections]",
    index: "DatasetIndex",
    row: "Mapping[str, Any]",
    folder: Path,
) -> Path:
    """Writes the page on an evaluation; `row` is the object of --json. Returns its path."""
    from ossa import __version__
    from ossa.evaluate.analysis import analyse
    from ossa.evaluate.report import write_report

    return write_report(
        analyse(index, detections, imgsz=row["imgsz"]),
        folder,
        title=f"{row['model']}, {row['data']}",
        subtitle=f"{row['weights']}, split {row['split']}, {row['imgsz']} px",
        facts={"Ossa": __version__, "image side": f"{row['imgsz']} px"},
    )


def _print_classes(metrics: "Metrics") -> None:
    from ossa.cli.output import fraction, new_table, print_table

    table = new_table("class", "truths", "images", "AP50-95", "AP50", "AP75", "precision", "recall")
    for row in metrics.per_class:
        figures = (row.ap, row.ap50, row.ap75, row.precision, row.recall)
        counts = (f"{row.num_truths:,}", f"{row.num_images:,}")
        table.add_row(row.name, *counts, *map(fraction, figures))
    print_table(table)
