"""From a checkpoint to an exported file that was run and compared with PyTorch."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossa.config import check_imgsz
from ossa.data.annotations import DatasetIndex, paths_of
from ossa.errors import ConfigError, os_reason
from ossa.evaluate.evaluator import check_classes
from ossa.export.backends import TorchRuntime
from ossa.export.graph import (
    ExportDescription,
    ExportSettings,
    Format,
    Precision,
    describe,
)
from ossa.export.parity import (
    BOX_TOLERANCE_PX,
    SCORE_TOLERANCE,
    Parity,
    compare_with_pytorch,
)
from ossa.export.select import open_exported, write_export
from ossa.models.checkpoint import Checkpoint, detector_from

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}
PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
}


@dataclass(frozen=True)
class Export:
    """An exported file, and its parity with PyTorch."""

    file: Path
    """Named `...-not-good` where it is not."""
    description: ExportDescription
    parity: Parity
    bytes: int
    """Of all its files."""
    fault: str | None
    """Why it is not called good."""

    def flat(self) -> dict[str, Any]:
        about = self.description
        return {
            "file": str(self.file),
            "good": self.fault is None,
            "fault": self.fault,
            "bytes": self.bytes,
            "precision": about.precision,
            "imgsz": about.imgsz,
            "batch": about.batch,
            "any_size": about.any_size,
            "nms": None if about.nms is None else about.nms.model_dump(),
            **self.parity.flat(),
        }


def export_detector(
    checkpoint: Checkpoint,
    output: Path,
    settings: ExportSettings,
    *,
    images: DatasetIndex,
    calibration: DatasetIndex | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_images: Callable[[int, int], None] | None = None,
) -> Export:
    """Writes a file, runs it as a reader would, and compares it with PyTorch.

    A file that is not good enough is kept under a name with '-not-good', so that nobody takes it by
    mistake; a good one replaces the file of its name.

    Args:
        checkpoint: a whole detector.
        output: the file, with the suffix of its format; OpenVINO's weights lie beside it (.bin).
        settings: of the export.
        images: on which it is compared, with ground truth.
        calibration: images from which the ranges of int8 are taken, none of them in `images`.
        on_stage: called with what begins.
        on_images: called with the number of images compared and their total.

    Raises:
        ConfigError: settings that exclude each other, a package that is not installed, or a data
            set of other classes.
        UnsupportedBackbone: the format cannot express the network.
        CheckpointError: the file cannot be written.

    Examples:
        >>> import ossa
        >>> from ossa.export.export import ExportSettings
        >>> from ossa.models.checkpoint import read_checkpoint
        >>> done = ossa.export_detector(
        ...     read_checkpoint("best.safetensors"), Path("best.onnx"), ExportSettings("onnx"),
        ...     images=ossa.read_data("scenes").index,
        ... )
        >>> done.file.suffix
        '.onnx'
    """
    check_request(checkpoint, output, settings)
    _check_images(checkpoint, settings, images, calibration)
    detector = detector_from(checkpoint)
    description = describe(detector, checkpoint, settings)
    on_stage(f"converting to {settings.format}")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        file = Path(folder) / output.name
        write_export(detector, description, file, calibration=calibration)
        on_stage("comparing with PyTorch")
        runtime = "onnxruntime" if settings.format == "onnx" else "auto"
        exported = open_exported(file, runtime=runtime, is_own=True)
        reference = TorchRuntime(detector)
        parity = compare_with_pytorch(reference, exported, images, on_images=on_images)
        fault = fault_of(parity, settings)
        name = output.stem if fault is None else f"{output.stem}-not-good"
        parts = sorted(Path(folder).iterdir(), key=lambda part: part.suffix == output.suffix)
        size = sum(part.stat().st_size for part in parts)
        for part in parts:  # the one that is opened comes last
            file = part.replace(output.with_name(f"{name}{part.suffix}"))
    return Export(file, description, parity, size, fault)


def _check_images(
    checkpoint: Checkpoint,
    settings: ExportSettings,
    images: DatasetIndex,
    calibration: DatasetIndex | None,
) -> None:
    if settings.precision == "int8" and calibration is None:
        raise ConfigError("int8 is calibrated on images: give --data with a split to train on")
    if calibration is not None and not set(paths_of(calibration)).isdisjoint(paths_of(images)):
        raise ConfigError("expected other images to compare on than those that calibrate int8")
    weights, data = checkpoint.origin["file"], images.root
    check_classes(checkpoint.names, images, weights=weights, data=data)


def fault_of(parity: Parity, settings: ExportSettings) -> str | None:
    """Returns why an export is not to be called good, None where it is."""
    if not parity.ap_drop <= settings.max_ap_drop:  # not a number is no good
        return (
            f"AP fell from {parity.ap_before:.4f} to {parity.ap_after:.4f}, by more than "
            f"{settings.max_ap_drop:g}"
        )
    if settings.precision != "fp32" and not parity.agreement >= settings.min_agreement:
        return (
            f"its detections agree with PyTorch's by {parity.agreement:.3f} only, less than "
            f"{settings.min_agreement:g}: {parity.unmatched} are reported by one only, and "
            f"boxes differ by up to {parity.largest_box_difference_px:.0f} px"
        )
    if settings.precision == "fp32":
        for what, difference, most, unit in (
            ("score", parity.largest_score_difference, SCORE_TOLERANCE, ""),
            ("box", parity.largest_box_difference_px, BOX_TOLERANCE_PX, " px"),
        ):
            if difference > most:
                found = f"a {what} differs by {difference:.2g}{unit}"
                return f"{found}, more than the {most:g}{unit} that fp32 may"
    return None


def check_request(checkpoint: Checkpoint, output: Path, settings: ExportSettings) -> None:
    """Raises ConfigError for what can be refused before any image is read."""
    known, suffix = PRECISIONS[settings.format], SUFFIXES[settings.format]
    if settings.precision not in known:
        raise ConfigError(
            expected=f"--precision {', '.join(known)} with --format {settings.format}",
            found=settings.precision,
            advice="ONNX Runtime has no convolutions in bf16 on the CPU",
        )
    check_imgsz(
        checkpoint.imgsz if settings.imgsz is None else settings.imgsz,
        stride=max(checkpoint.model.strides),
    )
    if output.suffix != suffix:
        raise ConfigError(expected=f"a file named *{suffix} for --output", found=str(output))
    if output.is_dir():
        raise ConfigError(expected="a file for --output", found=f"the folder {output}")
    try:
        tempfile.TemporaryDirectory(dir=output.parent).cleanup()
    except OSError as error:
        raise ConfigError(
            expected="a folder that can be written for --output",
            found=os_reason(error),
            path=output.parent,
        ) from error
