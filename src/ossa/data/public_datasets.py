"""The public data sets that `ossa data get` downloads: addresses, sizes, checksums, data.yaml."""

from dataclasses import dataclass, field
from typing import Final

from ossa.errors import ConfigError, suggestion


@dataclass(frozen=True)
class Archive:
    """One file to download: .zip or uncompressed .tar."""

    path: str
    """Below the address of the data set, the official one or a mirror."""
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
    unpacked_bytes: int
    """Disk space that it takes, rounded up."""
    file_counts: dict[str, int]
    """Number of files in each of its subfolders: tells a complete part from a piece."""
    archives: tuple[Archive, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What to download, and the data.yaml that makes a data set of it."""

    name: str
    title: str
    address: str
    parts: tuple[Part, ...] = field(repr=False)
    data_yaml: str = field(repr=False)


# Lengths and SHA-256 sums of COCO are those that TensorFlow Datasets publishes for the official
# addresses (url_checksums/coco2017.txt); COCO publishes none. MD5 sums of PASCAL VOC are those of
# torchvision (datasets/voc.py), the lengths those of TensorFlow Datasets.
_COCO_ARCHIVES: Final = (
    Archive(
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    Archive(
        "zips/val2017.zip",
        815_585_330,
        "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    Archive(
        "zips/train2017.zip",
        19_336_861_798,
        "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
)
_COCO_PARTS: Final = tuple(
    Part(f"coco/{folder}", folder, unpacked_bytes, {"": num_files}, (archive,))
    for archive, folder, unpacked_bytes, num_files in zip(
        _COCO_ARCHIVES,
        ("annotations", "val2017", "train2017"),
        (900_000_000, 850_000_000, 20_000_000_000),
        (6, 5_000, 118_287),
        strict=True,
    )
)
_VOC_PARTS: Final = (
    Part(
        "VOCdevkit/VOC2007",
        "VOCdevkit/VOC2007",
        1_000_000_000,
        {"JPEGImages": 9_963, "Annotations": 9_963},
        (
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
    ),
    Part(
        "VOCdevkit/VOC2012",
        "VOCdevkit/VOC2012",
        2_200_000_000,
        {"JPEGImages": 17_125, "Annotations": 17_125},
        (
            Archive(
                "voc2012/VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
    ),
)
_COCO_YAML: Final = """\
# COCO 2017: train2017 (118,287 images), scored on val2017 (5,000); its JSON names the 80 classes.
format: coco
path: .
train: {images: train2017, annotations: annotations/instances_train2017.json}
val: {images: val2017, annotations: annotations/instances_val2017.json}
"""
_VOC_YAML: Final = """\
# {comment}, scored on VOC2007 test (4,952).
# val and test are the same images: each epoch is scored on those of the final result.
format: voc
path: ../VOCdevkit
train:
  - VOC2007/ImageSets/Main/{subset}.txt
  - VOC2012/ImageSets/Main/{subset}.txt
val: VOC2007/ImageSets/Main/test.txt
test: VOC2007/ImageSets/Main/test.txt
names: [aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
        diningtable, dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor]
"""


def _voc(name: str, subset: str, images: str, comment: str) -> DatasetInfo:
    title = f"PASCAL VOC 2007 and 2012, {images} images to train on and 4,952 to score"
    address = "http://host.robots.ox.ac.uk/pascal/VOC"
    data_yaml = _VOC_YAML.format(subset=subset, comment=comment)
    return DatasetInfo(name, title, address, _VOC_PARTS, data_yaml)


DATASETS: Final = {
    info.name: info
    for info in (
        DatasetInfo(
            "coco",
            "COCO 2017, 118,287 images to train on and 5,000 to score",
            "http://images.cocodataset.org",
            _COCO_PARTS,
            _COCO_YAML,
        ),
        _voc(
            *("voc", "trainval", "16,551"),
            "VOC2007 trainval (5,011 images) and VOC2012 trainval (11,540)",
        ),
        _voc(
            *("voc0712-seedB", "train", "8,218"),
            "VOC2007 train (2,501 images) and VOC2012 train (5,717)",
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Returns a public data set by its name.

    Raises:
        ConfigError: no such name.
    """
    if name not in DATASETS:
        raise ConfigError(
            expected=f"{', '.join(DATASETS)} as the data set to get",
            found=f"'{name}'",
            advice=suggestion(name, DATASETS),
        )
    return DATASETS[name]
