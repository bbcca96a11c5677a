"""One detector in every runtime and precision there is: how fast, and at what price in AP."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ossa.config import EvaluateConfig
from ossa.cost.bench import hardware_name, using_threads
from ossa.data.decode import decode_image
from ossa.data.index import DatasetIndex
from ossa.data.letterbox import letterbox
from ossa.evaluate.run import evaluate
from ossa.export.choose import runtime_in_memory
from ossa.export.description import Precision
from ossa.export.extras import is_installed
from ossa.export.files import RuntimeName
from ossa.export.runtimes import Runtime, RuntimeNetwork, TorchRuntime, find
from ossa.models.detector import Detector
from ossa.train.record import environment


@dataclass(frozen=True)
class Way:
    """One way to run a detector."""

    runtime: RuntimeName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


REFERENCE = Way("torch", "fp32")
"""What the ratios are to: PyTorch as it was trained, nothing folded."""
_PICTURES = EvaluateConfig(confidence=0.25, nms_iou=0.45)
"""As `ossa predict` looks for objects."""
WAYS = (
    REFERENCE,
    Way("torch", "bf16"),
    Way("onnxruntime", "fp32"),
    Way("openvino", "fp32"),
    Way("openvino", "bf16"),
    Way("openvino", "int8"),
)


def ways_here() -> list[Way]:
    """Returns the ways whose packages are installed."""
    needed = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino",)}
    return [
        way
        for way in WAYS
        if all(map(is_installed, needed.get(way.runtime, ())))
        and (way.precision != "int8" or is_installed("nncf"))
    ]


def prepare(
    detector: Detector,
    ways: Sequence[Way],
    *,
    imgsz: int,
    threads: int | None = None,
    calibration: DatasetIndex | None = None,
    on_way: Callable[[str], None] = lambda way: None,
) -> dict[Way, Runtime]:
    """Returns the detector in each way, for single squares of one size on the processor.

    Args:
        detector: in the training form.
        ways: among `ways_here`.
        imgsz: side of the images in pixels.
        threads: of every runtime; PyTorch's choice for all of them if None.
        calibration: images from which the ranges of int8 are taken.
        on_way: called with the name of what is prepared.

    Raises:
        UnsupportedBackbone: a runtime cannot express the network.
    """
    runtimes: dict[Way, Runtime] = {}
    for way in ways:
        on_way(str(way))
        if way.runtime == "torch":
            runtimes[way] = TorchRuntime(detector, precision=way.precision)
        else:
            runtimes[way] = runtime_in_memory(
                detector,
                imgsz=imgsz,
                batch=1,
                runtime=way.runtime,
                precision=way.precision,
                threads=threads or torch.get_num_threads(),
                calibration=calibration if way.precision == "int8" else None,
            )
    return runtimes


def time_runtimes(
    runtimes: Mapping[Way, Runtime],
    pictures: Sequence[Path],
    *,
    num_classes: int,
    imgsz: int,
    warmup: int,
    runs: int,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Times every way turn by turn, from the picture's file to its detections.

    That is decoding, letterbox, network, decoding of boxes and NMS at confidence 0.25 and IoU 0.45,
    batch 1, squares. A row has the medians over the runs: `ms` by the clock, `cpu_ms` of the
    processor in all threads (`least_cpu_ms` of the run that took least), and how many times as fast
    as the reference it was in the same round, `times_as_fast` by the clock and `times_as_fast_cpu`
    by the processor.

    Args:
        runtimes: the reference among them.
        pictures: files, taken in turn.
        num_classes: K.
        imgsz: side of the squares in pixels.
        warmup: rounds that are not counted.
        runs: rounds that are.
        threads: as they were prepared with.
    """
    seconds: dict[Way, list[tuple[float, float]]] = {way: [] for way in runtimes}
    with using_threads(threads):
        for number in range(warmup + runs):
            picture = pictures[number % len(pictures)]
            for way, runtime in runtimes.items():
                taken = _timed(runtime, picture, imgsz=imgsz, num_classes=num_classes)
                if number >= warmup:
                    seconds[way].append(taken)
        used = torch.get_num_threads()
    where = {"imgsz": imgsz, "runs": runs, "threads": used, "hardware": hardware_name("cpu")}
    return [
        {
            "runtime": way.runtime,
            "precision": way.precision,
            **_figures(seconds[way], seconds[REFERENCE]),
            **environment(),
            **where,
        }
        for way in runtimes
    ]


def score_runtimes(
    runtimes: Mapping[Way, Runtime],
    index: DatasetIndex,
    *,
    imgsz: int,
    on_images: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Way, float | None]]:
    """Yields the AP50-95 of every way on a split, as `ossa val` takes it; None without truths."""
    for way, runtime in runtimes.items():
        scored = evaluate(
            RuntimeNetwork(runtime),
            index,
            imgsz=imgsz,
            config=EvaluateConfig(),
            batch=1,
            on_images=on_images,
        )
        yield way, scored.metrics.ap


def _timed(runtime: Runtime, picture: Path, *, imgsz: int, num_classes: int) -> tuple[float, float]:
    """Returns seconds of the clock and of the processor, from the file to its detections."""
    every_class = torch.ones(num_classes, dtype=torch.bool)
    started, started_cpu = time.perf_counter(), time.process_time()
    square, placement = letterbox(decode_image(picture), imgsz)
    images = torch.from_numpy(square).permute(2, 0, 1)[None]
    find(runtime, images, [placement], _PICTURES, wanted=every_class)
    return time.perf_counter() - started, time.process_time() - started_cpu


def _figures(
    own: Sequence[tuple[float, float]], of_reference: Sequence[tuple[float, float]]
) -> dict[str, float]:
    pairs = list(zip(own, of_reference, strict=True))
    return {
        "ms": 1000 * median(wall for wall, _ in own),
        "cpu_ms": 1000 * median(cpu for _, cpu in own),
        "least_cpu_ms": 1000 * min(cpu for _, cpu in own),
        "times_as_fast": median(theirs[0] / mine[0] for mine, theirs in pairs),
        "times_as_fast_cpu": median(theirs[1] / mine[1] for mine, theirs in pairs),
    }
