"""COCO's evaluation and file formats. The one module that uses hotcoco.

Dimensions: I images, N boxes, K classes; COCO's arrays have 10 IoU thresholds (.50 to .95), 101
recalls, A ranges of areas (all, small, medium, large) and M limits of detections per image and
class (1, 10, 100).

Ground truth that is `difficult` (VOC) counts as crowd: COCO's protocol has no other way to ignore a
box. VOC's own protocol differs (`ossa.evaluate.voc`).
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final
from zipfile import ZipFile

import hotcoco
import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xywh_to_xyxy
from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError
from ossa.evaluate.matching import detection_columns, unknown_image
from ossa.files import read_regular, write_atomically
from ossa.types import Detections

COCO_AREAS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
)
"""From and to, both included, in square pixels of the original image."""
COCO_MOST_DETECTIONS = (1, 10, 100)
"""Per image and class."""
_MOST_BYTES: Final = 4_000_000_000
"""Of a results file."""
_MOST_UNPACKED: Final = 50
"""Times the size of a .gz; detections are a fifth of theirs."""
_LEAST_BYTES: Final = 20
"""For each object or list of a results file; a detection is one of each, in 57 bytes or more."""
_COLUMNS: Final = ("image_id", "category_id", "bbox", "score")
_MOST_COLUMN_BYTES: Final = 100_000_000
"""Of the arrays of a .npz: two million detections."""
_RESULTS: Final = "a COCO results file (a JSON list of detections)"


@dataclass(frozen=True)
class CocoScores:
    """COCO's accumulated arrays; -1 where there is no ground truth."""

    precision: NDArray[np.float64]
    """(10, 101, K, A) with the last limit of detections per image and class."""
    recall: NDArray[np.float64]
    """(10, K, A, M)."""


def score_as_coco(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    areas: Mapping[str, tuple[float, float]] = COCO_AREAS,
    most_detections: Sequence[int] = COCO_MOST_DETECTIONS,
) -> CocoScores:
    """Returns what pycocotools' COCOeval ('bbox') computes, without its printing.

    Args:
        index: a split with its ground truth.
        detections: by image id; images without any may be left out.
        areas: from and to, both included, in square pixels of the original image.
        most_detections: per image and class, ascending.
    """
    evaluator = _evaluated(index, detections, areas, most_detections)
    evaluator.accumulate()
    arrays = evaluator.eval or {}
    return CocoScores(arrays["precision"][..., -1], arrays["recall"])


def tide_errors(index: DatasetIndex, detections: Mapping[int, Detections]) -> dict[str, Any]:
    """Returns hotcoco's error types of TIDE: `delta_ap` if one is repaired, `counts`, `ap_base`."""
    evaluator = _evaluated(index, detections, {"all": COCO_AREAS["all"]}, [100], ious=[0.5])
    return evaluator.tide_errors(pos_thr=0.5, bg_thr=0.1)


def _rows(**columns: NDArray[Any]) -> list[dict[str, Any]]:
    """Returns one dictionary of plain Python values per row."""
    lists = (column.tolist() for column in columns.values())
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def detections_as_coco_results(
    index: DatasetIndex, detections: Mapping[int, Detections]
) -> list[dict[str, Any]]:
    """Returns the detections as the content of a COCO results file: bbox is x, y, width, height."""
    columns = detection_columns(index, detections)
    return _rows(
        image_id=index.image_ids[columns.images],
        category_id=index.category_ids[columns.labels],
        bbox=columns.boxes_xywh,
        score=columns.scores,
    )


def write_columns(path: Path, index: DatasetIndex, detections: Mapping[int, Detections]) -> None:
    """Writes detections as a compressed .npz, which takes less than half of a .json.gz.

    Its arrays are named like the keys of COCO's results: image_id (N,), category_id (N,),
    bbox (N, 4) as x, y, width and height in pixels of the original image, and score (N,), the last
    two in float32.
    """
    columns = detection_columns(index, detections)
    content = BytesIO()
    np.savez_compressed(
        content,
        image_id=index.image_ids[columns.images],
        category_id=index.category_ids[columns.labels],
        bbox=columns.boxes_xywh.astype(np.float32),
        score=columns.scores.astype(np.float32),
    )
    write_atomically(path, content.getvalue())


