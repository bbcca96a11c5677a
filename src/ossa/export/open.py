"""Opening exported files of every format."""

from pathlib import Path
from typing import Literal, TypeAlias

from ossa.errors import CheckpointError, ConfigError, legible
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.backends import Engine, ExportedRuntime, SuppressedRuntime
from ossa.export.graph import ExportDescription, Precision, is_installed, require
from ossa.export.screening import screen
from ossa.export.trial import try_to_open
from ossa.models.checkpoint import EXPORTED_SUFFIXES, refuse_torchscript

RuntimeName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]


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
) -> ExportedRuntime | SuppressedRuntime:
    """Returns what runs an exported file on the processor.

    What anybody may have written is first opened in a process of limited memory and time.

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
    if file.suffix == ".onnx":
        name, engine, description = _open_onnx(file, runtime, precision, threads, is_own=is_own)
    else:
        if runtime not in ("auto", "openvino"):
            raise ConfigError(
                f"{file} is run by openvino, found --runtime {runtime}: leave it out, or give the "
                "checkpoint or its .onnx"
            )
        if not is_own:
            _try(file, "openvino")
        model, description = openvino_format.read(file)
        computed = precision or description.precision
        name = "openvino"
        engine = openvino_format.engine(model, precision=computed, threads=threads)
    return runtime_of(
        engine, description, name=name, precision=_precision(file, name, description, precision)
    )


def runtime_of(
    engine: Engine, description: ExportDescription, *, name: str, precision: Precision
) -> ExportedRuntime | SuppressedRuntime:
    """Returns the runtime of an engine, by what its graph returns."""
    if description.suppression is None:
        return ExportedRuntime(engine, description, name=name, precision=precision)
    return SuppressedRuntime(
        engine, description, description.suppression, name=name, precision=precision
    )


def _open_onnx(
    file: Path,
    runtime: RuntimeName,
    precision: Precision | None,
    threads: int | None,
    *,
    is_own: bool,
) -> tuple[str, Engine, ExportDescription]:
    if runtime == "torch":
        raise ConfigError(f"PyTorch does not run {file}: take --runtime onnxruntime or openvino")
    by_openvino = runtime == "openvino" or (runtime == "auto" and is_installed("openvino"))
    if not is_own:
        _try(file, "openvino" if by_openvino else "onnxruntime")
    if by_openvino:
        model, description = openvino_format.read_onnx(file)
        # OpenVINO 2026.4 fuses an ONNX file's int8 wrongly: yolov5n then finds nothing at all.
        if description.precision != "int8":
            computed = precision or description.precision
            engine = openvino_format.engine(model, precision=computed, threads=threads)
            return "openvino", engine, description
        if runtime == "openvino":
            raise ConfigError(
                f"OpenVINO does not compute the int8 of {file} as ONNX means it: take --runtime "
                "onnxruntime, or export the checkpoint with --format openvino"
            )
    session = onnx_format.open_session(file, where=str(file), threads=threads)
    description = onnx_format.description_in(session, where=str(file))
    return "onnxruntime", onnx_format.engine(session), description


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


def _precision(
    file: Path, name: str, description: ExportDescription, wanted: Precision | None
) -> Precision:
    own = description.precision
    if wanted in (None, own) or (name == "openvino" and wanted == "bf16"):
        return wanted or own
    raise ConfigError(
        f"{file} holds {own}, found --precision {wanted}: export the checkpoint with it"
    )
