"""Videos, cameras and streams frame by frame, and videos that a browser plays.

Frames are uint8 (H, W, 3) RGB. Only one of them is held at a time, however long the video.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.errors import DataError, RunFailed
from ossa.files import open_regular
from ossa.predict.sources import STREAM_SCHEMES, LiveSource, VideoFile

_USUAL_RATE: Final = 30.0
_MOST_RATE: Final = 300.0
"""Files that state no rate are said to have that of their clock, 1000 frames a second or more."""
_TIMEOUT_SECONDS: Final = 10.0
_MOST_BROKEN: Final = 1000
"""Frames that cannot be decoded one after the other: behind so many nothing more is expected."""
_TS_PACKET: Final = 188
_MOV_ATOMS: Final = frozenset(
    {*(b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")}
)
_CONTAINERS: Final = {
    b"\x1aE\xdf\xa3": "matroska",  # and WebM
    b"\0\0\1\xba": "mpeg",
    b"\0\0\1\xb3": "mpegvideo",
    b"FLV\1": "flv",
    b"OggS": "ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
_STREAM_PROTOCOLS: Final = f"{','.join(STREAM_SCHEMES)},srtp,tls,httpproxy,crypto"
_CAPTURE_OPTIONS: Final = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_OPENING: Final = threading.Lock()
"""Held while the options of a capture are set, which the whole process shares."""
_LONGEST_GAP_SECONDS: Final = 60.0
"""Times that jump further are taken for a fault of the clock."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    number: int
    """From 0, where those that are broken or passed over count too."""
    seconds: float
    """From the beginning of the video."""


