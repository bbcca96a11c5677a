"""A page to look at a data set: images with their boxes, and batches as training makes them.

Dimensions: B images of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.config import RunConfig, refuse_window
from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import TrainingDataset
from ossa.data.decode import decode_image
from ossa.data.letterbox import resize_long_side
from ossa.data.loader import EpochBatches, training_loader
from ossa.errors import DataError
from ossa.types import Batch
from ossa.viz.draw import draw_boxes, encode_jpeg, picture_grid
from ossa.viz.page import Column, KeyValues, Page, PictureBlock, Section, Table, write_page

_SIDE: Final = 360
"""Pixels of the longer side of an image on the page."""
_IN_A_ROW: Final = 3
_OF_A_BATCH_IN_A_ROW: Final = 4
_MOST_IN_A_BATCH: Final = 16
"""Of a larger batch the first are shown."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Sampled:
    """Images of a split that were drawn at random."""

    index: DatasetIndex
    positions: tuple[int, ...]
    """In the index, in the order drawn."""
    pictures: tuple[Picture | None, ...]
    """With their boxes; None where an image cannot be decoded."""
    faults: tuple[str, ...]
    """Why not."""


def sample_images(index: DatasetIndex, *, number: int, seed: int) -> Sampled:
    """Returns up to `number` images of a split, drawn at random, with all their truths."""
    drawn = np.random.default_rng(seed).permutation(len(index))[:number].tolist()
    pictures: list[Picture | None] = []
    faults = []
    for position in drawn:
        try:
            pictures.append(_with_gt(index, position))
        except DataError as fault:
            pictures.append(None)
            faults.append(str(fault))
    return Sampled(index, tuple(drawn), tuple(pictures), tuple(faults))


def _with_gt(index: DatasetIndex, position: int) -> Picture:
    size_wh = index.sizes_wh[position]
    width, height = size_wh.tolist()
    decoded = decode_image(index.image_path(position), reduce_to=_SIDE, size_wh=(width, height))
    image = resize_long_side(decoded, _SIDE)
    scale_xy = np.array(image.shape[1::-1]) / size_wh
    rows = index.gt_rows(position)
    boxes_xyxy = index.boxes_xyxy[rows] * np.tile(scale_xy, 2)
    return draw_boxes(image, boxes_xyxy, index.labels[rows], names=index.names)


def augmented_batches(
    index: DatasetIndex, config: RunConfig, *, number: int, epoch: int = 0
) -> list[Batch]:
    """Returns the first batches of an epoch, the very ones that a training begins it with.

    Args:
        index: the training split.
        config: of the training; its model plays no part.
        number: of batches; an epoch may have fewer.
        epoch: counted from 0.

    Raises:
        ConfigError: a setting of earlier versions.
        DataError: an image cannot be decoded.
    """
    refuse_window(config.augment)
    train = config.train
    plain = config.augment.plain_epochs
    dataset = TrainingDataset(
        index,
        imgsz=train.imgsz,
        augment=config.augment,
        seed=config.seed,
        plain_from_epoch=train.epochs - plain if plain else None,
    )
    batches = EpochBatches(len(index), batch=train.batch, seed=config.seed, epochs=epoch + 1)
    batches.start_batch = epoch * batches.batches_per_epoch
    return list(islice(training_loader(dataset, batches, workers=0), number))


def picture_of_batch(batch: Batch, *, names: Sequence[str]) -> Picture:
    """Returns one picture of the first 16 images of a batch with their boxes."""
    images = batch.images[:_MOST_IN_A_BATCH].permute(0, 2, 3, 1).numpy()
    drawn = []
    for number, image in enumerate(images):
        mine = batch.image_index == number
        small = resize_long_side(image, _SIDE)
        boxes_xyxy = batch.boxes_xyxy[mine].numpy() * (len(small) / len(image))
        drawn.append(draw_boxes(small, boxes_xyxy, batch.labels[mine].numpy(), names=names))
    return _grid(drawn, _OF_A_BATCH_IN_A_ROW)


