"""What is written of the detections: annotated pictures and videos, crops, and files of them."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from ossa.errors import RunFailed
from ossa.escaping import write_csv
from ossa.files import write_atomically
from ossa.predict.frames import FramePlace, Shot
from ossa.predict.results import (
    TABLE_COLUMNS,
    PictureDetections,
    coco_results,
    table_rows,
    yolo_text,
)
from ossa.predict.sources import Annotated, AnnotatedPictures, PictureFile, Source
from ossa.predict.video import VideoReader, VideoWriter
from ossa.viz.draw import encode_jpeg, encode_png, stack_above

COCO_FILE: Final = "predictions.json"
TABLE_FILE: Final = "predictions.csv"


class SaveOptions(NamedTuple):
    """What to write."""

    drawings: bool = True
    """Annotated pictures and videos."""
    label_files: bool = False
    """YOLO txt under `labels`."""
    scores_in_label_files: bool = False
    """As their sixth column."""
    coco_file: bool = False
    """predictions.json, a COCO results file."""
    table: bool = False
    """predictions.csv, a row a detection."""
    crops: bool = False
    """What is in each box, as a picture under `crops` in the folder of its class."""


class ResultFolder:
    """Writes what is wanted, picture by picture; nothing is kept in memory.

    Pictures keep their names; drawings and crops are JPEG where the picture is one or a frame,
    else PNG. A video is one .webm, its label files and crops have the number of the frame behind
    its name. Leaving the `with` ends all files, whatever was the reason: what was written until
    then can be read.
    """

    def __init__(
        self,
        folder: Path,
        wanted: SaveOptions,
        *,
        every: int = 1,
        truth: AnnotatedPictures | None = None,
    ) -> None:
        """Args:
        folder: exists and holds nothing.
        wanted: what to write.
        every: the frames of a video that are looked at, of which its annotated video is made.
        truth: what a data set knows of the pictures: it is drawn below the detections, and
            the COCO results state its ids and only its pictures. Without it pictures and frames
            are numbered from 1 and categories are labels.
        """
        self.folder = folder
        self._wanted = wanted
        self._every = every
        self._gt = truth
        self._num_shots = 0
        self._video: _OpenVideo | None = None
        self._coco = _CocoFile(folder / COCO_FILE) if wanted.coco_file else None
        self._table = _Table(folder / TABLE_FILE) if wanted.table else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as files:  # each is ended, whatever happens to another
            for file in (self._video, self._coco, self._table):
                if file is not None:
                    files.callback(file.close)

    def add(self, shot: Shot, found: PictureDetections) -> NDArray[np.uint8] | None:
        """Writes the results of one picture; returns its drawing, where one is wanted.

        Raises:
            CheckpointError, RunFailed: the disk is full or cannot be written.
        """
        self._num_shots += 1
        drawing = None
        annotated = self._annotated(shot)
        if self._wanted.drawings:
            drawing = found.draw()
            if annotated is not None:
                drawing = stack_above([drawing], [annotated.drawn_on(shot.image)])
            self._write_drawing(shot, drawing)
        if self._wanted.label_files:
            text = yolo_text(found, shot.size_wh, scores=self._wanted.scores_in_label_files)
            self._write(f"labels/{shot.name}.txt", text.encode())
        if self._wanted.crops:
            self._write_crops(shot, found)
        if self._table is not None:
            self._table.add(shot, found)
        if self._coco is not None:
            self._add_coco_results(shot, found, annotated)
        return drawing

    def _annotated(self, shot: Shot) -> Annotated | None:
        if self._gt is None or not isinstance(shot.source, PictureFile):
            return None
        return self._gt.find(shot.source.file)

    def _add_coco_results(
        self, shot: Shot, found: PictureDetections, annotated: Annotated | None
    ) -> None:
        assert self._coco is not None
        if annotated is not None:
            image_id, category_ids = annotated.image_id, annotated.index.category_ids.tolist()
        elif self._gt is None:
            image_id, category_ids = self._num_shots, range(len(found.names))
        else:
            return
        file_name = (Path(shot.source.name).parent / Path(shot.source.title).name).as_posix()
        place: dict[str, Any] = {"file_name": file_name}
        if shot.frame is not None:
            place["frame"] = shot.frame.number
        self._coco.add(
            coco_results(found, image_id=image_id, category_ids=category_ids, place=place)
        )

    def _write_drawing(self, shot: Shot, drawing: NDArray[np.uint8]) -> None:
        if shot.frame is None:
            self._write_picture(shot.name, drawing, shot)
            return
        if self._video is None or self._video.source is not shot.source:
            if self._video is not None:
                self._video.close()
            file = self.folder / f"{shot.source.name}.webm"
            with _os_errors_told(file):
                file.parent.mkdir(parents=True, exist_ok=True)
            self._video = _OpenVideo(shot.source, shot.frame.video, file, every=self._every)
        self._video.add(drawing, shot.frame)

    def _write_crops(self, shot: Shot, found: PictureDetections) -> None:
        for number, (label, crop) in enumerate(zip(found.labels, found.crop(), strict=True)):
            class_folder = _as_folder(found.names[label], label)
            self._write_picture(f"crops/{class_folder}/{shot.name}-{number}", crop, shot)

    def _write_picture(self, name: str, image: NDArray[np.uint8], shot: Shot) -> None:
        suffix = ".jpg"
        if isinstance(shot.source, PictureFile):
            suffix = shot.source.file.suffix.lower()
        if suffix in (".jpg", ".jpeg"):
            self._write(f"{name}{suffix}", encode_jpeg(image))
        else:
            self._write(f"{name}.png", encode_png(image))

    def _write(self, name: str, content: bytes) -> None:
        file = self.folder / name
        with _os_errors_told(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)


class _OpenVideo:
    """The annotated video that is being written, and the one that it is of."""

    def __init__(self, source: Source, reader: VideoReader, file: Path, *, every: int) -> None:
        self.source = source
        self._reader = reader
        self._writer = VideoWriter(file, reader.rate / every)

    def add(self, drawing: NDArray[np.uint8], place: FramePlace) -> None:
        self._writer.add(drawing, place.seconds)

    def close(self) -> None:
        self._writer.close(self._reader.length_seconds)


class _CocoFile:
    """A JSON array that is written entry by entry."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._separator = "[\n"
        self._stream = _opened(file)

    def add(self, entries: list[dict[str, Any]]) -> None:
        with _os_errors_told(self._file):
            for entry in entries:
                self._stream.write(self._separator + json.dumps(entry))
                self._separator = ",\n"

    def close(self) -> None:
        with _os_errors_told(self._file), self._stream:
            self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")


class _Table:
    """A CSV file that is written row by row."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream = _opened(file)
        write_csv(self._stream, [("file", "frame", *TABLE_COLUMNS)])

    def add(self, shot: Shot, found: PictureDetections) -> None:
        frame = None if shot.frame is None else shot.frame.number
        with _os_errors_told(self._file):
            rows = table_rows(found, names=found.names)
            write_csv(self._stream, ((shot.source.title, frame, *row) for row in rows))
            self._stream.flush()

    def close(self) -> None:
        with _os_errors_told(self._file):
            self._stream.close()


def _opened(file: Path) -> TextIO:
    with _os_errors_told(file):
        return file.open("x", encoding="utf-8", newline="")


@contextmanager
def _os_errors_told(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunFailed(
            f"could not write {file}: {reason}; free some space or choose another --output"
        ) from error


def _as_folder(name: str, label: int) -> str:
    """Returns the name of a class as that of a folder: what is no word character becomes `_`."""
    kept = re.sub(r"[^\w .+-]", "_", name).strip(" .")
    return kept or f"class{label}"
