"""`ossa export`: a detector as a file for another runtime, compared with PyTorch first."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.data.annotations import DatasetIndex
    from ossa.export.export import Export
    from ossa.export.graph import NMSSettings
    from ossa.models.checkpoint import Checkpoint

_NMS_PANEL = "NMS in the graph"
_CHECK_PANEL = "Comparison with PyTorch"


@command()
def export(
    weights: Annotated[
        Path,
        typer.Option(
            help="A checkpoint of ossa, or an official yolov5*.pt.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    format: Annotated[Literal["onnx", "openvino"], typer.Option(help="Of the file.")] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(
            help="fp16 halves the file and computes in fp32 on a CPU; bf16 is for openvino; int8 "
            "is calibrated on the split train of --data."
        ),
    ] = "fp32",
    imgsz: Annotated[
        int | None,
        typer.Option(
            *options.IMGSZ_NAMES,
            metavar="PIXELS",
            help="Longer side of the network input in pixels.",
            show_default="that of the training",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            *options.BATCH_NAMES, min=1, max=65_536, metavar="N", help="Images in one run."
        ),
    ] = 1,
    dynamic: Annotated[
        Literal["none", "batch", "size", "all"],
        typer.Option(
            help="What a run may choose: the number of images, their height and width (multiples "
            "of the largest stride), or both.",
        ),
    ] = "none",
    nms: Annotated[
        bool,
        typer.Option(
            "--nms",
            help="Put decoding and NMS into the graph, which then returns boxes, scores, labels "
            "and image_index instead of logits.",
            rich_help_panel=_NMS_PANEL,
        ),
    ] = False,
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            "--conf-thres",
            min=0,
            max=0.999,
            help="With --nms: leave out detections with a lower score.",
            show_default="that of the best F1 in training, else 0.25",
            rich_help_panel=_NMS_PANEL,
        ),
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(
            "--iou",
            "--iou-thres",
            min=0.001,
            max=1,
            help="With --nms: of two boxes of a class that overlap more, one stays.",
            show_default="0.45",
            rich_help_panel=_NMS_PANEL,
        ),
    ] = None,
    max_det: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="With --nms: most detections of an image.",
            show_default="300",
            rich_help_panel=_NMS_PANEL,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A data.yaml, or the folder that holds one.",
            metavar="PATH",
            show_default="that of the training",
            rich_help_panel=_CHECK_PANEL,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="On whose images the file is compared.", rich_help_panel=_CHECK_PANEL),
    ] = "val",
    images: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Most images to compare on, spread evenly over the split.",
            rich_help_panel=_CHECK_PANEL,
        ),
    ] = 128,
    max_ap_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="AP50-95, as a fraction, that the file may lose and still be called good.",
            rich_help_panel=_CHECK_PANEL,
        ),
    ] = 0.01,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Of fp16, bf16 and int8: how far the detections must agree with PyTorch's, 1 for "
            "the same boxes.",
            rich_help_panel=_CHECK_PANEL,
        ),
    ] = 0.95,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The file: .onnx, or .xml with a .bin beside it. A good one "
            "replaces what is there; one that is not good gets -not-good into its name.",
            metavar="FILE",
            show_default="beside the weights, with the precision in its name",
        ),
    ] = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a detector as a file for another runtime.

    The file is run and compared with PyTorch on real images before it is called done. Names,
    sizes, strides, thresholds, letterbox and normalisation travel inside it: `ossa predict
    --weights FILE` needs nothing else. Exit code 1 where it is not good.

    [bold]Examples[/bold]

      ossa export --weights runs/yolov5n/best.safetensors

      ossa export --weights yolov5n.pt --format openvino --precision int8 --data coco128

      ossa export --weights yolov5n.pt --data coco128 --nms --dynamic batch
    """
    from ossa.cli.console import Console, print_json
    from ossa.export.export import SUFFIXES, ExportSettings, check_request, export_detector
    from ossa.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(weights)
    settings = ExportSettings(
        format=format,
        precision=precision,
        imgsz=imgsz,
        batch=None if dynamic in ("batch", "all") else batch,
        any_size=dynamic in ("size", "all"),
        nms=_nms_settings(
            checkpoint, nms=nms, confidence=conf, nms_iou=iou, max_detections=max_det
        ),
        max_ap_drop=max_ap_drop,
        min_agreement=min_agreement,
    )
    file = output or weights.with_name(f"{weights.stem}-{precision}{SUFFIXES[format]}")
    check_request(checkpoint, file, settings)
    with Console() as console:
        source = data or _data_of(checkpoint)
        compared = _read(source, split, images, console)
        calibration = None
        if precision == "int8":
            compared, calibration = _apart(compared, source, console)
        with console.progress("exporting") as on_images:
            done = export_detector(
                checkpoint,
                file,
                settings,
                images=compared,
                calibration=calibration,
                on_stage=console.note,
                on_images=on_images,
            )
    if as_json:
        print_json(done.flat())
    else:
        _print(done)
    if done.fault is not None:
        raise typer.Exit(1)


