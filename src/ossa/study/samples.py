"""The metrics of a run under resampled images, kept beside its record.

A report over hundreds of runs then matches nothing and resamples nothing: the weightings of the
images are the same for every run on a split, so what was stored months apart is comparable.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

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
    np.savez_compressed(content, allow_pickle=False, origin=np.array(origin), **values)
    write_atomically(file, content.getvalue())
    return values


def _resample(
    matches: Matches, index: DatasetIndex, *, resamples: int
) -> dict[str, NDArray[np.float64]]:
    weights = image_weightings(len(index), resamples=resamples, seed=_SEED)
    return resample(matches, METRICS, weights=weights, bins=bins_of(index, matches))


def _read(file: Path, origin: str) -> dict[str, NDArray[np.float64]] | None:
    """Returns what a file holds, None where it is missing, damaged or of other detections."""
    try:
        with np.load(file, allow_pickle=False) as content:
            if str(content["origin"]) != origin or not set(METRICS) <= set(content.files):
                return None
            return {name: content[name] for name in METRICS}
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


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
