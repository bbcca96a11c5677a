"""Conversions of checkpoints, kept in the user's cache folder."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ossa import __version__
from ossa.data.annotations import DatasetIndex
from ossa.data.index_cache import cache_folder
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export import openvino as quantize
from ossa.export.backends import AnyRuntime, ExportedRuntime, SuppressedRuntime, TorchRuntime
from ossa.export.graph import (
    ExportDescription,
    LogitsGraph,
    Precision,
    can_run,
    describe,
    require,
    strides_of,
    takes_rectangles,
    usual_confidence,
)
from ossa.export.open import RuntimeName, open_exported
from ossa.models.checkpoint import Checkpoint, detector_from
from ossa.models.detector import Detector

_FILE_OF = {"openvino": "model.xml", "onnxruntime": "model.onnx"}
_TITLE_OF = {"openvino": "OpenVINO", "onnxruntime": "ONNX"}


def converted(
    checkpoint: Checkpoint,
    *,
    imgsz: int,
    runtime: RuntimeName,
    precision: Precision,
    threads: int | None,
    on_conversion: Callable[[str], object] = lambda sentence: None,
) -> ExportedRuntime | SuppressedRuntime:
    """Returns a checkpoint as OpenVINO or ONNX Runtime runs it, converted the first time only.

    Any batch and, where the network takes it, any size. A damaged entry is converted again; where
    the cache cannot be written, every time. `on_conversion` is told before it begins.

    Raises:
        ConfigError: the runtime is not installed.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    require(runtime, purpose=f"--runtime {runtime}")
    key = _key(checkpoint, imgsz, runtime)
    entry = cache_folder() / "converted" / key
    kept = _can_be_written(entry)
    with tempfile.TemporaryDirectory() as elsewhere:
        if not kept:
            entry = Path(elsewhere) / key
            entry.mkdir()

        def convert() -> None:
            once = (
                f"once, kept in {entry.parent}" if kept else f"{cache_folder()} cannot be written"
            )
            on_conversion(f"converting to {_TITLE_OF[runtime]} ({once})")
            _convert_into(entry, checkpoint, imgsz=imgsz, runtime=runtime)

        file = entry / _FILE_OF[runtime]
        if not file.is_file():
            convert()
        try:
            return open_exported(
                file, runtime=runtime, precision=precision, threads=threads, is_own=True
            )
        except CheckpointError:
            convert()
            return open_exported(
                file, runtime=runtime, precision=precision, threads=threads, is_own=True
            )


def _can_be_written(entry: Path) -> bool:
    """Returns whether the folder of an entry exists or could be made just now."""
    try:
        entry.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(entry.parent, os.W_OK) or any(entry.iterdir())


def _key(checkpoint: Checkpoint, imgsz: int, runtime: str) -> str:
    """Returns the name of an entry: the version may convert otherwise than the one before."""
    return f"{checkpoint.origin['sha256'][:32]}-{imgsz}-{runtime}-{__version__}"


def _convert_into(entry: Path, checkpoint: Checkpoint, *, imgsz: int, runtime: str) -> None:
    """Makes an entry, whole or not at all, whoever makes it at the same time."""
    detector = detector_from(checkpoint)
    description = _described(detector, checkpoint, imgsz)
    graph = LogitsGraph(detector)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        file = Path(folder) / _FILE_OF[runtime]
        if runtime == "openvino":
            model = openvino_format.convert(graph, description)
            openvino_format.save(model, file, precision="fp32")
        else:
            model = onnx_format.convert(graph, description)
            onnx_format.save(model, file, precision="fp32")
        # The file that is looked for comes last.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == file.name):
            part.replace(entry / part.name)


def _described(detector: Detector, checkpoint: Checkpoint, imgsz: int) -> ExportDescription:
    any_size = takes_rectangles(detector, imgsz=imgsz, stride=max(strides_of(detector)))
    return describe(
        detector,
        names=checkpoint.names,
        imgsz=imgsz,
        batch=None,
        any_size=any_size,
        precision="fp32",
        confidence=usual_confidence(checkpoint),
        origin=checkpoint.origin,
    )


def runtimes_by_speed(
    device: torch.device | str, precision: Precision | None = None
) -> list[RuntimeName]:
    """Returns what runs checkpoints here, the fastest first; PyTorch, the last, runs every one.

    Args:
        device: 'cpu', 'cuda', 'cuda:1', ...; GPUs are PyTorch's.
        precision: fp32 if None; ONNX Runtime computes a checkpoint in no other.
    """
    faster: list[RuntimeName] = []
    if is_cpu(device) and can_run("openvino"):
        faster.append("openvino")
    if is_cpu(device) and can_run("onnxruntime") and precision in (None, "fp32"):
        faster.append("onnxruntime")
    return [*faster, "torch"]


