"""How much faster other runtimes are than PyTorch, turn by turn in one run.

    python benchmarks/runtimes.py --model yolov5s --data coco128 --split train --threads 1

Prints one JSON object: the ratios of every way to run the network to plain PyTorch in fp32, which
has a process of its own, with channels first and the allocator as it comes. End to end from a JPEG
of 640 x 640 pixels to detections (decoding of the file, letterbox, network, decoding of boxes, NMS
at confidence 0.25), batch 1. `times_as_fast` is the median over the rounds of the ratio of both in
one round, by the clock; `times_as_fast_cpu` by the processor's time in all threads, which other
work on the machine hardly disturbs. The weights are random: they decide the accuracy, not the time,
and of int8 the ranges, not the operations. `load` is that of the machine.
"""

import argparse
import json
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import cv2
import torch
from torch import Tensor

from ossa.config import EvaluateConfig
from ossa.cost.benchmark import hardware_name, using_threads
from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox
from ossa.data.reading import read_data
from ossa.errors import OssaError, RunFailed
from ossa.export.backends import Runtime, TorchRuntime
from ossa.export.graph import Precision, can_run, is_installed
from ossa.export.parity import some_images
from ossa.export.select import RuntimeName, runtime_in_memory
from ossa.machine import keep_freed_memory
from ossa.models.detector import Detector, create_detector
from ossa.models.postprocess import non_max_suppression
from ossa.train.provenance import environment
from ossa.types import RawPredictions

_PICTURES = 4
_QUALITY = 90


_SETTINGS = EvaluateConfig(confidence=0.25, nms_iou=0.45)
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
    non_max_suppression(network(images), [placement], _SETTINGS, wanted=every_class)
    return Taken(time.perf_counter() - started, time.process_time() - started_cpu)


@contextmanager
def plain_pytorch(
    detector: Detector, *, imgsz: int, num_classes: int, threads: int | None
) -> Iterator[Turn]:
    """Gives the turns of PyTorch as it comes, in fp32, in a process of its own.

    Nothing is folded, channels are first and the allocator is untouched: in a process with
    other runtimes its heap has grown by theirs, which makes PyTorch faster (`ossa.machine`).

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


def write_squares(index: DatasetIndex, folder: Path, *, imgsz: int) -> list[Path]:
    """Writes photographs as square JPEGs, so that nothing is padded, and returns their files."""
    files = []
    for position in range(len(index)):
        image = cv2.resize(decode_image(index.image_path(position)), (imgsz, imgsz))
        file = folder / f"{position}.jpg"
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(file), bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        files.append(file)
    return files


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    torch.manual_seed(0)
    index = read_data(arguments.data, arguments.split).index
    detector = create_detector(arguments.model, num_classes=80, imgsz=arguments.imgsz).eval()
    with tempfile.TemporaryDirectory() as folder, using_threads(arguments.threads):
        chosen = some_images(index, _PICTURES)
        pictures = write_squares(chosen, Path(folder), imgsz=arguments.imgsz)
        runtimes = prepare(
            detector,
            ways_here(),
            imgsz=arguments.imgsz,
            threads=arguments.threads,
            calibration=chosen,
        )
        before = os.getloadavg()
        rows = time_runtimes(
            detector,
            runtimes,
            pictures,
            num_classes=80,
            imgsz=arguments.imgsz,
            warmup=arguments.warmup,
            runs=arguments.runs,
            threads=arguments.threads,
        )
    settings = {name: str(value) for name, value in vars(arguments).items()}
    return {"rows": rows, "load": {"before": before, "after": os.getloadavg()}, **settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="yolov5s")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, help="of every runtime")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
