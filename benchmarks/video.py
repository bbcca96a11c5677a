"""Whether the memory of `ossa predict` grows over a long video.

    python benchmarks/video.py
    python benchmarks/video.py --frames 2000 --batch 8

Generates, in a temporary folder, a video of 160 x 120 pixels (Motion JPEG) and a checkpoint of an
untrained yolov5n at 64 px, and runs the real command on it as a process of its own: annotated
video, YOLO txt, COCO results, CSV, crops and JSON lines, everything that is written of a frame.
After each thousandth line of JSON the resident memory of the process is read from /proc.
Prints one JSON object: `resident_mb` by the number of frames done, `growth_mb` from the first
reading to the last, `peak_mb`, and `cpu_ms_per_frame` (processor time, imports included).
10,000 frames take about four minutes of processor time on one core.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from ossa.config import ModelConfig
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import build_detector

_SIZE_WH = (160, 120)
_EVERY_FRAMES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ossa-video-") as folder:
        video = write_video(Path(folder) / "video.avi", options.frames)
        weights = write_weights(Path(folder) / "tiny.safetensors")
        resident_mb, peak_mb = watch(video, weights, Path(folder) / "out", batch=options.batch)
    cpu_seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    readings = list(resident_mb.values())
    print(
        json.dumps(
            {
                "frames": options.frames,
                "batch": options.batch,
                "resident_mb": resident_mb,
                "growth_mb": round(readings[-1] - readings[0], 1),
                "peak_mb": peak_mb,
                "cpu_ms_per_frame": round(1000 * cpu_seconds / options.frames, 1),
            },
            indent=2,
        )
    )


def write_video(file: Path, num_frames: int) -> Path:
    """Writes noise that moves, so that no frame is like the one before."""
    noise = np.random.default_rng(0).integers(0, 256, (*_SIZE_WH[::-1], 3), dtype=np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 2)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25, _SIZE_WH)
    for number in range(num_frames):
        writer.write(np.roll(noise, (number, 3 * number), axis=(0, 1)))
    writer.release()
    return file


def write_weights(file: Path) -> Path:
    model = ModelConfig(name="yolov5n", neck="own")
    torch.manual_seed(0)
    detector = build_detector(model, num_classes=3, imgsz=64)
    save_checkpoint(file, detector, model=model, names=("a", "b", "c"), imgsz=64, details={})
    return file


def watch(
    video: Path, weights: Path, output: Path, *, batch: int
) -> tuple[dict[int, float], float]:
    """Returns the resident memory in MB by the number of frames done, and the most there was."""
    everything = ("--save-conf", "--save-json", "--save-csv", "--save-crops", "--jsonl")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ossa", "predict", video, "--weights", weights),
            # An untrained detector is sure of nothing.
            *("--output", output, "--conf", "0.00001", "--max-det", "2", "--device", "cpu"),
            *("--batch", str(batch), *everything),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    resident_mb = {}
    peak_mb = 0.0
    for done, _ in enumerate(process.stdout, start=1):
        if done % _EVERY_FRAMES == 0:
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident_mb[done], peak_mb = (_megabytes(status, key) for key in ("VmRSS", "VmHWM"))
            print(f"{done} frames: {resident_mb[done]:.1f} MB", file=sys.stderr)
    if process.wait():
        raise SystemExit(f"the command ended with {process.returncode}")
    return resident_mb, peak_mb


def _megabytes(status: str, key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", status)
    assert found is not None
    return round(int(found[1]) / 1024, 1)


if __name__ == "__main__":
    main()
