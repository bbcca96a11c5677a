"""What the page does for a visitor: shows models side by side, compares them, writes results.

Nothing here needs gradio.
"""

import io
import json
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from torchvision.ops import box_iou

from ossa.app.inference import PageModel, Settings, class_names
from ossa.app.uploads import Session, Sessions
from ossa.data.decode import decode_image
from ossa.data.letterbox import resize_long_side
from ossa.errors import DataError, OssaError
from ossa.escaping import write_csv
from ossa.predict.results import TABLE_COLUMNS, Results
from ossa.predict.video import VideoWriter
from ossa.viz.draw import box_colours, encode_jpeg, picture_grid

WELCOME: Final = "Drop an image or a video, or use the camera: the boxes of each model show here."
SAME_IOU: Final = 0.5
"""Two boxes of one class with at least this IoU count as one object."""
_MOST_LABELLED: Final = 40
"""Boxes per image that carry a label: more would hide the objects."""
_VIDEO_SIDE: Final = 960
"""Longer side in pixels of one model's frames in the video."""
_NO_PIXELS: Final = np.zeros((1, 1, 3), np.uint8)
_STAGES: Final = ("read", "prepare", "network", "decode", "NMS", "total")


@dataclass(frozen=True)
class View:
    """HTML for the visitor."""

    images: str
    """The models side by side, or a message in their place."""
    notes: str = ""
    """Their differences and times."""
    num_frames: int = 0


@dataclass(frozen=True)
class Answer:
    """The detections of one model."""

    title: str
    results: Results
    milliseconds: tuple[float, ...] = ()
    """Of each of `_STAGES` but the total."""

    def name_of(self, position: int) -> str:
        return self.results.names[self.results.labels[position]]


def find_missed(answers: Sequence[Answer]) -> list[list[list[int]]]:
    """Returns, for each answer and each of its detections, the positions of answers that miss it.

    A detection is missed by an answer whose model knows the class but has no box of it with an
    IoU of at least `SAME_IOU`.
    """
    missed_by: list[list[list[int]]] = [[[] for _ in answer.results.labels] for answer in answers]
    for i, j in combinations(range(len(answers)), 2):
        pairs = match_objects(answers[i].results, answers[j].results)
        for finder, other, side in ((i, j, 0), (j, i, 1)):
            matched = {pair[side] for pair in pairs}
            for row, missing in enumerate(missed_by[finder]):
                known = answers[finder].name_of(row) in answers[other].results.names
                if row not in matched and known:
                    missing.append(other)
    return missed_by


def match_objects(first: Results, second: Results) -> list[tuple[int, int]]:
    """Returns pairs of detections of the same object, each detection in one pair at most.

    Pairs of one class with an IoU of at least `SAME_IOU` are taken in the order of their IoU, so
    the result is symmetric.
    """
    boxes = [torch.from_numpy(one.boxes_xyxy) for one in (first, second)]
    iou = box_iou(boxes[0], boxes[1]).numpy()
    names = [np.array(one.names, object)[one.labels] for one in (first, second)]
    iou[names[0][:, None] != names[1][None]] = 0
    rows, columns = np.nonzero(iou >= SAME_IOU)
    order = (-iou[rows, columns]).argsort(kind="stable")
    pairs: dict[int, int] = {}
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return sorted(pairs.items())


def describe_differences(
    answers: Sequence[Answer], missed_by: Sequence[Sequence[Sequence[int]]]
) -> list[str]:
    """Returns sentences on the differences, the most important first; none for one answer."""
    if len(answers) < 2:
        return []
    if not any(len(answer.results) for answer in answers):
        return ["No model finds anything at these thresholds."]
    sentences = []
    for finder, answer in enumerate(answers):
        rows = list(enumerate(missed_by[finder]))
        for other in range(len(answers)):
            found = Counter(answer.name_of(row) for row, missed in rows if other in missed)
            if found:
                title = answers[other].title
                sentences.append(f"{answer.title} finds {_listed(found)} that {title} misses.")
    everyone = "both" if len(answers) == 2 else "all"
    common = set.intersection(*(set(answer.results.names) for answer in answers))
    names = (answers[0].name_of(row) for row, missed in enumerate(missed_by[0]) if not missed)
    shared = Counter(name for name in names if name in common)
    nothing = f"Nothing is found by {everyone}."
    sentences.append(f"{everyone.title()} find {_listed(shared)}." if shared else nothing)
    for answer in answers:
        found_names = {answer.name_of(row) for row in range(len(answer.results))}
        for other in answers:
            if unknown := sorted(found_names - set(other.results.names)):
                sentences.append(f"{other.title} was not trained to find {', '.join(unknown)}.")
    return list(dict.fromkeys(sentences))


