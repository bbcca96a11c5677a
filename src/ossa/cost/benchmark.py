"""How long a detector takes for an image."""

import copy
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from ossa.config import EvaluateConfig
from ossa.data.annotations import DatasetIndex
from ossa.evaluate.evaluator import evaluate
from ossa.export.backends import AnyRuntime, NMSOutput, Runtime, RuntimeNetwork
from ossa.export.graph import can_run, is_installed
from ossa.export.select import runtime_in_memory
from ossa.files import write_json_atomically
from ossa.models.detector import Detector
from ossa.models.fuse import fuse_detector
from ossa.models.postprocess import non_max_suppression
from ossa.train.provenance import environment
from ossa.types import Letterbox, RawPredictions

Network: TypeAlias = Callable[[Tensor], RawPredictions | NMSOutput]
"""Maps uint8 images (B, 3, H, W) to raw predictions: a detector, or what runs one. What has NMS in
its graph returns detections."""

KeyT = TypeVar("KeyT")

WARMUP_RUNS, TIMED_RUNS = 100, 300
"""With batch 1 at 640 x 640 pixels the protocol of ConvNeXt-YOLO."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds and rates; every run counts one batch."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    batch: int

    @property
    def ms_per_image(self) -> float:
        return self.mean_ms / self.batch

    @property
    def images_per_second(self) -> float:
        return 1000.0 / self.ms_per_image


@dataclass(frozen=True)
class Throughput(Timing):
    """From images to detections where these were asked for, and the network's share of it."""

    network: Timing