def is_cpu(device: torch.device | str) -> bool:
    """Returns whether a device, which need not exist, is the processor."""
    return str(device) == "cpu"


def side_of_input(
    exported: ExportedRuntime | SuppressedRuntime,
    imgsz: int | None,
    *,
    device: torch.device | str = "cpu",
) -> int:
    """Returns the longer side in pixels of what an exported file gets: its own if `imgsz` is None.

    Raises:
        ConfigError: the file takes no other size than its own, or the device is none it runs on.
    """
    about = exported.description
    if not is_cpu(device):
        raise ConfigError(
            f"{exported.name} runs on the CPU here, found the device "
            f"{str(device)!r}: leave --device out, or give the checkpoint"
        )
    if imgsz not in (None, about.imgsz) and not about.any_size:
        raise ConfigError(
            f"this file was exported for {about.imgsz} px and takes no other size, found {imgsz}: "
            "leave --imgsz out, or export with --dynamic size"
        )
    return imgsz or about.imgsz


def runtime_for_checkpoint(
    checkpoint: Checkpoint,
    *,
    imgsz: int,
    device: torch.device | str = "cpu",
    runtime: RuntimeName = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    on_conversion: Callable[[str], object] = lambda sentence: None,
) -> AnyRuntime:
    """Returns what runs a checkpoint, converted where the runtime needs it.

    A conversion is kept in ossa's cache folder, by the sha256 of the weights. In fp32, which is
    the precision if none is given, its scores differ from PyTorch's by less than 0.001 and its
    boxes by less than 0.1 px.

    Args:
        checkpoint: a whole detector.
        imgsz: longer side of the network input in pixels.
        device: 'cpu', 'cuda', 'cuda:1', ...
        runtime: 'auto' for the fastest of those installed that run the network on the device.
        precision: fp32, or bf16 where it is asked for.
        threads: of the runtime on the CPU; its own choice if None.
        on_conversion: given a sentence before a conversion begins, which takes seconds.

    Raises:
        ConfigError: the runtime is not installed, or does not run this device or precision.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    if runtime == "auto":
        *faster, runtime = runtimes_by_speed(device, precision)
        settings: dict[str, Any] = {
            "imgsz": imgsz,
            "device": device,
            "precision": precision,
            "threads": threads,
            "on_conversion": on_conversion,
        }
        for name in faster:
            with suppress(UnsupportedBackbone):
                return runtime_for_checkpoint(checkpoint, **settings, runtime=name)
    if runtime == "torch":
        return TorchRuntime(detector_from(checkpoint), device=device, precision=precision or "fp32")
    if not is_cpu(device):
        raise ConfigError(
            f"{runtime} runs on the CPU here, found the device {str(device)!r}: take --runtime "
            "torch"
        )
    if precision not in (None, "fp32", "bf16") or (precision == "bf16" and runtime != "openvino"):
        raise ConfigError(
            f"{runtime} computes {precision} from a file that was exported so: ossa export "
            f"--precision {precision}"
        )
    return converted(
        checkpoint,
        imgsz=imgsz,
        runtime=runtime,
        precision=precision or "fp32",
        threads=threads,
        on_conversion=on_conversion,
    )


def runtime_in_memory(
    detector: Detector,
    *,
    imgsz: int,
    batch: int,
    runtime: RuntimeName,
    precision: Precision = "fp32",
    threads: int | None = None,
    calibration: DatasetIndex | None = None,
) -> ExportedRuntime:
    """Returns a detector as OpenVINO or ONNX Runtime runs it, for one batch of squares of one size.

    Args:
        detector: in the training form.
        imgsz: side of the images in pixels.
        batch: images in one run.
        runtime: 'openvino' or 'onnxruntime'.
        precision: of the computation.
        threads: the runtime's own choice if None.
        calibration: images from which the ranges of int8 are taken.

    Raises:
        ConfigError: a package is not installed, or the runtime does not compute in this precision.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    head: Any = detector.head
    description = describe(
        detector,
        names=tuple(map(str, range(head.num_classes))),
        imgsz=imgsz,
        batch=batch,
        any_size=False,
        precision=precision,
    )
    if runtime != "openvino" and precision == "bf16":
        raise ConfigError(f"{runtime} does not compute in bf16 here: take --runtime openvino")
    of_format: Any = openvino_format if runtime == "openvino" else onnx_format
    model = of_format.convert(LogitsGraph(detector), description)
    if calibration is not None:
        model = quantize.quantized(model, description, calibration)
    if runtime == "openvino":
        engine = openvino_format.engine(model, precision=precision, threads=threads)
    else:
        content = model.SerializeToString()
        session = onnx_format.open_session(content, where="the network", threads=threads)
        engine = onnx_format.engine(session)
    return ExportedRuntime(engine, description, name=runtime, precision=precision)
