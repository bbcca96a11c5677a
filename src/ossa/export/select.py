"""From an exported file or a checkpoint to what runs it; converted checkpoints are cached."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ossa import __version__
from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import cache_folder
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.backends import AnyRuntime, ExportedRuntime, NMSRuntime, TorchRuntime
from ossa.export.graph import (
    ExportDescription,
    ExportSettings,
    LogitsGraph,
    Precision,
    can_run,
    describe,
    is_installed,
    read_description,
    require,
    takes_rectangles,
)
from ossa.export.sandbox import try_to_open
from ossa.export.screening import screen
from ossa.models.backbones.timm import own_code
from ossa.models.checkpoint import (
    EXPORTED_SUFFIXES,
    Checkpoint,
    detector_from,
    refuse_run_folder,
    refuse_torchscript,
)
from ossa.models.detector import Detector

RuntimeName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]
_SUFFIX_OF = {"openvino": ".xml", "onnxruntime": ".onnx"}


def is_exported(path: Path | str) -> bool:
    """Returns whether a path, by its name, leads to an exported file or folder."""
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
    """Returns what runs an .onnx, an OpenVINO .xml or the folder that holds one, on the CPU.

    A file that is not known to be `is_own`, written by ossa on this machine, is first opened in a
    process of limited memory and time.

    Args:
        path: of the file.
        runtime: of an .onnx; 'auto' is OpenVINO where it is installed and the file is not int8.
        precision: of the computation; by default as the file says. OpenVINO computes any in bf16.
        threads: the runtime's choice if None.
        is_own: see above.

    Raises:
        CheckpointError: missing, damaged, of another program, or unsafe.
        ConfigError: the runtime is not installed, or does not run this file.
    """
    file = _file_of(Path(path))
    refuse_torchscript(file)
    screen(file)
    known = ("openvino", "onnxruntime") if file.suffix == ".onnx" else ("openvino",)
    name: str = runtime
    if runtime == "auto":
        name = next(filter(is_installed, known), known[-1])
    elif runtime not in known:
        raise ConfigError(
            expected=f"--runtime {' or '.join(known)} for this file", found=runtime, path=file
        )
    require(name, purpose=f"running {file}")
    if not is_own and (why := try_to_open(file, runtime=name)) is not None:
        advice = "fetch or export it again"
        found = f"a damaged or foreign one: {why}"
        raise CheckpointError(expected="an exported file", found=found, path=file, advice=advice)
    if name == "openvino":
        model, text = openvino_format.read(file)
    else:
        model, text = onnx_format.read(file, threads=threads)
    description = read_description(text, path=file)
    own = description.precision
    # OpenVINO 2026.4 fuses an ONNX file's int8 wrongly: yolov5n then detects nothing at all.
    if (file.suffix, name, own) == (".onnx", "openvino", "int8"):
        if runtime == "openvino":
            raise ConfigError(
                "OpenVINO does not compute int8 as an ONNX file means it",
                path=file,
                advice="take --runtime onnxruntime, or export the checkpoint as --format openvino",
            )
        name, (model, _) = "onnxruntime", onnx_format.read(file, threads=threads)
    if precision not in (None, own) and (name, precision) != ("openvino", "bf16"):
        found, advice = f"--precision {precision}", "export the checkpoint with it"
        raise ConfigError(expected=f"the {own} of the file", found=found, path=file, advice=advice)
    computed = precision or own
    if name == "openvino":
        engine = openvino_format.engine(model, precision=computed, threads=threads)
    else:
        engine = onnx_format.engine(model)
    kind = ExportedRuntime if description.nms is None else NMSRuntime
    return kind(engine, description, name=name, precision=computed)


def _file_of(path: Path) -> Path:
    """Returns the file itself, of a folder the one .xml in it."""
    if path.is_dir():
        inside = sorted(path.glob("*.xml"))
        if len(inside) != 1:
            refuse_run_folder(path)
            raise CheckpointError(
                expected="one OpenVINO .xml in the folder",
                found=str(len(inside)),
                path=path,
                advice="name the file itself",
            )
        return inside[0]
    if not path.is_file():
        raise CheckpointError(expected="an exported file", path=path)
    return path


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
    _check_cpu(exported.name, device)
    if imgsz not in (None, about.imgsz) and not about.any_size:
        raise ConfigError(
            expected=f"{about.imgsz} px, the only size of this file",
            found=str(imgsz),
            advice="leave --imgsz out, or export with --dynamic size",
        )
    return imgsz or about.imgsz


def _check_cpu(runtime: str, device: torch.device | str) -> None:
    if str(device) != "cpu":
        raise ConfigError(
            expected=f"the device cpu, on which {runtime} runs here",
            found=str(device),
            advice="leave --device out, or give a checkpoint with --runtime torch",
        )


def runtimes_by_speed(
    device: torch.device | str, precision: Precision | None = None
) -> list[RuntimeName]:
    """Returns what runs checkpoints here, the fastest first; PyTorch, the last, runs every one.

    GPUs are PyTorch's, and ONNX Runtime computes a checkpoint in fp32 only.
    """
    names: list[RuntimeName] = ["torch"]
    if str(device) == "cpu" and can_run("onnxruntime") and precision in (None, "fp32"):
        names.insert(0, "onnxruntime")
    if str(device) == "cpu" and can_run("openvino"):
        names.insert(0, "openvino")
    return names


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
    """Returns what runs a checkpoint, converted where the runtime needs it; by default in fp32.

    A conversion is kept in ossa's cache folder, by the sha256 of the weights. In fp32 its scores
    differ from PyTorch's by less than 0.001 and its boxes by less than 0.1 px.

    Args:
        checkpoint: a whole detector.
        imgsz: longer side of the network input in pixels.
        device: 'cpu', 'cuda', 'cuda:1', ...
        runtime: 'auto' for the fastest of those installed that run the network on the device.
        precision: fp32 or bf16.
        threads: of a runtime other than PyTorch; its own choice if None.
        on_conversion: given a sentence before a conversion begins, which takes seconds.

    Raises:
        ConfigError: the runtime is not installed, or does not run this device or precision.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    names: list[RuntimeName] = [runtime]
    if runtime == "auto":
        names = runtimes_by_speed(device, precision)
    computed = precision or "fp32"
    for name in names:
        if name == "torch":
            break
        _check_cpu(name, device)
        if computed not in ("fp32", "bf16") or (computed, name) == ("bf16", "onnxruntime"):
            advice = f"export it first: ossa export --precision {precision}"
            raise ConfigError(
                f"{name} computes {precision} from a file that was exported so", advice=advice
            )
        require(name, purpose=f"--runtime {name}")
        # With 'auto', what one runtime cannot express is left to the next.
        with suppress(*((UnsupportedBackbone,) if runtime == "auto" else ())):
            more: dict[str, Any] = {"imgsz": imgsz, "threads": threads}
            return _converted(checkpoint, name, computed, **more, on_conversion=on_conversion)
    detector = detector_from(checkpoint)
    detector.head.switch_to_deploy()
    return TorchRuntime(detector, device=device, precision=computed)


