"""Folders without a data.yaml, as annotation tools export them: the keys that one would have.

Known are COCO with one JSON file per split (or one alone), PASCAL VOC with and without ImageSets,
darknet (CVAT's "YOLO 1.1"), and YOLO with a file of class names. The annotations of LabelMe and the
metadata of Hugging Face's image folders are refused by name. A folder below with a data.yaml of its
own, such as that of `ossa data split`, is another data set and plays no part.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ossa.data.paths import (
    annotation_places,
    first_existing,
    has_xml_alone,
    is_image,
    label_places,
    listed_lines,
    refuse_missing,
)
from ossa.errors import ConfigError, DataError
from ossa.safe_yaml import read_yaml

_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORD: Final = re.compile(rf"(?<![a-z])({'|'.join(sorted(_WORDS, reverse=True))})(?![a-z])")
_YAMLS: Final = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES: Final = ("classes.txt", "obj.names", "data/obj.names", "labels/classes.txt")
_METADATA: Final = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MOST_LOOKED_AT: Final = 1000
"""Entries of a folder."""
_MOST_JSON: Final = 50
"""Files, which are read until their first image."""


def find_description(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """Returns the YAML file of a data set, or a folder and the keys that its data.yaml would have.

    Args:
        path: a YAML file, or a folder.

    Raises:
        DataError: there is nothing, or a folder whose annotations are not read, or do not say what
            they are of.
    """
    if not path.is_dir():
        refuse_missing(path, "data set")
        return path, None
    own = _own_yaml(path)
    if own is not None:
        return own, None
    for read in (_darknet, _coco, _voc, _yolo):
        content = read(path)
        if content is not None:
            return path, content
    _refuse_others(path)
    return path / _YAMLS[0], None


def _own_yaml(folder: Path) -> Path | None:
    """Returns the YAML file by which a folder is a data set of its own; None where it has none."""
    for name in _YAMLS:
        if (folder / name).is_file():
            return folder / name
    yamls = [folder / name for name in _names(folder) if name.lower().endswith((".yaml", ".yml"))]
    return yamls[0] if len(yamls) == 1 and _names_splits(yamls[0]) else None


def has_entries(root: Path, entries: Iterable[Any]) -> bool:
    """Returns whether what a data.yaml names as splits lies in a folder."""
    texts = [
        text
        for entry in entries
        for part in (entry if isinstance(entry, list) else [entry])
        for text in (part.values() if isinstance(part, dict) else [part])
        if isinstance(text, str)
    ]
    return bool(texts) and all(first_existing(root, text)[1] is None for text in texts)


def _names_splits(file: Path) -> bool:
    try:
        keys = read_yaml(file).value
    except (OSError, ConfigError):
        return False
    return isinstance(keys, dict) and any(split in keys for split in ("train", "val", "test"))


def format_of(entries: Iterable[Any], root: Path) -> str:
    """Returns 'coco', 'voc' or 'yolo' by the entries of a data.yaml and what lies there."""
    flat = [part for entry in entries for part in (entry if isinstance(entry, list) else [entry])]
    paths = [part for part in flat if isinstance(part, str)]
    if len(paths) < len(flat) or any(path.lower().endswith(".json") for path in paths):
        return "coco"
    is_voc = (
        all((root / name).is_dir() for name in ("Annotations", "JPEGImages"))
        or any("ImageSets" in Path(path).parts for path in paths)
        or any(has_xml_alone(root / path) for path in paths)
    )
    return "voc" if is_voc else "yolo"


def _darknet(folder: Path) -> dict[str, Any] | None:
    """Returns the keys of an `obj.data`, whose lines are such as `train = data/train.txt`."""
    file = folder / "obj.data"
    if not file.is_file():
        return None
    pairs = (text.partition("=") for _, text in listed_lines(file))
    stated = {key.strip(): value.strip() for key, _, value in pairs}
    found = {"train": stated.get("train"), "val": stated.get("valid"), "names": stated.get("names")}
    content: dict[str, Any] = {"format": "yolo"}
    for key, value in found.items():
        for place in (value, (value or "").removeprefix("data/")):
            if place and (folder / place).is_file():
                content[key] = place
    return content


def _coco(folder: Path) -> dict[str, Any] | None:
    files: dict[str, list[Path]] = {}
    for file in islice(_json_files(folder), _MOST_JSON):
        split = _split_of(file.relative_to(folder))
        if _first_image(file) is not None:
            files.setdefault(split or "train", []).append(file)
    content: dict[str, Any] = {"format": "coco"}
    for split, found in files.items():
        # Beside COCO's instances there are files of captions and keypoints of the same images.
        instances = [file for file in found if file.name.startswith("instances")] or found
        if len(instances) > 1:
            names = " and ".join(str(file.relative_to(folder)) for file in instances[:2])
            raise _unclear(folder, f"one JSON file for split '{split}'", names)
        (file,) = instances
        images = images_of_coco(file, folder, split)
        content[split] = {
            "images": str(images.relative_to(folder)),
            "annotations": str(file.relative_to(folder)),
        }
    return content if files else None


def _json_files(folder: Path) -> Iterator[Path]:
    """Yields JSON files of a folder and of its subfolders, none beside an image of its own stem."""
    places = [folder, *_subfolders(folder)]
    for place in places:
        names = _names(place)
        stems = {os.path.splitext(name)[0] for name in names if is_image(name)}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".json" and stem not in stems:
                yield place / name


def _first_image(file: Path) -> str | None:
    """Returns the name of the first image of a file of COCO; None of another JSON file."""
    from ossa.data.formats.json_stream import stream_lists

    try:
        for _, _, row in stream_lists(file, ("images",)):
            name = row.get("file_name") if isinstance(row, dict) else None
            return name if isinstance(name, str) and name else None
    except DataError:
        return None
    return None


def images_of_coco(file: Path, folder: Path, split: str) -> Path:
    """Returns the folder that the names of a JSON file are relative to, at or below `folder`.

    Raises:
        DataError: the first image is in none of the usual places.
    """
    name = (_first_image(file) or "").replace("\\", "/")
    end = file.stem.rpartition("_")[2]  # instances_train2017 has the folder train2017
    words = dict.fromkeys((end, *(word for word, one in _WORDS.items() if one == split)))
    places = [file.parent, folder / "images", folder]
    places += [top / word for top in (folder / "images", folder) for word in words]
    for place in places:
        if (place / name).is_file():
            return place
    raise _unclear(folder, f"the images of {file.relative_to(folder)}", f"no {name} in the folder")


def _voc(folder: Path) -> dict[str, Any] | None:
    content: dict[str, Any] = {"format": "voc"}
    lists = folder / "ImageSets" / "Main"
    if lists.is_dir():
        for split, names in (("train", ("train", "trainval", "default")), ("val", ("val",))):
            found = (f"ImageSets/Main/{name}.txt" for name in names)
            content[split] = next((one for one in found if (folder / one).is_file()), None)
        if (lists / "test.txt").is_file():
            content["test"] = "ImageSets/Main/test.txt"
    elif (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        content["train"] = "JPEGImages"
    else:
        content |= _split_folders(folder, has_xml_alone)
    content = {key: value for key, value in content.items() if value is not None}
    if "train" not in content and "val" not in content:
        return None
    from ossa.data.formats.voc import class_names

    folders = [folder / str(value) for key, value in content.items() if key != "format"]
    if lists.is_dir():
        folders = [folder / "JPEGImages" / "_"]
    places = (Path(p).parent for f in folders for p in annotation_places(str(f / "_")))
    places = [*dict.fromkeys([*places, folder / "Annotations", *folders])]
    content["names"] = class_names(place for place in places if place.is_dir())
    return content if content["names"] else None


def _yolo(folder: Path) -> dict[str, Any] | None:
    content = {"format": "yolo", **_split_folders(folder, _has_labels)}
    if len(content) == 1:
        return None
    names = next((name for name in _NAMES if (folder / name).is_file()), None)
    if names is None:
        expected = "the class names of YOLO's labels, in a classes.txt of one name on each line"
        raise _unclear(folder, expected, "none")
    return {**content, "names": names}


def _split_folders(folder: Path, has_labels: Callable[[Path], bool]) -> dict[str, str]:
    """Returns the folder of images of each split; the whole as train where none is named so."""
    found: dict[str, str] = {}
    for word, split in _WORDS.items():
        for place in (f"images/{word}", f"{word}/images", word):
            if split not in found and _is_part(folder, place) and has_labels(folder / place):
                found[split] = place
    if not found:
        for place in ("images", "JPEGImages", "obj_train_data", "."):
            if "train" not in found and _is_part(folder, place) and has_labels(folder / place):
                found["train"] = place
    return found


def _is_part(folder: Path, place: str) -> bool:
    """Returns whether no folder on the way from a data set to a place is another data set."""
    parts = Path(place).parts
    below = (folder.joinpath(*parts[:number]) for number in range(1, len(parts) + 1))
    return all(_own_yaml(one) is None for one in below)


def _has_labels(folder: Path) -> bool:
    """Returns whether images lie in a folder, and a txt file of labels of one of them."""
    images = [name for name in _names(folder) if is_image(name)]
    return any(
        os.path.isfile(place) for name in images for place in label_places(str(folder / name))
    )


def _names(folder: Path) -> list[str]:
    """Returns the first names in a folder, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, _MOST_LOOKED_AT))
    except OSError:
        return []


