"""Sound files of every kind that Ossa reads: generated, and real ones where there are any.

A family is the files of one kind, and the place in a small data set where a spoilt one is put.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

_SIZE_WH = (100, 50)
_SIZE_OF_BCCD = (640, 480)
_STEMS = ("1", "2", "3")
_REAL_FILES = 20
"""Of each kind, the first by name."""
_SIDE_OF_REAL_PICTURES = 96


@dataclass(frozen=True)
class Family:
    """Sound files of one kind, all fit for one place."""

    name: str
    place: Path
    """Where a data set expects the file."""
    data_yaml: Path | None
    """Of the data set that the place belongs to; None for an image on its own."""
    seeds: tuple[bytes, ...] = field(repr=False)


def write_families(root: Path, *, real_data: Path | None = None) -> dict[str, Family]:
    """Writes a data set of three images for each kind of file; returns the families by name.

    Args:
        root: an empty folder.
        real_data: a folder with `bccd` (VOC) and `coco128` (YOLO); their files become seeds, too.
    """
    places: dict[str, tuple[str, Callable[[Path], None]]] = {
        "coco": ("train.json", _write_coco),
        "voc": ("Annotations/2.xml", _write_voc),
        "voc list": ("ImageSets/Main/train.txt", _write_voc),
        "yolo": ("labels/2.txt", _write_yolo),
        "yolo list": ("train.txt", _write_yolo_of_list),
        "data.yaml": ("data.yaml", _write_yolo_of_list),
    }
    families = {}
    for name, (place, write) in places.items():
        folder = root / name.replace(" ", "-")
        write(folder)
        seeds = ((folder / place).read_bytes(), *_real_texts(name, real_data))
        families[name] = Family(name, folder / place, folder / "data.yaml", seeds)
    pictures = [_picture(), *_real_pictures(real_data)]
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
        place = root / kind.lower() / f"1.{kind.lower()}"
        place.parent.mkdir(parents=True)
        families[kind] = Family(kind, place, None, _encoded(pictures, kind))
    return families


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_images(folder: Path, size_wh: tuple[int, int] = _SIZE_WH) -> None:
    folder.mkdir(parents=True)
    for stem in _STEMS:
        Image.new("RGB", size_wh, (114, 114, 114)).save(folder / f"{stem}.jpg")


def _write_coco(root: Path) -> None:
    _write_images(root / "photos")
    width, height = _SIZE_WH
    images = [
        {"id": int(stem), "file_name": f"{stem}.jpg", "width": width, "height": height}
        for stem in _STEMS
    ]
    annotations = [
        {
            "id": number,
            "image_id": number % 3 + 1,
            "category_id": number % 2 + 1,
            "bbox": [10.5, 5, 20 + number, 30.25],
            "area": 600.5,
            "iscrowd": int(number == 5),
            "segmentation": [[10.5, 5, 30, 5, 30, 35.25]],
        }
        for number in range(1, 7)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write(root / "train.json", json.dumps({"info": {"year": 2017}} | content, indent=1))
    _write(root / "data.yaml", "train: {images: photos, annotations: train.json}\n")


def _write_voc(root: Path) -> None:
    _write_images(root / "JPEGImages", _SIZE_OF_BCCD)
    thing = (
        "  <object>\n    <name>{}</name>\n    <difficult>0</difficult>\n    <bndbox><xmin>{}</xmin>"
        "<ymin>5</ymin><xmax>60.5</xmax><ymax>40</ymax></bndbox>\n  </object>\n"
    )
    size = "  <size><width>640</width><height>480</height><depth>3</depth></size>\n"
    things = thing.format("cat", 10) + thing.format("dog", 20)
    for stem in _STEMS:
        _write(
            root / "Annotations" / f"{stem}.xml",
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n{size}{things}</annotation>\n',
        )
    _write(root / "ImageSets" / "Main" / "train.txt", "\n".join(_STEMS) + "\n")
    names = "[cat, dog, RBC, WBC, Platelets]"
    _write(root / "data.yaml", f"train: ImageSets/Main/train.txt\nnames: {names}\n")


def _write_yolo(root: Path) -> None:
    _write_images(root / "images")
    for stem in _STEMS:
        _write(
            root / "labels" / f"{stem}.txt",
            "0 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.1 0.1\n1 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6\n",
        )
    names = ", ".join(f"class{number}" for number in range(80))
    _write(root / "data.yaml", f"train: images\nnames: [{names}]\n")


def _write_yolo_of_list(root: Path) -> None:
    _write_yolo(root)
    _write(root / "train.txt", "".join(f"./images/{stem}.jpg\n" for stem in _STEMS))
    _write(
        root / "data.yaml",
        "format: yolo\npath: .\ntrain: train.txt\nval:\n- images\nnc: 2\nnames: {0: cat, 1: dog}\n"
        "category_ids: [1, 3]\nclasses: {animal: [cat, dog]}\n",
    )


def _real_texts(name: str, real_data: Path | None) -> list[bytes]:
    folders = {"voc": "bccd/Annotations", "yolo": "coco128/labels"}
    if real_data is None or name not in folders:
        return []
    suffix = ".xml" if name == "voc" else ".txt"
    files = sorted((real_data / folders[name]).rglob(f"*{suffix}"))
    return [file.read_bytes() for file in files[:_REAL_FILES]]


def _picture() -> Image.Image:
    y, x = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([x * 2, y * 3, 255 - x], axis=-1).astype(np.uint8))


def _real_pictures(real_data: Path | None) -> list[Image.Image]:
    if real_data is None:
        return []
    pictures = []
    for file in islice(sorted((real_data / "coco128" / "images").rglob("*.jpg")), _REAL_FILES):
        with Image.open(file) as picture:
            picture.thumbnail((_SIDE_OF_REAL_PICTURES, _SIDE_OF_REAL_PICTURES))
            pictures.append(picture.copy())
    return pictures


def _encoded(pictures: list[Image.Image], kind: str) -> tuple[bytes, ...]:
    """Returns the pictures as files of a kind, every second one in the rarer of its variants."""
    variants = {
        "JPEG": ({}, {"progressive": True}),
        "PNG": ({}, {"bits": 8}),
        "TIFF": ({"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
        "WEBP": ({}, {"lossless": True}),
        "BMP": ({}, {}),
    }[kind]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for number, picture in enumerate([pictures[0], *pictures]):
        rare = bool(number % 2)
        buffer = BytesIO()
        source = picture.convert("P") if rare and kind in ("PNG", "BMP") else picture
        options = variants[rare] | ({"exif": exif} if rare and kind != "BMP" else {})
        source.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return tuple(files)
