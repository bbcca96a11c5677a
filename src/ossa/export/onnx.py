"""ONNX: conversion, files, running them in ONNX Runtime, and NMS as part of a graph.

The packages onnx, onnxscript and onnxruntime are imported in functions only: they are an extra.

Dimensions: B images, L levels, A anchors, H W cells, P boxes of an image, K classes, N detections.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, legible
from ossa.export.backends import Engine
from ossa.export.graph import (
    METADATA_KEY,
    ExportDescription,
    LogitsGraph,
    Precision,
    first_line,
    quiet,
    read_description,
    require,
)
from ossa.files import write_atomically

OPSET = 18
"""The oldest that torch's exporter writes without conversion; TensorRT 10 and OpenVINO read it."""
_MOST_BATCH, _MOST_CELLS = 1024, 256
"""Largest batch, and longest side in cells of the largest stride, that a dynamic file promises."""
_LEAST_HALVED = 256
"""Numbers in a tensor from which half precision saves more than the cast costs."""


def convert(graph: LogitsGraph, description: ExportDescription) -> Any:
    """Returns the `onnx.ModelProto` of a graph, with its description and its axes.

    Raises:
        ConfigError: a package is not installed.
        UnsupportedBackbone: an operation that the operator set cannot express.
    """
    for package in ("onnx", "onnxscript"):
        require(package, purpose="an export to ONNX")
    # Sizes that are dynamic must differ from each other and from 1, or they would be taken for
    # constants.
    stride, side = max(description.strides), description.imgsz
    height = 2 * stride if description.any_size else side
    width = 3 * stride if description.any_size else side
    images = torch.zeros(description.batch or 2, 3, height, width, dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (images,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[f"logits_{stride}" for stride in description.strides],
                dynamic_shapes={"images": _dynamic_axes(description)},
                verbose=False,
            )
    except Exception as problem:  # of whatever kind torch.export and the exporter raise
        raise UnsupportedBackbone(
            f"this backbone cannot be expressed in ONNX's operator set {OPSET} "
            f"({first_line(problem)}): try fixed sizes, or --format openvino"
        ) from None
    assert program is not None
    return described(program.model_proto, description)


def _dynamic_axes(description: ExportDescription) -> dict[int, Any]:
    axes: dict[int, Any] = {}
    if description.batch is None:
        axes[0] = torch.export.Dim("batch", min=1, max=_MOST_BATCH)
    if description.any_size:
        stride = max(description.strides)
        axes[2] = stride * torch.export.Dim("rows", min=1, max=_MOST_CELLS)
        axes[3] = stride * torch.export.Dim("columns", min=1, max=_MOST_CELLS)
    return axes


def described(model: Any, description: ExportDescription) -> Any:
    """Writes the description into the model's metadata and returns it."""
    onnx = require("onnx", purpose="an export to ONNX")
    onnx.helper.set_model_props(model, {METADATA_KEY: description.to_json()})
    model.producer_name = "ossa"
    return model


def with_half_weights(model: Any) -> Any:
    """Returns a copy whose large weights lie in the file in half precision.

    A cast behind each makes them float32 again: the computation is that of fp32 with rounded
    weights, until an engine such as TensorRT is told to compute in fp16.
    """
    onnx = require("onnx", purpose="an export to ONNX")
    half = onnx.ModelProto()
    half.CopyFrom(model)
    casts = []
    for tensor in half.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST_HALVED:
            continue
        name = tensor.name
        limit = np.finfo(np.float16).max
        rounded = np.clip(values, -limit, limit).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


def save(model: Any, file: Path, *, precision: Precision) -> None:
    """Writes an .onnx whole, weights included; these in half precision for fp16 only."""
    whole = with_half_weights(model) if precision == "fp16" else model
    write_atomically(file, whole.SerializeToString())


def open_session(content: bytes | Path, *, where: str, threads: int | None = None) -> Any:
    """Returns an `onnxruntime.InferenceSession` on the processor.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: the file is damaged, or holds an operator that it does not know.
    """
    onnxruntime = require("onnxruntime", purpose=f"running {where}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    options.intra_op_num_threads = threads or 0
    # What follows a run needs the processors that its threads would go on waiting on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    source = content if isinstance(content, bytes) else str(content)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # its errors have no base of their own
        raise CheckpointError(
            f"{where} is damaged or no ONNX file that ONNX Runtime knows: {first_line(problem)}"
        ) from None


def description_in(session: Any, *, where: str) -> ExportDescription:
    """Returns what the file of a session says of itself.

    Raises:
        CheckpointError: nothing, or nothing of ossa's.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    return read_description(metadata.get(METADATA_KEY), where=where)


def engine(session: Any) -> Engine:
    """Returns what runs a session, which threads may share.

    Raises:
        ConfigError: the session takes no uint8 images.
    """
    first = session.get_inputs()[0]
    if first.type != "tensor(uint8)":
        raise ConfigError(f"expected an input of uint8 images, found {first.type}")

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = session.run(None, {first.name: np.ascontiguousarray(images.numpy())})
        except Exception as problem:  # its errors have no base of their own
            raise CheckpointError(
                f"ONNX Runtime cannot run this file: {legible(first_line(problem))}"
            ) from None
        return tuple(torch.from_numpy(output) for output in outputs)

    return run


NMS_OUTPUTS = ("boxes", "scores", "labels", "image_index")
_NMS_PURPOSE = "NMS in the graph"


def add_nms(model: Any, description: ExportDescription) -> Any:
    """Returns the `onnx.ModelProto` of logits followed by decoding and NMS."""
    onnx = require("onnx", purpose=_NMS_PURPOSE)
    names = [(output.name, f"nms_{output.name}") for output in model.graph.output]
    merged = onnx.compose.merge_models(model, nms_graph(description, like=model), io_map=names)
    onnx.checker.check_model(merged)
    return merged


class _Nodes:
    """Writes an ONNX graph node by node: each method returns the name of a value."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: type[np.generic] = np.int64) -> str:
        name = f"nms_constant_{len(self.constants)}"
        array = np.asarray(value, dtype=kind)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def real(self, value: Any) -> str:
        return self.constant(value, np.float32)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"nms_{operator}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self.nodes.append(node)
        return name

    def last(self, value: str, start: int, end: int) -> str:
        """Returns the entries start..end - 1 of the last axis."""
        limits = (self.constant([start]), self.constant([end]), self.constant([-1]))
        return self.add("Slice", value, *limits)

    def scaled(self, value: str, factor: float, shift: float = 0.0) -> str:
        product = self.add("Mul", value, self.real(factor))
        return self.add("Add", product, self.real(shift)) if shift else product


def nms_graph(description: ExportDescription, *, like: Any | None = None) -> Any:
    """Returns the `onnx.ModelProto` that maps `nms_logits_<stride>` to the four outputs.

    It does what `ossa predict` does: a box counts for its best class, scores are objectness times
    class, and of two boxes of a class that overlap by more than the limit the better stays. A graph
    of its own, after the one that returns logits, it computes in float whatever that one computes
    in.

    Args:
        description: levels, anchors, classes and settings of the NMS.
        like: a model whose operator set it takes.
    """
    onnx, nms = require("onnx", purpose=_NMS_PURPOSE), description.nms
    assert nms is not None
    write = _Nodes(onnx)
    levels = [
        _level(
            write,
            f"nms_logits_{stride}",
            anchors_wh=anchors_wh,
            stride=stride,
            num_classes=len(description.names),
        )
        for stride, anchors_wh in zip(description.strides, description.anchors_wh, strict=True)
    ]
    boxes_xyxy = write.add("Concat", *(boxes for boxes, _ in levels), axis=1)
    of_boxes = write.add("Concat", *(scores for _, scores in levels), axis=1)
    scores = write.add("Transpose", of_boxes, perm=[0, 2, 1])  # (B, K, P)
    limits = (
        write.constant([nms.max_detections]),
        write.real([nms.nms_iou]),
        write.real([nms.confidence]),
    )
    # (N, 3): image, class, box.
    chosen = write.add("NonMaxSuppression", boxes_xyxy, scores, *limits)
    image, label, box = (write.last(chosen, axis, axis + 1) for axis in range(3))
    of_image = write.add("Concat", image, box, axis=1)
    flat = write.constant([-1])
    write.add("GatherND", boxes_xyxy, of_image, output="boxes")
    write.add("GatherND", scores, chosen, output="scores")
    write.add("Reshape", label, flat, output="labels")
    write.add("Reshape", image, flat, output="image_index")
    return _nms_model(onnx, write, description, like)


def _level(
    write: _Nodes, logits: str, *, anchors_wh: Any, stride: int, num_classes: int
) -> tuple[str, str]:
    """Writes the decoding of one level; returns the names of boxes (B, P, 4) and scores (B, P, K).

    Scores are 0 but for the best class of a box.
    """
    fractions = write.add("Sigmoid", logits)
    shape = write.add("Shape", logits)
    centres = []
    for axis, place in ((2, [1, 1, -1, 1, 1]), (1, [1, -1, 1, 1, 1])):  # x along W, y along H
        count = write.add("Gather", shape, write.constant(axis), axis=0)
        cells = write.add("Range", write.constant(0), count, write.constant(1))
        grid = write.add("Cast", write.add("Reshape", cells, write.constant(place)), to=1)
        fraction = write.last(fractions, 2 - axis, 3 - axis)
        centre = write.add("Add", write.scaled(fraction, 2.0, -0.5), grid)
        centres.append(write.scaled(centre, float(stride)))
    doubled = write.scaled(write.last(fractions, 2, 4), 2.0)
    sizes = write.add("Mul", write.add("Mul", doubled, doubled), write.real(anchors_wh))
    halves = write.scaled(sizes, 0.5)
    centre = write.add("Concat", *centres, axis=-1)
    corners = (write.add("Sub", centre, halves), write.add("Add", centre, halves))
    boxes_xyxy = write.add("Concat", *corners, axis=-1)
    objectness = write.last(fractions, 4, 5)
    classes = write.last(fractions, 5, 5 + num_classes)
    best = write.add("ReduceMax", classes, write.constant([-1]), keepdims=1)
    products = write.add("Mul", classes, objectness)
    is_best = write.add("GreaterOrEqual", classes, best)
    scores = write.add("Where", is_best, products, write.real(0.0))
    # 0 keeps the number of images.
    return (
        write.add("Reshape", boxes_xyxy, write.constant([0, -1, 4])),
        write.add("Reshape", scores, write.constant([0, -1, num_classes])),
    )


def _nms_model(onnx: Any, write: _Nodes, description: ExportDescription, like: Any | None) -> Any:
    helper, proto = onnx.helper, onnx.TensorProto
    answers = 5 + len(description.names)
    anchors = len(description.anchors_wh[0])
    inputs = [
        helper.make_tensor_value_info(
            f"nms_logits_{stride}", proto.FLOAT, [None, None, None, anchors, answers]
        )
        for stride in description.strides
    ]
    kinds = ((proto.FLOAT, ["N", 4]), (proto.FLOAT, ["N"]), (proto.INT64, ["N"]))
    outputs = [
        helper.make_tensor_value_info(name, *kind)
        for name, kind in zip(NMS_OUTPUTS, (*kinds, kinds[-1]), strict=True)
    ]
    graph = helper.make_graph(write.nodes, "nms", inputs, outputs, write.constants)
    opsets = [helper.make_opsetid("", OPSET)] if like is None else like.opset_import
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10 if like is None else like.ir_version
    return model
