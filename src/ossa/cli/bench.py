"""`ossa bench`: how fast detectors are here, by a protocol that the results state."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.cli.cost import checked_side
from ossa.cli.options import check_writable
from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.cost.benchmark import Protocol
    from ossa.export.graph import Precision
    from ossa.export.select import RuntimeName
    from ossa.models.detector import Detector

_LARGEST_STRIDE = 32
_PROTOCOL = "Protocol (as it stands, that of ConvNeXt-YOLO)"
_RUNTIMES = "Every runtime, with its price"


@command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x, or any timm architecture.",
            show_default=False,
        ),
    ] = None,
    imgsz: Annotated[
        int,
        typer.Option(
            *options.IMGSZ_NAMES,
            min=_LARGEST_STRIDE,
            metavar="PIXELS",
            help="Side of the square input in pixels.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = 640,
    batch: Annotated[
        int,
        typer.Option(
            *options.BATCH_NAMES,
            min=1,
            max=65_536,
            metavar="N",
            help="Images in one run.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = 1,
    warmup: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, metavar="N", help="Runs not timed.", rich_help_panel=_PROTOCOL
        ),
    ] = 100,
    runs: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, metavar="N", help="Runs timed.", rich_help_panel=_PROTOCOL
        ),
    ] = 300,
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Of weights and features.", rich_help_panel=_PROTOCOL),
    ] = "fp32",
    runtime: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        typer.Option(
            help="auto takes the fastest that is installed: OpenVINO, then ONNX Runtime (fp32) on "
            "a CPU, else PyTorch.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = "auto",
    memory_format: Annotated[
        Literal["channels_last", "contiguous"],
        typer.Option(help="Of weights and features.", rich_help_panel=_PROTOCOL),
    ] = "channels_last",
    training_form: Annotated[
        bool,
        typer.Option(
            "--training-form",
            help="Time branches and batch norms as they are trained, not added up and folded.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = False,
    classes: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Number of classes.")
    ] = 80,
    neck: Annotated[
        options.NeckScale, typer.Option(help="Scale of the neck behind a backbone.")
    ] = "s",
    runtimes: Annotated[
        Literal["all"] | None,
        typer.Option(
            help="Instead of models: one detector in every runtime and precision on the CPU.",
            show_default=False,
            rich_help_panel=_RUNTIMES,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="With --runtimes: a checkpoint of ossa, or an official yolov5*.pt.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=_RUNTIMES,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="With --runtimes: the data.yaml, or its folder, that the AP is taken on; its "
            "split train calibrates int8.",
            metavar="PATH",
            show_default=False,
            rich_help_panel=_RUNTIMES,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="With --runtimes: of the AP.", rich_help_panel=_RUNTIMES)
    ] = "val",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write the rows and the command as JSON into this folder, into a file "
            "named after the hardware.",
            metavar="FOLDER",
            rich_help_panel=options.MACHINE_PANEL,
            show_default=False,
        ),
    ] = None,
    device: options.Device = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Of PyTorch on the CPU.",
            rich_help_panel=options.MACHINE_PANEL,
            show_default="PyTorch's choice",
        ),
    ] = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Time detectors in their deployed form, several of them turn by turn.

    Once from the image on the device to detections, as in evaluation (confidence 0.001, NMS IoU
    0.6), and once the network alone. The weights are random, and so are the images: hardly a box
    survives the confidence, so suppression costs less than on a crowded photograph.

    [bold]Examples[/bold]

      ossa bench yolov5n yolov5s

      ossa bench resnet50 convnext_tiny --neck s --runs 30 --warmup 5 --threads 2

      ossa bench yolov5s --batch 32 --precision bf16 --device 0 --output results

      ossa bench --runtimes all --weights yolov5n.pt --data coco128 --runs 30 --warmup 5
    """
    from ossa.cli.bench_runtimes import bench_runtimes
    from ossa.cli.console import Console, print_json
    from ossa.cost.benchmark import Protocol, write_rows
    from ossa.models.detector import create_detector

    if runtimes is not None:
        times = {"imgsz": imgsz, "warmup": warmup, "runs": runs, "threads": threads}
        bench_runtimes(weights, data, split, **times, as_json=as_json)
        return
    if not models:
        raise ConfigError("expected a MODEL to time, or --runtimes all, found neither")
    models = list(dict.fromkeys(models))
    protocol = Protocol(
        imgsz=checked_side(imgsz),
        batch=batch,
        warmup=warmup,
        runs=runs,
        device=options.choose_device(device),
        precision=precision,
        memory_format=memory_format,
        threads=threads,
        form="training" if training_form else "deployed",
        runtime=_runtime(
            runtime, options.choose_device(device), precision, training_form=training_form
        ),
    )
    if output is not None:
        check_writable("--output", output)
        output.mkdir(parents=True, exist_ok=True)
    settings = {"num_classes": classes, "neck": neck, "imgsz": imgsz}
    with Console() as console:
        detectors = {model: create_detector(model, **settings) for model in models}
        console.note(f"timing {', '.join(models)}: {protocol.in_words()}")
        rows, protocol = _timed(detectors, protocol, console, free=runtime == "auto")
        if output is not None:
            command = _command(models, protocol, classes=classes, neck=neck)
            file = write_rows(rows, output, command=command)
            console.note(f"written to {file}")
    if as_json:
        print_json(rows)
    else:
        _print_table(rows, protocol)


