"""Decoding and non-maximum suppression as part of the graph.

The same as `ossa predict` does: a box counts for its best class, scores are objectness times class,
and of two boxes of a class that overlap by more than the limit the better stays. It is a graph of
its own, behind the one that returns logits: so it computes in float whatever that one computes in.

Dimensions: B images, L levels, A anchors, H W cells, P boxes of an image, K classes, N detections.
"""

from io import BytesIO
from typing import Any

import numpy as np

from ossa.export.graph import ExportDescription, Suppression, openvino_core, require
from ossa.export.onnx import OPSET

OUTPUTS = ("boxes", "scores", "labels", "image_index")
_PURPOSE = "NMS in the graph"


def behind_onnx(model: Any, description: ExportDescription, suppression: Suppression) -> Any:
    """Returns the `onnx.ModelProto` of logits with decoding and suppression behind it."""
    onnx = require("onnx", purpose=_PURPOSE)
    behind = onnx_graph(description, suppression, like=model)
    names = [(output.name, f"nms_{output.name}") for output in model.graph.output]
    merged = onnx.compose.merge_models(model, behind, io_map=names)
    onnx.checker.check_model(merged)
    return merged


def behind_openvino(model: Any, description: ExportDescription, suppression: Suppression) -> Any:
    """Returns the `openvino.Model` of logits with decoding and suppression behind it.

    The graph is written as ONNX and read by OpenVINO, so the package onnx is needed, too.
    """
    openvino = require("openvino", purpose=_PURPOSE)
    content = onnx_graph(description, suppression).SerializeToString()
    behind = openvino_core(purpose=_PURPOSE).read_model(BytesIO(content))
    for parameter, result in zip(behind.get_parameters(), model.get_results(), strict=True):
        parameter.output(0).replace(result.input_value(0))
    joined = openvino.Model(behind.get_results(), model.get_parameters(), "ossa")
    joined.validate_nodes_and_infer_types()
    return joined


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


def onnx_graph(
    description: ExportDescription, suppression: Suppression, *, like: Any | None = None
) -> Any:
    """Returns the `onnx.ModelProto` that maps `nms_logits_<stride>` to the four outputs.

    Args:
        description: levels, anchors and classes.
        suppression: confidence, limits.
        like: a model whose operator set it takes.
    """
    onnx = require("onnx", purpose=_PURPOSE)
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
        write.constant([suppression.max_detections]),
        write.real([suppression.nms_iou]),
        write.real([suppression.confidence]),
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
    return _model(onnx, write, description, like)


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


def _model(onnx: Any, write: _Nodes, description: ExportDescription, like: Any | None) -> Any:
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
        for name, kind in zip(OUTPUTS, (*kinds, kinds[-1]), strict=True)
    ]
    graph = helper.make_graph(write.nodes, "suppression", inputs, outputs, write.constants)
    opsets = [helper.make_opsetid("", OPSET)] if like is None else like.opset_import
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10 if like is None else like.ir_version
    return model