class VideoReader:
    """Gives the frames of a video, camera or stream; what cannot be decoded is passed over.

    Leaving the `with` closes it.
    """

    def __init__(
        self,
        source: VideoFile | LiveSource,
        *,
        every: int = 1,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        """Args:
            source: what to open.
            every: gives frames 0, `every`, 2 `every`, ...
            timeout_seconds: a stream that does not answer for so long has ended.

        Raises:
            DataError: it cannot be opened.
        """
        self._source = source
        self._every = every
        self._timeout_seconds = timeout_seconds
        self._capture = _opened(source, timeout_seconds)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= _MOST_RATE else _USUAL_RATE
        """Frames a second of the source."""
        stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = isinstance(source, VideoFile) and math.isfinite(stated) and stated > 0
        self.num_frames = int(stated) if known else None
        """As the file states it; None of a camera or stream."""
        self.size_wh = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        """Width and height of the frames in pixels, as the source states them."""
        self._position = 0
        self._num_good = 0
        self._num_broken = 0
        self._first_broken = 0
        self._seconds = 0.0
        self._is_at_end = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(self) -> Iterator[Frame]:
        """Yields the frames that can be decoded, one after the other."""
        clock = _Clock(self.rate)
        while self._advance():
            number = self._position - 1
            self._seconds = clock.seconds(number, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            if number % self._every:
                continue
            decoded, image = self._capture.retrieve()
            if decoded and image is not None:
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number, self._seconds)  # type: ignore[arg-type]

    @property
    def length_seconds(self) -> float:
        """Until the end of the last frame that was read, or of the file where it is that."""
        read = self._seconds + 1 / self.rate
        stated = (self.num_frames or 0) / self.rate
        is_whole = self._is_at_end and read < stated <= read + self._blink
        return stated if is_whole else read

    def ending(self) -> str | None:
        """Returns in a sentence what was lost, None where nothing was; to ask at the end.

        Raises:
            DataError: there was not one frame.
        """
        title = self._source.title
        if not self._num_good:
            raise DataError(f"expected a video at {title}, found one without frames; replace it")
        lost = []
        if self._num_broken:
            lost.append(
                f"{_frames(self._num_broken)} cannot be decoded, the first of them number "
                f"{self._first_broken}, and the last good one stands in for them"
            )
        if isinstance(self._source, LiveSource):
            lost.append(f"it ended or was cut off after {_frames(self._position)}")
        elif self._ends_early():
            lost.append(
                f"it breaks off after {_frames(self._position)} of the {self.num_frames} it states"
            )
        return f"{title}: {'; '.join(lost)}" if lost else None

    def _ends_early(self) -> bool:
        # By the time, since the number stated is a guess where frames do not come regularly.
        return (self.num_frames or 0) / self.rate > self.length_seconds + self._blink

    @property
    def _blink(self) -> float:
        """Seconds that may be missing at the end without a word."""
        return max(0.5, 2 / self.rate)

    def _advance(self) -> bool:
        """Goes on to the next good frame, past broken ones; False at the end."""
        broken = 0
        started = time.monotonic()
        while not self._capture.grab():
            broken += 1
            if self._is_over(broken, time.monotonic() - started):
                self._is_at_end = True
                return False
        if broken:
            self._first_broken = self._first_broken if self._num_broken else self._position
            self._num_broken += broken
        self._position += broken + 1
        self._num_good += 1
        return True

    def _is_over(self, broken: int, seconds: float) -> bool:
        # OpenCV does not tell a frame that is broken from the end: only asking again does.
        if broken >= _MOST_BROKEN:
            return True
        if self.num_frames is not None:
            return self._position + broken >= self.num_frames
        return seconds >= self._timeout_seconds


class _Clock:
    """Says when frames are, from their own times where these make sense."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._last: tuple[int, float, float] | None = None

    def seconds(self, number: int, stated: float) -> float:
        """Returns the seconds from the beginning to a frame whose own clock says `stated`."""
        if self._last is None:
            seconds = number * self._step
        else:
            last_number, last_stated, last_seconds = self._last
            passed = stated - last_stated
            if not 0 < passed <= _LONGEST_GAP_SECONDS:
                passed = (number - last_number) * self._step
            seconds = last_seconds + passed
        self._last = (number, stated, seconds)
        return seconds


class VideoWriter:
    """Writes a WebM file with VP8, which every browser plays; no sound.

    A picture is repeated until the time of the next, so that rate and length stay those of the
    source whatever frames of it are missing.
    """

    def __init__(self, file: Path, rate: float) -> None:
        """`rate` is in frames a second."""
        self._file = file
        self._rate = rate
        self._size_wh = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[np.uint8] | None = None
        self._written = 0

    def add(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Writes a picture (H, W, 3) RGB that is to be seen from `seconds` on.

        Raises:
            RunFailed: the file cannot be written, or the picture is too large for VP8.
        """
        picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._size_wh = (image.shape[1], image.shape[0])
            self._writer = _new_video(self._file, self._rate, self._size_wh)
        if (image.shape[1], image.shape[0]) != self._size_wh:  # a stream may change it
            picture = cv2.resize(picture, self._size_wh, interpolation=cv2.INTER_AREA)
        self._fill(picture if self._last is None else self._last, round(seconds * self._rate))
        self._last = np.asarray(picture, np.uint8)
        self._write(self._last)

    def close(self, seconds: float | None = None) -> None:
        """Ends the file; the last picture is seen until `seconds`, where that is given.

        Raises:
            RunFailed: the file is not whole, as on a full disk.
        """
        if self._writer is None:
            return
        if seconds is not None and self._last is not None:
            self._fill(self._last, round(seconds * self._rate))
        self._writer.release()
        self._writer = None
        # Its length is written last. OpenCV does not say when it could not write.
        stated = cv2.VideoCapture(str(self._file.absolute()), cv2.CAP_FFMPEG).get(
            cv2.CAP_PROP_FRAME_COUNT
        )
        if stated < self._written - 1:
            raise RunFailed(
                f"could not write all {self._written} frames of {self._file}: free some space, or "
                "leave it out with --no-pictures"
            )

    def _fill(self, picture: Any, until: int) -> None:
        while self._written < until:
            self._write(picture)

    def _write(self, picture: Any) -> None:
        assert self._writer is not None
        self._writer.write(picture)
        self._written += 1


def _opened(source: VideoFile | LiveSource, timeout_seconds: float) -> cv2.VideoCapture:
    _silence_ffmpeg()
    milliseconds = round(timeout_seconds * 1000)
    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
    ]
    if isinstance(source, VideoFile):
        container = container_of(source.file) or "none"
        with _capture_options(f"format_whitelist;{container}|protocol_whitelist;file"):
            # Absolute, since FFmpeg takes what stands in front of a colon for a protocol.
            capture = cv2.VideoCapture(str(source.file.absolute()), cv2.CAP_FFMPEG, limits)
        fault = f"expected a video at {source.title}, found a file that cannot be read as one"
    elif isinstance(source.address, int):
        capture = cv2.VideoCapture(source.address)
        cameras = sorted(str(camera) for camera in Path("/dev").glob("video*"))
        fault = (
            f"expected a camera with the number {source.address}, found none that can be opened; "
            f"this machine has {', '.join(cameras) or 'no /dev/video*'}"
        )
    else:
        # What a server answers may name other addresses, as playlists do, but no files.
        with _capture_options(f"rtsp_flags;prefer_tcp|protocol_whitelist;{_STREAM_PROTOCOLS}"):
            capture = cv2.VideoCapture(source.address, cv2.CAP_FFMPEG, limits)
        fault = (
            f"expected a stream at {source.title}, found none that can be read within "
            f"{timeout_seconds:g} s; check the address"
        )
    if not capture.isOpened():
        raise DataError(fault)
    return capture