def read_coco_results(
    path: Path, index: DatasetIndex, *, first_class_id: int | None = None
) -> dict[int, Detections]:
    """Returns the detections of a COCO results file by image id, best first.

    The file is .json, .json.gz, or .npz with the keys of COCO's entries as columns, as
    `write_columns` writes them.

    Where an image_id is a string, all are names of the image files, with or without suffix, as
    other programs write them for data without ids of their own; a stem that is a number may stand
    as that number. Whole numbers may be written as 1.0.

    Args:
        path: the file.
        index: the split.
        first_class_id: where given, category ids are not the data set's but count the classes in
            their order from this number on.

    Raises:
        DataError: the file is missing, is not a COCO results file or does not fit the index.

    Examples:
        >>> import ossa
        >>> index = ossa.read_data("scenes").index
        >>> detections = ossa.read_coco_results(Path("results.json"), index)
        >>> sorted(detections) == index.image_ids.tolist()
        True
    """
    entries = _read_columns(path) if path.suffix == ".npz" else _read_json_list(path)
    category_ids = index.category_ids.tolist()
    if first_class_id is not None:
        category_ids = list(range(first_class_id, first_class_id + len(category_ids)))
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    by_stem = any(isinstance(one, dict) and type(one.get("image_id")) is str for one in entries)
    image_ids = _ids_by_stem(index) if by_stem else {one: one for one in index.image_ids.tolist()}
    rows: dict[int, list[tuple[float, ...]]] = {}
    for position, entry in enumerate(entries):
        where = f"{path}, entry {position}"
        image_id, category_id, row = _parse_entry(entry, where)
        if image_id not in image_ids:
            raise unknown_image(image_id, index, where=where)
        if category_id not in labels:
            listed = [str(value) for value in labels]
            few = listed if len(listed) <= 6 else [*listed[:3], "...", listed[-1]]
            raise DataError(
                expected=f"a category_id of the data set ({', '.join(few)})",
                found=str(category_id),
                path=where,
                advice=f"use its own ids{_hint_at_first_id(entries, labels)}",
            )
        rows.setdefault(image_ids[image_id], []).append((*row, labels[category_id]))
    return {image_id: _best_first(np.array(found)) for image_id, found in rows.items()}


def _ids_by_stem(index: DatasetIndex) -> dict[str | int, int]:
    """Returns the image ids by file name, stem and the stem's number, without what stands twice."""
    pairs: list[tuple[str | int, int]] = []
    for name, image_id in zip(index.file_names.tolist(), index.image_ids.tolist(), strict=True):
        file, stem = PurePosixPath(name).name, PurePosixPath(name).stem
        pairs += [(key, image_id) for key in {file, stem}]
        if stem.isascii() and stem.isdecimal() and len(stem) <= 18:
            pairs.append((int(stem), image_id))
    counts = Counter(key for key, _ in pairs)
    return {key: image_id for key, image_id in pairs if counts[key] == 1}


def _hint_at_first_id(entries: Sequence[Any], labels: Mapping[int, int]) -> str:
    """Returns what to try where the ids of a file seem to count the classes from 0 or from 1."""
    used = [entry.get("category_id") for entry in entries if isinstance(entry, dict)]
    for first in (0, 1):
        if all(one in range(first, first + len(labels)) for one in used):
            advice = f"ossa val --predictions FILE --class-ids-from {first}"
            return f", or, if the file counts the classes from {first}, {advice} scores it"
    return ""


def _evaluated(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    areas: Mapping[str, tuple[float, float]],
    most_detections: Sequence[int],
    *,
    ious: list[float] | None = None,
) -> hotcoco.COCOeval:
    """Returns hotcoco's evaluation, not yet accumulated.

    hotcoco sees ranks for image ids (float64 rows cannot carry every int64) and labels for category
    ids (so its class axis is ours). Ranks keep the order by id, which settles ties.
    """
    columns = detection_columns(index, detections)
    ranks = np.argsort(np.argsort(index.image_ids))
    width, height = index.sizes_wh.T
    gt = hotcoco.COCO.from_arrays(
        _rows(id=ranks, width=width, height=height),
        [{"id": label, "name": name} for label, name in enumerate(index.names)],
        ranks[index.gt_image_positions()],
        index.labels,
        index.boxes_xywh,
        area=index.areas,
        iscrowd=(index.crowd | index.difficult).astype(np.int64),
    )
    found = (ranks[columns.images], columns.boxes_xywh, columns.scores, columns.labels)
    evaluator = hotcoco.COCOeval(gt, gt.load_res(np.column_stack(found)), "bbox")
    if ious is not None:
        evaluator.params.iou_thrs = ious
    evaluator.params.area_rng = [[float(low), float(high)] for low, high in areas.values()]
    evaluator.params.area_rng_lbl = list(areas)
    evaluator.params.max_dets = list(most_detections)
    evaluator.evaluate()
    return evaluator


