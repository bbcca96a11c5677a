"""What the page remembers of its visitors: a picture or video each, and what was seen in it.

Bounded: the visitor who was away longest is forgotten when one more comes than may be kept.
"""

import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ossa.app.limits import Limits, check_upload, too_long
from ossa.app.models import PageModel, Seen
from ossa.data.decode import decode_image
from ossa.errors import DataError, legible
from ossa.predict.video import VideoReader
from ossa.viz.draw import encode_jpeg

_FRAME_QUALITY = 95
"""JPEG quality of the frames that are kept: what is seen in them stays the same."""


@dataclass(frozen=True)
class Still:
    """A picture that can be looked at: what was uploaded, or one frame of it."""

    file: Path
    size_wh: tuple[int, int]
    seconds: float | None = None
    """Where in the video it stands; None of a picture."""


@dataclass
class Session:
    """A visitor's picture or video and what the models have seen in it."""

    name: str
    """As the visitor calls the file."""
    folder: Path
    """Holds the stills and nothing else; goes with the session."""
    stills: list[Still]
    decode_milliseconds: float
    """Reading the picture, or one frame."""
    seen: dict[tuple[int, str], Seen] = field(default_factory=dict)
    """By position of the still and title of the model."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def token(self) -> str:
        """By which a browser asks for the stills; nobody guesses it."""
        return self.folder.name

    @property
    def is_video(self) -> bool:
        return self.stills[0].seconds is not None

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def look(self, models: Sequence[PageModel], position: int) -> list[Seen]:
        """Returns what each model has seen in a still; the network runs for those that are new."""
        with self.lock:
            image: NDArray[np.uint8] | None = None
            for model in models:
                if (position, model.title) not in self.seen:
                    image = decode_image(self.stills[position].file) if image is None else image
                    self.seen[position, model.title] = model.look(image)
            return [self.seen[position, model.title] for model in models]


class Sessions:
    """The sessions of a server by their visitors' keys; threads may share it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """`folder` is the server's own, and empty."""
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._by_key: OrderedDict[str, tuple[Session, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def num_bytes(self) -> int:
        """What all sessions keep on the disk."""
        return sum(size for _, size in self._by_key.values())

    def open(self, key: str, upload: Path, name: str) -> Session:
        """Returns a session with what was uploaded, in the place of the visitor's earlier one.

        Args:
            key: of the visitor.
            upload: the file; it is copied, since visitors with the same picture share it.
            name: as the visitor calls it.

        Raises:
            DataError: it is no picture or video, damaged, or beyond a limit.
        """
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        try:
            session = _opened(upload, name, folder, self._limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        size = session.num_bytes
        with self._lock:
            self._drop(key)
            self._by_key[key] = session, size
            while len(self) > self._limits.sessions or self.num_bytes > self._limits.kept_bytes:
                if len(self) == 1:
                    break
                self._drop(next(iter(self._by_key)))
        return session

    def find(self, key: str) -> Session | None:
        """Returns a visitor's session; None where there is none, or none any more."""
        with self._lock:
            if key not in self._by_key:
                return None
            self._by_key.move_to_end(key)
            return self._by_key[key][0]

    def still(self, token: str, position: int) -> Still | None:
        """Returns a still of the session with this token; None where there is none."""
        with self._lock:
            sessions = [session for session, _ in self._by_key.values()]
        for session in sessions:
            if secrets.compare_digest(session.token.encode(), token.encode()):
                return session.stills[position] if 0 <= position < len(session.stills) else None
        return None

    def close(self, key: str) -> None:
        """Forgets a visitor."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._by_key:
            session, _ = self._by_key.pop(key)
            shutil.rmtree(session.folder, ignore_errors=True)


def _opened(upload: Path, name: str, folder: Path, limits: Limits) -> Session:
    kind = check_upload(upload, name, limits)
    called = legible(Path(name).name, 60)
    read = _frames_of if kind == "video" else _picture_of
    started = time.perf_counter()
    stills = read(upload, called, folder, limits)
    milliseconds = 1000 * (time.perf_counter() - started) / len(stills)
    return Session(called, folder, stills, milliseconds)


def _picture_of(upload: Path, called: str, folder: Path, limits: Limits) -> list[Still]:
    kept = folder / "picture"
    with suppress(OSError):  # a link where the file system allows it, for the same bytes
        os.link(upload, kept)
    if not kept.exists():
        shutil.copyfile(upload, kept)
    try:
        image = decode_image(kept)
    except DataError:
        raise DataError(
            f"{called} cannot be decoded to its end: it is damaged, or cut short"
        ) from None
    return [Still(kept, (image.shape[1], image.shape[0]))]


def _frames_of(upload: Path, called: str, folder: Path, limits: Limits) -> list[Still]:
    """Returns evenly spaced frames of a video, written into `folder`.

    What a file states of its length may be missing or wrong. So every second frame is dropped as
    often as there are too many of them, from the first frame on, and the length is watched.
    """
    kept: list[tuple[int, Still]] = []
    step = 1
    try:
        with VideoReader(upload) as video:
            if video.num_frames:
                step = -(-video.num_frames // limits.frames)
            for frame in video.frames():
                most_frames = limits.video_seconds * max(video.rate, 1)
                if frame.seconds > limits.video_seconds or frame.number > most_frames:
                    raise too_long(called, limits)
                if frame.number % step:
                    continue
                height, width = frame.image.shape[:2]
                file = folder / f"{frame.number:06d}.jpg"
                file.write_bytes(encode_jpeg(frame.image, _FRAME_QUALITY))
                kept.append((frame.number, Still(file, (width, height), frame.seconds)))
                if len(kept) > limits.frames:
                    step *= 2
                    for _, still in (one for one in kept if one[0] % step):
                        still.file.unlink()
                    kept = [one for one in kept if one[0] % step == 0]
            video.ending()
    except DataError as fault:
        if str(fault).startswith(called):
            raise
        raise DataError(f"{called} has no frame that can be decoded") from None
    return [still for _, still in kept]
