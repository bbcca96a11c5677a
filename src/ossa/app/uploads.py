"""The images and videos of visitors: what is accepted, and what is kept of it.

Everything is bounded: files, pixels, seconds, frames, and visitors, of whom the one who was away
longest is forgotten when one more comes than may be kept.
"""

import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.app.inference import Inference, PageModel
from ossa.data.decode import decode_image, read_header
from ossa.errors import DataError, legible
from ossa.predict.video import VideoReader, container_of
from ossa.viz.draw import encode_jpeg

_MEGABYTE: Final = 1_000_000
_FRAME_QUALITY: Final = 95
"""JPEG quality of kept frames, in which a detector finds the same as in the video."""
_IMAGE_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; a message that refuses something beyond one states it."""

    upload_mb: int = 100
    """Megabytes of one file."""
    image_megapixels: int = 50
    video_megapixels: int = 9
    """Of one frame: 4K has 8.3."""
    video_seconds: int = 60
    frames: int = 60
    """Maximum of evenly spaced frames that are kept of a video."""
    body_seconds: float = 300.0
    """Until the last byte of a request."""
    grace_seconds: float = 5.0
    body_rate: float = 20_000.0
    """Bytes per second of a request, on average, after `grace_seconds`."""
    running: int = 1
    """Requests that compute at the same time: more would share the same processors."""
    waiting: int = 24
    """Further requests that wait; the next is refused."""
    sessions: int = 32
    """Visitors whose upload is kept."""
    kept_mb: int = 1000
    """Megabytes of all kept images and videos on the disk, and as much of fresh uploads."""

    @property
    def upload_bytes(self) -> int:
        return self.upload_mb * _MEGABYTE

    @property
    def kept_bytes(self) -> int:
        return max(self.kept_mb, 2 * self.upload_mb) * _MEGABYTE


@dataclass(frozen=True)
class KeptFrame:
    """An uploaded image, or one frame of an uploaded video."""

    file: Path
    size_wh: tuple[int, int]
    seconds: float | None = None
    """Since the beginning of the video; None for an image."""


@dataclass
class Session:
    """A visitor's image or video, and what the models have computed for it."""

    name: str
    """The name of the visitor's file."""
    folder: Path
    """Holds the frames and the results, and is deleted with the session."""
    frames: list[KeptFrame]
    num_bytes: int
    """Size of the frames on the disk."""
    decode_ms: float
    """Milliseconds to read the image, or one frame."""
    inferences: dict[tuple[int, str], Inference] = field(default_factory=dict)
    """By position of the frame and title of the model."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def token(self) -> str:
        """The secret by which a browser asks for the frames."""
        return self.folder.name

    @property
    def is_video(self) -> bool:
        return self.frames[0].seconds is not None

    def infer(self, models: Sequence[PageModel], position: int) -> list[Inference]:
        """Returns the inference of each model for a frame; a network runs once per frame."""
        with self.lock:
            image: NDArray[np.uint8] | None = None
            for model in models:
                if (position, model.title) not in self.inferences:
                    image = decode_image(self.frames[position].file) if image is None else image
                    self.inferences[position, model.title] = model.infer(image)
            return [self.inferences[position, model.title] for model in models]


class Sessions:
    """The sessions of a server by the keys of their visitors; threads may share it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """`folder` is empty, or will be made."""
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._by_key: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def num_bytes(self) -> int:
        """Size of all frames on the disk."""
        return sum(session.num_bytes for session in self._by_key.values())

    def open(self, key: str, upload: Path, name: str) -> Session:
        """Returns a session for an upload, which replaces the visitor's earlier one.

        Args:
            key: of the visitor.
            upload: the file, which is copied: visitors with the same image share it.
            name: of the visitor's file.

        Raises:
            DataError: it is neither an image nor a video, damaged, or beyond a limit.
        """
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(parents=True)
        name = legible(Path(name).name, 60)
        started = time.perf_counter()
        try:
            frames = _keep_upload(upload, name, folder, self._limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        decode_ms = 1000 * (time.perf_counter() - started) / len(frames)
        size = sum(file.stat().st_size for file in folder.iterdir())
        session = Session(name, folder, frames, size, decode_ms)
        most, most_bytes = self._limits.sessions, self._limits.kept_bytes
        with self._lock:
            self._drop(key)
            self._by_key[key] = session
            while len(self) > 1 and (len(self) > most or self.num_bytes > most_bytes):
                self._drop(next(iter(self._by_key)))
        return session

    def find(self, key: str) -> Session | None:
        """Returns a visitor's session, or None if there is none or it was forgotten."""
        with self._lock:
            if key not in self._by_key:
                return None
            self._by_key.move_to_end(key)
            return self._by_key[key]

    def frame(self, token: str, position: int) -> KeptFrame | None:
        """Returns a frame of the session with this token, or None."""
        with self._lock:
            sessions = list(self._by_key.values())
        for session in sessions:
            if secrets.compare_digest(session.token.encode(), token.encode()):
                return session.frames[position] if 0 <= position < len(session.frames) else None
        return None

    def close(self, key: str) -> None:
        """Forgets a visitor."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._by_key:
            shutil.rmtree(self._by_key.pop(key).folder, ignore_errors=True)


def _keep_upload(upload: Path, name: str, folder: Path, limits: Limits) -> list[KeptFrame]:
    """Returns the frames of an upload, written into `folder`.

    The kind is judged by content, and nothing else reaches a decoder: no playlist, which names
    other files that FFmpeg would open, and no format for which Pillow would start a program.
    """
    size = upload.stat().st_size
    if size > limits.upload_bytes:
        raise DataError(
            expected=f"a file of at most {limits.upload_mb} MB",
            found=f"{size / _MEGABYTE:.1f} MB",
            path=name,
            advice="shrink it, or start ossa app with a larger --max-upload-mb",
        )
    with upload.open("rb") as content:
        head = content.read(12)
    if head.startswith(_IMAGE_STARTS) or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
        return [_keep_image(upload, name, folder, limits)]
    if container_of(upload):
        return _keep_video(upload, name, folder, limits)
    raise DataError(
        expected="an image or a video",
        found="neither" if size else "an empty file",
        path=name,
        advice="give a JPEG, PNG, WebP, BMP or TIFF, or an MP4, MOV, WebM, MKV, AVI or MPEG",
    )


def _keep_image(upload: Path, name: str, folder: Path, limits: Limits) -> KeptFrame:
    found = "one that is damaged or cut short"
    damaged = DataError(expected="an image", found=found, path=name)
    try:
        size_wh = read_header(upload).size_wh
    except DataError:
        raise damaged from None
    _check_pixels(name, size_wh, limits.image_megapixels)
    kept = folder / "image"
    try:  # a link where the file system allows it, for the same bytes
        os.link(upload, kept)
    except OSError:
        shutil.copyfile(upload, kept)
    try:
        image = decode_image(kept)
    except DataError:
        raise damaged from None
    return KeptFrame(kept, (image.shape[1], image.shape[0]))


def _keep_video(upload: Path, name: str, folder: Path, limits: Limits) -> list[KeptFrame]:
    """Returns evenly spaced frames.

    The length that a file states may be missing or wrong. So every second frame is dropped
    whenever there are too many, from the first frame on, and the length is watched.
    """
    too_long = DataError(
        expected=f"a video of at most {limits.video_seconds} seconds",
        found="a longer one",
        path=name,
        advice="cut a part out, or use ossa predict, which has no limit",
    )
    damaged = DataError(
        expected="a video",
        found="one that is damaged, cut short, or coded in a way that OpenCV does not know",
        path=name,
    )
    try:
        video = VideoReader(upload)
    except DataError:
        raise damaged from None
    kept: dict[int, KeptFrame] = {}
    with video:
        _check_pixels(name, video.size_wh, limits.video_megapixels)
        stated = video.num_frames or 0
        if stated / video.rate > limits.video_seconds:
            raise too_long
        step = max(1, -(-stated // limits.frames))
        most_frames = limits.video_seconds * max(video.rate, 1)
        for image, number, seconds in video.frames():
            if seconds > limits.video_seconds or number > most_frames:
                raise too_long
            if number % step:
                continue
            file = folder / f"{number:06d}.jpg"
            file.write_bytes(encode_jpeg(image, _FRAME_QUALITY))
            kept[number] = KeptFrame(file, (image.shape[1], image.shape[0]), seconds)
            if len(kept) > limits.frames:
                step *= 2
                for dropped in [one for one in kept if one % step]:
                    kept.pop(dropped).file.unlink()
    if not kept:
        raise damaged
    return list(kept.values())


def _check_pixels(name: str, size_wh: tuple[int, int], megapixels: int) -> None:
    if size_wh[0] * size_wh[1] > 1e6 * megapixels:
        raise DataError(
            expected=f"at most {megapixels} million pixels",
            found=f"{size_wh[0]} x {size_wh[1]}",
            path=name,
            advice="scale it down, or use ossa predict",
        )
