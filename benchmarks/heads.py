"""Anchor head against dense head on real photographs: yolov5n, two recipes, three seeds.

    python benchmarks/heads.py train --data bccd --data hit-uav --runs runs/heads
    python benchmarks/heads.py report --data bccd --data hit-uav --runs runs/heads

Written down before the first run: each head is trained with both recipes of `RECIPES` and seed 0,
in bf16; the recipe with the higher AP on val (last epoch) is chosen for each head and data set on
its own and trained with the other seeds; the chosen ones are scored on test, which nothing has
looked at before. The answer that counts is the upper 95% bound of AP(anchor) less AP(dense) on
test, over seeds and images (for HIT-UAV: flights): at most 0.02. `--head tiles` is the anchor head
with its chosen recipe on windows of 320 px of the images at full resolution (HIT-UAV has 640x512),
with all seeds, against the same without: what is gained in AP small at the same size of network
input.

`train` skips finished runs and resumes one that was cut off; start it twice, with `--head anchor`
and `--head dense`, to use two cores. Needs the data sets of `OSSA_SHARED/data` (`../shared/data`).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ossa.data.annotations import DatasetIndex
from ossa.data.reading import read_data
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.object_bins import bins_of
from ossa.evaluate.statistics import Comparison, compare_models
from ossa.train.run_folder import RECORD_FILE, read_log, read_record

SHARED = Path(os.environ.get("OSSA_SHARED", Path(__file__).parents[2] / "shared"))
HEADS = ("anchor", "dense")
OPTIONS = {
    "anchor": "--head anchor",
    "dense": "--head dense",
    "tiles": "--head anchor --tiles 320 --overlap 0.2",
}
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


def train_head(data: str, head: str, folder: Path) -> None:
    """Trains both recipes with the first seed, and the better one on val with the others."""
    if head == "tiles":
        for seed in SEEDS:
            train(Run(data, head, chosen_recipe(data, "anchor", folder), seed), folder)
        return
    for recipe in RECIPES:
        train(Run(data, head, recipe, SEEDS[0]), folder)
    for seed in SEEDS[1:]:
        train(Run(data, head, chosen_recipe(data, head, folder), seed), folder)


def chosen_recipe(data: str, head: str, folder: Path) -> str:
    """Returns the recipe whose run with the first seed has the higher AP on val."""
    return max(RECIPES, key=lambda recipe: _val_ap(folder / Run(data, head, recipe, SEEDS[0]).name))


def _val_ap(place: Path) -> float:
    return float(read_record(place).metrics["last"]["ap"])


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
                *(*OPTIONS[run.head].split(), *RECIPES[run.recipe].split()),
                *("--imgsz", str(IMGSZ), "--epochs", str(EPOCHS[run.data])),
                *("--evaluate-every", str(EVALUATE_EVERY), "--seed", str(run.seed)),
                *("--project", str(folder), "--name", run.name, "--threads", "1", "--no-figures"),
                *("--precision", "bf16"),
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
    """Prints a table of all runs, and the chosen heads on test."""
    for one in data:
        print(f"\n## {one}, {EPOCHS[one]} epochs, {IMGSZ} px\n")
        print("| head | recipe | seeds | AP on val | training minutes | GFLOPs | parameters, M |")
        print("|---|---|---|---|---|---|---|")
        for head in OPTIONS:
            for recipe in RECIPES:
                _print_row(_finished(one, head, recipe, folder), head, recipe)
        choice = {head: chosen_recipe(one, head, folder) for head in HEADS}
        _print_test(one, folder, choice)
        if _finished(one, "tiles", choice["anchor"], folder):
            _print_test(one, folder, {"anchor": choice["anchor"], "tiles": choice["anchor"]})


def _finished(data: str, head: str, recipe: str, folder: Path) -> list[Path]:
    places = [folder / Run(data, head, recipe, seed).name for seed in SEEDS]
    return [place for place in places if _test_file(place).exists()]


def _print_row(places: Sequence[Path], head: str, recipe: str) -> None:
    if not places:
        return
    values = [_val_ap(place) for place in places]
    records = [read_record(place) for place in places]
    seconds = np.median([row["train_seconds"] for place in places for row in read_log(place)])
    epochs = records[0].config["train"]["epochs"]
    cost = records[0].cost
    print(
        f"| {head} | {recipe} | {len(places)} | {np.mean(values):.3f} "
        f"({', '.join(f'{value:.3f}' for value in values)}) | {seconds * epochs / 60:.1f} "
        f"| {cost['flops'] / 1e9:.2f} | {cost['params'] / 1e6:.2f} |"
    )


def _print_test(data: str, folder: Path, choice: dict[str, str]) -> None:
    index = read_data(SHARED / "data" / data, "test").index
    if data == "hit-uav":  # the name says time of day, altitude, angle and weather: a flight
        flights = [name.rpartition("_")[0] for name in index.file_names.tolist()]
        index = replace(index, groups=np.unique(flights, return_inverse=True)[1])
    models = [
        [_match(place, index) for place in _finished(data, head, recipe, folder)]
        for head, recipe in choice.items()
    ]
    first, second = choice
    choices = ", ".join(f"{head} with {recipe}" for head, recipe in choice.items())
    print(f"\nChosen on val: {choices}. On test ({len(index)} images):\n")
    print(f"| metric | {first} | {second} | {first} less {second}, 95% over seeds and images |")
    print("|---|---|---|---|")
    compared = compare_models(
        models, metrics=METRICS, bins=lambda one: bins_of(index, one), groups=index.groups
    )
    for metric in METRICS:
        ours, other = (row for row in compared if row.metric == metric)
        print(
            f"| {metric} | {ours.estimate.value:.3f} | {other.estimate.value:.3f} "
            f"| {_difference(other)} |"
        )


def _difference(other: Comparison) -> str:
    assert other.difference is not None
    interval = other.difference.seeds or other.difference.images
    return f"{-other.difference.value:+.3f} ({-interval.high:+.3f} to {-interval.low:+.3f})"


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
    parser.add_argument("--head", action="append", choices=tuple(OPTIONS), help="train these alone")
    options = parser.parse_args()
    if options.what == "report":
        report(options.data, options.runs)
        return
    for one in options.data:
        for head in options.head or HEADS:
            train_head(one, head, options.runs)


if __name__ == "__main__":
    main()
