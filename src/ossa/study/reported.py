"""The metrics that a study reports for a run, as measured and under resampled images.

The record of a run has the metrics of the last weights on val. If a study reports another split,
the chosen weights are evaluated there when the run has finished, and the result is written beside
the record. A published study (`ossa.study.report.publish`) has such detections without the lowest
scores, and the metrics of these. The metrics under resampled images are stored there, too. The
resamples are the same for every run on a split, so that values stored months apart are comparable,
and a report over hundreds of runs does not have to match or resample anything.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ossa.config import build_config
from ossa.data.annotations import DatasetIndex
from ossa.data.cache import CachePlace
from ossa.data.cache_files import content_fingerprint
from ossa.data.description import read_description
from ossa.data.reading import read_data, read_index
from ossa.errors import DataError
from ossa.evaluate.bootstrap import RESAMPLED_METRICS, RESAMPLES, image_weightings, resample
from ossa.evaluate.coco import detections_as_coco_results, read_coco_results, write_columns
from ossa.evaluate.evaluator import check_classes, detector_for_evaluation, evaluate
from ossa.evaluate.matching import match
from ossa.evaluate.metrics import evaluate_detections
from ossa.evaluate.object_bins import bins_of
from ossa.files import read_json_object, sha256_of, write_atomically, write_json_atomically
from ossa.models.checkpoint import read_checkpoint
from ossa.schema import Section, validated
from ossa.study.config import Reported
from ossa.train.callbacks import Callback
from ossa.train.run_folder import (
    BEST_WEIGHTS,
    DETECTIONS_FILE,
    LAST_WEIGHTS,
    Numbers,
    read_record,
)
from ossa.train.splits import read_split
from ossa.types import Detections

REPORTED_FILE = "reported.json"
PUBLISHED_FILE = "published.json"
RESAMPLED_FILE = "resampled.npz"
_SEED = 0
_LARGEST = 64 * 2**20
_ROUNDING = 1e-6


class _ReportedContent(Reported, strict=True):
    """The content of `reported.json`."""

    metrics: Numbers
    fingerprint: str
    images: str | None = None
    """Of the bytes of all images; None in files of earlier versions."""
    files: dict[str, str]


class Publication(Section, strict=True):
    """What a published run lacks, the content of its `published.json`.

    Examples:
        >>> Publication(least_score=0.01, left_out=("last.safetensors",), metrics={}).least_score
        0.01
    """

    least_score: float = Field(ge=0, le=1)
    """Detections of lower scores were left out."""
    left_out: tuple[str, ...]
    """Files that the record lists and that were not published."""
    metrics: Numbers
    """Of all detections, on the split that the study reports."""


def read_publication(folder: Path) -> Publication | None:
    """Returns what is said of a published run, None for any other.

    Raises:
        DataError: it is damaged.
    """
    file = folder / PUBLISHED_FILE
    if not file.is_file():
        return None
    content = read_json_object(file, what="what was published")
    listed = {**content, "left_out": tuple(content.get("left_out") or ())}
    return validated(Publication, listed, where=str(file))


def is_reported(folder: Path, reported: Reported) -> bool:
    """Returns whether a finished run has the metrics that the study reports."""
    return reported.split == "val" or (folder / REPORTED_FILE).is_file()


def write_reported(
    folder: Path,
    reported: Reported,
    *,
    device: str,
    workers: int,
    cache: CachePlace = "none",
) -> None:
    """Evaluates the weights of a finished run on the split; writes metrics and detections.

    Raises:
        OssaError: there is no such split, or the weights are missing.
    """
    config = build_config(read_record(folder).config)
    weights = folder / (LAST_WEIGHTS if reported.weights == "last" else BEST_WEIGHTS)
    checkpoint = read_checkpoint(weights)
    split = read_split(config, reported.split, callback=Callback(), cache=cache)
    index = split.index
    check_classes(checkpoint.names, index, weights=weights, data=config.data)
    evaluation = evaluate(
        detector_for_evaluation(checkpoint, imgsz=config.train.imgsz, device=device),
        index,
        pixels=split.pixels,
        imgsz=config.train.imgsz,
        tiles=config.train.windows,
        config=config.evaluate,
        batch=config.train.batch,
        device=device,
        workers=workers,
    )
    detections = folder / f"{reported.split}-detections.json.gz"
    results = json.dumps(detections_as_coco_results(index, evaluation.detections))
    write_atomically(detections, gzip.compress(results.encode(), mtime=0))
    content = {
        **reported.model_dump(),
        "metrics": evaluation.metrics.flat(),
        "fingerprint": index.fingerprint(),
        "images": content_fingerprint(index),
        "files": {detections.name: sha256_of(detections)},
    }
    write_json_atomically(folder / REPORTED_FILE, content)


def write_thinned(
    folder: Path, to: Path, reported: Reported, index: DatasetIndex, *, least_score: float
) -> None:
    """Writes the metrics and detections of a finished run anew, without those of lower scores.

    Args:
        folder: of the run, which is not changed.
        to: another folder, of the published run.
        reported: what the study reports, on another split than val.
        index: this split.
        least_score: of the detections that are kept.

    Raises:
        DataError: the metrics or detections of the run are missing or damaged.
    """
    content = _read(folder, reported)
    kept = {}
    for image_id, found in read_coco_results(detections_file(folder, reported), index).items():
        high = found.scores >= least_score
        kept[image_id] = Detections(found.boxes_xyxy[high], found.scores[high], found.labels[high])
    file = to / f"{reported.split}-detections.npz"
    write_columns(file, index, kept)
    metrics = evaluate_detections(index, read_coco_results(file, index)).flat()
    thinned = {"metrics": metrics, "files": {file.name: sha256_of(file)}}
    write_json_atomically(to / REPORTED_FILE, content.model_dump() | thinned)


def read_reported(folder: Path, reported: Reported) -> dict[str, Any]:
    """Returns the flat metrics that the study reports for a finished run.

    Raises:
        DataError: they are missing, or belong to other weights or another split.
    """
    if reported.split == "val":
        return read_record(folder).metrics["last"]
    return _read(folder, reported).metrics


def reported_fingerprint(folder: Path, reported: Reported) -> str:
    """Returns the fingerprint of the split that the study reports on.

    Raises:
        DataError: as `read_reported`.
    """
    if reported.split == "val":
        return read_record(folder).data_fingerprint.rpartition("-")[2]
    return _read(folder, reported).fingerprint


def reported_images(folder: Path, reported: Reported) -> str | None:
    """Returns the fingerprint of the image files that the study reports on, None if not recorded.

    Raises:
        DataError: as `read_reported`.
    """
    if reported.split == "val":
        images = read_record(folder).image_fingerprint
        return images and images.rpartition("-")[2]
    return _read(folder, reported).images


def read_reported_split(folder: Path, data: str, reported: Reported) -> DatasetIndex:
    """Returns the split that a study reports on, checked against a run that was scored on it.

    Raises:
        DataError: the split has changed since.
    """
    fingerprint = reported_fingerprint(folder, reported)
    index = read_index(read_description(data), reported.split).index
    if index.fingerprint() != fingerprint:  # some images cannot be decoded
        index = read_data(data, reported.split).index
    if index.fingerprint() != fingerprint:
        raise DataError(
            f"the {reported.split} split of {data} is not the one that the run in {folder} was "
            "scored on: restore the data"
        )
    return index


def _read(folder: Path, reported: Reported) -> _ReportedContent:
    file = folder / REPORTED_FILE
    read = read_json_object(file, what="the reported metrics")
    content = validated(_ReportedContent, read, where=str(file))
    scored = content.model_dump(include={"weights", "split"})
    if scored != reported.model_dump():
        expected = f"metrics of {reported.model_dump()}"
        raise DataError(expected=expected, found=str(scored), path=file)
    detections = detections_file(folder, reported)
    if sha256_of(detections) != content.files.get(detections.name):
        raise DataError(f"{detections} is not the file that {file} lists: its sha256 differs")
    return content


def detections_file(folder: Path, reported: Reported) -> Path:
    """Returns the file with the detections of a run that the study reports on."""
    if reported.split == "val":
        return folder / DETECTIONS_FILE
    published = folder / f"{reported.split}-detections.npz"
    return published if published.exists() else folder / f"{reported.split}-detections.json.gz"


def ensure_resampled(
    detections: Path, index: DatasetIndex, *, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]]:
    """Returns every metric (W,) of a run under the weightings of its images.

    The values are read from the file beside the detections; if it is missing or outdated, they are
    computed and written there.

    Args:
        detections: COCO results of a run on the split.
        index: the split.
        resamples: number of bootstrap resamples of the images.

    Raises:
        DataError: the detections do not belong to the split.
    """
    kept = read_resampled(detections, index, resamples=resamples)
    if kept is not None:
        return kept
    values = compute_resampled(detections, index, resamples=resamples)
    content = BytesIO()
    origin = np.array(_origin(detections, index, resamples))
    arrays = {"origin": origin, "digest": np.array(_digest(values)), **values}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(detections.parent / RESAMPLED_FILE, content.getvalue())
    return values


def compute_resampled(
    detections: Path, index: DatasetIndex, *, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]]:
    """Returns the same as `ensure_resampled`, always computed, and writes nothing."""
    matches = match(index, read_coco_results(detections, index))
    weights = image_weightings(len(index), resamples=resamples, seed=_SEED, groups=index.groups)
    return resample(matches, RESAMPLED_METRICS, weights=weights, bins=bins_of(index, matches))


def check_recomputed(
    metrics: Mapping[str, Any], resampled: Mapping[str, NDArray[Any]], folder: Path
) -> None:
    """Raises DataError if recorded metrics differ from those of the detections."""
    for name in ("ap", "ap50", "ap75", "ar_100"):  # by size, COCO matches anew
        value, computed = metrics.get(name), float(resampled[name][0])
        if value is not None and not abs(value - computed) <= _ROUNDING:
            expected = f"{name} {computed:.6f}, as computed from the detections"
            found = f"{value:.6f} recorded"
            advice = f"record, detections and {RESAMPLED_FILE} do not belong together"
            raise DataError(expected=expected, found=found, path=folder, advice=advice)


def _origin(detections: Path, index: DatasetIndex, resamples: int) -> str:
    origin = f"{sha256_of(detections)} {index.fingerprint()} {resamples} {_SEED}"
    if index.groups is not None:
        origin += f" {hashlib.sha256(index.groups.tobytes()).hexdigest()}"
    return origin


def read_resampled(
    detections: Path, index: DatasetIndex, *, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]] | None:
    """Returns the stored metrics, None if they are missing, changed or of other detections."""
    file, origin = detections.parent / RESAMPLED_FILE, _origin(detections, index, resamples)
    try:
        with ZipFile(file) as archive, np.load(file, allow_pickle=False) as content:
            size = sum(member.file_size for member in archive.infolist())
            if size > _LARGEST or str(content["origin"]) != origin:
                return None
            values = {name: content[name] for name in RESAMPLED_METRICS}
            return values if str(content["digest"]) == _digest(values) else None
    except Exception:  # damaged archives raise many kinds: the file is written again
        return None


def _digest(values: Mapping[str, NDArray[np.float64]]) -> str:
    return hashlib.sha256(
        b"".join(values[name].tobytes() for name in RESAMPLED_METRICS)
    ).hexdigest()
