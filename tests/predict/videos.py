"""Videos in which every frame can be told from every other, whole and damaged."""

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE_WH = (320, 64)
_STEP = 8
"""Frame i is black but for a white bar from column 8 i to 8 i + 7, which survives every codec."""


def frame_image(number: int, size_wh: tuple[int, int] = SIZE_WH) -> NDArray[np.uint8]:
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    image[:, _STEP * number : _STEP * (number + 1)] = 255
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """Returns the number of the frame that a picture shows."""
    brightness = image.astype(float).mean(axis=(0, 2)).reshape(-1, _STEP).mean(axis=1)
    return int(brightness.argmax())


def write_video(
    file: Path, num_frames: int, *, rate: float = 12.5, size_wh: tuple[int, int] = SIZE_WH
) -> Path:
    """Writes at most 40 such frames as Motion JPEG (.avi) or MPEG-4 (.mp4) and returns its path."""
    codec = {".avi": "MJPG", ".mp4": "mp4v"}[file.suffix]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), rate, size_wh)
    for i in range(num_frames):
        writer.write(frame_image(i, size_wh))
    writer.release()
    return file


def break_frames(file: Path, numbers: list[int]) -> Path:
    """Overwrites the bytes of some frames of an .avi with zeros."""
    content = bytearray(file.read_bytes())
    for number in numbers:
        start, size = _frame_chunks(bytes(content))[number]
        content[start : start + size] = bytes(size)
    file.write_bytes(content)
    return file


def cut_behind(file: Path, num_frames: int) -> Path:
    """Cuts an .avi off behind some of its frames; its header still states them all."""
    content = file.read_bytes()
    start, size = _frame_chunks(content)[num_frames - 1]
    file.write_bytes(content[: start + size])
    return file


def read_numbers(file: Path) -> list[int]:
    """Returns the numbers of the frames that a video shows, one after the other."""
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    numbers = []
    while True:
        good, image = capture.read()
        if not good:
            return numbers
        numbers.append(number_of(np.asarray(image, np.uint8)))


def rate_of(file: Path) -> float:
    return cv2.VideoCapture(str(file), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FPS)


def _frame_chunks(content: bytes) -> list[tuple[int, int]]:
    """Returns start and size of the data of each frame: chunks `00dc` in the list `movi`."""
    chunks = []
    position = content.index(b"movi") + 4
    while content[position : position + 4] == b"00dc":
        (size,) = struct.unpack("<I", content[position + 4 : position + 8])
        chunks.append((position + 8, size))
        position += 8 + size + size % 2
    return chunks
