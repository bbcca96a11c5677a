"""A data set from Python, in one call."""

from pathlib import Path

from ossa.data.check import keep_decodable
from ossa.data.description import read_description
from ossa.data.reading import IndexReport, read_index


def read_data(data: Path | str, split: str = "val", *, strict: bool = False) -> IndexReport:
    """Returns the images and truths of a split (`.index`) and its faults (`.problems`).

    It is what training and evaluation see: images whose files cannot be decoded are left out.

    Args:
        data: a data.yaml, or the folder that holds one.
        split: 'train', 'val' or 'test'.
        strict: raise at the first fault instead of going past it.

    Raises:
        ConfigError: a data.yaml that is malformed, or has no such split.
        DataError: files that are missing, no usable image, or the first fault where `strict`.
    """
    return keep_decodable(read_index(read_description(data), split, strict=strict), strict=strict)
