"""What is written of the detections in a picture: drawings, YOLO txt, COCO results, plain JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from ossa.files import write_atomically, write_json_atomically
from ossa.predict.predictor import Predictor
from ossa.predict.sources import Annotated, AnnotatedPictures, PictureFile
from ossa.report.drawing import encode_jpeg, encode_png, stack_above
from ossa.types import Detections


def picture_result(
    file: Path, size_wh: tuple[int, int], detections: Detections, *, names: Sequence[str]
) -> dict[str, Any]:
    """Returns what was found in a picture, ready for JSON; boxes in pixels of the picture."""
    return {
        "file": str(file),
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
    detections: Detections, *, image_id: int, file_name: str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns the entries of a COCO results file for one picture; bbox is x, y, width, height.

    Args:
        detections: of the picture.
        image_id: by which the data set, or the order of the pictures, knows it.
        file_name: goes with each entry, for pictures of no data set.
        category_ids: K ids, by label.
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
            "file_name": file_name,
            "category_id": category_ids[label],
            "bbox": bbox,
            "score": score,
        }
        for label, bbox, score in rows
    ]


class ResultFolder:
    """Writes what was asked for, picture by picture, and the COCO results at the end.

    A picture keeps its name; drawings are JPEG where it is one, else PNG.
    """

    def __init__(
        self,
        folder: Path,
        predictor: Predictor,
        *,
        drawings: bool = True,
        label_files: bool = False,
        scores_in_label_files: bool = False,
        coco_file: bool = False,
        truth: AnnotatedPictures | None = None,
    ) -> None:
        """Args:
        folder: exists and holds nothing.
        predictor: whose detections are written.
        drawings: annotated pictures.
        label_files: YOLO txt under `labels`.
        scores_in_label_files: as their sixth column.
        coco_file: predictions.json, a COCO results file.
        truth: what a data set knows of the pictures: it is drawn below the detections, and
            the COCO results state its ids and only its pictures. Without it the pictures
            are numbered from 1 and categories are labels.
        """
        self.folder = folder
        self._predictor = predictor
        self._drawings = drawings
        self._label_files = label_files
        self._scores_in_label_files = scores_in_label_files
        self._coco_file = coco_file
        self._truth = truth
        self._coco_results: list[dict[str, Any]] = []
        self._num_pictures = 0

    def add(self, picture: PictureFile, image: NDArray[np.uint8], detections: Detections) -> None:
        """Writes the results of one picture, whose pixels are `image` (H, W, 3) RGB.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        self._num_pictures += 1
        annotated = None if self._truth is None else self._truth.find(picture.file)
        if self._drawings:
            drawn = self._predictor.draw(image, detections)
            if annotated is not None:
                drawn = stack_above([drawn], [annotated.drawn_on(image)])
            self._write_drawing(picture, drawn)
        if self._label_files:
            size_wh = (image.shape[1], image.shape[0])
            text = yolo_text(detections, size_wh, scores=self._scores_in_label_files)
            self._write(f"labels/{picture.name}.txt", text.encode())
        if self._coco_file:
            self._add_coco_results(picture, detections, annotated)

    def finish(self) -> None:
        """Writes what needs all pictures."""
        if self._coco_file:
            write_json_atomically(self.folder / "predictions.json", self._coco_results)

    def _add_coco_results(
        self, picture: PictureFile, detections: Detections, annotated: Annotated | None
    ) -> None:
        if annotated is not None:
            image_id, category_ids = annotated.image_id, annotated.index.category_ids.tolist()
        elif self._truth is None:
            image_id, category_ids = self._num_pictures, range(len(self._predictor.names))
        else:
            return
        self._coco_results += coco_results(
            detections,
            image_id=image_id,
            file_name=picture.file.name,
            category_ids=category_ids,
        )

    def _write_drawing(self, picture: PictureFile, drawn: NDArray[np.uint8]) -> None:
        suffix = picture.file.suffix.lower()
        if suffix in (".jpg", ".jpeg"):
            self._write(f"{picture.name}{suffix}", encode_jpeg(drawn))
        else:
            self._write(f"{picture.name}.png", encode_png(drawn))

    def _write(self, name: str, content: bytes) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
