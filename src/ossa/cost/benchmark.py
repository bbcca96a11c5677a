"""How long a detector takes for an image."""

import copy
import itertools
import multiprocessing
import pickle
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torchvision
from torch import Tensor

from ossa.config import EvaluateConfig
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox
from ossa.errors import OssaError, RunFailed
from ossa.export.select import runtime_in_memory
from ossa.files import write_json_atomically
from ossa.models.detector import Detector
from ossa.models.fuse import fuse_detector
from ossa.models.postprocess import non_max_suppression
from ossa.train.run_folder import environment
from ossa.types import Letterbox, RawPredictions

Network: TypeAlias = Callable[[Tensor], RawPredictions]
"""Maps uint8 images (B, 3, H, W) to raw predictions: a detector, or what runs one."""

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
    detectors: Mapping[str, Network],
    *,
    imgsz: int,
    batch: int = 1,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    device: torch.device | str = "cpu",
    config: EvaluateConfig | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> dict[str, Throughput]:
    """Times several detectors turn by turn, so that drift of the machine hits all alike.

    The images are random and lie on the device already.

    Args:
        detectors: by name, in evaluation mode where they have modes, on `device`.
        imgsz: side of the square input in pixels.
        batch: images in one run.
        warmup: runs of each detector that are not counted.
        runs: runs of each detector that are.
        device: where they run; a GPU is waited for before and after network and suppression.
        config: include decoding and suppression with these settings; the network alone if None.
        memory_format: of the images; it should be that of the detectors' weights.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator
    ).to(device, memory_format=memory_format)
    placements = [Letterbox(1.0, 1.0, 0, 0, imgsz, imgsz)] * batch
    whole_ms: dict[str, list[float]] = {name: [] for name in detectors}
    network_ms: dict[str, list[float]] = {name: [] for name in detectors}
    for run in range(warmup + runs):
        for name, detector in detectors.items():
            started = _now(device)
            raw = detector(images)
            computed = _now(device)
            if config is not None:
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
    times = torch.tensor(times_ms, dtype=torch.float64)
    return Timing(
        mean_ms=times.mean().item(),
        median_ms=times.quantile(0.5).item(),
        p95_ms=times.quantile(0.95).item(),
        batch=batch,
    )


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
    in_form = fuse_detector if protocol.form == "deployed" else copy.deepcopy
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


_PICTURES = EvaluateConfig(confidence=0.25, nms_iou=0.45)
"""As `ossa predict` looks for objects."""


class Taken(NamedTuple):
    """Seconds that a turn took."""

    wall: float
    cpu: float
    """Of the processor, in all threads."""


Turn: TypeAlias = Callable[[Path], Taken]
DetectorNetwork: TypeAlias = Callable[[Tensor], RawPredictions]
"""Maps uint8 images (1, 3, H, W) RGB; a runtime is one."""


def take_turn(network: DetectorNetwork, picture: Path, *, imgsz: int, num_classes: int) -> Taken:
    """Returns what it took: decoding, letterbox, network, decoding of boxes and NMS."""
    every_class = torch.ones(num_classes, dtype=torch.bool)
    started, started_cpu = time.perf_counter(), time.process_time()
    square, placement = letterbox(decode_image(picture), imgsz)
    images = torch.from_numpy(square).permute(2, 0, 1)[None]
    non_max_suppression(network(images), [placement], _PICTURES, wanted=every_class)
    return Taken(time.perf_counter() - started, time.process_time() - started_cpu)


@contextmanager
def plain_pytorch(
    detector: Detector, *, imgsz: int, num_classes: int, threads: int | None
) -> Iterator[Turn]:
    """Gives the turns of PyTorch as it comes, in fp32, in a process of its own.

    Nothing is folded, channels are first and the allocator is untouched: in a process with
    other runtimes its heap has grown by theirs, which makes PyTorch faster (`ossa.allocator`).

    Args:
        detector: in the training form.
        imgsz: side of the squares in pixels.
        num_classes: K.
        threads: PyTorch's choice if None.
    """
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    settings = {"imgsz": imgsz, "num_classes": num_classes}
    process = processes.Process(
        target=_answer, args=(theirs, pickle.dumps(detector), settings, threads), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield partial(_asked, ours)
    finally:
        ours.close()  # at which it ends
        process.join()


def _asked(connection: Connection, picture: Path) -> Taken:
    try:
        connection.send(picture)
        answer = connection.recv()
    except (EOFError, OSError):
        raise RunFailed(
            "the process of plain PyTorch has ended: what it printed says why; where it says "
            "nothing, the memory did not hold it"
        ) from None
    if isinstance(answer, OssaError):
        raise answer
    return answer


def _answer(
    connection: Connection, pickled_detector: bytes, settings: dict[str, int], threads: int | None
) -> None:
    """Takes a turn with every picture asked for, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the process that asks
    detector: Detector = pickle.loads(pickled_detector)
    detector.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def network(images: Tensor) -> RawPredictions:
        with torch.inference_mode():
            return detector(images.contiguous())

    with using_threads(threads):
        while True:
            try:
                picture = connection.recv()
            except EOFError:
                return
            try:
                taken = take_turn(network, picture, **settings)
            except OssaError as problem:
                connection.send(problem)
            else:
                connection.send(taken)
