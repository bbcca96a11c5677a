"""The kinds of issues of a data set, with severity, summary and advice of each."""

from enum import Enum, StrEnum
from typing import Final, Self


class Severity(Enum):
    """How severe an issue is."""

    ERROR = "error"
    """The data are wrong, or less of them is used than the files say."""
    WARNING = "warning"
    """Possibly a mistake, possibly intended."""
    INFO = "info"
    """Worth knowing; nothing has to be done."""


_REPLACE: Final = "replace or remove the files; training leaves the images out"
_DROPPED: Final = "correct them; training drops them"
_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


class IssueKind(StrEnum):
    """Every kind of issue, in the order of a report, with what all issues of the kind share."""

    severity: Severity
    summary: str
    """In the plural, such as 'unreadable images'."""
    advice: str
    stops_training: bool

    def __new__(
        cls, value: str, severity: Severity, summary: str, advice: str, stops: bool = False
    ) -> Self:
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.severity, kind.summary = severity, summary
        kind.advice, kind.stops_training = advice, stops
        return kind

    VAL_MISSING = (
        "val-missing",
        _ERROR,
        "no split to evaluate on while training",
        "name one as val",
        True,
    )
    CLASSES_DIFFER = (
        "classes-differ",
        _ERROR,
        "splits with other classes than train",
        "give both the same categories, or choose those in common by key 'classes'",
        True,
    )
    TRAINING_WITHOUT_BOXES = (
        "training-without-boxes",
        _ERROR,
        "no box that trains",
        "check that the labels lie where the data.yaml says, that iscrowd and difficult are 0 for "
        "single objects, and that --imgsz is large enough",
        True,
    )
    TRAINING_UNLABELLED = (
        "training-unlabelled",
        _ERROR,
        "most training images have no label",
        "bring the labels there, or train with --allow-unlabeled",
        True,
    )
    IMAGES_UNUSABLE = (
        "images-unusable",
        _ERROR,
        "splits without an image that can be decoded",
        _REPLACE,
        True,
    )
    IMAGE_MISSING = "image-missing", _ERROR, "missing images", _REPLACE
    IMAGE_UNREADABLE = "image-unreadable", _ERROR, "unreadable images", _REPLACE
    IMAGE_TRUNCATED = "image-truncated", _ERROR, "truncated images", _REPLACE
    IMAGE_OTHER_SIZE = (
        "image-other-size",
        _ERROR,
        "images of another size than their annotation states",
        "correct the size and check whether the boxes belong to the image",
    )
    IMAGE_LEAKED = (
        "image-leaked",
        _ERROR,
        "images of val or test that are also in train",
        "remove them from one of the two splits",
    )
    IMAGE_SHARED = (
        "image-shared",
        _WARNING,
        "images of test that are also in val",
        "check that this is intended",
    )
    IMAGE_DUPLICATED = (
        "image-duplicated",
        _WARNING,
        "exact copies of another image of the split",
        "keep one of each",
    )
    TRAIN_MISSING = (
        "train-missing",
        _WARNING,
        "no training split",
        "check that this is intended",
        True,
    )
    IMAGE_LISTED_TWICE = "image-listed-twice", _INFO, "images listed twice", "they are read once"
    IMAGE_ROTATED = (
        "image-rotated",
        _WARNING,
        "images rotated by EXIF",
        "boxes must belong to the rotated image: look at the images",
    )
    IMAGE_BACKGROUND = (
        "image-background",
        _WARNING,
        "images without labels",
        "they train as background: check that no label is lost",
    )
    IMAGE_WITHOUT_LABELS = (
        "image-without-labels",
        _ERROR,
        "images without an annotation file",
        "annotate them or remove them from the list",
    )
    LABELS_UNREADABLE = (
        "labels-unreadable",
        _ERROR,
        "unreadable label files",
        "correct them; their images are left out",
    )
    LABELS_WITHOUT_IMAGE = (
        "labels-without-image",
        _ERROR,
        "labels without an image",
        "bring the images back or remove the labels",
    )
    LABELS_AT_TWO_PLACES = (
        "labels-at-two-places",
        _ERROR,
        "images with different labels in two places",
        "remove the wrong ones",
    )
    LABELS_SHARED = (
        "labels-shared",
        _ERROR,
        "images with the same stem, which share their labels",
        "rename one of each",
    )
    ENTRY_UNUSABLE = (
        "entry-unusable",
        _ERROR,
        "entries of lists or JSON files that cannot be used",
        "correct or remove them",
    )
    SPLIT_WITHOUT_BOXES = (
        "split-without-boxes",
        _ERROR,
        "evaluation splits without a box",
        "check that the labels lie where the data.yaml says",
    )
    BOX_EMPTY = "box-empty", _ERROR, "boxes of no area", _DROPPED
    BOX_OUTSIDE = "box-outside", _ERROR, "boxes outside their image", _DROPPED
    BOX_MALFORMED = "box-malformed", _ERROR, "boxes that are not numbers", _DROPPED
    BOX_DUPLICATED = (
        "box-duplicated",
        _ERROR,
        "duplicate boxes",
        "remove one of each; training keeps the first",
    )
    BOX_OVERHANGING = (
        "box-overhanging",
        _WARNING,
        "boxes that reach out of their image by more than a pixel",
        "training clips them",
    )
    BOX_TINY = (
        "box-tiny",
        _WARNING,
        "tiny boxes",
        "train on larger images or tiles, or check that they are objects",
    )
    BOX_COVERING = (
        "box-covering",
        _WARNING,
        "boxes that cover their whole image",
        "check that they are intended and not a default",
    )
    CLASS_UNKNOWN = (
        "class-unknown",
        _ERROR,
        "boxes of an unknown class",
        "add the class to the names or correct the boxes",
    )
    CLASS_UNTRAINED = (
        "class-untrained",
        _ERROR,
        "classes in val or test but not in train",
        "no detector learns them: split anew or leave them out by key 'classes'",
    )
    CLASS_UNEVALUATED = (
        "class-unevaluated",
        _WARNING,
        "classes in train but not in val",
        "how well they are learned is not measured",
    )
    CLASS_UNUSED = (
        "class-unused",
        _INFO,
        "classes without a box in any split",
        "leave them out by key 'classes'",
    )
    CLASS_IMBALANCE = (
        "class-imbalance",
        _WARNING,
        "classes that are rare beside the most frequent one",
        "expect a low AP for them; more images of them help most",
    )
    ANCHORS_MISFIT = (
        "anchors-misfit",
        _WARNING,
        "boxes that no anchor matches",
        "train with --fit-anchors, or at another --imgsz",
    )
