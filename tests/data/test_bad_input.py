"""Files that are spoilt or made to do harm: a sentence with file and line, no traceback, no hang.

benchmarks/fuzz.py reads twenty thousand files as the sample here reads some hundred.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_files import coco_annotation, gradient, write_coco, write_text, write_voc, write_yolo
from fuzzing.bombs import bombs, png_bomb
from fuzzing.draw import spoilt_files
from fuzzing.outcomes import Kind, read_spoilt
from fuzzing.seeds import Family, write_families
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ossa.data.annotations import IndexReport
from ossa.data.decode import LONGEST_SIDE, MOST_PIXELS, decode_image, read_header
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError, OssaError, legible

KINDS = ("coco", "voc", "voc list", "yolo", "yolo list", "data.yaml")
IMAGES = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged files, on purpose
_hypothesis = settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return write_families(tmp_path_factory.mktemp("fuzz"))


def read(yaml_file: Path) -> IndexReport:
    return read_index(read_description(yaml_file), "train")


# A sample of what benchmarks/fuzz.py does.


@pytest.mark.parametrize("name", [*KINDS, *IMAGES])
def test_a_spoilt_file_is_read_or_refused_in_words(families: dict[str, Family], name: str) -> None:
    family = families[name]
    first = len(bombs(name))
    for what, data in list(spoilt_files(family, first + 20, seed=1))[first:]:
        outcome = read_spoilt(family, data)
        assert not outcome.kind.forbidden, (what, outcome)
        assert name in IMAGES or not outcome.without_line, (what, outcome)


@pytest.mark.parametrize("name", [*KINDS, *IMAGES])
def test_the_sound_files_that_are_spoilt_are_sound(families: dict[str, Family], name: str) -> None:
    for seed in families[name].seeds:
        assert read_spoilt(families[name], seed).kind is Kind.WHOLE


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *IMAGES])
def test_a_file_made_to_do_harm_does_none(families: dict[str, Family], name: str) -> None:
    for number, data in enumerate(bombs(name)):
        outcome = read_spoilt(families[name], data)
        assert not outcome.kind.forbidden, (number, outcome)


# JSON.

coco_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
coco_entries = st.dictionaries(
    st.sampled_from(
        [
            *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult"),
            *("file_name", "width", "height", "name"),
        ]
    ),
    coco_values | st.sampled_from([1, 2, 3, "1.jpg", [1, 1, 5, 5]]),
)


@_hypothesis
@given(
    content=st.dictionaries(
        st.sampled_from(["images", "annotations", "categories"]),
        coco_values | st.lists(coco_entries | coco_values, max_size=5),
    )
)
def test_any_json_is_read_or_refused_in_words(
    families: dict[str, Family], content: dict[str, Any]
) -> None:
    outcome = read_spoilt(families["coco"], json.dumps(content).encode())
    assert not outcome.kind.forbidden, outcome
    assert not outcome.without_line, outcome


@_hypothesis
@given(bbox=st.lists(st.floats() | st.integers(), min_size=4, max_size=4))
def test_boxes_of_any_numbers_are_finite_or_dropped(tmp_path: Path, bbox: list[float]) -> None:
    sound = coco_annotation(1, [1, 1, 5, 5])
    report = read(write_coco(tmp_path, [sound, coco_annotation(2, bbox)]))
    boxes_xyxy = report.index.boxes_xyxy
    assert np.isfinite(boxes_xyxy).all()
    assert np.isfinite(report.index.areas).all()
    assert len(boxes_xyxy) == 2 or len(report.issues) == 1


def test_every_problem_of_a_json_file_has_its_line(tmp_path: Path) -> None:
    yaml_file = write_coco(tmp_path, [])
    images = [{"id": 7, "file_name": "7.jpg", "width": 100, "height": 50}]
    images += [{"id": 8, "file_name": "8.jpg", "width": 100, "height": 50}]
    annotations = [
        coco_annotation(1, [1, 1, 5, 5]),
        coco_annotation(1, [1, 1, 6, 6]),
        coco_annotation(2, [1, 1, 5, 5]) | {"image_id": 99},
        coco_annotation(3, [1, 1, float("nan"), 5]),
        coco_annotation(4, [1, 1, 1e300, 5]),
        coco_annotation(5, [1, 1, 5, 5]) | {"category_id": 77},
    ]
    lines = [
        '{"images": [',
        ",\n".join(map(json.dumps, images)),
        '], "annotations": [',
        ",\n".join(map(json.dumps, annotations)),
        '], "categories": [{"id": 2, "name": "cat"}]}',
    ]
    write_text(tmp_path / "train.json", "\n".join(lines))
    report = read(yaml_file)
    told = [(issue.line, issue.detail.partition(":")[0]) for issue in report.issues]
    assert told == [
        (3, f"no image {tmp_path / 'photos' / '8.jpg'}"),
        (6, "annotation id 1 is used before"),
        (7, "annotation 2 of an unknown image, 99"),
        (8, "annotation 3 of image 7"),
        (9, "annotation 4 of image 7"),
        (10, "annotation 5 of image 7"),
    ]


# XML.


@pytest.mark.parametrize(
    "entity", ['"x"', 'SYSTEM "file:///etc/passwd"', 'SYSTEM "http://127.0.0.1:9/x"']
)
def test_an_entity_is_refused_with_its_line_before_it_is_used(tmp_path: Path, entity: str) -> None:
    yaml_file = write_voc(tmp_path, {"1": [], "2": []})
    write_text(
        tmp_path / "Annotations" / "2.xml",
        f"<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY e {entity}>]>\n"
        "<annotation><object><name>&e;</name></object></annotation>",
    )
    issue = read(yaml_file).issues[0]
    assert str(issue).endswith("2.xml:2: unreadable XML: DOCTYPE is not allowed (image left out)")


@pytest.mark.parametrize(
    ("xml", "line", "what"),
    [
        ("<annotation>\n" + "<a>" * 100_000, 2, "nested more than 50 deep"),
        ('<?xml version="1.0" encoding="nonsense"?>\n<annotation/>', 1, "unknown encoding"),
        ('<?xml version="1.0" encoding="utf-7"?>\n<annotation/>', 1, "multi-byte encodings"),
        ("<annotation>\n<object></annotation>", 2, "mismatched tag"),
    ],
)
def test_an_xml_that_cannot_be_read_leaves_its_image_out(
    tmp_path: Path, xml: str, line: int, what: str
) -> None:
    yaml_file = write_voc(tmp_path, {"1": [], "2": []})
    write_text(tmp_path / "Annotations" / "2.xml", xml)
    report = read(yaml_file)
    assert report.index.image_ids.tolist() == [1]
    assert report.issues[0].line == line
    assert what in report.issues[0].detail


# Text.


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_change_nothing(
    tmp_path: Path, line_end: str, encoding: str
) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": ""})
    text = line_end.join(["0 .5 .5 .2 .2", "", "1 .5 .5 .2", "1 .5 .5 .4 .4", ""])
    (tmp_path / "labels" / "train" / "1.txt").write_bytes(text.encode(encoding))
    report = read(yaml_file)
    assert report.index.labels.tolist() == [0, 1]
    assert [issue.line for issue in report.issues] == [3]


@_hypothesis
@given(text=st.text(alphabet=st.characters(), max_size=60) | st.binary(max_size=60))
def test_labels_of_any_text_are_read_or_reported(
    families: dict[str, Family], text: str | bytes
) -> None:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    outcome = read_spoilt(families["yolo"], data)
    assert not outcome.kind.forbidden, outcome
    assert not outcome.without_line, outcome


def test_a_message_shows_no_control_character_and_no_megabyte(tmp_path: Path) -> None:
    labels = "0 \x1b[31m .5 .5 .5\n0 " + "x" * 1_000_000 + " .5 .5 .5\n"
    first, second = map(str, read(write_yolo(tmp_path, {"1.jpg": labels})).issues[:2])
    assert "expected numbers, found '0 \\x1b[31m .5 .5 .5'" in first
    assert "x ... x" in second
    assert len(second) < 600


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café, 名前", "café, 名前"),
        ("\x1b[31m", "\\x1b[31m"),
        ("0123456789", "0123456789"),
        ("0123456789a", "01234 ... 6789a"),
        ("\0" * 1000, "\\x00\\ ... 0\\x00"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_text_is_legible_on_any_terminal(text: str, shown: str) -> None:
    assert legible(text, limit=10) == shown


def test_a_file_whose_name_is_no_utf_8_has_a_fingerprint(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"caf\udce9.jpg": "0 .5 .5 .5 .5"})
    report = read(yaml_file)
    assert len(report.index.fingerprint()) == 64
    assert not report.issues


def test_null_bytes_in_a_list_name_no_image(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .5 .5"})
    write_text(tmp_path / "l.txt", "images/train/1.jpg\nimages/\0.jpg\n")
    write_text(yaml_file, "train: l.txt\nnames: [a]\n")
    (issue,) = read(yaml_file).issues
    assert str(issue).endswith(
        "l.txt:2: no image " + issue.detail.split()[-1] + " (image left out)"
    )
    assert "images/\\x00.jpg" in issue.detail


# Images.


@pytest.mark.parametrize("function", [decode_image, read_header])
@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (30_000, 30_000, "a larger one"),
        (1, LONGEST_SIDE + 1, "1x65536"),
        (30_000, MOST_PIXELS // 30_000 + 1, "a larger one"),
    ],
)
def test_an_image_too_large_is_refused_by_its_header(
    tmp_path: Path, function: Any, width: int, height: int, size: str
) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(png_bomb(width, height))
    with pytest.raises(DataError) as raised:
        function(path)
    assert raised.value.path == path
    assert raised.value.found == f"{size}, which is too large to decode"
    assert "at most 178,956,970 pixels and 65,535 a side" in str(raised.value)


def test_a_header_that_claims_what_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    Image.fromarray(gradient()).save(path)
    data = path.read_bytes()
    size_at = data.index(b"\xff\xc0") + 5
    side = (9000).to_bytes(2, "big")
    path.write_bytes(data[:size_at] + side + side + data[size_at + 4 :])
    assert read_header(path).size_wh == (9000, 9000)
    with pytest.raises(DataError, match=r"9000x9000 pixels do not fit in \d+ bytes"):
        decode_image(path)


def test_a_chunk_that_claims_four_gigabytes_takes_none(
    families: dict[str, Family],
) -> None:
    sound = families["PNG"].seeds[0]
    length_at = sound.index(b"IDAT") - 4
    outcome = read_spoilt(families["PNG"], sound[:length_at] + b"\xff" * 4 + sound[length_at + 4 :])
    assert not outcome.kind.forbidden, outcome
    assert outcome.grown_bytes < 10_000_000


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("PNG", "1")])
def test_a_blank_image_is_read_however_small_its_file(tmp_path: Path, kind: str, mode: str) -> None:
    path = tmp_path / "blank"
    Image.new(mode, (2000, 2000)).save(path, kind, optimize=True, quality=1)
    assert decode_image(path).shape == (2000, 2000, 3)


def test_a_damaged_exif_block_turns_size_and_pixels_alike(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "1.jpg"
    Image.fromarray(gradient()).save(path, exif=exif)
    sound = path.read_bytes()
    start = sound.index(b"Exif")
    for at in range(start, start + 30):
        path.write_bytes(sound[:at] + b"\xff" + sound[at + 1 :])
        width, height = read_header(path).size_wh
        assert decode_image(path).shape == (height, width, 3)


def test_a_prediction_refuses_what_a_training_refuses(tmp_path: Path) -> None:
    """A file that OpenCV alone would decode is no image here either: both read the header first."""
    path = tmp_path / "1.hdr"
    cv2.imwrite(str(path), np.ones((4, 4, 3), np.float32))
    with pytest.raises(OssaError, match="no image"):
        read_header(path)
    with pytest.raises(OssaError, match="no image"):
        decode_image(path)