def _runtime(
    wanted: "RuntimeName", device: str, precision: "Precision", *, training_form: bool
) -> Any:
    """Returns what is wanted, or the fastest of those installed that time this form.

    Raises:
        ConfigError: PyTorch alone runs a GPU here, and alone the form of the training.
    """
    from ossa.export.graph import require
    from ossa.export.select import runtimes_by_speed

    only_torch = training_form or device != "cpu"
    if wanted == "auto":
        return "torch" if only_torch else runtimes_by_speed(device, precision)[0]
    if wanted != "torch" and only_torch:
        raise ConfigError(
            f"PyTorch alone runs --training-form and GPUs here, found --runtime {wanted}: leave "
            "one of them out"
        )
    if wanted != "torch":
        require(wanted, purpose=f"--runtime {wanted}")
    return wanted


def _timed(
    detectors: "dict[str, Detector]", protocol: "Protocol", console: "Console", *, free: bool
) -> "tuple[list[dict[str, Any]], Protocol]":
    """Returns the rows and the protocol that they follow.

    That is one in PyTorch where the runtime of `protocol` cannot express a network and is `free` to
    be another.
    """
    from ossa.cost.benchmark import bench_detectors

    try:
        return bench_detectors(detectors, protocol), protocol
    except UnsupportedBackbone as fault:
        if not free:
            raise
        console.note(f"{fault}; all are timed in PyTorch")
    protocol = replace(protocol, runtime="torch")
    return bench_detectors(detectors, protocol), protocol


def _command(models: list[str], protocol: "Protocol", *, classes: int, neck: str) -> str:
    """Returns the command with every setting that the result depends on spelt out."""
    chosen = {
        "--imgsz": protocol.imgsz,
        "--batch": protocol.batch,
        "--warmup": protocol.warmup,
        "--runs": protocol.runs,
        "--precision": protocol.precision,
        "--runtime": protocol.runtime,
        "--memory-format": protocol.memory_format,
        "--classes": classes,
        "--neck": neck,
        "--device": protocol.device,
    }
    words = ["ossa", "bench", *models, *(str(word) for pair in chosen.items() for word in pair)]
    if protocol.threads is not None:
        words += ["--threads", str(protocol.threads)]
    if protocol.form == "training":
        words.append("--training-form")
    return shlex.join(words)


def _print_table(rows: list[dict[str, Any]], protocol: "Protocol") -> None:
    from ossa.cli.console import new_table, print_table

    table = new_table("model", "timed", "mean", "median", "95 %", "an image", "images per second")
    for row in rows:
        for what, suffix in (("with decoding and NMS", ""), ("the network alone", "_network")):
            keys = ("mean_ms", "median_ms", "p95_ms", "ms_per_image")
            figures = [f"{row[key + suffix]:.2f} ms" for key in keys]
            rate = f"{row['images_per_second' + suffix]:.1f}"
            table.add_row("" if suffix else row["model"], what, *figures, rate)
    print_table(table)
    first = rows[0]
    where = f"{first['hardware']}, threads: {first['threads']}, torch {first['torch']}"
    where += ", convolutions in TF32" if first["tf32_convolutions"] else ""
    print_line()
    print_line(f"{protocol.in_words()} ({where})")