def write_sample_page(
    path: Path,
    *,
    title: str,
    samples: Mapping[str, Sampled],
    batches: Mapping[int, Sequence[Batch]],
    config: RunConfig,
    facts: Mapping[str, str],
) -> Path:
    """Writes the page and returns its path.

    Args:
        path: the HTML file.
        title: of the page.
        samples: by split.
        batches: the first of epochs counted from 0; may be empty.
        config: that made the batches.
        facts: told at the end of the page, such as the version.
    """
    sections = [_section_of_sample(split, sampled) for split, sampled in samples.items()]
    if batches:
        names = samples["train"].index.names
        sections += [
            _section_of_batches(epoch, made, names=names) for epoch, made in batches.items()
        ]
        sections.append(_section_of_settings(config))
    footer = ", ".join(f"{key} {value}" for key, value in facts.items())
    subtitle = "Images with their boxes" + (
        ", and the first batches of training" if batches else ""
    )
    return write_page(Page(title, sections, subtitle=f"{subtitle}.", footer=footer), path)


def _section_of_sample(split: str, sampled: Sampled) -> Section:
    index = sampled.index
    shown = [
        (position, picture)
        for position, picture in zip(sampled.positions, sampled.pictures, strict=True)
        if picture is not None
    ]
    background = int((np.diff(index.gt_offsets) == 0).sum())
    text = (
        f"The split has {len(index):,} images with {len(index.labels):,} boxes of "
        f"{len(index.names)} classes; {background:,} of the images have no box. Here are "
        f"{len(shown)} images, drawn at random."
    )
    text = "\n\n".join([text, *sampled.faults])
    if not shown:
        return Section(f"Split {split}", [], text=text)
    return Section(
        f"Split {split}",
        [
            _block(_grid([picture for _, picture in shown], _IN_A_ROW), f"images of {split}"),
            _files(index, shown),
        ],
        text=text,
    )


def _files(index: DatasetIndex, shown: Sequence[tuple[int, Picture]]) -> Table:
    columns = [
        *(Column("row", "d"), Column("column", "d"), Column("file"), Column("width", "d")),
        *(Column("height", "d"), Column("boxes", "d")),
    ]
    rows = []
    for number, (position, _) in enumerate(shown):
        row, column = divmod(number, _IN_A_ROW)
        width, height = index.sizes_wh[position].tolist()
        truths = index.gt_rows(position)
        file = str(index.file_names[position])
        rows.append((row + 1, column + 1, file, width, height, truths.stop - truths.start))
    return Table(columns, rows, caption="Files of these pictures", folded=True)


def _section_of_batches(epoch: int, batches: Sequence[Batch], *, names: Sequence[str]) -> Section:
    largest = max(len(batch.images) for batch in batches)
    most = _MOST_IN_A_BATCH
    shown = f", of which the first {most} are shown" if largest > most else ""
    heading = (
        f"The first batches of epoch {epoch + 1}" if epoch else "The first batches of training"
    )
    begins = "begins its last epoch" if epoch else "begins"
    text = (
        f"Batches of up to {largest} images{shown}. A training with the settings below {begins} "
        "with them, whatever its model, workers and device, as long as no other image of the "
        "split is damaged. Boxes are clipped to the picture; crowd regions and difficult objects "
        "do not train, so they are not drawn."
    )
    pictures = [
        _block(picture_of_batch(batch, names=names), f"batch {number}")
        for number, batch in enumerate(batches, start=1)
    ]
    return Section(heading, pictures, text=text)


def _section_of_settings(config: RunConfig) -> Section:
    pairs = [
        *(("recipe", config.recipe), ("seed", config.seed)),
        *((f"train.{key}", getattr(config.train, key)) for key in ("imgsz", "batch", "epochs")),
        *((f"augment.{key}", value) for key, value in config.augment.model_dump().items()),
    ]
    return Section("Settings", [KeyValues(pairs)])


def _grid(pictures: Sequence[Picture], in_a_row: int) -> Picture:
    rows = [pictures[at : at + in_a_row] for at in range(0, len(pictures), in_a_row)]
    return picture_grid(rows)


def _block(picture: Picture, alt: str) -> PictureBlock:
    return PictureBlock(encode_jpeg(picture), alt=alt)
