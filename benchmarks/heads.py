"""Anchor head against dense head on real photographs: yolov5n, two recipes, three seeds.

    python benchmarks/heads.py train --data bccd --data hit-uav --runs runs/heads
    python benchmarks/heads.py report --data bccd --data hit-uav --runs runs/heads

Written down before the first run: each head is trained with both recipes of `RECIPES`, the recipe
with the higher mean AP on val over the seeds is chosen for each head on its own, and the chosen
ones are scored on test, which nothing has looked at before. The answer that counts is the upper
95% bound of AP(anchor) less AP(dense) on test, over seeds and images: at most 0.02.

`train` skips finished runs and resumes one that was cut off; start it twice with `--part 0 2` and
`--part 1 2` to use two cores. Needs the data sets of `OSSA_SHARED/data` (`../shared/data`).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ossa.data.annotations import DatasetIndex
from ossa.data.reading import read_data
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.object_bins import bins_of
from ossa.evaluate.statistics import Comparison, compare_models
from ossa.train.run_folder import RECORD_FILE, read_record

SHARED = Path(os.environ.get("OSSA_SHARED", Path(__file__).parents[2] / "shared"))
HEADS = ("anchor", "dense")
SEEDS = (0, 1, 2)
IMGSZ = 320
METRICS = ("ap", "ap_small", "ap_crowded")
RECIPES = {
    "sgd": "--recipe yolov5-low --batch 16",
    "adamw": "--recipe quick --batch 8",
}
"""Of both heads, but for the losses, whose gains are each head's own defaults."""
EPOCHS = {"bccd": 40, "hit-uav": 12}
EVALUATE_EVERY = 20


class Run(NamedTuple):
    """One training."""

    data: str
    head: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.data}-{self.head}-{self.recipe}-seed{self.seed}"


def all_runs(data: Sequence[str]) -> list[Run]:
    """Returns every run; seed by seed, so that what is cut off is still balanced."""
    return [
        Run(one, head, recipe, seed)
        for one in data
        for seed in SEEDS
        for recipe in RECIPES
        for head in HEADS
    ]


def train(run: Run, folder: Path) -> None:
    """Trains one run, or goes on with it, and scores its last weights on test."""
    place = folder / run.name
    if not (place / RECORD_FILE).exists():
        if (place / "config.yaml").exists():
            _ossa("train", "--resume", str(place))
        else:
            _ossa(
                "train",
                *("--data", str(SHARED / "data" / run.data), "--model", "yolov5n"),
                *("--head", run.head, *RECIPES[run.recipe].split()),
                *("--imgsz", str(IMGSZ), "--epochs", str(EPOCHS[run.data])),
                *("--evaluate-every", str(EVALUATE_EVERY), "--seed", str(run.seed)),
                *("--project", str(folder), "--name", run.name, "--threads", "1", "--no-figures"),
            )
    if not _test_file(place).exists():
        unfinished = place / "test-unfinished.json.gz"
        _ossa(
            "val",
            *("--weights", str(place / "last.safetensors"), "--split", "test", "--threads", "1"),
            *("--data", str(SHARED / "data" / run.data), "--save-predictions", str(unfinished)),
        )
        unfinished.rename(_test_file(place))


def report(data: Sequence[str], folder: Path) -> None:
    """Prints a table of all runs, the choice on val, and the chosen heads on test."""
    for one in data:
        runs = [run for run in all_runs([one]) if _test_file(folder / run.name).exists()]
        print(f"\n## {one}, {EPOCHS[one]} epochs, {IMGSZ} px\n")
        print("| head | recipe | seeds | AP on val | training minutes | GFLOPs | parameters, M |")
        print("|---|---|---|---|---|---|---|")
        chosen: dict[str, tuple[float, str]] = {}
        for head in HEADS:
            for recipe in RECIPES:
                own = [run for run in runs if (run.head, run.recipe) == (head, recipe)]
                if not own:
                    continue
                records = [read_record(folder / run.name) for run in own]
                values = [float(record.metrics["last"]["ap"]) for record in records]
                minutes = np.mean([record.times["train"] for record in records]) / 60
                cost = records[0].cost
                print(
                    f"| {head} | {recipe} | {len(own)} | {np.mean(values):.3f} "
                    f"({', '.join(f'{value:.3f}' for value in values)}) | {minutes:.1f} "
                    f"| {cost['flops'] / 1e9:.2f} | {cost['params'] / 1e6:.2f} |"
                )
                chosen[head] = max(
                    chosen.get(head, (0.0, recipe)), (float(np.mean(values)), recipe)
                )
        if len(chosen) == len(HEADS):
            _print_test(one, folder, {head: recipe for head, (_, recipe) in chosen.items()}, runs)


def _print_test(data: str, folder: Path, chosen: dict[str, str], runs: Sequence[Run]) -> None:
    index = read_data(SHARED / "data" / data, "test").index
    models = [
        [_match(folder / run.name, index) for run in runs if (run.head, run.recipe) == choice]
        for choice in chosen.items()
    ]
    choices = ", ".join(f"{head} with {recipe}" for head, recipe in chosen.items())
    print(f"\nChosen on val: {choices}. On test ({len(index)} images):\n")
    print("| metric | anchor | dense | anchor less dense, 95% interval over seeds and images |")
    print("|---|---|---|---|")
    compared = compare_models(models, metrics=METRICS, bins=lambda one: bins_of(index, one))
    for metric in METRICS:
        anchor, dense = (row for row in compared if row.metric == metric)
        print(
            f"| {metric} | {anchor.estimate.value:.3f} | {dense.estimate.value:.3f} "
            f"| {_difference(dense)} |"
        )


def _difference(dense: Comparison) -> str:
    assert dense.difference is not None
    interval = dense.difference.seeds or dense.difference.images
    return f"{-dense.difference.value:+.3f} ({-interval.high:+.3f} to {-interval.low:+.3f})"


def _match(place: Path, index: DatasetIndex) -> Matches:
    return match(index, read_coco_results(_test_file(place), index))


def _test_file(place: Path) -> Path:
    return place / "test.json.gz"


def _ossa(*arguments: str) -> None:
    print(json.dumps(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "ossa", *arguments], check=True)


def main() -> None:
    """Trains or reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("--data", action="append", choices=tuple(EPOCHS), required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--head", action="append", choices=HEADS, help="train these alone")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"))
    options = parser.parse_args()
    if options.what == "report":
        report(options.data, options.runs)
        return
    part, parts = options.part
    runs = [run for run in all_runs(options.data) if run.head in (options.head or HEADS)]
    for run in runs[part::parts]:
        train(run, options.runs)


if __name__ == "__main__":
    main()
