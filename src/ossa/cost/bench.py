"""Times of models by a stated protocol, with all that they depend on."""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision

from ossa.config import EvaluateConfig
from ossa.cost.throughput import (
    TIMED_RUNS,
    WARMUP_RUNS,
    Network,
    Throughput,
    measure_throughput,
)
from ossa.export.choose import runtime_in_memory
from ossa.files import write_json_atomically
from ossa.models.deploy import deployed
from ossa.models.detector import Detector
from ossa.train.record import environment

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Protocol:
    """How models are timed; as it stands, that of ConvNeXt-YOLO."""

    imgsz: int = 640
    """Side of the square images in pixels."""
    batch: int = 1
    warmup: int = WARMUP_RUNS
    """Runs of each model that are not counted."""
    runs: int = TIMED_RUNS
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of weights and features."""
    threads: int | None = None
    """Of PyTorch on the CPU; its own choice if None."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Of weights and features."""
    form: Literal["deployed", "training"] = "deployed"
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"

    def in_words(self) -> str:
        return (
            f"{self.form} form, batch {self.batch}, {self.imgsz} x {self.imgsz} px, "
            f"{self.warmup} runs to warm up and {self.runs} timed, {self.precision}, "
            f"{self.memory_format}, {self.runtime} on {self.device}"
        )


def bench_detectors(detectors: Mapping[str, Detector], protocol: Protocol) -> list[dict[str, Any]]:
    """Returns a row of flat keys for each detector, all of them timed turn by turn.

    Keys ending in `_network` are of the network alone, the others include decoding and
    suppression as in evaluation (confidence 0.001, IoU 0.6). `mean_ms`, `median_ms` and `p95_ms`
    are of a batch. The rest says what was timed where; `tf32_convolutions` is whether a GPU took
    10 bits of mantissa for the convolutions of fp32, as it does by PyTorch's default.

    Args:
        detectors: by name, in the training form; they stay as they are.
        protocol: how.
    """
    with using_threads(protocol.threads):
        prepared = {name: _prepared(detector, protocol) for name, detector in detectors.items()}
        times = measure_throughput(
            prepared,
            imgsz=protocol.imgsz,
            batch=protocol.batch,
            warmup=protocol.warmup,
            runs=protocol.runs,
            device=protocol.device,
            config=EvaluateConfig(),
            memory_format=_FORMATS[protocol.memory_format],
        )
        where = {**environment(), "torchvision": torchvision.__version__}
        where |= {"hardware": hardware_name(protocol.device), "threads": torch.get_num_threads()}
        where["tf32_convolutions"] = _rounds_to_tf32(protocol)
    return [
        {"model": name, "imgsz": protocol.imgsz, **_figures(time), **asdict(protocol), **where}
        for name, time in times.items()
    ]


def write_rows(rows: Sequence[Mapping[str, Any]], folder: Path, *, command: str) -> Path:
    """Writes rows of `bench_detectors` as JSON beside the command, and returns the file.

    The file is named after the hardware and the protocol and overwrites none: where the name
    exists, -2 and so on is appended.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    row = rows[0]
    words = ("bench", *(row[key] for key in ("precision", "memory_format", "form")))
    words += () if row["runtime"] == "torch" else (row["runtime"],)
    name = f"{hardware_slug(row['device'], row['threads'])}-{'-'.join(words)}"
    name += f"-batch{row['batch']}-{row['imgsz']}px"
    numbered = (folder / f"{name}-{number}.json" for number in itertools.count(2))
    files = itertools.chain([folder / f"{name}.json"], numbered)
    file = next(file for file in files if not file.exists())
    write_json_atomically(file, {"command": command, "rows": rows})
    return file


def hardware_name(device: str) -> str:
    """Returns the name of the GPU, or of the processor where `device` is 'cpu'."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return environment()["cpu"]


def hardware_slug(device: str, threads: int) -> str:
    """Returns what results are named after, such as 'nvidia-h200' or 'amd-epyc-2-threads'."""
    name = hardware_name(device)
    if torch.device(device).type == "cpu":
        name += f" {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Lets PyTorch compute with so many threads on the CPU, with its own choice for None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rounds_to_tf32(protocol: Protocol) -> bool:
    on_gpu = torch.device(protocol.device).type == "cuda"
    return on_gpu and protocol.precision == "fp32" and torch.backends.cudnn.allow_tf32


def _prepared(detector: Detector, protocol: Protocol) -> Network:
    """Returns a copy in the form, precision and memory format that the protocol asks for."""
    if protocol.runtime != "torch":
        return runtime_in_memory(
            detector,
            imgsz=protocol.imgsz,
            batch=protocol.batch,
            runtime=protocol.runtime,
            precision=protocol.precision,
            threads=torch.get_num_threads(),
        )
    in_form = deployed if protocol.form == "deployed" else copy.deepcopy
    prepared = in_form(detector).eval().requires_grad_(False)
    return prepared.to(
        device=protocol.device,
        dtype=_DTYPES[protocol.precision],
        memory_format=_FORMATS[protocol.memory_format],
    )  # type: ignore[call-overload]


def _figures(time: Throughput) -> dict[str, float]:
    def named(timing: Any, suffix: str) -> dict[str, float]:
        names = ("ms_per_image", "images_per_second", "mean_ms", "median_ms", "p95_ms")
        return {name + suffix: getattr(timing, name) for name in names}

    return {**named(time, ""), **named(time.network, "_network")}
