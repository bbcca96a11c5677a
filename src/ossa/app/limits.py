"""What may be dropped on the page: how large, how long, how many, and of which kinds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ossa.data.decode import MOST_PIXELS, read_image_size
from ossa.errors import ConfigError, DataError, legible
from ossa.predict.video import VideoReader, container_of

Kind = Literal["picture", "video"]

_MEGABYTE: Final = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; each is told in the sentence that refuses what is beyond it."""

    upload_mb: int = 100
    """Megabytes of one file."""
    picture_megapixels: int = 50
    video_megapixels: int = 9
    """Of one frame: 4K has 8.3."""
    video_seconds: int = 60
    frames: int = 60
    """Frames of a video that are looked at, evenly spaced."""
    body_seconds: float = 300.0
    """Until the last byte of a request."""
    grace_seconds: float = 5.0
    body_rate: float = 20_000.0
    """Bytes a second of a request, on average, from `grace_seconds` on."""
    running: int = 1
    """Requests that compute at the same time: more would share the same processors."""
    waiting: int = 24
    """Further requests that wait; the next is told that the server is busy."""
    sessions: int = 32
    """Visitors whose picture is kept; it goes when one more comes."""
    kept_mb: int = 1000
    """Megabytes of all kept pictures and videos on the disk, and as much of fresh uploads."""

    def __post_init__(self) -> None:
        if self.upload_mb < 1:
            raise ConfigError(
                f"expected at least 1 megabyte for an upload, found {self.upload_mb}: change "
                "--max-upload-mb"
            )
        if 1e6 * self.picture_megapixels > MOST_PIXELS:
            raise ValueError(f"pictures of more than {MOST_PIXELS} pixels are never decoded")

    @property
    def upload_bytes(self) -> int:
        return self.upload_mb * _MEGABYTE

    @property
    def kept_bytes(self) -> int:
        return max(self.kept_mb, 2 * self.upload_mb) * _MEGABYTE


def check_upload(file: Path, name: str, limits: Limits) -> Kind:
    """Returns what an uploaded file is, told by its content; nothing of it is decoded.

    Only these kinds ever reach a decoder: a playlist, which names other files that FFmpeg would
    open, is none of them, nor is a format for which Pillow would start a program.

    Args:
        file: where it lies.
        name: how the visitor calls it.
        limits: what it must keep.

    Raises:
        DataError: it is neither a picture nor a video, or too large.
    """
    called = legible(Path(name).name, 60)
    size = file.stat().st_size
    if size > limits.upload_bytes:
        raise DataError(
            f"{called} has {size / _MEGABYTE:.0f} MB, and this page takes up to "
            f"{limits.upload_mb}: shrink it, or start ossa app with a larger --max-upload-mb"
        )
    kind = _kind_of(file)
    if kind is None:
        raise DataError(
            f"{called} is {'empty' if not size else 'neither a picture nor a video'}: expected a "
            "JPEG, PNG, WebP, BMP or TIFF, or an MP4, MOV, WebM, MKV, AVI or MPEG"
        )
    if kind == "picture":
        _check_picture(file, called, limits)
    else:
        _check_video(file, called, limits)
    return kind


def _kind_of(file: Path) -> Kind | None:
    with file.open("rb") as content:
        head = content.read(12)
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
    if head.startswith(starts) or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
        return "picture"
    return "video" if container_of(file) else None


def _check_picture(file: Path, called: str, limits: Limits) -> None:
    try:
        width, height = read_image_size(file)
    except DataError:
        raise DataError(
            f"{called} begins like a picture but cannot be read as one: it is damaged, or cut short"
        ) from None
    if width * height > 1e6 * limits.picture_megapixels:
        raise _too_many_pixels(called, (width, height), limits.picture_megapixels)


def _check_video(file: Path, called: str, limits: Limits) -> None:
    try:
        with VideoReader(file) as video:
            size_wh, seconds = video.size_wh, (video.num_frames or 0) / video.rate
    except DataError:
        raise DataError(
            f"{called} begins like a video but cannot be read as one: it is damaged, cut "
            "short, or coded in a way that OpenCV does not know"
        ) from None
    if size_wh[0] * size_wh[1] > 1e6 * limits.video_megapixels:
        raise _too_many_pixels(called, size_wh, limits.video_megapixels)
    # A file may state nothing, or lie: whoever reads it counts again.
    if seconds > limits.video_seconds:
        raise too_long(called, limits)


def too_long(called: str, limits: Limits) -> DataError:
    """Returns the error for a video that goes on for longer than it may."""
    return DataError(
        f"{called} is longer than {limits.video_seconds} seconds, the most that this page takes: "
        "cut a part out, or use ossa predict, which knows no limit"
    )


def _too_many_pixels(called: str, size_wh: tuple[int, int], megapixels: int) -> DataError:
    return DataError(
        f"{called} has {size_wh[0]} x {size_wh[1]} pixels, more than the {megapixels} million that "
        "this page takes: scale it down, or use ossa predict"
    )
