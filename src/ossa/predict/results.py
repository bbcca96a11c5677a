"""The detections of one image together with the image: drawn, cropped, and in other formats."""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossa.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from ossa.data.decode import decode_image
from ossa.errors import ConfigError, DataError, suggestion
from ossa.types import Detections
from ossa.viz.draw import draw_boxes, encode_png

if TYPE_CHECKING:
    import pandas as pd

Image: TypeAlias = str | Path | NDArray[np.uint8] | NDArray[np.uint16] | Tensor | PIL.Image.Image
"""An image file, or an image that `pixels_of` takes."""

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

    def __repr__(self) -> str:
        numbers = Counter(self.class_names)
        found = ", ".join(f"{number} {name}" for name, number in numbers.most_common())
        return f"<Results of {self.file or 'an image'}: {found or 'nothing'}>"

    def _repr_html_(self) -> str:
        """Returns the drawn image and a line below it, for a notebook."""
        png = base64.b64encode(encode_png(self.draw())).decode()
        return (
            f'<figure><img src="data:image/png;base64,{png}" style="max-width:100%">'
            f"<figcaption>{html.escape(repr(self)[1:-1])}</figcaption></figure>"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class name of each detection (N)."""
        return tuple(self.names[label] for label in self.labels.tolist())

    def filter(self, classes: Sequence[str | int] | str | int) -> Self:
        """Returns the detections of classes, or of one, given by name or label.

        Raises:
            ConfigError: there is no such class.
        """
        return self[np.isin(self.labels, labels_of(classes, self.names))]

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

    def to_supervision(self) -> Any:
        """Returns the detections as `supervision.Detections`.

        Raises:
            ConfigError: supervision is not installed.
        """
        try:
            import supervision  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(
                expected="the package supervision",
                found="none",
                advice="pip install supervision",
            ) from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels,
            data={"class_name": np.array(self.class_names, dtype=str)},
        )

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


def labels_of(classes: Sequence[str | int] | str | int | None, names: Sequence[str]) -> list[int]:
    """Returns the labels of classes, or of one, given by name or label; of all for None.

    Raises:
        ConfigError: there is no such class.
    """
    if classes is None:
        return list(range(len(names)))
    numbers = {str(label): label for label in range(len(names))}
    found = []
    for one in [classes] if isinstance(classes, str | int) else classes:
        label = names.index(one) if one in names else numbers.get(str(one))
        if label is None:
            raise ConfigError(
                expected=f"the name of a class or its number in 0..{len(names) - 1}",
                found=repr(one),
                advice=suggestion(str(one), names).strip(),
            )
        found.append(label)
    return found


def pixels_of(image: Any) -> NDArray[np.uint8]:
    """Returns the pixels (H, W, 3) RGB of an image.

    Args:
        image: the path of a file; a Pillow image, whose EXIF orientation is not applied; an array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), of uint8, or of uint16, of which the high
            byte counts; or a tensor (C, H, W) of uint8, or of floats in 0..1, on any device.
            Grey becomes RGB, and an alpha channel is left out, as in a file.

    Raises:
        DataError: the file cannot be read, or the array is not an image.
    """
    if isinstance(image, str | Path):
        if "://" in str(image):
            raise DataError(
                expected="an image file",
                found="an address",
                advice="fetch it first: nothing here loads from the network",
            )
        return decode_image(Path(image))
    pixels = _as_array(image)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    is_image = pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4) and 0 not in pixels.shape
    if pixels.dtype != np.uint8 or not is_image:
        found = f"{pixels.dtype} {pixels.shape}" if pixels.ndim else type(image).__name__
        raise DataError(
            expected="an image as the path of a file, as uint8 (height, width, 3) RGB, grey or "
            "with alpha, as a Pillow image or as a tensor (channels, height, width)",
            found=found,
            advice="convert it, and give several images as a list",
        )
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


def _as_array(image: Any) -> NDArray[Any]:
    """Returns an array (H, W, C) of uint8 or uint16 where the image is one that can be such."""
    if isinstance(image, Tensor):
        channels_last = image.detach().cpu()
        channels_last = channels_last.permute(1, 2, 0) if image.ndim == 3 else channels_last
        if image.is_floating_point() and image.numel() and image.min() >= 0 and image.max() <= 1:
            channels_last = (channels_last.float() * 255).round().to(torch.uint8)
        return channels_last.numpy()
    if isinstance(image, PIL.Image.Image):
        return np.asarray(image if image.mode.startswith("I;16") else image.convert("RGB"))
    return np.asarray(image)
