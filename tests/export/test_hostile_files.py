"""Exported files that name other files, lie about sizes or ask for any memory are refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ossa.errors import CheckpointError
from ossa.export import onnx, screening
from ossa.export.graph import ExportDescription, NMSSettings, read_description
from ossa.export.sandbox import try_to_open
from ossa.export.screening import screen
from ossa.export.select import open_exported


def changed(model: Any, folder: Path, change: Callable[[Any], object]) -> Path:
    """Returns an .onnx that is a changed copy of a model."""
    copy = type(model)()
    copy.CopyFrom(model)
    change(copy)
    file = folder / "changed.onnx"
    file.write_bytes(copy.SerializeToString())
    return file


def placed(location: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return change


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "link", "/dev/zero", "beside"])
def test_weights_in_another_file_are_refused(
    onnx_model: Any, tmp_path: Path, location: str
) -> None:
    os.symlink("/etc/passwd", tmp_path / "link")
    file = changed(onnx_model, tmp_path, placed(location))
    with pytest.raises(CheckpointError, match=r"with weights in another file .*changed\.onnx"):
        open_exported(file)


@pytest.mark.parametrize("dims", [[2**31, 2**31], [2**62, 4], [-1, 5], []])
def test_a_tensor_that_claims_what_it_does_not_hold_is_refused(
    onnx_model: Any, tmp_path: Path, dims: list[int]
) -> None:
    def change(model: Any) -> None:
        model.graph.initializer[0].dims[:] = dims

    with pytest.raises(
        CheckpointError, match=r"a tensor that claims [-\d,]+ bytes and holds 1,536"
    ):
        screen(changed(onnx_model, tmp_path, change))


def add_weights_elsewhere(attribute: Any) -> None:
    entry = attribute.t.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def add_loop(attribute: Any) -> None:
    attribute.g.name = "body"


@pytest.mark.parametrize(
    ("add", "found"),
    [(add_weights_elsewhere, "weights in another file"), (add_loop, "loops or branches")],
)
def test_an_attribute_that_no_export_has_is_refused(
    onnx_model: Any, tmp_path: Path, add: Callable[[Any], None], found: str
) -> None:
    def change(model: Any) -> None:
        add(model.graph.node.add().attribute.add())

    with pytest.raises(CheckpointError, match=f"with {found}"):
        screen(changed(onnx_model, tmp_path, change))


@pytest.mark.parametrize(
    "content", [b"\x3a" * 1000, b"\x08" + b"\xff" * 100, bytes(2**14), b"\x3a\x80\x80\x80\x1f"]
)
def test_what_is_no_protobuf_or_has_too_many_fields_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_MOST_PARTS", 5000)
    file = tmp_path / "a.onnx"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"an ONNX file by ossa, found a damaged .*a\.onnx"):
        screen(file)


def test_a_few_bytes_that_ask_for_gigabytes_end_in_a_process_of_their_own(
    onnx_model: Any, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    onnx = pytest.importorskip("onnx")

    def change(model: Any) -> None:
        shape = onnx.numpy_helper.from_array(np.array([100_000] * 2), "shape")
        model.graph.initializer.append(shape)
        model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("huge", 1, None))

    assert (
        try_to_open(changed(onnx_model, tmp_path, lambda model: None), runtime="openvino") is None
    )
    why = try_to_open(changed(onnx_model, tmp_path, change), runtime="openvino")
    assert why is not None
    assert "it takes more than 5 s or 1.2 GB to open" in why


def openvino_copy(original: Path, folder: Path, change: Callable[[str], str]) -> Path:
    file = folder / "changed.xml"
    file.write_text(change(original.read_text()))
    file.with_suffix(".bin").write_bytes(original.with_suffix(".bin").read_bytes())
    return file


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("doctype", "used"),
    [
        (f'<!DOCTYPE net [<!ENTITY a0 "ha">{LAUGHS}]>', "&a9;"),
        ('<!DOCTYPE net [<!ENTITY e SYSTEM "file:///etc/passwd">]>', "&e;"),
        ('<!DOCTYPE net SYSTEM "http://127.0.0.1:1/a.dtd">', ""),
        ('<!DOCTYPE net [<!ENTITY % p SYSTEM "/etc/passwd">%p;]>', ""),
    ],
)
def test_an_xml_with_entities_is_refused(
    openvino_file: Path, tmp_path: Path, doctype: str, used: str
) -> None:
    def change(text: str) -> str:
        head, rest = text.split("\n", 1)
        return f"{head}{doctype}{rest.replace('<layers>', f'{used}<layers>', 1)}"

    with pytest.raises(CheckpointError, match="with a DOCTYPE or entities"):
        open_exported(openvino_copy(openvino_file, tmp_path, change))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('offset="0"', 'offset="99999999999"', "weights beyond the"),
        ('offset="0"', 'offset="-1"', "weights at -1"),
        ('offset="0"', 'offset="18446744073709551615"', "weights at 18446744073709551615"),
        ("<layers>", "<layers>" + "<a>" * 100, "more elements, or more deeply nested"),
        ("<layers>", "<layers><body/>", "loops or branches"),
    ],
)
def test_an_xml_that_lies_is_refused(
    openvino_file: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = openvino_copy(openvino_file, tmp_path, lambda text: text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=said):
        open_exported(file)


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "../secret"])
def test_weights_that_are_a_link_to_elsewhere_are_refused(
    openvino_file: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (tmp_path / "files").mkdir()
    file = openvino_copy(openvino_file, tmp_path / "files", lambda text: text)
    file.with_suffix(".bin").unlink()
    file.with_suffix(".bin").symlink_to(target)
    with pytest.raises(
        CheckpointError,
        match=r"with (a link to .* in place of its|no) weights",
    ):
        open_exported(file)


def test_a_description_comes_back_as_it_was(description: ExportDescription) -> None:
    with_nms = description.model_copy(update={"nms": NMSSettings(nms_iou=0.6)})
    for one in (description, with_nms):
        assert read_description(one.to_json(), path="a.onnx") == one


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_number": 3}, r"found schema 3, newer than 2 \(a\.onnx\)\. Update ossa"),
        ({"names": []}, r"a damaged one \(names: "),
        ({"names": ["x" * 10**6]}, r"\(names"),
        ({"names": [1, None, {}]}, r"\(names"),
        ({"imgsz": 100}, "imgsz 100, no multiple of stride 16"),
        ({"imgsz": 2**30}, r"\(imgsz: "),
        ({"batch": 10**9}, r"\(batch"),
        ({"strides": [8]}, "1 strides but anchors of 2 levels"),
        ({"strides": [8, 10**9]}, r"\(strides"),
        ({"anchors_wh": [[[1, 2]], []]}, "levels with different numbers of anchors, or none"),
        ({"anchors_wh": [[[float("nan"), 1.0]] * 3] * 2}, r"\(anchors_wh"),
        ({"anchors_wh": [[[1e300, 1.0]] * 3] * 2}, r"\(anchors_wh"),
        ({"layout": "float NHWC BGR"}, r"\(layout: "),
        ({"origin": {"licence": [[[]]]}}, r"\(origin"),
        ({"k" * 10**6: 1}, r"\(kkk"),
    ],
)
def test_a_description_that_cannot_be_is_refused_in_a_short_sentence(
    description: ExportDescription, changes: dict[str, Any], said: str
) -> None:
    content = json.dumps(description.model_dump(mode="json") | changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_description(content, path="a.onnx")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *[(text, "none: another program wrote it") for text in (None, "", 7)],
        *[(text, "a damaged one") for text in ("{", "[]", "[" * 100_000, "null", '{"names": 3}')],
    ],
)
def test_what_is_no_description_is_refused(text: object, found: str) -> None:
    with pytest.raises(CheckpointError, match=f"found {found}"):
        read_description(text, path="a.onnx")


def test_a_description_that_the_graph_does_not_keep_is_refused(
    onnx_model: Any, description: ExportDescription, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra export")

    file = tmp_path / "a.onnx"
    onnx.save(onnx_model, file, description.model_copy(update={"names": tuple("abcdefg")}))
    run = open_exported(file, runtime="onnxruntime")
    with pytest.raises(CheckpointError, match=r"Expected logits of .* found \[\(1, 8, 8, 3, 8\)"):
        run(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
