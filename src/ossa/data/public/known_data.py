"""The public data sets that `ossa data get` fetches: where they lie, how large, what is written.

Lengths and SHA-256 sums of COCO are those that TensorFlow Datasets publishes for the official
addresses (url_checksums/coco2017.txt); COCO publishes none itself. MD5 sums of PASCAL VOC are those
that torchvision publishes (datasets/voc.py); the lengths, again, those of TensorFlow Datasets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ossa.errors import ConfigError, suggestion

_COCO: Final = "http://images.cocodataset.org"
_VOC: Final = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC_NAMES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


@dataclass(frozen=True)
class Archive:
    """One file to download."""

    path: str
    """Below the address of the data set, the official one or that of a mirror."""
    size: int
    """Bytes."""
    checksum: str
    """Name of the algorithm, a colon, hexadecimal digits."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """A folder of a data set, unpacked from one archive or several."""

    folder: str
    """Where it ends up, below the folder of all data sets."""
    inside: str
    """The folder of the archives that becomes `folder`."""
    archives: tuple[Archive, ...]
    unpacked_bytes: int
    """That it takes on the disk, rounded up."""
    file_counts: Mapping[str, int]
    """How many files lie in which of its subfolders: what tells a whole one from a piece."""


@dataclass(frozen=True)
class KnownDataSet:
    """What to fetch, and the data.yaml that makes a data set of it."""

    name: str
    title: str
    address: str
    parts: tuple[Part, ...]
    data_yaml: str


_TRAIN_2017 = Part(
    folder="coco/train2017",
    inside="train2017",
    archives=(
        Archive(
            "zips/train2017.zip",
            19_336_861_798,
            "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
    unpacked_bytes=20_000_000_000,
    file_counts={"": 118_287},
)
_VAL_2017 = Part(
    folder="coco/val2017",
    inside="val2017",
    archives=(
        Archive(
            "zips/val2017.zip",
            815_585_330,
            "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
    ),
    unpacked_bytes=850_000_000,
    file_counts={"": 5_000},
)
_ANNOTATIONS_2017 = Part(
    folder="coco/annotations",
    inside="annotations",
    archives=(
        Archive(
            "annotations/annotations_trainval2017.zip",
            252_907_541,
            "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
    ),
    unpacked_bytes=900_000_000,
    file_counts={"": 6},
)
_VOC_2007 = Part(
    folder="VOCdevkit/VOC2007",
    inside="VOCdevkit/VOC2007",
    archives=(
        Archive(
            "voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "md5:c52e279531787c972589f7e41ab4ae64",
        ),
        Archive(
            "voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "md5:b6e924de25625d8de591ea690078ad9f",
        ),
    ),
    unpacked_bytes=1_000_000_000,
    file_counts={"JPEGImages": 9_963, "Annotations": 9_963},
)
_VOC_2012 = Part(
    folder="VOCdevkit/VOC2012",
    inside="VOCdevkit/VOC2012",
    archives=(
        Archive(
            "voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    unpacked_bytes=2_200_000_000,
    file_counts={"JPEGImages": 17_125, "Annotations": 17_125},
)

_COCO_YAML = """\
# COCO 2017: train2017 (118,287 images), scored on val2017 (5,000); its JSON names the 80 classes.
format: coco
path: .
train: {images: train2017, annotations: annotations/instances_train2017.json}
val: {images: val2017, annotations: annotations/instances_val2017.json}
"""


def _voc_yaml(subset: str, comment: str) -> str:
    """Returns the data.yaml of the lists `subset` of both years against the test of 2007."""
    test = "VOC2007/ImageSets/Main/test.txt"
    return (
        f"# {comment}\n"
        "# val and test are the same images: each epoch is scored on those of the final result.\n"
        "format: voc\n"
        "path: ../VOCdevkit\n"
        "train:\n"
        f"  - VOC2007/ImageSets/Main/{subset}.txt\n"
        f"  - VOC2012/ImageSets/Main/{subset}.txt\n"
        f"val: {test}\n"
        f"test: {test}\n"
        f"names: [{', '.join(_VOC_NAMES[:10])},\n"
        f"        {', '.join(_VOC_NAMES[10:])}]\n"
    )


KNOWN_DATA: Final[Mapping[str, KnownDataSet]] = MappingProxyType(
    {
        known.name: known
        for known in (
            KnownDataSet(
                name="coco",
                title="COCO 2017, 118,287 images to train on and 5,000 to score",
                address=_COCO,
                parts=(_ANNOTATIONS_2017, _VAL_2017, _TRAIN_2017),
                data_yaml=_COCO_YAML,
            ),
            KnownDataSet(
                name="voc",
                title="PASCAL VOC 2007 and 2012, 16,551 images to train on and 4,952 to score",
                address=_VOC,
                parts=(_VOC_2007, _VOC_2012),
                data_yaml=_voc_yaml(
                    "trainval",
                    "VOC2007 trainval (5,011 images) and VOC2012 trainval (11,540), scored on "
                    "VOC2007 test (4,952).",
                ),
            ),
            KnownDataSet(
                name="voc0712-seedB",
                title="PASCAL VOC 2007 and 2012, 8,218 images to train on and 4,952 to score",
                address=_VOC,
                parts=(_VOC_2007, _VOC_2012),
                data_yaml=_voc_yaml(
                    "train",
                    "VOC2007 train (2,501 images) and VOC2012 train (5,717), scored on "
                    "VOC2007 test (4,952).",
                ),
            ),
        )
    }
)


def known_data_set(name: str) -> KnownDataSet:
    """Returns a public data set by its name.

    Raises:
        ConfigError: no such name.
    """
    if name not in KNOWN_DATA:
        raise ConfigError(
            f"Expected {', '.join(KNOWN_DATA)} as the data set to get, found '{name}'."
            f"{suggestion(name, KNOWN_DATA)}"
        )
    return KNOWN_DATA[name]
