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
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch

from ossa.allocator import keep_freed_memory
from ossa.cost.benchmark import using_threads
from ossa.cost.runtimes import prepare, time_runtimes, ways_here
from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image
from ossa.data.reading import read_data
from ossa.export.parity import some_images
from ossa.models.detector import create_detector

_PICTURES = 4
_QUALITY = 90


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
