"""What is looked at before a training starts: does every image decode?"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossa.data.decode import decode_image
from ossa.data.index import DatasetIndex, IndexReport
from ossa.data.problems import ProblemKind, ProblemLog
from ossa.errors import DataError

_SMALLEST_DECODE = 64
"""JPEGs are decoded for the check as small as the decoder allows: it reads every byte anyway."""


def keep_decodable(
    report: IndexReport,
    *,
    strict: bool = False,
    threads: int = 2,
    known: Iterable[str | None] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Returns the report without the images whose files cannot be decoded, which it now names.

    Args:
        report: of a split.
        strict: raise at the first such image.
        threads: that decode at the same time.
        known: why each image cannot be decoded, or None for it; nothing is decoded then.
        on_image: called with the number of images checked and their total.

    Raises:
        DataError: an image cannot be decoded and `strict`, or none is left.
    """
    index = report.index
    log = ProblemLog(strict=strict)
    good = np.ones(len(index), dtype=np.bool_)
    pool = ThreadPoolExecutor(threads)
    try:
        faults = (
            pool.map(lambda position: _fault(index, position), range(len(index)))
            if known is None
            else known
        )
        for position, fault in enumerate(faults):
            if fault is not None:
                good[position] = False
                log.report(
                    index.image_path(position),
                    None,
                    fault,
                    action="image left out",
                    kind=ProblemKind.IMAGE_UNREADABLE,
                )
            if on_image is not None:
                on_image(position + 1, len(index))
    finally:
        pool.shutdown(cancel_futures=True)  # the first fault or Ctrl-C waits for no other image
    if not good.any():
        raise DataError(
            f"Expected images that can be decoded in {index.root}, found none among {len(index)}; "
            f"the first: {log.problems[0]}."
        )
    return replace(
        report,
        index=index if good.all() else take_images(index, good),
        problems=(*report.problems, *log.problems),
    )


def take_images(index: DatasetIndex, chosen: NDArray[np.bool_]) -> DatasetIndex:
    """Returns the index of the chosen (I,) images alone, with their truths."""
    counts = np.diff(index.truth_offsets)
    truths = np.repeat(chosen, counts)
    return replace(
        index,
        file_names=index.file_names[chosen],
        image_ids=index.image_ids[chosen],
        sizes_wh=index.sizes_wh[chosen],
        truth_offsets=np.concatenate(([0], np.cumsum(counts[chosen]))),
        boxes_xyxy=index.boxes_xyxy[truths],
        labels=index.labels[truths],
        areas=index.areas[truths],
        crowd=index.crowd[truths],
        difficult=index.difficult[truths],
        annotation_ids=index.annotation_ids[truths],
        stated_xywh=None if index.stated_xywh is None else index.stated_xywh[truths],
    )


def _fault(index: DatasetIndex, position: int) -> str | None:
    """Returns why the image cannot be decoded, or None."""
    path: Path = index.image_path(position)
    width, height = (int(side) for side in index.sizes_wh[position])
    try:
        decode_image(path, reduce_to=_SMALLEST_DECODE, size_wh=(width, height))
    except DataError as fault:
        # The problem names the file itself.
        return str(fault).replace(f" at {path}", "").replace(f" in {path}", "").rstrip(".")
    return None
