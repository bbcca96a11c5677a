"""`ossa export`: a detector as a file for another runtime, compared with PyTorch first."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.config import PREDICTION_NMS_IOU, EvaluateConfig
from ossa.errors import ConfigError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.data.annotations import DatasetIndex
    from ossa.export.export import Export
    from ossa.export.graph import NMSSettings
    from ossa.models.checkpoint import Checkpoint

_NMS_PANEL = "NMS in the graph"


@command(
    *options.nms_settings(
        confidence="that of the best F1 in training, else 0.25",
        iou=str(PREDICTION_NMS_IOU),
        panel=_NMS_PANEL,
    ),
    schema=EvaluateConfig,
    panels={
        _NMS_PANEL: "nms",
        "Comparison with PyTorch": "data split images max_ap_drop min_agreement",
    },
)
def export(
    *,
    weights: Annotated[options.File, "A checkpoint of ossa, or an official yolov5*.pt."],
    format: Annotated[Literal["onnx", "openvino"], "Of the file."] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        "fp16 halves the file and computes in fp32 on a CPU; bf16 is for openvino; int8 is "
        "calibrated on the split train of --data.",
    ] = "fp32",
    imgsz: Annotated[
        int | None,
        typer.Option(*options.IMGSZ_NAMES, metavar="PIXELS", show_default="that of the training"),
        "Longer side of the network input in pixels.",
    ] = None,
    batch: options.Batch = 1,
    dynamic: Annotated[
        Literal["none", "batch", "size", "all"],
        "What a run may choose: the number of images, their height and width (multiples of the "
        "largest stride), or both.",
    ] = "none",
    nms: Annotated[
        bool,
        "Put decoding and NMS into the graph, which then returns boxes, scores, labels and "
        "image_index instead of logits. --conf, --iou and --max-det are for it.",
    ] = False,
    settings: dict[str, Any],
    data: Annotated[options.DataPath | None, options.shown("that of the training")] = None,
    split: Annotated[str, "On whose images the file is compared."] = "val",
    images: Annotated[
        options.Count, "Most images to compare on, spread evenly over the split."
    ] = 128,
    max_ap_drop: Annotated[
        options.Fraction,
        "AP50-95, as a fraction, that the file may lose and still be called good.",
    ] = 0.01,
    min_agreement: Annotated[
        options.Fraction,
        "Of fp16, bf16 and int8: how far the detections must agree with PyTorch's, 1 for the same "
        "boxes.",
    ] = 0.95,
    output: Annotated[
        options.File | None,
        options.shown("beside the weights, with the precision in its name"),
        "The file: .onnx, or .xml with a .bin beside it. A good one replaces what is there; one "
        "that is not good gets -not-good into its name.",
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
    request = ExportSettings(
        format=format,
        precision=precision,
        imgsz=imgsz,
        batch=None if dynamic in ("batch", "all") else batch,
        any_size=dynamic in ("size", "all"),
        nms=_nms_settings(checkpoint, settings, nms=nms),
        max_ap_drop=max_ap_drop,
        min_agreement=min_agreement,
    )
    file = output or weights.with_name(f"{weights.stem}-{precision}{SUFFIXES[format]}")
    check_request(checkpoint, file, request)
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
                request,
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
    checkpoint: "Checkpoint", given: dict[str, Any], *, nms: bool
) -> "NMSSettings | None":
    """Returns the settings of the NMS in the graph, None where there is to be none.

    Raises:
        ConfigError: a setting is out of range, or given although there is to be none.
    """
    from ossa.export.graph import NMSSettings, usual_confidence
    from ossa.schema import validated

    if nms:
        settings = {"confidence": usual_confidence(checkpoint), **given}
        return validated(NMSSettings, settings, where="--nms")
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
    from ossa.export.openvino import CALIBRATION_IMAGES
    from ossa.export.parity import some_images

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

    compared = done.parity
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
