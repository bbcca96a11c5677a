"""`ossa bench`: how fast detectors are here, by a protocol that the results state."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.escaping import print_line
from ossa.machine import others_busy

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.cost.benchmark import Protocol


@command(
    panels={
        "Protocol (by default that of ConvNeXt-YOLO)": "imgsz batch warmup runs precision runtime "
        "memory_format training_form",
        "Every runtime, with its price": "runtimes weights data split",
        options.MACHINE_PANEL: "output",
    }
)
def bench(
    *,
    models: Annotated[list[str] | None, options.ModelArgument] = None,
    imgsz: Annotated[
        options.Pixels | None,
        typer.Option(min=32, show_default="640, or that of the exported file"),
        "Side of the square input in pixels.",
    ] = None,
    batch: options.Batch = 1,
    warmup: Annotated[options.Natural, typer.Option(max=1_000_000), "Runs not timed."] = 100,
    runs: Annotated[options.Count, typer.Option(max=1_000_000), "Runs timed."] = 300,
    precision: Annotated[Literal["fp32", "bf16"], "Of weights and features."] = "fp32",
    runtime: options.Runtime = "auto",
    memory_format: Annotated[
        Literal["channels_last", "contiguous"], "Of weights and features."
    ] = "channels_last",
    training_form: Annotated[bool, "Time branches and batch norms as they are trained."] = False,
    classes: options.Classes = 80,
    neck: options.Neck = "s",
    neck_type: options.NeckType = "pafpn",
    head: options.Head = "anchor",
    runtimes: Annotated[Literal["all"] | None, "Every runtime and precision on the CPU."] = None,
    weights: Annotated[
        options.Weights | None, "Time the detector of a checkpoint, or an exported file as it is."
    ] = None,
    data: Annotated[
        options.DataPath | None, "With --weights: for the AP of each row, and to calibrate int8."
    ] = None,
    split: Annotated[str, "With --data: of the AP."] = "val",
    output: Annotated[options.Folder | None, "Also write rows and command as JSON."] = None,
    device: options.Device = None,
    threads: options.Threads = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
) -> None:
    """Time detectors and runtimes, several of them turn by turn.

    Once from the image on the device to detections, as in evaluation (confidence 0.001, NMS IoU
    0.6), and once the network alone. An exported file is timed with its precision, and one with NMS
    in its graph with that, both times. The images are random, and so are the weights of a MODEL:
    hardly a box survives the confidence, so NMS costs less than on a crowded photograph.

    [bold]Examples[/bold]

      ossa bench resnet50 convnext_tiny --neck s --runs 30 --warmup 5 --threads 2

      ossa bench --runtimes all --weights yolov5n.pt --data coco128 --runs 30 --warmup 5

      ossa bench --weights best-int8.xml --threads 1
    """
    from ossa.cli.console import Console, print_json
    from ossa.config import check_imgsz
    from ossa.cost.benchmark import Protocol, backends_here, write_rows

    models = list(dict.fromkeys(models or []))
    file = _exported_file(models, weights, data, batch, alone=not (runtimes or training_form))
    side = 640 if imgsz is None else imgsz
    check_imgsz(side, stride=32)
    device = options.choose_device("cpu" if file is not None and device is None else device)
    if runtimes is not None and (training_form or device != "cpu"):
        raise ConfigError("--runtimes all times what is deployed on the CPU: add --device cpu")
    protocol = Protocol(
        *(side, batch, warmup, runs, device, precision, threads, memory_format),
        form="training" if training_form else "deployed",
        runtime=_runtime(runtime, device, precision, training_form=training_form),
    )
    if output is not None:
        options.check_writable("--output", output)
        output.mkdir(parents=True, exist_ok=True)
    with Console() as console:
        parts = {"neck": neck, "neck_type": neck_type, "head": head}
        settings = {"num_classes": classes, **parts, "imgsz": side}
        more: dict[str, Any] = {}
        if file is not None:
            detectors, protocol = _exported(file, protocol, imgsz=imgsz, runtime=runtime)
        else:
            detectors, more = _detectors(models, settings, weights, data, split, console)
        if runtimes is not None:
            more["backends"] = backends_here(calibrated="calibration" in more)
        about = _describe(protocol, runtimes)
        console.note(f"timing {', '.join(detectors)}: {about}")
        if busy := others_busy():
            console.note(busy)
        rows, protocol = _time(detectors, protocol, console, free=runtime == "auto", more=more)
        if output is not None:
            extra = {"classes": classes, **parts, "runtimes": runtimes, "weights": weights}
            extra |= {"data": data, "split": split if data else None}
            if file is not None:  # which has its own
                extra = {"weights": file, "precision": None}
            written = write_rows(rows, output, command=_command(models, protocol, extra))
            console.note(f"written to {written}")
    if as_json:
        print_json(rows)
    else:
        _print_table(rows, _describe(protocol, runtimes))


def _runtime(wanted: str, device: str, precision: Any, *, training_form: bool) -> Any:
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
            expected="--runtime torch, which alone runs --training-form and GPUs here",
            found=f"--runtime {wanted}",
        )
    if wanted != "torch":
        require(wanted, purpose=f"--runtime {wanted}")
    return wanted


def _exported_file(
    models: Sequence[str], weights: Path | None, data: str | None, batch: int, *, alone: bool
) -> Path | None:
    """Returns the weights if they are an exported file, which is timed `alone`.

    Raises:
        ConfigError: what is asked for does not go together.
    """
    from ossa.export.select import is_exported

    if not models and weights is None:
        raise ConfigError(expected="a MODEL or --weights to time", found="neither")
    if data is not None and (models or batch != 1):
        raise ConfigError(
            expected="--data with --weights alone, whose AP it is for, one image at a time",
            found="a MODEL or --batch",
        )
    if weights is None or not is_exported(weights):
        return None
    if models or data is not None or not alone:
        others = "MODEL, --data, --runtimes and --training-form"
        raise ConfigError(f"an exported file is timed as it is, without {others}", path=weights)
    return weights


def _exported(
    file: Path, protocol: "Protocol", *, imgsz: int | None, runtime: Any
) -> "tuple[dict[str, Any], Protocol]":
    """Returns an exported file as it runs, by its name, and the protocol with what it says."""
    import torch

    from ossa.export.select import input_side, open_exported

    asked = None if protocol.precision == "fp32" else protocol.precision
    threads = protocol.threads or torch.get_num_threads()  # as many as checkpoints are timed with
    opened = open_exported(file, runtime=runtime, precision=asked, threads=threads)
    side = input_side(opened, imgsz, device=protocol.device)
    what: Any = {"runtime": opened.name, "precision": opened.precision}
    return {str(file): opened}, replace(protocol, imgsz=side, **what)


def _detectors(
    models: Sequence[str],
    settings: dict[str, Any],
    weights: Any,
    data: str | None,
    split: str,
    console: "Console",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns detectors by name, and the images that are scored and those that calibrate int8."""
    from ossa.data.reading import read_data
    from ossa.evaluate.evaluator import check_classes
    from ossa.export.openvino import CALIBRATION_IMAGES
    from ossa.export.parity import some_images
    from ossa.models.checkpoint import detector_from, read_checkpoint
    from ossa.models.detector import create_detector

    detectors = {model: create_detector(model, **settings) for model in models}
    if weights is None:
        return detectors, {}
    checkpoint = read_checkpoint(weights)
    detectors[str(weights)] = detector_from(checkpoint)
    if data is None:
        return detectors, {}
    report = read_data(data, split)
    console.faults(report)
    check_classes(checkpoint.names, report.index, weights=weights, data=data)
    calibration = some_images(read_data(data, "train").index, CALIBRATION_IMAGES)
    return detectors, {"scored_on": report.index, "calibration": calibration}