def _read_json_list(path: Path) -> list[Any]:
    line = None
    try:
        entries = json.loads(_content(path))
        if isinstance(entries, list):
            return entries
        found = f"a JSON {type(entries).__name__}"
        advice = "give the results, not the annotation file"
    except json.JSONDecodeError as error:
        found, advice, line = (
            f"what is not JSON ({error.msg})",
            "write the file again",
            error.lineno,
        )
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        found, advice = f"none ({error})", "check the path"
    raise DataError(expected=_RESULTS, found=found, path=path, line=line, advice=advice)


def _read_columns(path: Path) -> list[dict[str, Any]]:
    """Returns the detections of a .npz as the entries of a JSON file, which are checked later."""
    try:
        content = read_regular(path, most_bytes=_MOST_BYTES)
        with ZipFile(BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_COLUMN_BYTES:
                raise OSError(f"one that unpacks to more than {_MOST_COLUMN_BYTES:,} bytes")
        with np.load(BytesIO(content), allow_pickle=False) as columns:
            return _rows(**{key: columns[key] for key in _COLUMNS})
    except Exception as error:  # damaged archives raise many kinds
        raise DataError(
            expected=f"columns {', '.join(_COLUMNS)} of one length",
            found=f"none ({error})",
            path=path,
            advice="write the file again",
        ) from None


def _content(path: Path) -> bytes:
    """Returns the JSON text of a results file, of bounded size and number of objects."""
    content = read_regular(path, most_bytes=_MOST_BYTES)
    if path.suffix == ".gz":
        most = _MOST_UNPACKED * (len(content) + 10_000)
        with gzip.open(BytesIO(content)) as unpacked:
            content = unpacked.read(most + 1)
        if len(content) > most:
            raise OSError(f"one that unpacks to more than {_MOST_UNPACKED} times its size")
    if not content.strip():
        advice = "write [] where nothing was detected"
        raise DataError(expected=_RESULTS, found="an empty file", path=path, advice=advice)
    if (content.count(b"{") + content.count(b"[")) * _LEAST_BYTES > len(content) + 10_000:
        raise OSError("more objects and lists than detections of that size can have")
    return content


def _parse_entry(entry: Any, where: str) -> tuple[int | str, int, tuple[float, ...]]:
    """Returns image id or stem, category id and (x, y, width, height, score) of a detection."""

    expected = "an object with image_id, category_id, bbox and score"
    with suppress(TypeError, KeyError):
        image_id, category_id = (_whole(entry[key]) for key in ("image_id", "category_id"))
        numbers = [*entry["bbox"], entry["score"]]
        expected = (
            "whole numbers for category_id and image_id (or names of files), four numbers for bbox "
            "and one for score"
        )
        # type() rather than isinstance(): JSON's true is an int to Python.
        ids_are_whole = type(image_id) in (int, str) and type(category_id) is int
        if ids_are_whole and len(numbers) == 5 and not {type(n) for n in numbers} - {int, float}:
            x, y, width, height, score = numbers
            finite = all(abs(number) < 1e38 for number in numbers)
            if finite and width >= 0 and height >= 0 and 0 <= score <= 1:
                return image_id, category_id, (x, y, width, height, score)
            expected = (
                "a finite bbox [x, y, width, height] without negative sizes and a score in 0..1"
            )
    advice = "write COCO's bbox results, or drop the detection"
    raise DataError(
        expected=expected, found=json.dumps(entry, default=str)[:120], path=where, advice=advice
    )


def _whole(number: Any) -> Any:
    """Returns a whole number also for 1.0; any other value as it is."""
    is_whole = type(number) is float and number.is_integer() and abs(number) <= 2.0**53
    return int(number) if is_whole else number


def _best_first(rows: NDArray[np.float64]) -> Detections:
    """Returns the detections of one image from rows (x, y, width, height, score, label)."""
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    return Detections(
        xywh_to_xyxy(rows[:, :4]),
        rows[:, 4],
        rows[:, 5].astype(np.int64),
        stated_xywh=rows[:, :4],
    )
