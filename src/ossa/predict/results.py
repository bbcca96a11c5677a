"""The detections of one picture as plain JSON, YOLO txt, COCO results, and rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from ossa.data.decode import decode_image
from ossa.errors import ConfigError, DataError
from ossa.types import Detections
from ossa.viz.draw import draw_boxes

TABLE_COLUMNS: Final = ("label", "name", "score", "xmin", "ymin", "xmax", "ymax")
"""Of every table of detections; the edges are in pixels of the picture."""


def picture_result(
    size_wh: tuple[int, int],
    detections: Detections,
    *,
    names: Sequence[str],
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what was found in a picture, ready for JSON; boxes in pixels of the picture.

    Args:
        size_wh: width and height of the picture in pixels.
        detections: of the picture.
        names: K class names.
        place: which picture it is; stands first.
    """
    return {
        **place,
        "width": size_wh[0],
        "height": size_wh[1],
        "detections": [
            {"label": label, "name": names[label], "score": score, "box_xyxy": box_xyxy}
            for label, score, box_xyxy in zip(
                detections.labels.tolist(),
                detections.scores.tolist(),
                detections.boxes_xyxy.tolist(),
                strict=True,
            )
        ],
    }


def yolo_text(detections: Detections, size_wh: tuple[int, int], *, scores: bool = False) -> str:
    """Returns one line a detection: `label cx cy w h`, in fractions of the picture.

    Args:
        detections: of one picture.
        size_wh: its width and height in pixels.
        scores: add the score as a sixth column.
    """
    columns = xyxy_to_cxcywh(detections.boxes_xyxy.astype(np.float64)) / [*size_wh, *size_wh]
    if scores:
        columns = np.column_stack((columns, detections.scores))
    return "".join(
        f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
        for label, row in zip(detections.labels.tolist(), columns.tolist(), strict=True)
    )


def coco_results(
    detections: Detections,
    *,
    image_id: int,
    category_ids: Sequence[int],
    place: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Returns the entries of a COCO results file for one picture; bbox is x, y, width, height.

    Args:
        detections: of the picture.
        image_id: by which the data set, or the order of the pictures, knows it.
        category_ids: K ids, by label.
        place: goes with each entry, for pictures of no data set, such as its `file_name`.
    """
    rows = zip(
        detections.labels.tolist(),
        xyxy_to_xywh(detections.boxes_xyxy.astype(np.float64)).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    return [
        {
            "image_id": image_id,
            **place,
            "category_id": category_ids[label],
            "bbox": bbox,
            "score": score,
        }
        for label, bbox, score in rows
    ]


def table_rows(detections: Detections, *, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Returns one row of `TABLE_COLUMNS` a detection."""
    return [
        (label, names[label], score, *box_xyxy)
        for label, score, box_xyxy in zip(
            detections.labels.tolist(),
            detections.scores.tolist(),
            detections.boxes_xyxy.tolist(),
            strict=True,
        )
    ]


if TYPE_CHECKING:
    import pandas as pd

Picture: TypeAlias = str | Path | NDArray[np.uint8]
"""An image file, or pixels (H, W, 3) RGB."""


@dataclass(frozen=True)
class PictureDetections(Detections):
    """The detections of a picture, which can be drawn on it, cut out of it and written down.

    Of a file the pixels are read again when they are needed, so that the results of a long list
    of files hold no pictures; an array is referred to, not copied.
    """

    picture: Picture = field(repr=False)
    """What was given to `predict`."""
    names: tuple[str, ...] = field(repr=False)
    """K class names."""

    def draw(self) -> NDArray[np.uint8]:
        """Returns a copy of the picture (H, W, 3) RGB with boxes, class names and scores.

        Raises:
            DataError: the file of the picture cannot be read any more; so do the other methods
                that need pixels.
        """
        return draw_boxes(
            pixels_of(self.picture),
            self.boxes_xyxy,
            self.labels,
            names=self.names,
            scores=self.scores,
        )

    def crop(self) -> list[NDArray[np.uint8]]:
        """Returns what is in each box as a picture (h, w, 3) RGB of its own, best first.

        Every pixel that a box touches is in it, and never less than one.
        """
        image = pixels_of(self.picture)
        return [image[rows, columns].copy() for rows, columns in _slices(self, image)]

    def to_coco(
        self, *, image_id: int = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Returns the detections as entries of a COCO results file, with `file_name` for a file.

        Args:
            image_id: by which the annotations know the picture.
            category_ids: K ids of the classes, by label; labels themselves if not given.

        Raises:
            ConfigError: there are not K ids.
        """
        ids = range(len(self.names)) if category_ids is None else category_ids
        if len(ids) != len(self.names):
            raise ConfigError(
                f"expected one of category_ids for each of the {len(self.names)} classes, found "
                f"{len(ids)}"
            )
        place = {} if self.file is None else {"file_name": self.file.name}
        return coco_results(self, image_id=image_id, category_ids=ids, place=place)

    def to_dataframe(self) -> "pd.DataFrame":
        """Returns a row a detection: file, label, name, score, xmin, ymin, xmax, ymax.

        The edges are in pixels of the picture; `file` is None for an array.
        """
        import pandas as pd

        table = pd.DataFrame(table_rows(self, names=self.names), columns=list(TABLE_COLUMNS))
        table.insert(0, "file", None if self.file is None else str(self.file))
        return table

    @property
    def file(self) -> Path | None:
        """The file of the picture; None of an array."""
        return Path(self.picture) if isinstance(self.picture, str | Path) else None


def pixels_of(picture: Picture) -> NDArray[np.uint8]:
    """Returns the pixels (H, W, 3) RGB of a picture.

    Raises:
        DataError: the file cannot be read, or the array is no picture.
    """
    if isinstance(picture, str | Path):
        return decode_image(Path(picture))
    image = np.asarray(picture)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        found = f"{image.dtype} {image.shape}" if image.ndim else type(picture).__name__
        raise DataError(
            "expected a picture as the path of a file or as uint8 (height, width, 3) RGB, found "
            f"{found}; convert it, and give several pictures as a list"
        )
    return image


def _slices(found: Detections, image: NDArray[np.uint8]) -> list[tuple[slice, slice]]:
    """Returns rows and columns of each box."""
    height, width = image.shape[:2]
    first = np.floor(found.boxes_xyxy[:, :2]).clip(0, [width - 1, height - 1])
    last = np.ceil(found.boxes_xyxy[:, 2:]).clip(first + 1, [width, height])
    corners = np.concatenate((first, last), axis=1).astype(int).tolist()
    return [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in corners]
