"""A cleaned copy of the annotations: what training would drop is gone, copies and leaks, too.

Dimensions: I images, N truths.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, IndexReport, take_truths
from ossa.data.check import Check
from ossa.data.check_boxes import repeated_truths
from ossa.data.check_images import broken_images, superfluous_copies
from ossa.data.convert import Conversion, write_reports
from ossa.data.formats.common import suspicious
from ossa.data.reading import take_images
from ossa.errors import DataError


def write_cleaned(
    check: Check,
    output: Path | str,
    *,
    on_image: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Writes the data set in its own format into a new folder, without what can be repaired.

    Left out are images that cannot be used (where the check has read them), all but one of the
    images that are the same, those of train that are in val or test, and of boxes whatever reading
    drops and those stated twice; boxes that reach out of their image are clipped. Nothing is
    written outside the folder: images are linked or referred to.

    Args:
        check: of the data set.
        output: a folder that is empty or not there yet.
        on_image: called with the number of images of a split that are placed, and their total.

    Raises:
        DataError: nothing is left of a split, or the folder is in use or cannot be written.
    """
    reports, notes = {}, []
    contents = check.contents()
    held_out = [numbers for split, numbers in contents.items() if split != "train"]
    for split, report in check.reports.items():
        leaked = np.zeros(len(report.index), np.bool_)
        if split == "train" and held_out:
            leaked = np.isin(contents[split], np.concatenate(held_out))
        index, sentences = _cleaned(
            report.index,
            contents[split],
            broken=broken_images(report.index, check.images),
            leaked=leaked,
        )
        if not len(index):
            raise DataError(
                f"Expected images of split '{split}' of {check.description.file} to be left after "
                f"cleaning, found none: {', '.join(sentences)}; nothing was written."
            )
        reports[split] = IndexReport(index, report.problems, report.notes)
        notes += [f"{split}: {sentence}" for sentence in sentences]
    description = check.description
    written = write_reports(reports, description, output, to=description.format, on_image=on_image)
    return replace(written, notes=(*notes, *written.notes))


def _cleaned(
    index: DatasetIndex,
    contents: NDArray[np.int64],
    *,
    broken: NDArray[np.bool_],
    leaked: NDArray[np.bool_],
) -> tuple[DatasetIndex, list[str]]:
    """Returns the index without what is to go, and a sentence for each thing that goes."""
    counts = np.diff(index.truth_offsets)
    # A broken image is no reason to leave out one that is whole.
    copies = superfluous_copies(index, contents, np.where(broken, -1, counts))
    images = {
        "images that cannot be used": broken,
        "images that are in val or test, too": leaked & ~broken,
        "images that are copies of another one": copies & ~leaked & ~broken,
    }
    sentences = [
        f"{what}, left out: {int(chosen.sum())}" for what, chosen in images.items() if chosen.any()
    ]
    index = take_images(index, ~(broken | leaked | copies))
    repeated = repeated_truths(index)
    if repeated.any():
        sentences.append(f"boxes stated twice, left out: {int(repeated.sum())}")
        index = take_truths(index, ~repeated)
    limits = index.sizes_wh[index.truth_images()]
    reaching = suspicious(index.boxes_xyxy, limits)
    if reaching.any():
        sentences.append(f"boxes clipped to their image: {int(reaching.sum())}")
        clipped = np.clip(index.boxes_xyxy, 0.0, np.tile(limits.astype(np.float64), 2))
        boxes_xyxy = np.where(reaching[:, None], clipped, index.boxes_xyxy)
        index = replace(index, boxes_xyxy=boxes_xyxy, stated_xywh=None)
    return index, sentences
