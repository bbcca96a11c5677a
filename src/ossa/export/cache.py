"""Conversions of checkpoints, kept in the user's cache folder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ossa import __version__
from ossa.data.caching.indexes import cache_folder
from ossa.errors import CheckpointError
from ossa.export import onnx_format, openvino_format
from ossa.export.description import ExportDescription, Precision
from ossa.export.extras import require
from ossa.export.files import RuntimeName, open_exported
from ossa.export.graph import LogitsGraph, describe, strides_of, takes_rectangles, usual_confidence
from ossa.export.runtimes import ExportedRuntime, SuppressedRuntime
from ossa.models.detector import Detector
from ossa.models.weights import Checkpoint, detector_from

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