def _converted(
    checkpoint: Checkpoint,
    runtime: RuntimeName,
    precision: Precision,
    *,
    imgsz: int,
    threads: int | None,
    on_conversion: Callable[[str], object],
) -> ExportedRuntime | NMSRuntime:
    """Returns what runs a checkpoint's entry of the cache, which is made the first time only.

    A damaged entry is made again; where the cache cannot be written, every conversion is.
    """
    # A newer version may convert differently, and so may changed code of a backbone of one's own.
    code = (own_code(checkpoint.model.name) or "")[:12]
    file = checkpoint.origin["sha256"][:32]
    key = f"{file}-{imgsz}-{runtime}-{__version__}-{code}".rstrip("-")
    entry = cache_folder() / "converted" / key
    name = f"model{_SUFFIX_OF[runtime]}"
    how: dict[str, Any] = {"runtime": runtime, "precision": precision, "is_own": True}
    how["threads"] = threads
    if (entry / name).is_file():
        with suppress(CheckpointError):
            return open_exported(entry / name, **how)
    where, is_kept = f"once, kept in {entry.parent}", True
    try:
        entry.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=entry.parent)
    except OSError:
        where, is_kept = f"{cache_folder()} cannot be written", False
        folder = tempfile.TemporaryDirectory()
    on_conversion(f"converting to {'OpenVINO' if runtime == 'openvino' else 'ONNX'} ({where})")
    with folder as place:
        _convert_checkpoint(checkpoint, Path(place) / name, imgsz=imgsz)
        if not is_kept:
            return open_exported(Path(place) / name, **how)
        # Whole or not at all, whoever makes it at the same time: the file looked for comes last.
        for part in sorted(Path(place).iterdir(), key=lambda part: part.name == name):
            part.replace(entry / part.name)
    return open_exported(entry / name, **how)


def _convert_checkpoint(checkpoint: Checkpoint, file: Path, *, imgsz: int) -> None:
    """Writes a file of any batch and, where the network takes it, any size."""
    detector = detector_from(checkpoint)
    any_size = takes_rectangles(detector, imgsz=imgsz)
    settings = ExportSettings(imgsz=imgsz, batch=None, any_size=any_size)
    write_export(detector, describe(detector, checkpoint, settings), file)


def write_export(
    detector: Detector,
    description: ExportDescription,
    file: Path,
    *,
    calibration: DatasetIndex | None = None,
) -> None:
    """Writes the files of an export, in the format that the suffix says.

    Raises:
        ConfigError: a package is not installed.
        UnsupportedBackbone: the format cannot express the network.
    """
    of_format: Any = openvino_format if file.suffix == ".xml" else onnx_format
    model = of_format.convert(LogitsGraph(detector), description)
    if description.precision == "int8":
        assert calibration is not None
        model = openvino_format.quantized(model, description, calibration)
    if description.nms is not None:  # it stays in float
        model = of_format.add_nms(model, description)
    of_format.save(model, file, description)


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
        batch: number of images in one run.
        runtime: 'openvino' or 'onnxruntime'.
        precision: of the computation.
        threads: of the computation; the runtime's own choice if None.
        calibration: images from which the ranges of int8 are taken.

    Raises:
        ConfigError: a package is not installed, or the runtime does not compute in this precision.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    if (runtime, precision) == ("onnxruntime", "bf16"):
        raise ConfigError("ONNX Runtime does not compute in bf16 here: take --runtime openvino")
    settings = ExportSettings(precision=precision, imgsz=imgsz, batch=batch)
    description = describe(detector, None, settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{_SUFFIX_OF[runtime]}"
        write_export(detector, description, file, calibration=calibration)
        opened = open_exported(file, runtime=runtime, threads=threads, is_own=True)
    assert isinstance(opened, ExportedRuntime)
    return opened