@torch.no_grad()
def measure_throughput(
    detectors: Mapping[KeyT, Network],
    *,
    imgsz: int,
    batch: int = 1,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    device: torch.device | str = "cpu",
    config: EvaluateConfig | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> dict[KeyT, Throughput]:
    """Times several detectors turn by turn, so that drift of the machine hits all alike.

    The images are random and lie on the device already.

    Args:
        detectors: by name or other key, in evaluation mode where they have modes, on `device`.
        imgsz: side of the square input in pixels.
        batch: images in one run.
        warmup: runs of each detector that are not counted.
        runs: runs of each detector that are counted.
        device: where they run; a GPU is waited for before and after network and NMS.
        config: include decoding and NMS with these settings; the network alone if None.
        memory_format: of the images, as the detectors' weights have it.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    images = images.to(device, memory_format=memory_format)
    placements = [Letterbox(1.0, 1.0, 0, 0, imgsz, imgsz)] * batch
    whole_ms: dict[KeyT, list[float]] = {name: [] for name in detectors}
    network_ms: dict[KeyT, list[float]] = {name: [] for name in detectors}
    for run in range(warmup + runs):
        for name, detector in detectors.items():
            started = _now(device)
            raw = detector(images)
            computed = _now(device)
            if config is not None and not isinstance(raw, NMSOutput):
                non_max_suppression(raw, placements, config)
            finished = computed if config is None else _now(device)
            if run >= warmup:
                network_ms[name].append(1000.0 * (computed - started))
                whole_ms[name].append(1000.0 * (finished - started))
    return {
        name: Throughput(
            **asdict(_timing(whole_ms[name], batch)), network=_timing(network_ms[name], batch)
        )
        for name in detectors
    }


def _now(device: torch.device | str) -> float:
    """Returns seconds, once the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timing(times_ms: list[float], batch: int) -> Timing:
    median, p95 = np.quantile(times_ms, (0.5, 0.95)).tolist()
    return Timing(float(np.mean(times_ms)), median, p95, batch)


Backend: TypeAlias = tuple[
    Literal["torch", "onnxruntime", "openvino"], Literal["fp32", "bf16", "int8"]
]
"""A runtime and the precision in which it computes."""
BACKENDS: Mapping[Any, Sequence[Any]] = {
    "torch": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
}
"""The precisions that can be timed of each runtime."""
_FIGURES = ("ms_per_image", "images_per_second", "mean_ms", "median_ms", "p95_ms")
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
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of weights and features; int8 with OpenVINO alone."""
    threads: int | None = None
    """Of PyTorch on the CPU; its own choice if None."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Of weights and features."""
    form: Literal["deployed", "training"] = "deployed"
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"


def backends_here(*, calibrated: bool) -> list[Backend]:
    """Returns every way to run a detector on this CPU; int8 only if it can be calibrated."""
    return [
        (runtime, precision)
        for runtime, precisions in BACKENDS.items()
        for precision in precisions
        if can_run(runtime) and (precision != "int8" or (calibrated and is_installed("nncf")))
    ]


def bench_detectors(
    detectors: Mapping[str, Detector | AnyRuntime],
    protocol: Protocol,
    *,
    backends: Sequence[Backend] | None = None,
    calibration: DatasetIndex | None = None,
    scored_on: DatasetIndex | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns a row of flat keys for each detector in each backend, all of them timed turn by turn.

    Keys ending in `_network` are of the network alone, the others include decoding and NMS as in
    evaluation (confidence 0.001, IoU 0.6). `mean_ms`, `median_ms` and `p95_ms` are of a batch. The
    rest says what was timed where; `tf32_convolutions` is whether a GPU took 10 bits of mantissa
    for the convolutions of fp32, as it does by PyTorch's default.

    Args:
        detectors: by name, in the training form; they stay as they are. An exported file that was
            opened is timed as it is, and the protocol has its runtime, precision and size.
        protocol: how they are timed.
        backends: pairs of runtime and precision; those of the protocol if None.
        calibration: images from which the ranges of int8 are taken.
        scored_on: a split on which every row gets its AP50-95, `ap`.
        on_images: called with the number of images scored and their number in all.
    """
    backends = backends or [(protocol.runtime, protocol.precision)]
    protocols = {
        (name, backend): replace(protocol, runtime=backend[0], precision=backend[1])
        for name in detectors
        for backend in backends
    }
    with using_threads(protocol.threads):
        prepared = {
            key: _prepared(detectors[key[0]], one, calibration) for key, one in protocols.items()
        }
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
        aps = {
            key: {} if scored_on is None else {"ap": _ap(network, scored_on, protocol, on_images)}
            for key, network in prepared.items()
        }
    may_round = torch.device(protocol.device).type == "cuda" and torch.backends.cudnn.allow_tf32
    return [
        {
            "model": key[0],
            "imgsz": protocol.imgsz,
            **{name: getattr(times[key], name) for name in _FIGURES},
            **{f"{name}_network": getattr(times[key].network, name) for name in _FIGURES},
            **aps[key],
            **asdict(one),
            **where,
            "tf32_convolutions": may_round and one.precision == "fp32",
        }
        for key, one in protocols.items()
    ]


def _ap(
    network: Network,
    index: DatasetIndex,
    protocol: Protocol,
    on_images: Callable[[int, int], None] | None,
) -> float | None:
    """Returns the AP50-95 on a split, as `ossa val` takes it; None without ground truth."""
    evaluation = evaluate(
        network if isinstance(network, nn.Module) else RuntimeNetwork(cast(Runtime, network)),
        index,
        imgsz=protocol.imgsz,
        batch=protocol.batch,
        device=protocol.device,
        config=EvaluateConfig(),
        on_images=on_images,
    )
    return evaluation.metrics.ap


def write_rows(rows: Sequence[Mapping[str, Any]], folder: Path, *, command: str) -> Path:
    """Writes rows of `bench_detectors` as JSON beside the command, and returns the file.

    The file is named after the hardware and the protocol and overwrites none: where the name
    exists, -2 and so on is appended.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    row = rows[0]
    runtimes = {row["runtime"] for row in rows}
    words = [hardware_slug(row["device"], row["threads"]), "bench"]
    words += ["runtimes"] if len(runtimes) > 1 else [row["precision"], row["memory_format"]]
    words += [row["form"]] + ([] if "torch" in runtimes else [row["runtime"]])
    name = "-".join([*words, f"batch{row['batch']}", f"{row['imgsz']}px"])
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    files = (folder / f"{name}{number}.json" for number in numbers)
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


def _prepared(
    detector: Detector | AnyRuntime, protocol: Protocol, calibration: DatasetIndex | None
) -> Network:
    """Returns a copy in the form, precision and memory format that the protocol asks for."""
    if not isinstance(detector, Detector):
        return detector
    if protocol.runtime != "torch":
        return runtime_in_memory(
            detector,
            imgsz=protocol.imgsz,
            batch=protocol.batch,
            runtime=protocol.runtime,
            precision=protocol.precision,
            threads=torch.get_num_threads(),
            calibration=calibration if protocol.precision == "int8" else None,
        )
    in_form = fuse_detector if protocol.form == "deployed" else copy.deepcopy
    prepared = in_form(detector).eval().requires_grad_(False)
    return prepared.to(
        device=protocol.device,
        dtype=_DTYPES[protocol.precision],
        memory_format=_FORMATS[protocol.memory_format],
    )  # type: ignore[call-overload]
