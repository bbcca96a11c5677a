"""One turn of a runtime: a picture, from its file to its detections."""

import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ossa.config import EvaluateConfig
from ossa.cost.bench import using_threads
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox
from ossa.errors import OssaError, RunFailed
from ossa.models.detector import Detector
from ossa.models.postprocess import detect
from ossa.types import RawPredictions

_PICTURES = EvaluateConfig(confidence=0.25, nms_iou=0.45)
"""As `ossa predict` looks for objects."""


class Taken(NamedTuple):
    """Seconds that a turn took."""

    wall: float
    cpu: float
    """Of the processor, in all threads."""


Turn: TypeAlias = Callable[[Path], Taken]
Network: TypeAlias = Callable[[Tensor], RawPredictions]
"""Maps uint8 images (1, 3, H, W) RGB; a runtime is one."""


def take_turn(network: Network, picture: Path, *, imgsz: int, num_classes: int) -> Taken:
    """Returns what it took: decoding, letterbox, network, decoding of boxes and NMS."""
    every_class = torch.ones(num_classes, dtype=torch.bool)
    started, started_cpu = time.perf_counter(), time.process_time()
    square, placement = letterbox(decode_image(picture), imgsz)
    images = torch.from_numpy(square).permute(2, 0, 1)[None]
    detect(network(images), [placement], _PICTURES, wanted=every_class)
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
