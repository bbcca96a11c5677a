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
    weights: options.Weights,
    format: Annotated[Literal["onnx", "openvino"], "Of the file."] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        "fp16 halves the file and computes in fp32 on a CPU; bf16 is for openvino; int8 is "
        "calibrated on the split train.",
    ] = "fp32",
    imgsz: options.TrainedSide = None,
    batch: options.Batch = 1,
    dynamic: Annotated[
        Literal["none", "batch", "size", "all"],
        "What a run may choose: the number of images, their height and width, or both.",
    ] = "none",
    nms: Annotated[
        bool, "Put decoding and NMS into the graph, which returns boxes instead of logits."
    ] = False,
    settings: dict[str, Any],
    data: Annotated[options.DataPath | None, options.shown("that of the training")] = None,
    split: Annotated[str, "On whose images the file is compared."] = "val",
    images: Annotated[options.Count, "Most images to compare on, spread over the split."] = 128,
    max_ap_drop: Annotated[
        options.Fraction, "AP50-95, as a fraction, that a good file may lose."
    ] = 0.01,
    min_agreement: Annotated[
        options.Fraction, "Agreement with PyTorch's boxes that fp16, bf16 and int8 need."
    ] = 0.95,
    output: Annotated[
        options.File | None,
        options.shown("beside the weights, with the precision in its name"),
        "The file: .onnx, or .xml with a .bin beside it. One that is not good is named -not-good.",
    ] = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a detector as a file for another runtime.

    The file is run and compared with PyTorch on real images before it is called done. Names,
    sizes, strides, thresholds, letterbox and normalisation travel inside it: `ossa predict
    --weights FILE` needs nothing else. Exit code 1 where it is not good.

    [bold]Examples[/bold]

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
    ending = f"{precision}{'-nms' * nms}{SUFFIXES[format]}"
    file = output or weights.with_name(f"{weights.stem}-{ending}")
    check_request(checkpoint, file, request)
    run = checkpoint.details.get("run")
    source = data or (run.get("data") if isinstance(run, dict) else None)
    if source is None:
        raise ConfigError(
            expected="a data set, on whose images the file is compared with PyTorch",
            found="none in the weights",
            path=weights,
            advice="give --data",
        )
    with Console() as console:
        compared, calibration = _images(source, split, images, console, int8=precision == "int8")
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
            expected="--nms beside --conf, --iou and --max-det, which are for it",
            advice="add it, or leave them to ossa predict",
        )
    return None


def _images(
    data: str, split: str, count: int, console: "Console", *, int8: bool
) -> "tuple[DatasetIndex, DatasetIndex | None]":
    """Returns images to compare on, and others that calibrate `int8`.

    The latter are of the split train. Where more than half of it is compared on, as where train and
    val are the same, every second image of the former calibrates instead.

    Raises:
        ConfigError: there is no object to compare on, or one image only for int8.
    """
    import numpy as np

    from ossa.data.annotations import paths_of, select_images
    from ossa.data.reading import read_data
    from ossa.export.openvino import CALIBRATION_IMAGES
    from ossa.export.parity import some_images

    def read(split: str, count: int) -> "DatasetIndex":
        report = read_data(data, split)
        console.faults(report)
        if not len(report.index.boxes_xyxy):
            raise ConfigError(
                expected=f"objects in split '{split}', to take the AP from", path=data
            )
        return some_images(report.index, count)

    compared = read(split, count)
    if not int8:
        return compared, None
    train = read("train", sys.maxsize)
    free = ~np.isin(paths_of(train), paths_of(compared))
    if 2 * free.sum() >= len(free):
        return compared, some_images(select_images(train, free), CALIBRATION_IMAGES)
    if len(compared) < 2:
        expected = "images that calibrate int8, and others to compare on"
        raise ConfigError(expected=expected, found="one image", path=data)
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
    if done.description.nms is not None:
        print_line(
            "Both AP are of what the NMS in the file lets through: from a confidence of "
            "{confidence:g} on, by an IoU of {nms_iou:g} and at most {max_detections} an image. "
            "ossa val counts from {least:g} on, and its AP is therefore higher.".format(
                **done.description.nms.model_dump(), least=EvaluateConfig().confidence
            )
        )
    if (apart := compared.squares) is not None:
        print_line(
            f"The file sees squares of {done.description.imgsz} px, as in ossa val; ossa predict "
            f"gives its checkpoint rectangles. On the {apart['images']} images that are no squares "
            f"scores then differ by up to {apart['score']:.2g} and boxes by up to "
            f"{apart['box_px']:.1f} px, and {apart['unmatched']} detections (PyTorch: "
            f"{apart['detections']}) are reported by one only. With --dynamic size both see "
            "rectangles."
        )
