"""The detections of one image together with the image: drawn, cropped, and in other formats."""

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

if TYPE_CHECKING:
    import pandas as pd

Image: TypeAlias = str | Path | NDArray[np.uint8]
"""An image file, or pixels (H, W, 3) RGB."""

TABLE_COLUMNS: Final = ("label", "name", "score", "xmin", "ymin", "xmax", "ymax")
"""The columns of a table of detections; the edges are in pixels of the image."""


@dataclass(frozen=True)
class Results(Detections):
    """The detections of one image, with methods to draw, crop and write them.

    The pixels of a file are read again when they are needed, so that the results of a long list
    of files hold no pixels; an array is referred to, not copied.

    Examples:
        >>> import numpy as np
        >>> from ossa.predict.results import Results
        >>> results = Results(
        ...     boxes_xyxy=np.array([[10, 5, 30, 25]], np.float32),
        ...     scores=np.array([0.75], np.float32),
        ...     labels=np.array([1]),
        ...     image=np.zeros((50, 100, 3), np.uint8),
        ...     names=("cat", "dog"),
        ... )
        >>> results.to_yolo()
        '1 0.200000 0.300000 0.200000 0.400000\\n'
        >>> results.crop()[0].shape, results.draw().shape
        ((20, 20, 3), (50, 100, 3))
    """

    image: Image = field(repr=False)
    """As it was given to `predict`."""
    names: tuple[str, ...] = field(repr=False)
    """K class names."""

    @property
    def file(self) -> Path | None:
        """The file of the image; None for an array."""
        return Path(self.image) if isinstance(self.image, str | Path) else None

    def draw(self) -> NDArray[np.uint8]:
        """Returns a copy of the image (H, W, 3) RGB with boxes, class names and scores.

        Raises:
            DataError: the image file can no longer be read (as `crop`, `to_yolo`, `to_dict`).
        """
        image = pixels_of(self.image)
        return draw_boxes(image, self.boxes_xyxy, self.labels, names=self.names, scores=self.scores)

    def crop(self) -> list[NDArray[np.uint8]]:
        """Returns the content of each box as an image (h, w, 3) RGB, best first.

        A crop has every pixel that its box touches, and at least one.
        """
        image = pixels_of(self.image)
        height, width = image.shape[:2]
        first = np.floor(self.boxes_xyxy[:, :2]).clip(0, [width - 1, height - 1])
        last = np.ceil(self.boxes_xyxy[:, 2:]).clip(first + 1, [width, height])
        corners = np.concatenate((first, last), axis=1).astype(int).tolist()
        return [image[top:bottom, left:right].copy() for left, top, right, bottom in corners]

    def to_yolo(self, *, scores: bool = False) -> str:
        """Returns one line per detection: `label cx cy w h`, as fractions of the image.

        Args:
            scores: add the score as a sixth column.
        """
        height, width = pixels_of(self.image).shape[:2]
        columns = xyxy_to_cxcywh(self.boxes_xyxy.astype(np.float64)) / ([width, height] * 2)
        if scores:
            columns = np.column_stack((columns, self.scores))
        return "".join(
            f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
            for label, row in zip(self.labels.tolist(), columns.tolist(), strict=True)
        )

    def to_coco(
        self,
        *,
        image_id: int = 1,
        category_ids: Sequence[int] | None = None,
        location: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Returns the detections as entries of a COCO results file; bbox is x, y, width, height.

        Args:
            image_id: the id of the image in the annotations.
            category_ids: K ids of the classes, by label; by default the labels themselves.
            location: added to each entry; by default the `file_name` of an image file.

        Raises:
            ConfigError: there are not K ids.
        """
        ids = range(len(self.names)) if category_ids is None else category_ids
        if len(ids) != len(self.names):
            raise ConfigError(
                expected=f"category_ids for each of the {len(self.names)} classes",
                found=str(len(ids)),
            )
        if location is None:
            location = {} if self.file is None else {"file_name": self.file.name}
        boxes_xywh = xyxy_to_xywh(self.boxes_xyxy.astype(np.float64)).tolist()
        rows = zip(self.labels.tolist(), boxes_xywh, self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, **location, "category_id": ids[label]}
            | {"bbox": bbox, "score": score}
            for label, bbox, score in rows
        ]

    def to_dict(self, **location: Any) -> dict[str, Any]:
        """Returns the detections ready for JSON, with boxes in pixels of the image.

        Args:
            location: which image it is, such as `file="a.mp4", frame=3`; comes first.
        """
        height, width = pixels_of(self.image).shape[:2]
        detections = [
            {"label": label, "name": name, "score": score, "box_xyxy": box_xyxy}
            for label, name, score, *box_xyxy in self.rows()
        ]
        return {**location, "width": width, "height": height, "detections": detections}

    def rows(self) -> list[tuple[Any, ...]]:
        """Returns one row of `TABLE_COLUMNS` per detection."""
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return [
            (label, self.names[label], score, *box_xyxy)
            for label, score, box_xyxy in zip(labels, scores, self.boxes_xyxy.tolist(), strict=True)
        ]

    def to_dataframe(self) -> "pd.DataFrame":
        """Returns one row per detection: file, label, name, score, xmin, ymin, xmax, ymax.

        The edges are in pixels of the image; `file` is None for an array.
        """
        import pandas as pd

        table = pd.DataFrame(self.rows(), columns=list(TABLE_COLUMNS))
        table.insert(0, "file", None if self.file is None else str(self.file))
        return table


def pixels_of(image: Image) -> NDArray[np.uint8]:
    """Returns the pixels (H, W, 3) RGB of an image.

    Raises:
        DataError: the file cannot be read, or the array is not an image.
    """
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        found = f"{pixels.dtype} {pixels.shape}" if pixels.ndim else type(image).__name__
        raise DataError(
            expected="an image as the path of a file or as uint8 (height, width, 3) RGB",
            found=found,
            advice="convert it, and give several images as a list",
        )
    return pixels
