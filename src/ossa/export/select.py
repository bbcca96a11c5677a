"""From an exported file or a checkpoint to what runs it; converted checkpoints are cached."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ossa import __version__
from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import cache_folder
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, legible
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.backends import AnyRuntime, Engine, ExportedRuntime, NMSRuntime, TorchRuntime
from ossa.export.graph import (
    ExportDescription,
    LogitsGraph,
    Precision,
    can_run,
    describe,
    is_installed,
    require,
    strides_of,
    takes_rectangles,
    usual_confidence,
)
from ossa.export.sandbox import try_to_open
from ossa.export.screening import screen
from ossa.models.checkpoint import (
    EXPORTED_SUFFIXES,
    Checkpoint,
    detector_from,
    refuse_torchscript,
)
from ossa.models.detector import Detector

RuntimeName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]
_FILE_OF = {"openvino": "model.xml", "onnxruntime": "model.onnx"}
_TITLE_OF = {"openvino": "OpenVINO", "onnxruntime": "ONNX"}


def is_exported(path: Path | str) -> bool:
    """Returns whether a path is, by its name, that of an exported file or folder."""
    path = Path(path)
    return path.suffix in EXPORTED_SUFFIXES or path.is_dir()


def open_exported(
    path: Path | str,
    *,
    runtime: RuntimeName = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    is_own: bool = False,
) -> ExportedRuntime | NMSRuntime:
    """Returns what runs an exported file on the CPU.

    A file that anybody may have written is first opened in a process of limited memory and time.

    Args:
        path: an .onnx, an OpenVINO .xml or the folder that holds one.
        runtime: for an .onnx ONNX Runtime or OpenVINO, 'auto' for OpenVINO where it is installed
            and the file is not int8; an .xml is OpenVINO's.
        precision: of the computation; that of the file if not given. OpenVINO computes any file
            in bf16, too.
        threads: the runtime's choice if None.
        is_own: whether this process or an earlier one of ossa wrote the file.

    Raises:
        CheckpointError: missing, damaged, of another program, or unsafe.
        ConfigError: the runtime is not installed, or does not run this file.
    """
    file = _file_of(Path(path))
    refuse_torchscript(file)
    screen(file)
    name = _runtime_of(file, runtime)
    if not is_own:
        _try(file, name)
    if name == "openvino":
        read = openvino_format.read if file.suffix == ".xml" else openvino_format.read_onnx
        model, description = read(file)
        # OpenVINO 2026.4 fuses an ONNX file's int8 wrongly: yolov5n then detects nothing at all.
        if file.suffix == ".onnx" and description.precision == "int8":
            if runtime == "openvino":
                raise ConfigError(
                    f"OpenVINO does not compute the int8 of {file} as ONNX means it: take "
                    "--runtime onnxruntime, or export the checkpoint with --format openvino"
                )
            name = "onnxruntime"
        else:
            computed = precision or description.precision
            engine = openvino_format.engine(model, precision=computed, threads=threads)
            return _file_runtime(file, engine, description, name=name, precision=precision)
    session = onnx_format.open_session(file, where=str(file), threads=threads)
    description = onnx_format.description_in(session, where=str(file))
    engine = onnx_format.engine(session)
    return _file_runtime(file, engine, description, name=name, precision=precision)


def _file_of(path: Path) -> Path:
    """Returns the file itself, of a folder the one .xml in it."""
    if path.is_dir():
        inside = sorted(path.glob("*.xml"))
        if len(inside) != 1:
            best = path / "best.safetensors"
            raise CheckpointError(
                f"expected one OpenVINO .xml in the folder {path}, found {len(inside)}: name the "
                "file itself" + (f", as {best}" if best.is_file() else "")
            )
        return inside[0]
    if not path.is_file():
        raise CheckpointError(f"expected an exported file at {path}, found none")
    return path


def _runtime_of(file: Path, runtime: RuntimeName) -> str:
    """Returns the runtime to open a file with; raises ConfigError for one that cannot."""
    if file.suffix != ".onnx":
        if runtime not in ("auto", "openvino"):
            raise ConfigError(
                f"{file} is run by openvino, found --runtime {runtime}: leave it out, or give the "
                "checkpoint or its .onnx"
            )
        return "openvino"
    if runtime == "torch":
        raise ConfigError(f"PyTorch does not run {file}: take --runtime onnxruntime or openvino")
    if runtime == "auto":
        return "openvino" if is_installed("openvino") else "onnxruntime"
    return runtime


def _try(file: Path, runtime: str) -> None:
    """Raises CheckpointError for a file that cannot be opened within limits."""
    require(runtime, purpose=f"running {file}")
    why = try_to_open(file, runtime=runtime)
    if why is not None:
        kind = "OpenVINO" if file.suffix == ".xml" else "ONNX"
        raise CheckpointError(
            f"{file} is damaged or no {kind} file of ossa ({legible(why)}): fetch or export it "
            "again"
        )


def _file_runtime(
    file: Path,
    engine: Engine,
    description: ExportDescription,
    *,
    name: str,
    precision: Precision | None,
) -> ExportedRuntime | NMSRuntime:
    own = description.precision
    if precision not in (None, own) and (name, precision) != ("openvino", "bf16"):
        raise ConfigError(
            f"{file} holds {own}, found --precision {precision}: export the checkpoint with it"
        )
    kind = ExportedRuntime if description.nms is None else NMSRuntime
    return kind(engine, description, name=name, precision=precision or own)


def input_side(
    exported: ExportedRuntime | NMSRuntime,
    imgsz: int | None,
    *,
    device: torch.device | str = "cpu",
) -> int:
    """Returns the longer side in pixels of an exported file's input: its own if `imgsz` is None.

    Raises:
        ConfigError: the file takes no other size than its own, or the device is not the CPU.
    """
    about = exported.description
    if not _is_cpu(device):
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


def runtimes_by_speed(
    device: torch.device | str, precision: Precision | None = None
) -> list[RuntimeName]:
    """Returns what runs checkpoints here, the fastest first; PyTorch, the last, runs every one.

    Args:
        device: 'cpu', 'cuda', 'cuda:1', ...; GPUs are PyTorch's.
        precision: fp32 if None; ONNX Runtime computes a checkpoint in no other.
    """
    faster: list[RuntimeName] = []
    if _is_cpu(device) and can_run("openvino"):
        faster.append("openvino")
    if _is_cpu(device) and can_run("onnxruntime") and precision in (None, "fp32"):
        faster.append("onnxruntime")
    return [*faster, "torch"]


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
    names: list[RuntimeName] = (
        runtimes_by_speed(device, precision) if runtime == "auto" else [runtime]
    )
    for name in names:
        if name == "torch":
            break
        _check_conversion(name, device, precision)
        # With 'auto', what one runtime cannot express is left to the next.
        with suppress(*((UnsupportedBackbone,) if runtime == "auto" else ())):
            return _converted(
                checkpoint,
                imgsz=imgsz,
                runtime=name,
                precision=precision or "fp32",
                threads=threads,
                on_conversion=on_conversion,
            )
    return TorchRuntime(detector_from(checkpoint), device=device, precision=precision or "fp32")


def _is_cpu(device: torch.device | str) -> bool:
    return str(device) == "cpu"


def _check_conversion(
    runtime: str, device: torch.device | str, precision: Precision | None
) -> None:
    if not _is_cpu(device):
        raise ConfigError(
            f"{runtime} runs on the CPU here, found the device {str(device)!r}: take --runtime "
            "torch"
        )
    if precision not in (None, "fp32", "bf16") or (precision == "bf16" and runtime != "openvino"):
        raise ConfigError(
            f"{runtime} computes {precision} from a file that was exported so: ossa export "
            f"--precision {precision}"
        )


def _converted(
    checkpoint: Checkpoint,
    *,
    imgsz: int,
    runtime: RuntimeName,
    precision: Precision,
    threads: int | None,
    on_conversion: Callable[[str], object],
) -> ExportedRuntime | NMSRuntime:
    """Returns a checkpoint as OpenVINO or ONNX Runtime runs it, converted the first time only.

    Any batch and, where the network takes it, any size. A damaged cache entry is converted again;
    where the cache cannot be written, every checkpoint is converted every time.
    """
    require(runtime, purpose=f"--runtime {runtime}")
    # A newer version may convert differently.
    key = f"{checkpoint.origin['sha256'][:32]}-{imgsz}-{runtime}-{__version__}"
    entry = cache_folder() / "converted" / key
    kept = _is_writable(entry)
    where = f"once, kept in {entry.parent}" if kept else f"{cache_folder()} cannot be written"
    with tempfile.TemporaryDirectory() as elsewhere:
        if not kept:
            entry = Path(elsewhere) / key
            entry.mkdir()
        file = entry / _FILE_OF[runtime]
        if file.is_file():
            with suppress(CheckpointError):
                return open_exported(
                    file, runtime=runtime, precision=precision, threads=threads, is_own=True
                )
        on_conversion(f"converting to {_TITLE_OF[runtime]} ({where})")
        _convert_into(entry, checkpoint, imgsz=imgsz, runtime=runtime)
        return open_exported(
            file, runtime=runtime, precision=precision, threads=threads, is_own=True
        )


def _is_writable(entry: Path) -> bool:
    """Returns whether the folder of a cache entry exists or could be made just now."""
    try:
        entry.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(entry.parent, os.W_OK) or any(entry.iterdir())


def _convert_into(entry: Path, checkpoint: Checkpoint, *, imgsz: int, runtime: str) -> None:
    """Makes a cache entry, whole or not at all, whoever makes it at the same time."""
    detector = detector_from(checkpoint)
    any_size = takes_rectangles(detector, imgsz=imgsz, stride=max(strides_of(detector)))
    description = describe(
        detector,
        names=checkpoint.names,
        imgsz=imgsz,
        batch=None,
        any_size=any_size,
        precision="fp32",
        confidence=usual_confidence(checkpoint),
        origin=checkpoint.origin,
    )
    of_format: Any = openvino_format if runtime == "openvino" else onnx_format
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        file = Path(folder) / _FILE_OF[runtime]
        of_format.save(
            of_format.convert(LogitsGraph(detector), description), file, precision="fp32"
        )
        # The file that is looked for comes last.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == file.name):
            part.replace(entry / part.name)


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
        model = openvino_format.quantized(model, description, calibration)
    if runtime == "openvino":
        engine = openvino_format.engine(model, precision=precision, threads=threads)
    else:
        content = model.SerializeToString()
        session = onnx_format.open_session(content, where="the network", threads=threads)
        engine = onnx_format.engine(session)
    return ExportedRuntime(engine, description, name=runtime, precision=precision)
