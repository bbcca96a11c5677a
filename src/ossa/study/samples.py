"""The metrics of a run under resampled images, kept beside its record.

A report over hundreds of runs then matches nothing and resamples nothing: the weightings of the
images are the same for every run on a split, so what was stored months apart is comparable.
"""

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from ossa.data.index import DatasetIndex
from ossa.errors import DataError
from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.resampling import METRICS, RESAMPLES, bins_of, image_weightings, resample
from ossa.evaluate.values import Values
from ossa.files import sha256_of, write_atomically

SAMPLES_FILE = "resampled.npz"
_SEED = 0
_LARGEST = 64 * 2**20


def samples_of(
    detections: Path, index: DatasetIndex, *, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]]:
    """Returns (W,) of every metric of a run, from the file beside its detections or made anew.

    Args:
        detections: COCO results of a run on the split.
        index: the split.
        resamples: how often the images are drawn.

    Raises:
        DataError: detections that do not fit the split.
    """
    origin = f"{sha256_of(detections)} {index.fingerprint()} {resamples} {_SEED}"
    file = detections.parent / SAMPLES_FILE
    kept = _read(file, origin)
    if kept is not None:
        return kept
    matches = match(index, read_coco_results(detections, index))
    values = _resample(matches, index, resamples=resamples)
    content = BytesIO()
    arrays = {"origin": np.array(origin), "digest": np.array(_digest(values)), **values}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(file, content.getvalue())
    return values


def _resample(
    matches: Matches, index: DatasetIndex, *, resamples: int
) -> dict[str, NDArray[np.float64]]:
    weights = image_weightings(len(index), resamples=resamples, seed=_SEED)
    return resample(matches, METRICS, weights=weights, bins=bins_of(index, matches))


def _read(file: Path, origin: str) -> dict[str, NDArray[np.float64]] | None:
    """Returns what a file holds, None where it is missing, changed or of other detections."""
    try:
        with ZipFile(file) as archive, np.load(file, allow_pickle=False) as content:
            size = sum(member.file_size for member in archive.infolist())
            if size > _LARGEST or str(content["origin"]) != origin:
                return None
            values = {name: content[name] for name in METRICS}
            return values if str(content["digest"]) == _digest(values) else None
    except Exception:  # of the many kinds that damaged archives raise: it is made anew
        return None


def _digest(values: Mapping[str, NDArray[np.float64]]) -> str:
    return hashlib.sha256(b"".join(values[name].tobytes() for name in METRICS)).hexdigest()


def values_of(
    runs: Sequence[Mapping[str, NDArray[np.float64]]], metric: str, *, num_images: int
) -> Values:
    """Returns one metric of the runs of a model.

    Raises:
        DataError: the split has no object of the kind that the metric is about.
    """
    stacked = np.stack([run[metric] for run in runs])
    if not np.isfinite(stacked[:, 0]).all():
        raise DataError(f"expected objects for {metric} in the evaluation split, found none")
    return Values.of(stacked, num_images=num_images)
