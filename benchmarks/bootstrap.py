"""How long `ossa compare` resamples, and how much memory it needs.

    python benchmarks/bootstrap.py                # 500 images, and COCO val2017's size
    taskset -c 0 python benchmarks/bootstrap.py   # on one core

The problems are those of `benchmarks/metrics.py`: truths of 80 classes and 100 detections of each
image. Two models are compared. Prints one JSON object a size with the seconds (wall, and of all
threads together) of

- `plain`: COCO's metrics of one model, once, by hotcoco;
- `matching`: of one model;
- `compare`: of two models that are matched, with --resamples draws of the images,

the `ratio` of the CPU seconds of `compare`, a model, to those of `plain`, and `peak_bytes` of the
process. No time is promised by a test: machines differ, the ratios hardly do.
"""

import argparse
import json
import resource
from typing import Any

import numpy as np
from metrics import generate, timed  # the benchmark beside this one

from ossa.evaluate.matching import Matches, match
from ossa.evaluate.metrics import evaluate_detections
from ossa.evaluate.statistics import compare_models
from ossa.train.provenance import environment

_TRUTHS_AN_IMAGE, _DETECTIONS_AN_IMAGE = 7.2, 100
_SIZES = (500, 5000)


def measure(images: int, *, resamples: int) -> dict[str, Any]:
    """Returns what comparing two models takes at one size."""
    rng = np.random.default_rng(0)
    index, detections = generate(images, int(_TRUTHS_AN_IMAGE * images), _DETECTIONS_AN_IMAGE, rng)
    fewer = {image_id: found.above(0.1) for image_id, found in detections.items()}
    models: list[list[Matches]] = [[match(index, detections)], [match(index, fewer)]]
    plain = timed(lambda: evaluate_detections(index, detections), repeats=3)
    matching = timed(lambda: match(index, detections), repeats=3)
    compare = timed(lambda: compare_models(models, resamples=resamples), repeats=1)
    return {
        "images": images,
        "truths": len(index.labels),
        "detections": [len(runs[0].scores) for runs in models],
        "resamples": resamples,
        "plain": plain._asdict(),
        "matching": matching._asdict(),
        "compare": compare._asdict(),
        "ratio": compare.cpu / 2 / plain.cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of ossa compare.")
    parser.add_argument("--images", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    print(json.dumps(environment(), indent=2))
    for images in options.images:
        print(json.dumps(measure(images, resamples=options.resamples), indent=2), flush=True)


if __name__ == "__main__":
    main()
