"""Writes generated scenes as an ordinary data set of YOLO txt."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import yaml

from ossa.boxes import xyxy_to_cxcywh
from ossa.data.scenes.compose import NAMES, draw_scene
from ossa.errors import DataError
from ossa.types import Sample

VERSION = 1
"""Counts the changes that alter the pictures of a given seed."""
SPLITS = ("train", "val", "test")

_SMALLEST_PICTURE = 128


def write_scenes(
    folder: Path,
    *,
    images: Mapping[str, int] | None = None,
    imgsz: int = 160,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a data set of generated scenes as YOLO txt and returns the path of its data.yaml.

    The same scenes already at `folder` are left as they are.

    Args:
        folder: becomes the data set; must be absent, empty, or hold the very same scenes.
        images: number of images of each split; 600 of train and 120 of val when not given.
        imgsz: width and height of every image in pixels, at least 128.
        seed: of all pictures.
        on_image: called after every image with the number done and the number in all.

    Raises:
        DataError: `folder` holds something else, or a split or the size is out of range.
    """
    images = {"train": 600, "val": 120} if images is None else dict(images)
    _check_request(images, imgsz)
    identity = {"version": VERSION, "images": images, "imgsz": imgsz, "seed": seed}
    folder = Path(folder)
    if _already_written(folder, identity):
        return folder / "data.yaml"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved into place, so that an interrupted call leaves no half data set.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".scenes-") as unfinished:
        root = Path(unfinished) / "scenes"
        for split in images:
            (root / "images" / split).mkdir(parents=True)
            (root / "labels" / split).mkdir(parents=True)
        places = [(split, position) for split in images for position in range(images[split])]
        for done, (split, position) in enumerate(places, start=1):
            generator = np.random.default_rng((seed, SPLITS.index(split), position))
            _write_sample(root, split, position, draw_scene(generator, imgsz))
            if on_image is not None:
                on_image(done, len(places))
        splits = {split: f"images/{split}" for split in images}
        settings = {"format": "yolo", "path": ".", **splits, "names": list(NAMES)}
        (root / "data.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (root / "scenes.json").write_text(json.dumps(identity, indent=2) + "\n")
        os.replace(root, folder)
    return folder / "data.yaml"


def _check_request(images: Mapping[str, int], imgsz: int) -> None:
    for split, count in images.items():
        if split not in SPLITS:
            raise DataError(f"Expected splits among {', '.join(SPLITS)}, found '{split}'.")
        if count < 1:
            raise DataError(f"Expected at least one image of '{split}', found {count}.")
    if imgsz < _SMALLEST_PICTURE:
        raise DataError(
            f"Expected scenes of at least {_SMALLEST_PICTURE} pixels, found imgsz {imgsz}: "
            "the small objects would have too few pixels to show their shape."
        )


def _already_written(folder: Path, identity: dict[str, object]) -> bool:
    """Returns whether `folder` holds exactly these scenes; refuses one that holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "scenes.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == identity:
        return True
    raise DataError(
        f"Expected an empty folder or the scenes {json.dumps(identity)} at {folder}, found "
        f"{'other files' if found is None else json.dumps(found)}; "
        "choose another folder or delete this one."
    )


def _write_sample(root: Path, split: str, position: int, sample: Sample) -> None:
    bgr = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    (root / "images" / split / f"{position:06d}.png").write_bytes(png.tobytes())
    boxes = xyxy_to_cxcywh(sample.boxes_xyxy.astype(np.float64)) / sample.image.shape[0]
    lines = [
        f"{label} " + " ".join(f"{value:.8f}" for value in box) + "\n"
        for label, box in zip(sample.labels, boxes, strict=True)
    ]
    (root / "labels" / split / f"{position:06d}.txt").write_text("".join(lines))