def container_of(file: Path) -> str | None:
    """Returns FFmpeg's name for the container of a video, told by its content.

    None for what is no video, and for what names other files that FFmpeg would open, such as a
    playlist or a list of files to join.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open_regular(file) as content:
            head = content.read(5 * _TS_PACKET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"expected a video at {file}, found {reason}") from None
    packets = [head[at : at + 1] for at in range(0, 5 * _TS_PACKET, _TS_PACKET)]
    if all(start in (b"G", b"") for start in packets) and len(head) >= _TS_PACKET:
        return "mpegts"
    if head[4:8] in _MOV_ATOMS:
        return "mov"
    if (head[:4], head[8:12]) == (b"RIFF", b"AVI "):
        return "avi"
    return next((name for start, name in _CONTAINERS.items() if head.startswith(start)), None)


@contextmanager
def _capture_options(options: str) -> Iterator[None]:
    """Hands options of FFmpeg to OpenCV, which reads them here when it opens a capture.

    They stand behind the user's own, and so prevail.
    """
    with _OPENING:
        before = os.environ.get(_CAPTURE_OPTIONS)
        os.environ[_CAPTURE_OPTIONS] = f"{before}|{options}" if before else options
        try:
            yield
        finally:
            del os.environ[_CAPTURE_OPTIONS]
            if before is not None:
                os.environ[_CAPTURE_OPTIONS] = before


def _new_video(file: Path, rate: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
    _silence_ffmpeg()
    with _stderr_closed():
        writer = cv2.VideoWriter(
            str(file.absolute()),
            cv2.CAP_FFMPEG,
            cv2.VideoWriter.fourcc(*"VP80"),
            rate,
            size_wh,
        )
    if not writer.isOpened():
        raise RunFailed(
            f"could not write {file} with {size_wh[0]}x{size_wh[1]} pixels: VP8 takes up to 16383 "
            "on a side, and the folder must be writable; --no-pictures leaves it out"
        )
    return writer


def _silence_ffmpeg() -> None:
    """Has FFmpeg keep to itself what it finds in each frame; OpenCV asks when it first uses it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Drops what C code prints: OpenCV says of every WebM file that its tag is not supported."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
