"""Outputs of a prediction: annotated images and videos, crops, files of detections, a window."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.errors import ConfigError, RunFailed, os_reason
from ossa.escaping import write_csv
from ossa.files import write_atomically
from ossa.predict.results import TABLE_COLUMNS, Results
from ossa.predict.sources import AnnotatedImage, AnnotatedImages, Frame, Source
from ossa.predict.video import VideoReader, VideoWriter
from ossa.viz.draw import encode_jpeg, encode_png, picture_grid

COCO_FILE: Final = "predictions.json"
TABLE_FILE: Final = "predictions.csv"
_WINDOW_TITLE: Final = "ossa predict"
_END_KEYS: Final = (ord("q"), 27)  # 27: escape


class SaveOptions(NamedTuple):
    """What to write."""

    drawings: bool = True
    """Annotated images and videos."""
    label_files: bool = False
    """YOLO txt under `labels`."""
    scores_in_label_files: bool = False
    """As their sixth column."""
    coco_file: bool = False
    """predictions.json, a COCO results file."""
    table: bool = False
    """predictions.csv, one row per detection."""
    crops: bool = False
    """The content of each box as an image under `crops`, in the folder of its class."""


class ResultFolder:
    """Writes the results of one frame after the other and keeps nothing in memory.

    Images keep their names; drawings and crops are JPEG for a JPEG or a frame, else PNG. A video
    becomes one .webm; the names of its label files and crops end in the frame number. Leaving the
    `with` completes all files, also after an error.
    """

    def __init__(
        self,
        folder: Path,
        options: SaveOptions,
        *,
        every: int = 1,
        ground_truth: AnnotatedImages | None = None,
    ) -> None:
        """Args:
        folder: exists and is empty.
        options: what to write.
        every: of a video, every how manieth frame comes; divides the rate of its annotated video.
        ground_truth: is drawn below the detections; the COCO results then have the ids of the
            data set, and only its images. Without it images and frames are numbered from 1 and
            categories are labels.
        """
        self.folder = folder
        self._options = options
        self._every = every
        self._ground_truth = ground_truth
        self._num_frames = 0
        self._video: tuple[Source, VideoReader, VideoWriter] | None = None
        self._coco = self._open(COCO_FILE) if options.coco_file else None
        self._num_entries = 0
        self._table = self._open(TABLE_FILE) if options.table else None
        if self._table is not None:
            write_csv(self._table, [("file", "frame", *TABLE_COLUMNS)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as files:  # each is completed, whatever happens to another
            files.callback(self._close_video)
            if self._table is not None:
                files.enter_context(_write_errors(self.folder / TABLE_FILE))
                files.callback(self._table.close)
            if self._coco is not None:
                files.enter_context(_write_errors(self.folder / COCO_FILE))
                files.enter_context(self._coco)
                files.callback(self._coco.write, "\n]\n" if self._num_entries else "[]\n")

    def add(self, frame: Frame, results: Results) -> NDArray[np.uint8] | None:
        """Writes the results of one frame; returns its drawing, if drawings are written.

        Raises:
            CheckpointError, RunFailed: the disk is full or cannot be written.
        """
        self._num_frames += 1
        drawing, annotated = None, None
        if self._ground_truth is not None and frame.source.kind == "image":
            annotated = self._ground_truth.find(frame.source.file)
        if self._options.drawings:
            drawing = results.draw()
            if annotated is not None:
                rows = [[drawing], [annotated.draw(frame.image)]]
                drawing = picture_grid(rows, row_titles=("predicted", "annotated"))
            self._write_drawing(frame, drawing)
        if self._options.label_files:
            text = results.to_yolo(scores=self._options.scores_in_label_files)
            self._write(f"labels/{frame.name}.txt", text.encode())
        if self._options.crops:
            crops = zip(results.labels, results.crop(), strict=True)
            for number, (label, crop) in enumerate(crops):
                # The name of the class, with `_` for unusual characters.
                name = re.sub(r"[^\w .+-]", "_", results.names[label]).strip(" .")
                folder = f"crops/{name or f'class{label}'}"
                self._write_image(f"{folder}/{frame.name}-{number}", crop, frame)
        if self._table is not None:
            rows = ((frame.source.title, frame.number, *row) for row in results.rows())
            with _write_errors(self.folder / TABLE_FILE):
                write_csv(self._table, rows)
                self._table.flush()
        if self._coco is not None and (annotated is not None or self._ground_truth is None):
            self._write_coco(self._coco, frame, results, annotated)
        return drawing

    def _write_coco(
        self, stream: TextIO, frame: Frame, results: Results, annotated: AnnotatedImage | None
    ) -> None:
        image_id, category_ids = self._num_frames, None
        if annotated is not None:
            image_id, category_ids = annotated.image_id, annotated.index.category_ids.tolist()
        file_name = Path(frame.source.name).parent / Path(frame.source.title).name
        location: dict[str, Any] = {"file_name": file_name.as_posix()}
        if frame.number is not None:
            location["frame"] = frame.number
        entries = results.to_coco(image_id=image_id, category_ids=category_ids, location=location)
        with _write_errors(self.folder / COCO_FILE):
            for entry in entries:
                stream.write((",\n" if self._num_entries else "[\n") + json.dumps(entry))
                self._num_entries += 1

    def _write_drawing(self, frame: Frame, drawing: NDArray[np.uint8]) -> None:
        if frame.video is None:
            self._write_image(frame.name, drawing, frame)
            return
        if self._video is None or self._video[0] is not frame.source:
            self._close_video()
            file = self._with_parents(f"{frame.source.name}.webm")
            writer = VideoWriter(file, frame.video.rate / self._every)
            self._video = frame.source, frame.video, writer
        self._video[2].add(drawing, frame.seconds)

    def _close_video(self) -> None:
        if self._video is not None:
            _, reader, writer = self._video
            writer.close(reader.length_seconds)

    def _write_image(self, name: str, image: NDArray[np.uint8], frame: Frame) -> None:
        suffix = frame.source.file.suffix.lower() if frame.source.kind == "image" else ".jpg"
        if suffix in (".jpg", ".jpeg"):
            self._write(f"{name}{suffix}", encode_jpeg(image))
        else:
            self._write(f"{name}.png", encode_png(image))

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self._with_parents(name), content)

    def _with_parents(self, name: str) -> Path:
        file = self.folder / name
        with _write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _open(self, name: str) -> TextIO:
        with _write_errors(self.folder / name):
            return (self.folder / name).open("x", encoding="utf-8", newline="")


class Window:
    """A live window with the drawings, until it is closed or `q` or escape is pressed."""

    def __init__(self) -> None:
        """Raises:
        ConfigError: there is no display, or this OpenCV cannot open windows.
        """
        on_linux = sys.platform.startswith("linux")
        if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError(
                expected="a display for a live window",
                found="neither DISPLAY nor WAYLAND_DISPLAY in the environment",
                advice="leave --show out, the results are written to files all the same",
            )
        if not cv2.currentUIFramework():
            raise ConfigError(
                expected="an OpenCV that opens windows",
                found="the headless one",
                advice="replace it: pip uninstall -y opencv-python-headless && pip install "
                "'opencv-python>=5.0'",
            )

    def show(self, image: NDArray[np.uint8], *, wait: bool) -> bool:
        """Shows an image (H, W, 3) RGB; returns False once the user has ended the window.

        Args:
            image: to show.
            wait: until a key is pressed.
        """
        cv2.imshow(_WINDOW_TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(0 if wait else 1) & 0xFF
        visible = cv2.getWindowProperty(_WINDOW_TITLE, cv2.WND_PROP_VISIBLE) >= 1
        return key not in _END_KEYS and visible

    def close(self) -> None:
        cv2.destroyAllWindows()


@contextmanager
def _write_errors(file: Path) -> Iterator[None]:
    """Turns an OSError into a RunFailed that names the file."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"could not write it: {os_reason(error)}",
            path=file,
            advice="free some space or choose another --output",
        ) from error
