"""The pictures to look at, one after the other: those of files, and the frames of videos."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.decode import MOST_COUNTED, count_pictures, decode_image
from ossa.errors import DataError
from ossa.predict.predictor import Predictor
from ossa.predict.results import PictureDetections
from ossa.predict.sources import PictureFile, Source
from ossa.predict.video import VideoReader


@dataclass(frozen=True)
class FramePlace:
    """Where in a video a picture stands."""

    number: int
    """From 0; of the frames of the source, whether they are looked at or not."""
    seconds: float
    """From the beginning."""
    video: VideoReader
    """From which it was read."""


@dataclass(frozen=True)
class Shot:
    """A picture to look at."""

    source: Source
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    frame: FramePlace | None = None
    """None of a picture file."""

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    @property
    def name(self) -> str:
        """What its results are called: that of the source, with the number of the frame."""
        return self.source.name + (f"_{self.frame.number:06d}" if self.frame else "")

    @property
    def place(self) -> dict[str, Any]:
        """Which picture it is, ready for JSON: `file`, and of a frame its number and time."""
        place: dict[str, Any] = {"file": self.source.title}
        if self.frame is not None:
            place |= {"frame": self.frame.number, "seconds": round(self.frame.seconds, 3)}
        return place


def shots_of(
    sources: Iterable[Source],
    *,
    every: int = 1,
    tell: Callable[[str], object],
    lose: Callable[[Source], object] = lambda _: None,
) -> Iterator[Shot]:
    """Yields the pictures of all sources in their order; what cannot be read is passed over.

    Args:
        sources: files, cameras, streams.
        every: of a video, looks at frames 0, `every`, 2 `every`, ...
        tell: is given a sentence for each picture or video that is damaged, for an image file of
            several pictures, and for the end of a camera or stream.
        lose: is given each source that cannot be read, or not to its end.
    """
    for source in sources:
        try:
            if isinstance(source, PictureFile):
                image = decode_image(source.file)
                if (count := count_pictures(source.file)) > 1:
                    more = " or more" if count == MOST_COUNTED else ""
                    tell(f"{source.title}: the first of its {count}{more} pictures is looked at")
                yield Shot(source, image)
                continue
            with VideoReader(source, every=every) as video:
                for frame in video.frames():
                    place = FramePlace(frame.number, frame.seconds, video)
                    yield Shot(source, frame.image, place)
                remark = video.ending()
            if remark is not None:
                tell(remark)
        except DataError as fault:
            tell(str(fault))
            lose(source)


def predict_shots(
    shots: Iterable[Shot], predictor: Predictor, settings: Mapping[str, Any], *, batch: int = 1
) -> Generator[tuple[Shot, PictureDetections]]:
    """Yields each shot with what is found in it.

    Args:
        shots: only `batch` of them are held at a time.
        predictor: looks at them.
        settings: further arguments of its `predict`.
        batch: pictures that are taken together; the network gets those of one size at once.
    """
    shots = iter(shots)
    while together := list(islice(shots, batch)):
        images = [shot.image for shot in together]
        yield from zip(together, predictor.predict(images, batch=batch, **settings), strict=True)
