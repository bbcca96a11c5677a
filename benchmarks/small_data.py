"""What `--recipe quick` reaches on few photographs: MobileNetV2 at 224 px on BCCD, three seeds.

    OSSA_SHARED=../shared python benchmarks/small_data.py --runs runs/small-data

Trains, on one thread each: `quick` and `yolov5-low` for ten epochs of all 205 images from random
and from ImageNet weights, and `quick` from ImageNet weights on 100 and on 30 images, for as many
epochs as give the same number of steps. Prints a table of AP on val with the last weights; finished
runs are skipped, unfinished ones go on.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ossa.train.run_folder import RECORD_FILE, read_log, read_record

SHARED = Path(os.environ.get("OSSA_SHARED", Path(__file__).parents[2] / "shared"))
IMAGES = 205
SEEDS = (0, 1, 2)


class Case(NamedTuple):
    """A way to train."""

    recipe: str
    batch: int
    pretrained: bool
    images: int = IMAGES
    epochs: int = 10

    def arguments(self, folder: Path, seed: int) -> list[str]:
        """Returns those of `ossa train`."""
        weights = SHARED / "weights/mobilenetv2_100_in1k.safetensors"
        return [
            *("--data", str(SHARED / "data/bccd"), "--model", "mobilenetv2_100", "--neck", "n"),
            *("--recipe", self.recipe, "--batch", str(self.batch), "--imgsz", "224"),
            *("--epochs", str(self.epochs), "--seed", str(seed)),
            *("--set", f"train.fraction={self.images / IMAGES:.4f}"),
            *(("--backbone-weights", str(weights)) if self.pretrained else ()),
            *("--evaluate-every", str(self.epochs), "--threads", "1", "--no-figures"),
            *("--project", str(folder), "--name", self.name(seed)),
        ]

    def name(self, seed: int) -> str:
        """Returns the name of a run's folder."""
        start = "imagenet" if self.pretrained else "random"
        return f"{self.recipe}-{start}-{self.images}-seed{seed}"


CASES = (
    *(Case("quick", 8, pretrained) for pretrained in (False, True)),
    *(Case("yolov5-low", 16, pretrained) for pretrained in (False, True)),
    Case("quick", 8, pretrained=True, images=100, epochs=20),
    Case("quick", 8, pretrained=True, images=30, epochs=65),
)


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    folder = parser.parse_args().runs
    for seed in SEEDS:
        for case in CASES:
            place = folder / case.name(seed)
            if (place / RECORD_FILE).exists():
                continue
            begun = (place / "config.yaml").exists()
            arguments = ["--resume", str(place)] if begun else case.arguments(folder, seed)
            subprocess.run([sys.executable, "-m", "ossa", "train", *arguments], check=True)
    print(
        "| recipe | from | images | epochs | AP on val, mean (seeds 0, 1, 2) | training minutes |"
    )
    print("|---|---|---|---|---|---|")
    for case in CASES:
        places = [folder / case.name(seed) for seed in SEEDS]
        values = [float(read_record(place).metrics["last"]["ap"]) for place in places]
        seconds = [row["train_seconds"] for place in places for row in read_log(place)]
        print(
            f"| {case.recipe} | {'ImageNet' if case.pretrained else 'random weights'} "
            f"| {case.images} | {case.epochs} | {np.mean(values):.3f} "
            f"({', '.join(f'{value:.3f}' for value in values)}) "
            f"| {np.median(seconds) * case.epochs / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