def _subfolders(folder: Path) -> list[Path]:
    """Returns the folders below one, but those with a YAML file of their own: other data sets."""
    below = (folder / name for name in _names(folder))
    return [one for one in below if one.is_dir() and _own_yaml(one) is None]


def _split_of(path: Path) -> str | None:
    found = _WORD.findall(str(path).lower())
    return _WORDS[found[-1]] if found else None


def _refuse_others(folder: Path) -> None:
    """Raises DataError for annotations that are not read, with the way to others."""
    for place in (folder, *_subfolders(folder)):
        names = _names(place)
        metadata = next((name for name in _METADATA if name in names), None)
        stems = {os.path.splitext(name)[0] for name in names if is_image(name)}
        if metadata is not None:
            found = f"{metadata} of an image folder of Hugging Face's datasets"
            advice = "write its objects as a COCO JSON file: bbox is x, y, width and height in both"
        elif any(name.endswith(".json") and name[:-5] in stems for name in names):
            found = "JSON files of single images, as LabelMe writes them"
            advice = "labelme2coco or labelme's labelme2voc.py convert them: give what they write"
        elif "annotations.xml" in names:
            found = "annotations.xml, as CVAT writes for images"
            advice = "export the task as 'YOLO 1.1' or 'COCO 1.0'"
        else:
            continue
        raise DataError(
            expected="YOLO txt, COCO JSON or VOC XML", found=found, path=place, advice=advice
        )


def _unclear(folder: Path, expected: str, found: str) -> DataError:
    advice = "or write a data.yaml into the folder that says what is where"
    return DataError(expected=expected, found=found, path=folder, advice=advice)