def _listed(found: Counter[str]) -> str:
    """Returns counts by class, such as '3 objects (2 dog, 1 cat)' or '1 dog'."""
    by_class = ", ".join(f"{count} {name}" for name, count in found.most_common())
    return by_class if len(found) == 1 else f"{sum(found.values())} objects ({by_class})"


class Handlers:
    """Answers visitors; threads may share it."""

    def __init__(self, models: Sequence[PageModel], sessions: Sessions) -> None:
        self._models = tuple(models)
        self._sessions = sessions
        self._names = class_names(models)

    def open(self, key: str, upload: Path, settings: Settings) -> View:
        """Returns the view of a new upload, at its first frame.

        A file that cannot be used gives a message and keeps the visitor's earlier upload.
        """
        try:
            self._sessions.open(key, upload, upload.name)
        except DataError as error:
            return View(render_message(str(error), is_error=True))
        return self.show(key, replace(settings, frame=1))

    def show(self, key: str, settings: Settings) -> View:
        """Returns the view with these settings; a network runs if it is new to this frame."""
        session = self._sessions.find(key)
        models = [model for model in self._models if model.title in settings.models]
        if session is None:
            return View(render_message(WELCOME))
        count = len(session.frames)
        if not models:
            return View(render_message("Choose at least one model."), num_frames=count)
        position = min(max(settings.frame, 1), count) - 1
        try:
            answers = _answers(session, models, position, settings, image=_NO_PIXELS)
        except DataError:  # forgotten while this ran
            message = "This image is not kept any more: drop it again."
            return View(render_message(message, is_error=True))
        except OssaError as error:  # such as NaN from the network
            return View(render_message(str(error), is_error=True), num_frames=count)
        missed_by = find_missed(answers)
        size_wh = session.frames[position].size_wh
        views = [
            {
                "title": model.title,
                "about": model.about,
                "boxes": self._boxes(answers[number], missed_by[number], answers, size_wh),
            }
            for number, model in enumerate(models)
        ]
        image = f"image/{session.token}/{position}"
        times = [(one.title, [*one.milliseconds, sum(one.milliseconds)]) for one in answers]
        notes = _template().notes(describe_differences(answers, missed_by), _STAGES, times)
        return View(str(_template().views(image, size_wh, views)), str(notes), count)

    def results(self, key: str, settings: Settings, on_frame: Callable[..., object]) -> Path:
        """Returns a zip of all frames as images with boxes, and of tables.

        It holds detections.json, and detections.csv with the models that miss each detection.

        Args:
            key: of the visitor.
            settings: of the visitor.
            on_frame: called with the number of frames done and of all frames.

        Raises:
            DataError: there is no upload, or no model is chosen.
        """
        session, models = self._to_write(key, settings)
        file = session.folder / "ossa-results.zip"
        folders = _folder_names([model.title for model in models])
        documents: list[dict[str, Any]] = []
        rows: list[list[Any]] = [["file", "seconds", "model", *TABLE_COLUMNS, "missed_by"]]
        with zipfile.ZipFile(file, "w") as archive:  # JPEGs do not get smaller
            for position, frame in enumerate(session.frames):
                answers = _answers(session, models, position, settings)
                for answer, missed in zip(answers, find_missed(answers), strict=True):
                    name = f"{folders[answer.title]}/{position:03d}.jpg"
                    archive.writestr(name, encode_jpeg(answer.results.draw(), 92))
                    place = {"file": session.name, "seconds": frame.seconds, "model": answer.title}
                    documents.append(answer.results.to_dict(**place))
                    for row, others in zip(answer.results.rows(), missed, strict=True):
                        titles = " ".join(answers[other].title for other in others)
                        rows.append([*place.values(), *row, titles])
                on_frame(position + 1, len(session.frames))
            text = io.StringIO()
            write_csv(text, rows)
            archive.writestr("detections.json", json.dumps(documents, indent=1))
            archive.writestr("detections.csv", text.getvalue())
        return file

    def video(self, key: str, settings: Settings, on_frame: Callable[..., object]) -> Path:
        """Returns a WebM of the models side by side, which shows each kept frame until the next.

        Args:
            key, settings, on_frame: as of `results`.

        Raises:
            DataError: there is no video, or no model is chosen.
        """
        session, models = self._to_write(key, settings)
        if not session.is_video:
            raise DataError("There is no video: drop one first.")
        file = session.folder / "ossa-video.webm"
        seconds = [frame.seconds or 0.0 for frame in session.frames]
        step = (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1) or 1.0
        writer = VideoWriter(file, rate=max(1.0, 1 / step))
        title = " | ".join(model.title for model in models)
        for position, at in enumerate(seconds):
            answers = _answers(session, models, position, settings)
            drawings = [answer.results.draw() for answer in answers]
            side = min(max(drawings[0].shape[:2]), _VIDEO_SIDE)
            row = [resize_long_side(drawing, side) for drawing in drawings]
            writer.add(picture_grid([row], row_titles=[title]), at - seconds[0])
            on_frame(position + 1, len(seconds))
        writer.close(seconds[-1] - seconds[0] + step)
        return file

    def forget(self, key: str) -> None:
        """Deletes what is kept of a visitor."""
        self._sessions.close(key)

    def _to_write(self, key: str, settings: Settings) -> tuple[Session, list[PageModel]]:
        session = self._sessions.find(key)
        models = [model for model in self._models if model.title in settings.models]
        if session is None:
            raise DataError("There is no image: drop one first.")
        if not models:
            raise DataError("No model is chosen: choose at least one.")
        return session, models

    def _boxes(
        self,
        answer: Answer,
        missed_by: Sequence[Sequence[int]],
        answers: Sequence[Answer],
        size_wh: tuple[int, int],
    ) -> list[dict[str, Any]]:
        """Returns what the template needs to draw the boxes of an answer, best first."""
        width, height = size_wh
        boxes = []
        rows = zip(answer.results.rows(), missed_by, strict=True)
        for rank, ((_, name, score, left, top, right, bottom), missed) in enumerate(rows):
            fill, ink = box_colours(self._names.index(name))
            style = (
                f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%;"
                f"width:{100 * (right - left) / width:.3f}%;"
                f"height:{100 * (bottom - top) / height:.3f}%;--box:rgb{fill};--ink:rgb{ink}"
            )
            boxes.append(
                {
                    "style": style,
                    "text": f"{name} {score:.2f}",
                    "has_label": rank < _MOST_LABELLED,
                    "missed_by": ", ".join(answers[other].title for other in missed),
                    "is_low": top < 0.06 * height,
                }
            )
        return boxes


