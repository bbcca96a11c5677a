"""What a visitor takes home: pictures or a video with boxes, and tables, in one zip file."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossa.app.compare import Answer, Comparison, compare
from ossa.app.models import PageModel, Thresholds
from ossa.app.session import Session
from ossa.data.decode import decode_image
from ossa.data.letterbox import resize_long_side
from ossa.escaping import write_csv
from ossa.predict.results import TABLE_COLUMNS, Results
from ossa.predict.video import VideoWriter
from ossa.viz.draw import encode_jpeg, picture_grid

_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)
_VIDEO_SIDE = 960
"""Longer side in pixels of one model's picture in the video."""


def answers_of(
    session: Session, models: Sequence[PageModel], position: int, thresholds: Thresholds
) -> list[Answer]:
    """Returns what each model finds in a still; the network runs only where it has not yet."""
    return [
        Answer(model.title, seen.names, seen.detections(thresholds))
        for model, seen in zip(models, session.look(models, position), strict=True)
    ]


def write_results(
    folder: Path,
    session: Session,
    models: Sequence[PageModel],
    thresholds: Thresholds,
    *,
    on_still: Callable[[int], object] = lambda done: None,
) -> Path:
    """Writes a zip of all stills and returns it.

    It holds detections.json, detections.csv with who missed what, and for every still and model
    the picture with its boxes. One visitor's results are written one after the other.
    """
    file = folder / "ossa-results.zip"
    folders = _folders([model.title for model in models])
    documents, rows = [], []
    with zipfile.ZipFile(file, "w") as archive:  # pictures do not get smaller
        for position, still in enumerate(session.stills):
            image = decode_image(still.file)
            comparison = compare(answers_of(session, models, position, thresholds))
            for number, answer in enumerate(comparison.answers):
                drawn = _drawn(image, answer)
                name = f"{folders[answer.title]}/{position:03d}.jpg"
                archive.writestr(name, encode_jpeg(drawn, 92))
                place = {"file": session.name, "seconds": still.seconds, "model": answer.title}
                documents.append(_as_results(answer, image).to_dict(**place))
                rows += _rows(comparison, number, list(place.values()))
            on_still(position + 1)
        archive.writestr("detections.json", json.dumps(documents, indent=1))
        archive.writestr("detections.csv", _csv(rows))
    return file


def write_video(
    folder: Path,
    session: Session,
    models: Sequence[PageModel],
    thresholds: Thresholds,
    *,
    on_still: Callable[[int], object] = lambda done: None,
) -> Path:
    """Writes the video with every model's boxes side by side, as WebM, and returns it.

    It shows the frames that were looked at, each until the next.
    """
    file = folder / "ossa-video.webm"
    seconds = [still.seconds or 0.0 for still in session.stills]
    step = (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1) or 1.0
    writer = VideoWriter(file, rate=max(1.0, 1 / step))
    for position, still in enumerate(session.stills):
        image = decode_image(still.file)
        answers = answers_of(session, models, position, thresholds)
        pictures = [_shrunk(_drawn(image, answer)) for answer in answers]
        titled = picture_grid([pictures], row_titles=[" | ".join(one.title for one in answers)])
        writer.add(titled, seconds[position] - seconds[0])
        on_still(position + 1)
    writer.close(seconds[-1] - seconds[0] + step)
    return file


def _as_results(answer: Answer, image: NDArray[np.uint8]) -> Results:
    return Results(**vars(answer.detections), image=image, names=answer.names)


def _drawn(image: NDArray[np.uint8], answer: Answer) -> NDArray[np.uint8]:
    return _as_results(answer, image).draw()


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if max(image.shape[:2]) <= _VIDEO_SIDE else resize_long_side(image, _VIDEO_SIDE)


def _rows(comparison: Comparison, number: int, place: Sequence[object]) -> list[list[object]]:
    answer = comparison.answers[number]
    titles = [one.title for one in comparison.answers]
    return [
        [*place, *row, " ".join(titles[other] for other in missed_by)]
        for row, missed_by in zip(
            _as_results(answer, _NO_PIXELS).rows(),
            comparison.missed_by[number],
            strict=True,
        )
    ]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    write_csv(text, [["file", "seconds", "model", *TABLE_COLUMNS, "missed_by"], *rows])
    return text.getvalue()


def _folders(titles: Sequence[str]) -> dict[str, str]:
    """Returns the name of a folder for each title, none of them twice."""
    folders: dict[str, str] = {}
    for title in titles:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in title).strip(".")
        taken = {folder.casefold() for folder in folders.values()}
        folder = plain[:100] or "model"
        folders[title] = folder if folder.casefold() not in taken else f"{len(folders)}-{folder}"
    return folders
