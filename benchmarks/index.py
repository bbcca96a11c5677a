"""How long a data set of COCO's size takes to open, and how much memory: first, and from the cache.

    python benchmarks/index.py
    python benchmarks/index.py --images 118000 --boxes 860000 --repeats 3

Generates, in a temporary folder, a COCO JSON file in the layout of instances_train2017.json
(polygons of 26 points on average, every hundredth annotation a crowd region as RLE) with an empty
file for each of its images, and again with ten times as many images and boxes. Each reading is a
process of its own, which is asked for
- `seconds` and `cpu_seconds`: of `read_index`, the imports not counted;
- `peak_bytes`: of the whole process, and `peak_bytes_of_imports`: what it had before reading;
- `fingerprint`: which must not differ between the first reading and the later ones.
Prints one JSON object: `first`, `later` (the slowest of --repeats), both at `x1` and at `x10`, and
`growth`: the ratio of each number at ten times the size; the sizes also as each is done, on stderr.
Takes 8 GB of disk and a quarter of an hour, most of it to generate and remove. No time is promised
by a test: machines differ.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUM_CLASSES = 80
_CROWD_EVERY = 100
_POLYGONS = 5000
"""Different outlines; annotations share them, since a reader skips them all the same."""
_MEAN_POINTS = 26

_SETTLING_SECONDS = 3
"""No index is kept of files that changed in the last two seconds before they were read."""

_GROWING = ("seconds", "cpu_seconds", "peak_bytes")

_READ = r"""
import json, re, sys, time
from pathlib import Path
from ossa.data.description import read_description
from ossa.data.reading import read_index
# Not getrusage: a new process has the peak of the one that started it.
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
imported = peak()
start, cpu_start = time.perf_counter(), time.process_time()
report = read_index(read_description(sys.argv[1]), "train")
seconds, cpu_seconds, reached = time.perf_counter() - start, time.process_time() - cpu_start, peak()
print(json.dumps({
    "seconds": seconds, "cpu_seconds": cpu_seconds,
    "peak_bytes": reached, "peak_bytes_of_imports": imported,
    "images": len(report.index), "boxes": len(report.index.labels),
    "problems": len(report.issues), "fingerprint": report.index.fingerprint(),
}))
"""


def write_coco(folder: Path, images: int, boxes: int, rng: np.random.Generator) -> Path:
    """Writes the JSON file, an empty file for each image and a data.yaml; returns the last."""
    (folder / "train2017").mkdir(parents=True)
    for number in range(images):
        (folder / "train2017" / f"{number:012d}.jpg").touch()
    outlines = [_outline(rng) for _ in range(_POLYGONS)]
    image_ids = rng.integers(0, images, boxes).tolist()
    categories = rng.integers(1, _NUM_CLASSES + 1, boxes).tolist()
    with (folder / "instances_train2017.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        file.write(", ".join(_image(number) for number in range(images)))
        file.write('], "annotations": [')
        for number in range(boxes):
            segmentation, bbox, area = outlines[number % _POLYGONS]
            crowd = int(number % _CROWD_EVERY == 0)
            if crowd:
                segmentation = '{"counts": [272, 2, 4, 4, 4, 4, 2, 9, 1, 2], "size": [480, 640]}'
            file.write(", " if number else "")
            file.write(
                f'{{"segmentation": {segmentation}, "area": {area}, "iscrowd": {crowd}, '
                f'"image_id": {image_ids[number]}, "bbox": {bbox}, '
                f'"category_id": {categories[number]}, "id": {number + 1}}}'
            )
        rows = [
            {"supercategory": "thing", "id": label + 1, "name": f"class {label}"}
            for label in range(_NUM_CLASSES)
        ]
        file.write(f'], "categories": {json.dumps(rows)}}}')
    data_yaml = folder / "data.yaml"
    data_yaml.write_text("train: {images: train2017, annotations: instances_train2017.json}\n")
    return data_yaml


def _outline(rng: np.random.Generator) -> tuple[str, str, float]:
    """Returns a polygon, its bbox (both as JSON) and its area, in an image of 640x480 pixels."""
    points = 4 + int(rng.geometric(1 / (_MEAN_POINTS - 4)))
    angles = np.sort(rng.uniform(0, math.tau, points))
    radii = rng.lognormal(3.4, 0.7) * rng.uniform(0.7, 1.0, points)
    centre = rng.uniform((0, 0), (640, 480))
    xy = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    xy = np.clip(xy, 0, (640, 480)).round(2)
    (x0, y0), (x1, y1) = np.minimum(xy.min(axis=0), (639, 479)), xy.max(axis=0)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    bbox = [round(float(number), 2) for number in (x0, y0, x1 - x0, y1 - y0)]
    return json.dumps([xy.ravel().tolist()]), json.dumps(bbox), round(_area(xy), 4)


def _area(xy: NDArray[np.float64]) -> float:
    x, y = xy.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _image(number: int) -> str:
    return (
        f'{{"license": 3, "file_name": "{number:012d}.jpg", "coco_url": '
        f'"http://images.cocodataset.org/train2017/{number:012d}.jpg", "height": 480, '
        '"width": 640, "date_captured": "2013-11-14 11:18:45", "flickr_url": '
        f'"http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg", "id": {number}}}'
    )


def _read(data_yaml: Path, cache: Path) -> dict[str, Any]:
    """Returns what a process of its own took to read the data set."""
    environment = os.environ | {"OSSA_CACHE": str(cache)}
    output = subprocess.run(
        [sys.executable, "-c", _READ, str(data_yaml)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output)


def _measure(folder: Path, *, images: int, boxes: int, repeats: int) -> dict[str, Any]:
    data_yaml = write_coco(folder / "data", images, boxes, np.random.default_rng(0))
    annotations = folder / "data" / "instances_train2017.json"
    time.sleep(_SETTLING_SECONDS)
    first = _read(data_yaml, folder / "cache")
    later = [_read(data_yaml, folder / "cache") for _ in range(repeats)]
    if {row["fingerprint"] for row in later} != {first["fingerprint"]}:
        raise SystemExit("the index from the cache is not the one read first")
    return {
        "annotation_bytes": annotations.stat().st_size,
        "cache_bytes": sum(file.stat().st_size for file in (folder / "cache").rglob("*.*")),
        "first": first,
        "later": max(later, key=lambda row: row["seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How long COCO's annotations take to open.")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--factor", type=int, default=10, help="of the second size; 1: none")
    options = parser.parse_args()
    sizes = {f"x{factor}": factor for factor in dict.fromkeys((1, options.factor))}
    results: dict[str, Any] = {}
    for name, factor in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = _measure(
                Path(folder),
                images=options.images * factor,
                boxes=options.boxes * factor,
                repeats=options.repeats,
            )
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    if len(results) == 2:
        small, large = results.values()
        results["growth"] = {
            when: {key: large[when][key] / small[when][key] for key in _GROWING}
            for when in ("first", "later")
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