def render_message(text: str, *, is_error: bool = False) -> str:
    """Returns HTML of a message to the visitor."""
    return str(_template().message(text, is_error=is_error))


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("ossa.app").joinpath("view.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).module


def _answers(
    session: Session,
    models: Sequence[PageModel],
    position: int,
    settings: Settings,
    image: NDArray[np.uint8] | None = None,
) -> list[Answer]:
    """Returns the answers of the models for a frame, with its pixels unless others are given."""
    if image is None:
        image = decode_image(session.frames[position].file)
    answers = []
    for model, inference in zip(models, session.infer(models, position), strict=True):
        started = time.perf_counter()
        found = inference.detections(settings)
        nms = 1000 * (time.perf_counter() - started)
        results = Results(**vars(found), image=image, names=inference.names)
        stages = (session.decode_ms, *inference.milliseconds, nms)
        answers.append(Answer(model.title, results, stages))
    return answers


def _folder_names(titles: Sequence[str]) -> dict[str, str]:
    """Returns a folder name for each title, none of them twice."""
    folders: dict[str, str] = {}
    for title in titles:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in title).strip(".")
        taken = {folder.casefold() for folder in folders.values()}
        folder = plain[:100] or "model"
        folders[title] = folder if folder.casefold() not in taken else f"{len(folders)}-{folder}"
    return folders
