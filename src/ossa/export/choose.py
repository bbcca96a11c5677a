"""Which runtime runs a checkpoint."""

import torch

from ossa.errors import ConfigError
from ossa.export.cache import converted
from ossa.export.description import Precision
from ossa.export.extras import is_installed
from ossa.export.files import RuntimeName
from ossa.export.runtimes import AnyRuntime, TorchRuntime
from ossa.models.weights import Checkpoint, detector_from


def fastest_runtime(device: torch.device | str) -> RuntimeName:
    """Returns 'openvino' on a processor where it is installed, else 'torch'."""
    on_cpu = torch.device(device).type == "cpu"
    return "openvino" if on_cpu and is_installed("openvino") else "torch"


def runtime_for_checkpoint(
    checkpoint: Checkpoint,
    *,
    imgsz: int,
    device: torch.device | str = "cpu",
    runtime: RuntimeName = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
) -> AnyRuntime:
    """Returns what runs a checkpoint, converted where the runtime needs it.

    A conversion is kept in ossa's cache folder, by the sha256 of the weights. In fp32, which is
    the precision if none is given, its scores differ from PyTorch's by less than 0.001 and its
    boxes by less than 0.1 px.

    Args:
        checkpoint: a whole detector.
        imgsz: longer side of the network input in pixels.
        device: 'cpu', 'cuda', 'cuda:1', ...
        runtime: 'auto' for the fastest of those installed that run on the device.
        precision: fp32, or bf16 where it is asked for.
        threads: of the runtime on the CPU; its own choice if None.

    Raises:
        ConfigError: the runtime is not installed, or does not run this device or precision.
        UnsupportedBackbone: the runtime cannot express the network.
    """
    if runtime == "auto":
        runtime = fastest_runtime(device)
    if runtime == "torch":
        return TorchRuntime(detector_from(checkpoint), device=device, precision=precision or "fp32")
    if torch.device(device).type != "cpu":
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
        checkpoint, imgsz=imgsz, runtime=runtime, precision=precision or "fp32", threads=threads
    )
