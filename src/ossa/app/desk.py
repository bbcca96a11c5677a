"""What the page answers to each thing a visitor does, as HTML: logic without a web framework."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ossa.app import views
from ossa.app.compare import Answer, compare
from ossa.app.models import LOWEST_CONFIDENCE, PageModel, Thresholds, class_names
from ossa.app.results import write_results, write_video
from ossa.app.session import Session, Sessions
from ossa.errors import DataError

WELCOME = "Drop a picture or a video, or use the camera: the boxes of every chosen model show here."
_GONE = "This picture is not kept any more: drop it again."
_NO_MODEL = "Choose at least one model."


@dataclass(frozen=True)
class Choice:
    """What a visitor has set."""

    titles: tuple[str, ...]
    """Of the models to show."""
    confidence: float
    nms_iou: float
    classes: tuple[str, ...] = ()
    """Of no other class a box is shown; empty for all."""
    still: int = 1
    """Frame of a video, from 1."""

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(
            confidence=min(max(self.confidence, LOWEST_CONFIDENCE), 0.99),
            nms_iou=min(max(self.nms_iou, 0.01), 1.0),
            classes=frozenset(self.classes) or None,
        )


@dataclass(frozen=True)
class Shown:
    """What there is to see."""

    pictures: str
    """HTML of the models side by side, or a sentence in their place."""
    notes: str = ""
    """HTML of their differences and times."""
    num_stills: int = 0
    """Frames that can be chosen from; 0 where there is no picture."""


class Desk:
    """Answers visitors; threads may share it."""

    def __init__(self, models: Sequence[PageModel], sessions: Sessions) -> None:
        self._models = tuple(models)
        self._sessions = sessions
        self._names = class_names(models)

    def take(self, key: str, upload: Path, choice: Choice) -> Shown:
        """Returns what is seen in a new upload; the choice of a frame begins anew.

        A file that cannot be used is a sentence, and leaves the visitor's last picture alone.
        """
        try:
            self._sessions.open(key, upload, upload.name)
        except DataError as fault:
            return Shown(views.sentence(f"{fault}.", is_fault=True))
        return self.show(key, Choice(**{**vars(choice), "still": 1}))

    def show(self, key: str, choice: Choice) -> Shown:
        """Returns what the chosen models find under the chosen thresholds.

        A network runs only if it has not seen this picture yet.
        """
        session = self._sessions.find(key)
        models = self._chosen(choice)
        if session is None:
            return Shown(views.sentence(WELCOME))
        if not models:
            return Shown(views.sentence(_NO_MODEL), num_stills=len(session.stills))
        try:
            return self._seen(session, models, choice)
        except DataError:  # forgotten while this ran
            return Shown(views.sentence(_GONE, is_fault=True))

    def results(self, key: str, choice: Choice, on_still: Callable[[int, int], object]) -> Path:
        """Returns a zip of pictures and tables.

        Raises:
            DataError: there is nothing to write.
        """
        session, models = self._to_write(key, choice)
        count = len(session.stills)
        return write_results(
            session.folder,
            session,
            models,
            choice.thresholds,
            on_still=lambda done: on_still(done, count),
        )

    def video(self, key: str, choice: Choice, on_still: Callable[[int, int], object]) -> Path:
        """Returns a WebM of the models side by side.

        Raises:
            DataError: there is no video.
        """
        session, models = self._to_write(key, choice)
        if not session.is_video:
            raise DataError("there is no video: drop one first")
        count = len(session.stills)
        return write_video(
            session.folder,
            session,
            models,
            choice.thresholds,
            on_still=lambda done: on_still(done, count),
        )

    def forget(self, key: str) -> None:
        """Drops what a visitor has left behind."""
        self._sessions.close(key)

    def _chosen(self, choice: Choice) -> list[PageModel]:
        return [model for model in self._models if model.title in choice.titles]

    def _to_write(self, key: str, choice: Choice) -> tuple[Session, list[PageModel]]:
        session, models = self._sessions.find(key), self._chosen(choice)
        if session is None:
            raise DataError("there is no picture: drop one first")
        if not models:
            raise DataError("no model is chosen: choose at least one")
        return session, models

    def _seen(self, session: Session, models: Sequence[PageModel], choice: Choice) -> Shown:
        position = min(max(choice.still, 1), len(session.stills)) - 1
        still = session.stills[position]
        seen = session.look(models, position)
        answers, milliseconds = [], []
        for model, one in zip(models, seen, strict=True):
            started = time.perf_counter()
            detections = one.detections(choice.thresholds)
            milliseconds.append(1000 * (time.perf_counter() - started))
            answers.append(Answer(model.title, one.names, detections))
        comparison = compare(answers)
        pictures = views.side_by_side(
            comparison,
            f"picture/{session.token}/{position}",
            still.size_wh,
            names=self._names,
            abouts=[model.about for model in models],
        )
        times = views.times_table(comparison, seen, session.decode_milliseconds, milliseconds)
        return Shown(pictures, views.in_words(comparison) + times, len(session.stills))