def _nms_settings(
    checkpoint: "Checkpoint", *, nms: bool, **told: float | None
) -> "NMSSettings | None":
    """Returns the settings of the NMS in the graph, None where there is to be none.

    Raises:
        ConfigError: a setting is told and the NMS is not wanted.
    """
    from ossa.export.graph import NMSSettings, usual_confidence

    given = {name: value for name, value in told.items() if value is not None}
    if nms:
        return NMSSettings.model_validate({"confidence": usual_confidence(checkpoint)} | given)
    if given:
        raise ConfigError(
            "--conf, --iou and --max-det are for the NMS in the graph, found one of them without "
            "--nms: add it, or leave them to ossa predict"
        )
    return None


def _data_of(checkpoint: "Checkpoint") -> str:
    """Returns the data set of the training.

    Raises:
        ConfigError: the checkpoint does not know it.
    """
    data = (checkpoint.details.get("run") or {}).get("data")
    if data is None:
        raise ConfigError(
            f"an export is compared with PyTorch on real images, and {checkpoint.origin['file']} "
            "does not say which it was trained on: give --data"
        )
    return data


def _read(data: str, split: str, count: int, console: "Console") -> "DatasetIndex":
    from ossa.data.reading import read_data
    from ossa.export.parity import some_images

    report = read_data(data, split)
    console.faults(report)
    if not len(report.index.boxes_xyxy):
        raise ConfigError(
            f"expected objects in split '{split}' of {data}, to take the AP from, found none"
        )
    return some_images(report.index, count)


def _apart(
    compared: "DatasetIndex", data: str, console: "Console"
) -> "tuple[DatasetIndex, DatasetIndex]":
    """Returns images to compare on, and others that calibrate.

    The latter are of the split train. Where more than half of it is compared on, as where train and
    val are the same, every second image of `compared` calibrates instead.

    Raises:
        ConfigError: there is one image only.
    """
    import numpy as np

    from ossa.data.annotations import select_images
    from ossa.export.export import paths_of
    from ossa.export.parity import some_images
    from ossa.export.selectvino import CALIBRATION_IMAGES

    train = _read(data, "train", sys.maxsize, console)
    taken = paths_of(compared)
    free = np.array([str(train.image_path(n)) not in taken for n in range(len(train))])
    if 2 * free.sum() >= len(free):
        return compared, some_images(select_images(train, free), CALIBRATION_IMAGES)
    if len(compared) < 2:
        raise ConfigError(
            f"int8 is calibrated on some images and compared on others, found one in {data}"
        )
    second = np.arange(len(compared)) % 2 == 1
    return select_images(compared, ~second), select_images(compared, second)


def _print(done: "Export") -> None:
    from ossa.cli.console import fraction, with_unit

    compared = done.comparison
    rows = {
        "file": f"{done.file} ({with_unit(done.bytes)}B)",
        "compared on": f"{compared.images} images, {compared.detections} detections by PyTorch",
        "largest score difference": f"{compared.largest_score_difference:.2g}",
        "largest box difference": f"{compared.largest_box_difference_px:.2g} px",
        "reported by one only": str(compared.unmatched),
        "agreement": f"{compared.agreement:.3f}",
        "AP50-95 before": fraction(compared.ap_before),
        "AP50-95 after": fraction(compared.ap_after),
        "verdict": "good" if done.fault is None else f"not good: {done.fault}",
    }
    for title, value in rows.items():
        print_line(f"{title:<26}{value}")
    if compared.squares is not None:
        print_line(_of_squares(compared.squares, imgsz=done.description.imgsz))


def _of_squares(apart: dict[str, float], *, imgsz: int) -> str:
    """Returns what differs for a user of the checkpoint in a file of fixed size."""
    return (
        f"The file sees squares of {imgsz} px, as in ossa val; ossa predict gives its checkpoint "
        f"rectangles. On the {apart['images']} images that are no squares scores then differ by up "
        f"to {apart['score']:.2g} and boxes by up to {apart['box_px']:.1f} px, and "
        f"{apart['unmatched']} detections (PyTorch: {apart['detections']}) are reported by one "
        "only. With --dynamic size both see rectangles."
    )
