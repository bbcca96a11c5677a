"""`ossa data check` and `ossa train` judge a data set alike, whatever is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.data.check import check_data
from ossa.data.description import read_description
from ossa.data.issues import Severity
from ossa.errors import OssaError
from ossa.train.callbacks import Callback
from ossa.train.splits import read_training_data

IMGSZ = 96
GOOD = "0 0.5 0.5 0.4 0.6\n"
ANCHORS_WH = np.array([[[10.0, 13.0], [33.0, 23.0]], [[61.0, 30.0], [116.0, 90.0]]])
CLASSES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


def write_image(path: Path, number: int, *, cut: bool = False) -> None:
    """Writes an image of 100x50 with noise of its own; `cut`: without its second half."""
    noise = np.random.default_rng(number).integers(0, 255, (50, 100, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
    if cut:
        path.write_bytes(path.read_bytes()[:9000])


def yolo(
    train: str | list[str | None] | None,
    val: str = GOOD,
    *,
    labels: str = "labels",
    cut: tuple[int, ...] = (),
    **keys: Any,
) -> Callable[[Path], None]:
    """Returns a writer of 4 images of train and 2 of val.

    Args:
        train, val: text of the label files, one for all or one each; None: no file.
        labels: folder of the label files.
        cut: images of train whose file is cut short.
        keys: of the data.yaml; a split has the key NAME_entry.
    """

    def write(root: Path) -> None:
        for split, texts, count in (("train", train, 4), ("val", val, 2)):
            for number, text in enumerate(texts if isinstance(texts, list) else [texts] * count):
                image = root / "images" / split / f"{number}.png"
                write_image(image, number + 10 * count, cut=split == "train" and number in cut)
                file = root / labels / split / f"{number}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                if text is not None:
                    file.write_bytes(text.encode("latin-1"))
        entries = {"train_entry": "images/train", "val_entry": "images/val", "names": ["a", "b"]}
        given = {key.removesuffix("_entry"): value for key, value in (entries | keys).items()}
        (root / "data.yaml").write_text(json.dumps(given))

    return write


def coco(
    train: dict[str, Any] | None = None,
    val: dict[str, Any] | None = None,
    *,
    size_wh: tuple[int, int] = (100, 50),
    **content: Any,
) -> Callable[[Path], None]:
    """Returns a writer of 3 images a split, of 100x50 and with a box each.

    Args:
        train, val: what their annotations have otherwise, or nothing: they have none.
        size_wh: stated of the images of train.
        content: what the JSON file of train has otherwise.
    """

    def write(root: Path) -> None:
        for split, change in (("train", train), ("val", val)):
            images, annotations = [], []
            for number in (1, 2, 3):
                write_image(root / split / f"{number}.png", number + 10 * len(split))
                width, height = size_wh if split == "train" else (100, 50)
                name = f"{number}.png"
                images.append({"id": number, "file_name": name, "width": width, "height": height})
                box = {"id": number, "image_id": number, "category_id": 1, "bbox": [9, 9, 30, 30]}
                annotations += [] if change == {} else [box | (change or {})]
            said = {"images": images, "annotations": annotations, "categories": CLASSES}
            said |= content if split == "train" else {}
            (root / split / "all.json").write_text(json.dumps(said))
        (root / "data.yaml").write_text("train: train/all.json\nval: val/all.json\n")

    return write


def voc(
    name: str = "a", *, difficult: int = 0, without: tuple[int, ...] = (), filename: str = ""
) -> Callable[[Path], None]:
    """Returns a writer of 4 images in VOC's folders, of which the last is val's, a box in each."""

    def write(root: Path) -> None:
        for folder in ("Annotations", "ImageSets"):
            (root / folder).mkdir(parents=True)
        for number in range(4):
            write_image(root / f"JPEGImages/{number}.png", number)
            box = "<xmin>9</xmin><ymin>9</ymin><xmax>40</xmax><ymax>40</ymax>"
            told = f"<name>{'a' if number == 3 else name}</name><difficult>{difficult}</difficult>"
            if number not in without:
                (root / f"Annotations/{number}.xml").write_text(
                    f"<annotation><filename>{filename}</filename><object>{told}"
                    f"<bndbox>{box}</bndbox></object></annotation>"
                )
        if filename:
            write_image(root / "JPEGImages" / filename, 9)
        (root / "ImageSets/train.txt").write_text("0\n1\n2\n")
        (root / "ImageSets/val.txt").write_text("3\n")
        (root / "data.yaml").write_text(
            "train: ImageSets/train.txt\nval: ImageSets/val.txt\nnames: [a, b]\n"
        )

    return write


UNLABELLED, BOXLESS, UNREAD = "training-unlabelled", "training-without-boxes", "unread"
UNUSABLE = "images-unusable"
TINY, HUGE = "0 0.5 0.5 0.015 0.6\n", "0 0.5 0.5 1 1\n"
ROOT = [{"id": 0, "name": "b"}, {"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
TWICE = [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]

# What is written; the kind that stops its training, UNREAD where it cannot be read, None where it
# trains; and the kinds of the other faults that check counts.
SETS: dict[str, tuple[Callable[[Path], None], str | None, set[str]]] = {
    "good yolo": (yolo(GOOD), None, set()),
    "good coco": (coco(), None, set()),
    "good voc": (voc(), None, set()),
    "one class": (yolo(GOOD, names=["a"]), None, set()),
    "no val": (yolo(GOOD, val_entry=None), "val-missing", set()),
    "no train": (yolo(GOOD, train_entry=None), "train-missing", set()),
    "no names": (yolo(GOOD, names=[]), UNREAD, set()),
    "no such folder": (yolo(GOOD, val_entry="images/valid"), UNREAD, set()),
    "train listed twice": (yolo(GOOD, train_entry=["images/train"] * 2), None, set()),
    "val is train": (yolo(GOOD, val_entry="images/train"), None, {"image-leaked"}),
    "no label at all": (yolo(None), UNLABELLED, {BOXLESS}),
    "labels elsewhere": (
        yolo(GOOD, labels="annotations"),
        UNLABELLED,
        {BOXLESS, "split-without-boxes"},
    ),
    "labels beside": (yolo(GOOD, labels="images"), None, set()),
    "more than half unlabelled": (yolo([GOOD, None, None, None]), UNLABELLED, set()),
    "half unlabelled": (yolo([GOOD, GOOD, None, None]), None, set()),
    "empty label files": (yolo(["", "", "", GOOD]), None, set()),
    "empty label files alone": (yolo(""), BOXLESS, set()),
    "tiny boxes": (yolo([GOOD, TINY, TINY, TINY]), None, set()),
    "tiny boxes alone": (yolo(TINY), BOXLESS, set()),
    "huge boxes alone": (yolo(HUGE), None, set()),
    "unknown classes alone": (yolo("7 .5 .5 .4 .4\n"), BOXLESS, {"class-unknown"}),
    "boxes outside alone": (yolo("0 1.5 .5 .4 .4\n"), BOXLESS, {"box-outside"}),
    "boxes of nan alone": (yolo("0 nan .5 .4 .4\n"), BOXLESS, {"box-malformed"}),
    "boxes of no area alone": (yolo("0 .5 .5 0 .4\n"), BOXLESS, {"box-empty"}),
    "a label that is no text": (yolo([GOOD, GOOD, GOOD, "\xff\xfe"]), None, {"labels-unreadable"}),
    "labels that are no text": (yolo("\xff\xfe"), UNREAD, set()),
    "val without boxes": (yolo(GOOD, ""), None, {"split-without-boxes"}),
    "a class without boxes": (yolo(GOOD, classes=["b"]), BOXLESS, {"split-without-boxes"}),
    "an unknown class": (yolo(GOOD, classes=["c"]), UNREAD, set()),
    "an image cut short": (yolo(GOOD, cut=(0,)), None, {"image-truncated"}),
    "all images cut short": (yolo(GOOD, cut=(0, 1, 2, 3)), UNUSABLE, {"image-truncated"}),
    "the only boxes cut off": (yolo([GOOD, "", "", ""], cut=(0,)), BOXLESS, {"image-truncated"}),
    "all crowd": (coco({"iscrowd": 1}), BOXLESS, set()),
    "val all crowd": (coco(val={"iscrowd": 1}), None, {"split-without-boxes"}),
    "all difficult in coco": (coco({"difficult": 1}), BOXLESS, set()),
    "sizes of no image": (coco(size_wh=(50, 100)), UNUSABLE, {"image-other-size"}),
    "no annotation": (coco({}), UNLABELLED, {BOXLESS}),
    "annotations of no image": (coco({"image_id": 99}), UNLABELLED, {"labels-without-image"}),
    "decimal ids": (coco({"category_id": 1.0}), None, set()),
    "a root of the same name": (
        coco({"category_id": 2}, {"category_id": 2}, categories=ROOT),
        None,
        set(),
    ),
    "one id for two classes": (coco(categories=TWICE), UNREAD, set()),
    "other classes in val": (coco(categories=CLASSES[:1]), "classes-differ", set()),
    "no json": (coco(images=3), UNREAD, set()),
    "names of other classes": (voc("car"), BOXLESS, {"class-unknown"}),
    "all difficult": (voc(difficult=1), BOXLESS, {"split-without-boxes"}),
    "an xml missing": (voc(without=(0,)), None, {"image-without-labels"}),
    "most xml missing": (voc(without=(0, 1)), UNLABELLED, {"image-without-labels"}),
    "all xml missing": (voc(without=(0, 1, 2)), UNREAD, set()),
    "two images of a stem": (voc(filename="2.jpg"), None, {"labels-shared"}),
}


@pytest.mark.parametrize(
    ("val", "shared"),
    [
        (["images/val", "images/val/../train/1.png"], "1 of the 3 images of val is"),
        (["images/train"], "4 of the 4 images of val are"),
        (["images/val"], ""),
    ],
)
def test_a_training_tells_which_images_of_val_it_trains_on(
    tmp_path: Path, val: list[str], shared: str
) -> None:
    yolo(GOOD, val_entry="val.txt")(tmp_path)
    files = [file for one in val for file in sorted(tmp_path.glob(f"{one}/*")) or [tmp_path / one]]
    (tmp_path / "val.txt").write_text("".join(f"{file}\n" for file in files))
    notes: list[str] = []

    class Notes(Callback):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    data, train = str(tmp_path / "data.yaml"), TrainConfig(imgsz=IMGSZ)
    config = RunConfig(model=ModelConfig(name="yolov5n"), train=train, data=data)
    read_training_data(config, callback=Notes())
    reason = "also in train: AP will not tell how the detector does on new images"
    assert [one for one in notes if "also in train" in one] == [f"{shared} {reason}"][
        : bool(shared)
    ]


@pytest.mark.parametrize("name", SETS)
def test_check_counts_what_stops_a_training_and_training_says_the_same(
    tmp_path: Path, name: str
) -> None:
    write, stops, others = SETS[name]
    write(tmp_path)
    config = RunConfig(
        model=ModelConfig(name="yolov5n"),
        train=TrainConfig(imgsz=IMGSZ),
        data=str(tmp_path / "data.yaml"),
    )
    try:
        read_training_data(config, callback=Callback())
        said = None
    except OssaError as error:
        said = str(error)
    assert (said is None) == (stops is None), said
    if stops == UNREAD:
        with pytest.raises(OssaError) as refused:
            check_data(read_description(config.data), imgsz=IMGSZ, anchors_wh=ANCHORS_WH)
        assert str(refused.value) == said
        return
    description = read_description(config.data)
    found = check_data(description, imgsz=IMGSZ, anchors_wh=ANCHORS_WH, images=True)
    stopping = [one for one in found.issues if one.kind.stops_training]
    faults = {str(one.kind) for one in found.issues if one.kind.severity is Severity.ERROR}
    kinds = {str(one.kind) for one in stopping}
    assert faults - kinds - {"class-untrained"} == others - kinds  # where val has boxes
    if stops is not None:
        assert stops in kinds
        told = [issue.message for one in stopping for issue in one.examples]
        # Of images that cannot be decoded the first is told in the words of what read it.
        told = [what.removesuffix(" (training stops)").partition("; the first")[0] for what in told]
        assert any(what.lower() in (said or "").lower() for what in told), (said, told)