def _time(
    detectors: dict[str, Any],
    protocol: "Protocol",
    console: "Console",
    *,
    free: bool,
    more: dict[str, Any],
) -> "tuple[list[dict[str, Any]], Protocol]":
    """Returns rows and their protocol: PyTorch's if a `free` runtime cannot run a network."""
    from ossa.cost.benchmark import bench_detectors

    with console.progress("timing") as on_images:
        more["on_images"] = on_images
        try:
            return bench_detectors(detectors, protocol, **more), protocol
        except UnsupportedBackbone as error:
            if not free or "backends" in more:
                raise
            console.note(f"{error}; all are timed in PyTorch")
        protocol = replace(protocol, runtime="torch")
        return bench_detectors(detectors, protocol, **more), protocol


def _command(models: list[str], protocol: "Protocol", extra: dict[str, Any]) -> str:
    """Returns the command with every setting that the result depends on spelt out."""
    settings = {**asdict(protocol), **extra}
    form = settings.pop("form")
    words = ["ossa", "bench", *models]
    for name, value in settings.items():
        words += [] if value is None else ["--" + name.replace("_", "-"), str(value)]
    return shlex.join([*words, *["--training-form"] * (form == "training")])


def _describe(protocol: "Protocol", runtimes: str | None) -> str:
    how = f"{protocol.precision}, {protocol.memory_format}, {protocol.runtime}"
    return (
        f"{protocol.form} form, batch {protocol.batch}, {protocol.imgsz} x {protocol.imgsz} px, "
        f"{protocol.warmup} runs to warm up and {protocol.runs} timed, "
        f"{'every runtime and precision' if runtimes else how} on {protocol.device}"
    )


def _print_table(rows: list[dict[str, Any]], protocol: str) -> None:
    from ossa.cli.console import fraction, new_table, print_table

    titles = ("timed", "mean", "median", "95%", "per image", "images per second")
    several = len({(row["runtime"], row["precision"]) for row in rows}) > 1
    scored = "ap" in rows[0]
    table = new_table("model", *titles, *["runtime"] * several, *["AP50-95"] * scored)
    for row in rows:
        more = [f"{row['runtime']} {row['precision']}"] * several
        more += [fraction(row.get("ap"))] * scored
        for what, suffix in (("with decoding and NMS", ""), ("the network alone", "_network")):
            keys = ("mean_ms", "median_ms", "p95_ms", "ms_per_image")
            figures = [f"{row[key + suffix]:.2f} ms" for key in keys]
            rate = f"{row['images_per_second' + suffix]:.1f}"
            first, last = ("", []) if suffix else (row["model"], more)
            table.add_row(first, what, *figures, rate, *last)
    print_table(table)
    first = rows[0]
    where = f"{first['hardware']}, threads: {first['threads']}, torch {first['torch']}"
    where += ", convolutions in TF32" if first["tf32_convolutions"] else ""
    print_line()
    print_line(f"{protocol} ({where})")
