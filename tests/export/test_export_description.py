"""What a file says of itself is checked before it is believed."""

import json

import pytest

from ossa.errors import CheckpointError
from ossa.export.graph import ExportDescription, NMSSettings, read_description


def test_a_description_comes_back_as_it_was(description: ExportDescription) -> None:
    with_nms = description.model_copy(update={"nms": NMSSettings(nms_iou=0.6)})
    for one in (description, with_nms):
        assert read_description(one.to_json(), where="a.onnx") == one


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_number": 2}, "an export of schema 2, this version reads 1: update ossa"),
        ({"names": []}, r"damaged description \(names: "),
        ({"imgsz": 100}, "imgsz 100, no multiple of stride 16"),
        ({"strides": [8]}, "1 strides but anchors of 2 levels"),
        ({"anchors_wh": [[[1, 2]], []]}, "levels with different numbers of anchors, or none"),
        ({"layout": "float NHWC BGR"}, r"damaged description \(layout: "),
        ({"run": "rm -rf /"}, r"damaged description \(run: "),
    ],
)
def test_a_damaged_description_is_refused(
    description: ExportDescription, change: dict[str, object], said: str
) -> None:
    text = json.dumps({**json.loads(description.to_json()), **change})
    with pytest.raises(CheckpointError, match=f"^a.onnx .*{said}"):
        read_description(text, where="a.onnx")


@pytest.mark.parametrize("text", [None, "", 7])
def test_a_file_without_one_is_of_another_program(text: object) -> None:
    with pytest.raises(CheckpointError, match="written by another program; export the checkpoint"):
        read_description(text, where="a.onnx")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "null", '{"names": 3}'])
def test_what_is_no_description_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(CheckpointError, match="carries a damaged description"):
        read_description(text, where="a.onnx")
