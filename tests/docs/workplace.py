"""A folder in which the names that the pages use exist: small data, photos, runs, a study.

All of it is generated; one detector is trained for an epoch, and the other runs are copies of it.
"""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import timm
import yaml
from documentation import ROOT
from safetensors.torch import save_file

import ossa
from ossa.config import settings_digest
from ossa.data.synthetic import draw_scene, write_scenes
from ossa.evaluate.coco import detections_as_coco_results
from ossa.train.run_folder import CONFIG_FILE, read_record, write_record
from ossa.types import Detections

IMAGES = {"train": 8, "val": 4, "test": 4}
RUNS = {
    "cspdarknet_n": 0,
    "mobilenetv2_100": 0,
    **{
        f"{model}-seed{seed}": seed
        for model in ("cspdarknet_n", "convnext_atto")
        for seed in range(3)
    },
}
"""Copies of the run `yolov5n` and the seeds that they are said to have."""
BACKBONE = "mobilenetv2_100"
"""Of the file with backbone weights."""


def prepare(folder: Path) -> None:
    """Writes everything that the commands of any page find in the folder of their reader."""
    write_data(folder)
    write_results(folder)
    _write_classes(folder)
    _write_pictures(folder)
    _write_runs(folder)
    _write_weights(folder)
    shutil.copytree(ROOT / "studies", folder / "studies")


def write_data(folder: Path) -> None:
    """Writes one data set under all names."""
    write_scenes(folder / "scenes-of-all", images=IMAGES, imgsz=128)
    for name in ("bccd", "coco", "coco128", "cells", "data/voc", "data/coco", "DATA/bccd"):
        shutil.copytree(folder / "scenes-of-all", folder / name)
    description = yaml.safe_load((folder / "cells" / "data.yaml").read_text())
    (folder / "cells.yaml").write_text(yaml.safe_dump({**description, "path": "cells"}))


def _write_classes(folder: Path) -> None:
    """Writes noise as if it were classified pictures."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("bone", "fish"):
            (folder / "imagenet" / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"imagenet/{split}/{label}/{number}.jpg"), pixels)


def _write_pictures(folder: Path) -> None:
    """Writes photos, the same within a data set, and a video of them."""
    scenes = [draw_scene(np.random.default_rng(number), 128).image for number in range(4)]
    pictures = [np.ascontiguousarray(scene[..., ::-1]) for scene in scenes]
    for place in (folder / "photos", folder / "bccd" / "JPEGImages"):
        place.mkdir()
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(place / f"{number}.jpg"), picture)
    odd = cv2.resize(pictures[0], (97, 63))  # at 64 px its height is a fraction, which is rounded
    cv2.imwrite(str(folder / "photo.jpg"), odd)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(folder / "street.mp4"), codec, 10, (128, 128))
    for picture in pictures:
        video.write(picture)
    video.release()


def _write_runs(folder: Path) -> None:
    first = folder / "runs" / "yolov5n"
    ossa.train_detector(
        data=folder / "bccd",
        model="yolov5n",
        recipe="quick",
        folder=first,
        settings={"train": {"imgsz": 64, "batch": 4, "epochs": 1}},
    )
    for name, seed in RUNS.items():
        copy = shutil.copytree(first, folder / "runs" / name)
        config = yaml.safe_load((copy / CONFIG_FILE).read_text())
        (copy / CONFIG_FILE).write_text(yaml.safe_dump({**config, "seed": seed}))
        record = read_record(copy)
        settings = {**record.config, "seed": seed}
        digest = settings_digest(settings)
        write_record(replace(record, seed=seed, config=settings, config_hash=digest), copy)
    shutil.copy(first / "best.safetensors", folder / "best.safetensors")


def write_results(folder: Path) -> None:
    """Writes detections as results files: of even objects at 0.9, of the others at 0.3."""
    index = ossa.read_data(folder / "bccd", "val").index
    detections = {}
    for position, image_id in enumerate(index.image_ids.tolist()):
        rows = np.arange(len(index.labels))[index.gt_rows(position)]
        scores = np.where(rows % 2 == 0, 0.9, 0.3).astype(np.float32)
        boxes_xyxy = index.boxes_xyxy[rows].astype(np.float32)
        detections[image_id] = Detections(boxes_xyxy, scores, index.labels[rows])
    text = json.dumps(detections_as_coco_results(index, detections))
    for name in ("found.json", "ours.json"):
        (folder / name).write_text(text)
    (folder / "theirs.json.gz").write_bytes(gzip.compress(text.encode()))


def _write_weights(folder: Path) -> None:
    """Writes random weights of a backbone, with the metadata that such a file needs."""
    state = timm.create_model(BACKBONE).state_dict()
    metadata = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, folder / f"{BACKBONE}_in1k.safetensors", metadata)
