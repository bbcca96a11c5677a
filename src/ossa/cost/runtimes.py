"""One detector in every runtime and precision there is: how fast, and at what price in AP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ossa.config import EvaluateConfig
from ossa.cost.benchmark import Taken, Turn, hardware_name, plain_pytorch, take_turn, using_threads
from ossa.data.annotations import DatasetIndex
from ossa.evaluate.evaluator import evaluate
from ossa.export.backends import Runtime, RuntimeNetwork, TorchRuntime
from ossa.export.graph import Precision, can_run, is_installed
from ossa.export.select import RuntimeName, runtime_in_memory
from ossa.models.detector import Detector
from ossa.train.run_folder import environment


@dataclass(frozen=True)
class Way:
    """One way to run a detector."""

    runtime: RuntimeName
    precision: Precision
    plain: bool = False
    """As it comes, with nothing of what ossa does to be fast."""

    @property
    def name(self) -> str:
        """Of the runtime."""
        return f"plain {self.runtime}" if self.plain else self.runtime

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


PLAIN = Way("torch", "fp32", plain=True)
"""What the ratios are to, in a process of its own: `plain_pytorch`."""
IN_TORCH = Way("torch", "fp32")
"""As `ossa predict` runs it: channels last, and the memory of the last picture is kept."""
WAYS = (
    IN_TORCH,
    Way("torch", "bf16"),
    Way("onnxruntime", "fp32"),
    Way("openvino", "fp32"),
    Way("openvino", "bf16"),
    Way("openvino", "int8"),
)


def ways_here() -> list[Way]:
    """Returns the ways whose packages are installed."""
    return [
        way
        for way in WAYS
        if can_run(way.runtime) and (way.precision != "int8" or is_installed("nncf"))
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
    detector: Detector,
    runtimes: Mapping[Way, Runtime],
    pictures: Sequence[Path],
    *,
    num_classes: int,
    imgsz: int,
    warmup: int,
    runs: int,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Times `PLAIN` and every way turn by turn, from the picture's file to its detections.

    That is decoding, letterbox, network, decoding of boxes and NMS at confidence 0.25 and IoU 0.45,
    batch 1, squares. A row has the medians over the runs: `ms` by the clock, `cpu_ms` of the
    processor in all threads (`least_cpu_ms` of the run that took least), and how many times as fast
    as `PLAIN` it was in the same round, `times_as_fast` by the clock and `times_as_fast_cpu` by the
    processor.

    Args:
        detector: what was prepared.
        runtimes: as `prepare` returns them.
        pictures: files, taken in turn.
        num_classes: K.
        imgsz: side of the squares in pixels.
        warmup: rounds that are not counted.
        runs: rounds that are.
        threads: as they were prepared with.
    """
    square: dict[str, Any] = {"imgsz": imgsz, "num_classes": num_classes}
    with using_threads(threads), plain_pytorch(detector, **square, threads=threads) as plain:
        turns: dict[Way, Turn] = {PLAIN: plain}
        turns |= {way: partial(take_turn, runtime, **square) for way, runtime in runtimes.items()}
        taken = _in_turn(turns, pictures, warmup=warmup, runs=runs)
        used = torch.get_num_threads()
    where = {"imgsz": imgsz, "runs": runs, "threads": used, "hardware": hardware_name("cpu")}
    return [
        {
            "runtime": way.name,
            "precision": way.precision,
            **_figures(own, taken[PLAIN]),
            **environment(),
            **where,
        }
        for way, own in taken.items()
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


def _in_turn(
    turns: Mapping[Way, Turn], pictures: Sequence[Path], *, warmup: int, runs: int
) -> dict[Way, list[Taken]]:
    """Returns what each took in every round that counts."""
    taken: dict[Way, list[Taken]] = {way: [] for way in turns}
    for number in range(warmup + runs):
        for way, turn in turns.items():
            in_this_round = turn(pictures[number % len(pictures)])
            if number >= warmup:
                taken[way].append(in_this_round)
    return taken


def _figures(own: Sequence[Taken], of_plain: Sequence[Taken]) -> dict[str, float]:
    pairs = list(zip(own, of_plain, strict=True))
    return {
        "ms": 1000 * median(mine.wall for mine in own),
        "cpu_ms": 1000 * median(mine.cpu for mine in own),
        "least_cpu_ms": 1000 * min(mine.cpu for mine in own),
        "times_as_fast": median(plain.wall / mine.wall for mine, plain in pairs),
        "times_as_fast_cpu": median(plain.cpu / mine.cpu for mine, plain in pairs),
    }
