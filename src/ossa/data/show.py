"""A page to look at a data set: images with their boxes, and batches as training makes them."""

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
from ossa.viz.page import Block, Column, KeyValues, Page, PictureBlock, Section, Table, write_page

_SIDE: Final = 360
"""Pixels of the longer side of an image on the page."""
_COLUMNS: Final = 3
_BATCH_COLUMNS: Final = 4
_MAX_DRAWN: Final = 16
"""Images of a batch that are drawn."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSample:
    """Images of a split that were drawn at random."""

    index: DatasetIndex
    images: Mapping[int, Image]
    """With their boxes, by position in the index."""
    errors: tuple[str, ...]
    """Why others cannot be decoded."""


def sample_images(index: DatasetIndex, *, number: int, seed: int) -> ImageSample:
    """Returns up to `number` images of a split, drawn at random, with all their boxes."""
    images: dict[int, Image] = {}
    errors = []
    for position in np.random.default_rng(seed).permutation(len(index))[:number].tolist():
        width, height = index.sizes_wh[position].tolist()
        path = index.image_path(position)
        try:
            decoded = decode_image(path, reduce_to=_SIDE, size_wh=(width, height))
        except DataError as error:
            errors.append(str(error))
            continue
        image = resize_long_side(decoded, _SIDE)
        rows = index.gt_rows(position)
        scale_xy = np.array(image.shape[1::-1]) / index.sizes_wh[position]
        boxes_xyxy = index.boxes_xyxy[rows] * np.tile(scale_xy, 2)
        images[position] = draw_boxes(image, boxes_xyxy, index.labels[rows], names=index.names)
    return ImageSample(index, images, tuple(errors))


def augmented_batches(
    index: DatasetIndex, config: RunConfig, *, number: int, epoch: int = 0
) -> list[Batch]:
    """Returns the first batches of an epoch, from 0, the very ones that a training begins it with.

    The model of the training plays no part. An epoch may have fewer batches.

    Raises:
        ConfigError: a setting of earlier versions.
        DataError: an image cannot be decoded.
    """
    refuse_window(config.augment)
    train, plain = config.train, config.augment.plain_epochs
    dataset = TrainingDataset(
        index,
        imgsz=train.imgsz,
        tiles=train.windows,
        augment=config.augment,
        seed=config.seed,
        plain_from_epoch=train.epochs - plain if plain else None,
    )
    batches = EpochBatches(len(index), batch=train.batch, seed=config.seed, epochs=epoch + 1)
    batches.start_batch = epoch * batches.batches_per_epoch
    return list(islice(training_loader(dataset, batches, workers=0), number))


def draw_batch(batch: Batch, *, names: Sequence[str]) -> Image:
    """Returns one image of the first 16 images of a batch with their boxes."""
    images = batch.images[:_MAX_DRAWN].permute(0, 2, 3, 1).numpy()
    drawn = []
    for number, image in enumerate(images):
        mine = batch.image_index == number
        small = resize_long_side(image, _SIDE)
        boxes_xyxy = batch.boxes_xyxy[mine].numpy() * (len(small) / len(image))
        drawn.append(draw_boxes(small, boxes_xyxy, batch.labels[mine].numpy(), names=names))
    return _grid(drawn, _BATCH_COLUMNS)


def _grid(images: Sequence[Image], columns: int) -> Image:
    return picture_grid([images[at : at + columns] for at in range(0, len(images), columns)])


def write_sample_page(
    path: Path,
    *,
    title: str,
    samples: Mapping[str, ImageSample],
    batches: Mapping[int, Sequence[Batch]],
    config: RunConfig,
    facts: Mapping[str, str],
) -> Path:
    """Writes the page of samples, by split, and of the first batches of epochs, counted from 0.

    `config` made the batches; `facts`, such as the version, are for the footer.
    """
    sections = [_sample_section(split, sample) for split, sample in samples.items()]
    subtitle = "Images with their boxes."
    if batches:
        names = samples["train"].index.names
        sections += [_batch_section(epoch, made, names=names) for epoch, made in batches.items()]
        train = {key: getattr(config.train, key) for key in ("imgsz", "batch", "epochs")}
        settings = {
            **{"recipe": config.recipe, "seed": config.seed},
            **{f"train.{key}": value for key, value in train.items()},
            **{f"augment.{key}": value for key, value in config.augment.model_dump().items()},
        }
        sections.append(Section("Settings", [KeyValues(list(settings.items()))]))
        subtitle = "Images with their boxes, and the first batches of training."
    footer = ", ".join(f"{key} {value}" for key, value in facts.items())
    return write_page(Page(title, sections, subtitle=subtitle, footer=footer), path)


def _sample_section(split: str, sample: ImageSample) -> Section:
    index, counts = sample.index, np.diff(sample.index.gt_offsets)
    text = (
        f"The split has {len(index):,} images with {len(index.labels):,} boxes of "
        f"{len(index.names)} classes; {int((counts == 0).sum()):,} of the images have no box. "
        f"{len(sample.images)} of the images, drawn at random, are shown."
    )
    blocks: list[Block] = []
    if sample.images:
        grid = encode_jpeg(_grid(list(sample.images.values()), _COLUMNS))
        rows = [
            [
                *(number // _COLUMNS + 1, number % _COLUMNS + 1, str(index.file_names[position])),
                *(*index.sizes_wh[position].tolist(), int(counts[position])),
            ]
            for number, position in enumerate(sample.images)
        ]
        headings = ("row", "column", "file", "width", "height", "boxes")
        columns = [Column(name, "" if name == "file" else "d") for name in headings]
        table = Table(columns, rows, caption="Files of these images", folded=True)
        blocks = [PictureBlock(grid, alt=f"images of {split}"), table]
    return Section(f"Split {split}", blocks, text="\n\n".join([text, *sample.errors]))


def _batch_section(epoch: int, batches: Sequence[Batch], *, names: Sequence[str]) -> Section:
    largest = max(len(batch.images) for batch in batches)
    shown = f", of which the first {_MAX_DRAWN} are shown" if largest > _MAX_DRAWN else ""
    begins = "begins its last epoch" if epoch else "begins"
    text = (
        f"Batches of up to {largest} images{shown}. A training with the settings below {begins} "
        "with them, whatever its model, workers and device, as long as no other image of the "
        "split is damaged. Boxes are clipped to the image; crowd regions and difficult objects "
        "do not train, so they are not drawn."
    )
    images = [
        PictureBlock(encode_jpeg(draw_batch(batch, names=names)), alt=f"batch {number}")
        for number, batch in enumerate(batches, start=1)
    ]
    of_what = f"epoch {epoch + 1}" if epoch else "training"
    return Section(f"The first batches of {of_what}", images, text=text)
