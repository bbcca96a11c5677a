"""Small data sets written to disk, for the tests of reading."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(path: Path, size_wh: tuple[int, int] = (100, 50), *, orientation: int = 1) -> Path:
    """Writes a grey image with an EXIF orientation, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_wh, (114, 114, 114)).save(path, exif=exif)
    return path


def gradient(width: int = 96, height: int = 64) -> np.ndarray:
    """Returns a smooth uint8 (H, W, 3) picture without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 3, 255 - x], axis=-1).astype(np.uint8)


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_yolo(
    root: Path, labels_of_image: Mapping[str, str | None], names: str = "[a, b]"
) -> Path:
    """Writes 100x50 images with label texts (None: no label file); returns the data.yaml."""
    for name, labels in labels_of_image.items():
        write_image(root / "images" / "train" / name)
        if labels is not None:
            write_text((root / "labels" / "train" / name).with_suffix(".txt"), labels)
    return write_text(root / "data.yaml", f"train: images/train\nnames: {names}\n")


def voc_object(name: str, box: Sequence[object], *, difficult: int = 0) -> str:
    """Returns one line of XML, an object whose box has xmin, ymin, xmax, ymax."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def write_voc(root: Path, objects_of_stem: Mapping[str, Sequence[str]]) -> Path:
    """Writes 100x50 images whose objects stand from line 2 of the XML; returns the data.yaml."""
    for stem, objects in objects_of_stem.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        xml = "\n".join(["<annotation>", *objects, "</annotation>"])
        write_text(root / "Annotations" / f"{stem}.xml", xml)
    write_text(root / "ImageSets" / "Main" / "train.txt", "\n".join(objects_of_stem))
    return write_text(root / "data.yaml", "train: ImageSets/Main/train.txt\nnames: [cat, dog]\n")


def coco_annotation(annotation_id: int, bbox: Any, **fields: Any) -> dict[str, Any]:
    """Returns an annotation of image 7 and category 2."""
    return {"id": annotation_id, "image_id": 7, "category_id": 2, "bbox": bbox, **fields}


def write_coco(root: Path, annotations: Sequence[Mapping[str, Any]], **content: Any) -> Path:
    """Writes images 7 and 3 (100x50) and a JSON file; `content` overrides its keys."""
    images = [
        {"id": image_id, "file_name": f"{image_id}.jpg", "width": 100, "height": 50}
        for image_id in (7, 3)
    ]
    for image in images:
        write_image(root / "photos" / str(image["file_name"]))
    categories = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]
    coco = {"images": images, "annotations": list(annotations), "categories": categories} | content
    write_text(root / "train.json", json.dumps(coco))
    return write_text(root / "data.yaml", "train: {images: photos, annotations: train.json}\n")
