"""What reading one file does: what the reader says, how long it took and what memory it filled."""

import re
import resource
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import numpy as np

from fuzzing.seeds import Family
from ossa.data.annotations import IndexReport
from ossa.data.decode import decode_image, read_header
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import OssaError

LIMIT_SECONDS: Final = 2.0
"""Of processor time, for one file."""
LIMIT_BYTES: Final = 1 << 30
"""By which the memory of the process may grow, for one file."""
_ADDRESSES: Final = 8 << 30
_LONGEST_MESSAGE: Final = 1000
_SMALL_SIDE: Final = 32
_QUICK_SIZE: Final = 10_000_000
"""Bytes of an image that is small enough to be decoded a second time, reduced."""
_WHOLE_FILE: Final = re.compile(
    r"no annotation file|not one usable box|unreadable image|found none|found an empty"
)
"""Faults that are in no line of a text."""


class Kind(Enum):
    """Of an outcome; those of capitals must not be."""

    WHOLE = "read whole"
    PROBLEMS = "read, issues told"
    REFUSED = "refused in a sentence"
    ERROR = "OTHER ERROR"
    SLOW = "SLOW"
    LARGE = "MUCH MEMORY"
    MUTE = "MESSAGE WITHOUT FILE"
    ILLEGIBLE = "MESSAGE TOO LONG OR NOT PRINTABLE"
    UNSOUND = "WRONG RESULT"

    @property
    def forbidden(self) -> bool:
        return self.value.isupper()


@dataclass(frozen=True)
class Outcome:
    kind: Kind
    messages: tuple[str, ...]
    """What the reader said, or why the outcome is forbidden."""
    seconds: float
    """Of processor time."""
    grown_bytes: int
    """By which the process was larger at its largest than before."""

    @property
    def without_line(self) -> tuple[str, ...]:
        """The messages on a text that do not say in which line."""
        return tuple(
            message
            for message in self.messages
            if not (
                re.search(r"\.(json|xml|txt|yaml)(:|, line )\d+", message)
                or _WHOLE_FILE.search(message)
            )
        )


class _TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a damaged file."""


def read_spoilt(family: Family, data: bytes) -> Outcome:
    """Puts a spoilt file into its place and reads it, as the commands do.

    The sound file is put back by the next call alone: this one may be looked at.
    """
    family.place.write_bytes(data)
    before, start = _reset_peak(), time.process_time()
    try:
        with _limited():
            kind, messages = _read(family)
    except _TooSlow:
        kind, messages = Kind.SLOW, (f"over {LIMIT_SECONDS} s",)
    except Exception as error:  # whatever it is must not be
        kind, messages = Kind.ERROR, (f"{type(error).__name__}: {error}"[:300],)
    seconds, grown_bytes = time.process_time() - start, _peak() - before
    if not kind.forbidden and grown_bytes > LIMIT_BYTES:
        kind, messages = Kind.LARGE, (f"{grown_bytes / 2**20:.0f} MB", *messages)
    return Outcome(kind, messages, seconds, grown_bytes)


def _read(family: Family) -> tuple[Kind, tuple[str, ...]]:
    try:
        if family.data_yaml is None:
            fault, messages = _fault_of_picture(family.place), ()
        else:
            description = read_description(family.data_yaml)
            reports = [read_index(description, split) for split in description.splits]
            fault = next((fault for report in reports if (fault := _fault_of_index(report))), None)
            messages = tuple(str(issue) for report in reports for issue in report.issues)
    except OssaError as error:
        return _judged(Kind.REFUSED, (str(error),), family)
    if fault is not None:
        return Kind.UNSOUND, (fault,)
    return _judged(Kind.PROBLEMS if messages else Kind.WHOLE, messages, family)


def _judged(kind: Kind, messages: tuple[str, ...], family: Family) -> tuple[Kind, tuple[str, ...]]:
    folder = str((family.data_yaml or family.place).parent)
    for message in messages:
        if len(message) > _LONGEST_MESSAGE or not message.isprintable():
            return Kind.ILLEGIBLE, (message[:300],)
        if folder not in message:
            return Kind.MUTE, (message,)
    return kind, messages


def _fault_of_picture(path: Path) -> str | None:
    """Returns what of a picture that was decoded cannot be, or None."""
    size_wh = read_header(path).size_wh
    image = decode_image(path)
    if image.dtype != np.uint8 or image.shape != (size_wh[1], size_wh[0], 3):
        return f"{image.dtype} {image.shape} of an image of {size_wh}"
    if image.size == 0:
        return "no pixels"
    if image.size < _QUICK_SIZE:
        decode_image(path, reduce_to=_SMALL_SIDE, size_wh=size_wh)
    return None


def _fault_of_index(report: IndexReport) -> str | None:
    """Returns what of an index cannot be, or None."""
    index = report.index
    offsets = index.gt_offsets
    held = {
        "boxes are finite": np.isfinite(index.boxes_xyxy).all(),
        "boxes have an area": (index.boxes_xyxy[:, 2:] > index.boxes_xyxy[:, :2]).all(),
        "areas are finite": (np.isfinite(index.areas) & (index.areas >= 0)).all(),
        "labels are classes": ((index.labels >= 0) & (index.labels < len(index.names))).all(),
        "sizes are positive": (index.sizes_wh > 0).all(),
        "offsets rise": (np.diff(offsets) >= 0).all() and offsets[-1] == len(index.labels),
        "ids are unique": len(np.unique(index.image_ids)) == len(index),
        "truth ids are unique": len(np.unique(index.annotation_ids)) == len(index.labels),
        "it has a fingerprint": len(index.fingerprint()) == 64,
    }
    return next((f"not so: {what}" for what, holds in held.items() if not holds), None)


@contextmanager
def _limited() -> Iterator[None]:
    """Raises _TooSlow after the limit of processor time, MemoryError at that of addresses."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _TooSlow

    previous = signal.signal(signal.SIGPROF, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ADDRESSES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, previous)


def _status(key: str) -> int:
    """Returns an entry of /proc/self/status in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def _reset_peak() -> int:
    """Returns the bytes in memory now, from which on the peak is counted."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def count_kinds(outcomes: Iterable[Outcome]) -> dict[Kind, int]:
    """Returns how many outcomes are of each kind, all kinds included."""
    counts = dict.fromkeys(Kind, 0)
    for outcome in outcomes:
        counts[outcome.kind] += 1
    return counts
