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
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.errors import DataError, RunFailed, os_reason
from ossa.escaping import hide_credentials
from ossa.files import open_regular

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "http", "https", "srt", "udp", "tcp")
_ADDRESSES: Final = tuple(f"{scheme}://" for scheme in STREAM_SCHEMES)
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
_QUIET: Final = ("OPENCV_FFMPEG_LOGLEVEL", "-8")
"""Keeps FFmpeg from printing; OpenCV reads this when it first uses FFmpeg."""
_OPENING: Final = threading.Lock()
"""Held while the options of a capture are set, which the whole process shares."""
_LONGEST_GAP_SECONDS: Final = 60.0
"""Times that jump further are taken for a fault of the clock."""


class VideoFrame(NamedTuple):
    """One frame of a video."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    number: int
    """Position in the video from 0; broken and skipped frames count too."""
    seconds: float
    """Since the beginning of the video."""


class VideoReader:
    """Reads the frames of a video file, camera or stream and skips those that are broken.

    It is a context manager, which closes the source.

    Examples:
        >>> from ossa.predict.video import VideoReader
        >>> with VideoReader("street.webm", every=2) as video:
        ...     [frame.number for frame in video.frames()]
        [0, 2]
    """

    def __init__(
        self,
        source: Path | str | int,
        *,
        every: int = 1,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        """Args:
            source: a file, the address of a stream such as `rtsp://...` (a text, never a `Path`),
                or the number of a camera.
            every: yields frames 0, `every`, 2 `every`, ...
            timeout_seconds: after which a stream that sends nothing has ended.

        Raises:
            DataError: the source cannot be opened.
        """
        if isinstance(source, str) and not source.startswith(_ADDRESSES):
            source = Path(source)
        self._source = source
        self._every = every
        self._timeout_seconds = timeout_seconds
        self._capture = _open_capture(self._source, timeout_seconds)
        rate, stated = map(self._capture.get, (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        self.rate = rate if 0 < rate <= _MOST_RATE else _USUAL_RATE
        """Frames per second of the source."""
        known = isinstance(self._source, Path) and math.isfinite(stated) and stated > 0
        self.num_frames = int(stated) if known else None
        """As the file states it; None for a camera or stream."""
        width, height = (int(self._capture.get(side)) for side in sides)
        self.size_wh = (width, height)
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

    def frames(self) -> Iterator[VideoFrame]:
        """Yields the frames that can be decoded."""
        clock_before, number_before = 0.0, -1
        while self._advance():
            number = self._position - 1
            clock = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # By the clock of the video where that makes sense.
            passed = clock - clock_before
            if self._num_good == 1:
                passed = number / self.rate
            elif not 0 < passed <= _LONGEST_GAP_SECONDS:
                passed = (number - number_before) / self.rate
            self._seconds += passed
            clock_before, number_before = clock, number
            if number % self._every:
                continue
            decoded, image = self._capture.retrieve()
            if decoded and image is not None:
                rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
                yield VideoFrame(rgb, number, self._seconds)

    @property
    def length_seconds(self) -> float:
        """The end of the last frame that was read, or of the file once that is reached."""
        read = self._seconds + 1 / self.rate
        stated = (self.num_frames or 0) / self.rate
        is_whole = self._is_at_end and read < stated <= read + self._tolerance
        return stated if is_whole else read

    def ending(self) -> str | None:
        """Returns a sentence on what was lost, or None; valid after the last frame.

        Raises:
            DataError: there was no frame at all.
        """
        title = _title(self._source)
        if not self._num_good:
            raise DataError(
                expected="a video", found="one without frames", path=title, advice="replace it"
            )
        lost = []
        if self._num_broken:
            lost.append(
                f"{_frames(self._num_broken)} cannot be decoded, the first of them number "
                f"{self._first_broken}, and the last good one stands in for them"
            )
        if not isinstance(self._source, Path):
            lost.append(f"it ended or was cut off after {_frames(self._position)}")
        # By the time: the stated number is a guess where frames come irregularly.
        elif (self.num_frames or 0) / self.rate > self.length_seconds + self._tolerance:
            lost.append(
                f"it breaks off after {_frames(self._position)} of the {self.num_frames} it states"
            )
        return f"{title}: {'; '.join(lost)}" if lost else None

    @property
    def _tolerance(self) -> float:
        """Seconds that may be missing at the end without a warning."""
        return max(0.5, 2 / self.rate)

    def _advance(self) -> bool:
        """Moves to the next good frame, past broken ones; returns False at the end."""
        broken, started = 0, time.monotonic()
        while not self._capture.grab():
            broken += 1
            # OpenCV does not tell a frame that is broken from the end: only asking again does.
            if self.num_frames is None:
                is_over = time.monotonic() - started >= self._timeout_seconds
            else:
                is_over = self._position + broken >= self.num_frames
            if is_over or broken >= _MOST_BROKEN:
                self._is_at_end = True
                return False
        if broken:
            self._first_broken = self._first_broken if self._num_broken else self._position
            self._num_broken += broken
        self._position += broken + 1
        self._num_good += 1
        return True


class VideoWriter:
    """Writes a WebM file with VP8, which every browser plays, without sound.

    An image is repeated until the time of the next, so that rate and length stay those of the
    source even where frames of it are missing.

    Examples:
        >>> writer = VideoWriter(Path("grey.webm"), rate=10)
        >>> writer.add(np.full((32, 64, 3), 90, np.uint8), seconds=0)
        >>> writer.close(seconds=0.5)
    """

    def __init__(self, file: Path, rate: float) -> None:
        """Args:
        file: to write.
        rate: frames per second.
        """
        self._file = file
        self._rate = rate
        self._size_wh = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._last: Any = None
        self._written = 0

    def add(self, image: NDArray[np.uint8], seconds: float) -> None:
        """Writes an image (H, W, 3) RGB that is shown from `seconds` on.

        Raises:
            RunFailed: the file cannot be written, or the image is too large for VP8.
        """
        size_wh = (image.shape[1], image.shape[0])
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._size_wh = size_wh
            self._writer = _open_writer(self._file, self._rate, size_wh)
        if size_wh != self._size_wh:  # a stream may change it
            bgr = cv2.resize(bgr, self._size_wh, interpolation=cv2.INTER_AREA)
        self._repeat(bgr if self._last is None else self._last, until=seconds)
        self._last = bgr
        self._writer.write(bgr)
        self._written += 1

    def close(self, seconds: float | None = None) -> None:
        """Ends the file; the last image is shown until `seconds`, if given.

        Raises:
            RunFailed: the file is incomplete, as on a full disk.
        """
        if self._writer is None:
            return
        if seconds is not None:
            self._repeat(self._last, until=seconds)
        self._writer.release()
        self._writer = None
        # Its length is written last. OpenCV does not say when it could not write.
        capture = cv2.VideoCapture(str(self._file.absolute()), cv2.CAP_FFMPEG)
        if capture.get(cv2.CAP_PROP_FRAME_COUNT) < self._written - 1:
            raise RunFailed(
                f"could not write all {self._written} frames",
                path=self._file,
                advice="free some space, or leave it out with --no-pictures",
            )

    def _repeat(self, bgr: Any, *, until: float) -> None:
        assert self._writer is not None
        while self._written < round(until * self._rate):
            self._writer.write(bgr)
            self._written += 1


def _title(source: Path | str | int) -> str:
    return str(source) if isinstance(source, Path) else hide_credentials(str(source))


def _open_capture(source: Path | str | int, timeout_seconds: float) -> cv2.VideoCapture:
    os.environ.setdefault(*_QUIET)
    milliseconds = round(timeout_seconds * 1000)
    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds),
    ]
    advice = None
    if isinstance(source, Path):
        container = container_of(source) or "none"
        with _capture_options(f"format_whitelist;{container}|protocol_whitelist;file"):
            # Absolute: FFmpeg takes the text before a colon for a protocol.
            capture = cv2.VideoCapture(str(source.absolute()), cv2.CAP_FFMPEG, limits)
        expected, found = "a video", "a file that cannot be read as one"
    elif isinstance(source, int):
        capture = cv2.VideoCapture(source)
        cameras = sorted(str(camera) for camera in Path("/dev").glob("video*"))
        expected, found = "a camera with this number", "none that can be opened"
        advice = f"this machine has {', '.join(cameras) or 'no /dev/video*'}"
    else:
        # A server may answer with other addresses, as playlists do, but not with files.
        with _capture_options(f"rtsp_flags;prefer_tcp|protocol_whitelist;{_STREAM_PROTOCOLS}"):
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        expected, advice = "a stream", "check the address"
        found = f"none that can be read within {timeout_seconds:g} s"
    if not capture.isOpened():
        raise DataError(expected=expected, found=found, path=_title(source), advice=advice)
    return capture


def container_of(file: Path) -> str | None:
    """Returns FFmpeg's name for the container of a video, judged by its content.

    It is None for other files, and for those that name files which FFmpeg would open: playlists
    and lists of files to join.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open_regular(file) as content:
            head = content.read(5 * _TS_PACKET)
    except OSError as error:
        raise DataError(expected="a video", found=os_reason(error), path=file) from None
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
    """Passes options of FFmpeg to OpenCV, after the user's own, so that these prevail."""
    with _OPENING:
        before = os.environ.get(_CAPTURE_OPTIONS)
        os.environ[_CAPTURE_OPTIONS] = f"{before}|{options}" if before else options
        try:
            yield
        finally:
            del os.environ[_CAPTURE_OPTIONS]
            if before is not None:
                os.environ[_CAPTURE_OPTIONS] = before


def _open_writer(file: Path, rate: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
    os.environ.setdefault(*_QUIET)
    codec = cv2.VideoWriter.fourcc(*"VP80")
    with _stderr_closed():
        writer = cv2.VideoWriter(str(file.absolute()), cv2.CAP_FFMPEG, codec, rate, size_wh)
    if not writer.isOpened():
        raise RunFailed(
            f"could not write a video of {size_wh[0]}x{size_wh[1]} pixels",
            path=file,
            advice="VP8 takes up to 16383 on a side, and the folder must be writable; "
            "--no-pictures leaves it out",
        )
    return writer


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Drops the output of C code: OpenCV warns of the tag of every WebM file."""
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
    return f"{count} frame{'s' * (count != 1)}"
