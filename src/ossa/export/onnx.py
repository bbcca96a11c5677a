"""ONNX: conversion, files, running them in ONNX Runtime, and NMS as part of a graph.

The packages onnx, onnxscript and onnxruntime are imported in functions only: they are an extra.

Dimensions: B images, L levels, A anchors, H W cells, P boxes of an image, K classes, N detections.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossa.errors import CheckpointError, UnsupportedBackbone
from ossa.export.backends import Engine
from ossa.export.graph import (
    METADATA_KEY,
    ExportDescription,
    LogitsGraph,
    NMSSettings,
    first_line,
    quiet,
    require,
    unreadable,
)
from ossa.files import write_atomically

OPSET = 18
"""The oldest that torch's exporter writes without conversion; TensorRT 10 and OpenVINO read it."""
_MOST_BATCH, _MOST_CELLS = 1024, 256
"""Largest batch, and longest side in cells of the largest stride, that a dynamic file promises."""
_LEAST_HALVED = 256
"""Numbers in a tensor from which half precision saves more than the cast costs."""
_PURPOSE = "an export to ONNX"


def convert(graph: LogitsGraph, description: ExportDescription) -> Any:
    """Returns the `onnx.ModelProto` of a graph, with its axes.

    Raises:
        ConfigError: a package is not installed.
        UnsupportedBackbone: an operation that the operator set cannot express.
    """
    for package in ("onnx", "onnxscript"):
        require(package, purpose=_PURPOSE)
    stride, side = max(description.strides), description.imgsz
    size_hw, axes = (side, side), {}
    if description.batch is None:
        axes[0] = torch.export.Dim("batch", min=1, max=_MOST_BATCH)
    if description.any_size:
        # Sizes that are dynamic must differ from each other and from 1, or they would be taken for
        # constants.
        size_hw = (2 * stride, 3 * stride)
        axes[2] = stride * torch.export.Dim("rows", min=1, max=_MOST_CELLS)
        axes[3] = stride * torch.export.Dim("columns", min=1, max=_MOST_CELLS)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (torch.zeros(description.batch or 2, 3, *size_hw, dtype=torch.uint8),),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[f"logits_{stride}" for stride in description.strides],
                dynamic_shapes={"images": axes},
                verbose=False,
            )
    except Exception as problem:  # of whatever kind torch.export and the exporter raise
        raise UnsupportedBackbone(
            f"this backbone cannot be expressed in ONNX's operator set {OPSET} "
            f"({first_line(problem)}): try fixed sizes, or --format openvino"
        ) from None
    assert program is not None
    return program.model_proto


def save(model: Any, file: Path, description: ExportDescription) -> None:
    """Writes an .onnx whole, with its description; for fp16 with large weights in half precision.

    A cast behind each makes them float32 again: the computation is fp32 with rounded weights, until
    an engine such as TensorRT is asked to compute in fp16.
    """
    onnx = require("onnx", purpose=_PURPOSE)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    onnx.helper.set_model_props(whole, {METADATA_KEY: description.to_json()})
    whole.producer_name = "ossa"
    casts = []
    for tensor in whole.graph.initializer if description.precision == "fp16" else ():
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
    nodes = [*casts, *whole.graph.node]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    write_atomically(file, whole.SerializeToString())


def read(file: Path, *, threads: int | None = None) -> tuple[Any, str | None]:
    """Returns the `onnxruntime.InferenceSession` of an .onnx and the description in it.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: the file is damaged, or holds an operator that it does not know.
    """
    onnxruntime = require("onnxruntime", purpose=f"running {file}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    options.intra_op_num_threads = threads or 0
    # What follows a run needs the processors that its threads would go on waiting on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as problem:  # its errors have no base of their own
        raise unreadable("ONNX Runtime", problem, path=file) from None
    return session, session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)


def engine(session: Any) -> Engine:
    """Returns what runs a session that `read` returned, in any thread.

    Raises:
        CheckpointError: the session takes no uint8 images, or cannot be run.
    """
    first = session.get_inputs()[0]
    if first.type != "tensor(uint8)":
        raise CheckpointError(expected="an input of uint8 images", found=first.type)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = session.run(None, {first.name: np.ascontiguousarray(images.numpy())})
        except Exception as problem:  # its errors have no base of their own
            raise unreadable("ONNX Runtime", problem) from None
        return tuple(map(torch.from_numpy, outputs))

    return run


def add_nms(model: Any, description: ExportDescription) -> Any:
    """Returns the `onnx.ModelProto` of logits followed by decoding and NMS."""
    onnx = require("onnx", purpose="NMS in the graph")
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

    def add(
        self,
        operator: str,
        *inputs: Any,
        output: str | None = None,
        more: tuple[str, ...] = (),
        **attributes: Any,
    ) -> str:
        """Adds a node; an input is the name of a value, or the number or numbers themselves.

        `more` are names of its other outputs.
        """
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        name = output or f"nms_{operator}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(operator, names, [name, *more], name=name, **attributes)
        self.nodes.append(node)
        return name

    def last(self, value: str, start: int, end: int) -> str:
        """Returns the entries start..end - 1 of the last axis."""
        return self.add("Slice", value, [start], [end], [-1])

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = f"nms_constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name


def nms_graph(description: ExportDescription, *, like: Any | None = None) -> Any:
    """Returns the `onnx.ModelProto` that maps `nms_logits_<stride>` to the four outputs.

    It does what `ossa predict` does: a box counts for its best class, scores are objectness times
    class, and of two boxes of a class that overlap by more than the limit the better stays, unless
    the head is one to one: then the best boxes are the detections. A graph of its own, after the
    one that returns logits, it computes in float whatever that one computes in.

    Args:
        description: levels, anchors, classes and settings of the NMS.
        like: a model whose operator set it takes.
    """
    onnx, nms = require("onnx", purpose="NMS in the graph"), description.nms
    assert nms is not None
    helper, proto = onnx.helper, onnx.TensorProto
    num_classes, write = len(description.names), _Nodes(onnx)
    inputs, all_boxes, all_scores = [], [], []
    for level, stride in enumerate(description.strides):
        name = f"nms_logits_{stride}"
        shape = [None, None, None, *description.answers]
        inputs.append(helper.make_tensor_value_info(name, proto.FLOAT, shape))
        if description.dense is None:
            fractions, anchors_wh = write.add("Sigmoid", name), description.anchors_wh[level]
            boxes = _add_boxes(write, name, fractions, anchors_wh=anchors_wh, stride=stride)
            classes = write.last(fractions, 5, 5 + num_classes)
            objectness = write.last(fractions, 4, 5)
        else:
            bins, objectness = 4 * description.dense.reg_max, 1.0
            boxes = _add_dense_boxes(write, name, bins=bins, stride=stride)
            classes = write.add("Sigmoid", write.last(name, bins, bins + num_classes))
        all_boxes.append(boxes)
        all_scores.append(_add_scores(write, classes, objectness, num_classes))
    boxes_xyxy, scores = (write.add("Concat", *one, axis=1) for one in (all_boxes, all_scores))
    add_choice = _add_suppression if description.needs_nms else _add_best
    add_choice(write, boxes_xyxy, scores, nms)
    kinds = {"boxes": proto.FLOAT, "scores": proto.FLOAT}
    outputs = [
        helper.make_tensor_value_info(name, kinds.get(name, proto.INT64), ["N", *more])
        for name, *more in (("boxes", 4), ("scores",), ("labels",), ("image_index",))
    ]
    graph = helper.make_graph(write.nodes, "nms", inputs, outputs, write.constants)
    opsets = [helper.make_opsetid("", OPSET)] if like is None else like.opset_import
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10 if like is None else like.ir_version
    return model


def _add_boxes(write: _Nodes, logits: str, fractions: str, *, anchors_wh: Any, stride: int) -> str:
    """Writes the decoding of the boxes of one level: xyxy (B, P, 4)."""
    shape = write.add("Shape", logits)
    centres = []
    for axis, place in ((2, [1, 1, -1, 1, 1]), (1, [1, -1, 1, 1, 1])):  # x along W, y along H
        cells = write.add("Range", 0, write.add("Gather", shape, axis, axis=0), 1)
        grid = write.add("Cast", write.add("Reshape", cells, place), to=1)
        doubled = write.add("Mul", write.last(fractions, 2 - axis, 3 - axis), 2.0)
        in_cells = write.add("Add", write.add("Add", doubled, -0.5), grid)
        centres.append(write.add("Mul", in_cells, float(stride)))
    doubled = write.add("Mul", write.last(fractions, 2, 4), 2.0)
    sizes = write.add("Mul", write.add("Mul", doubled, doubled), anchors_wh)
    centre, halves = write.add("Concat", *centres, axis=-1), write.add("Mul", sizes, 0.5)
    corners = (write.add("Sub", centre, halves), write.add("Add", centre, halves))
    boxes_xyxy = write.add("Concat", *corners, axis=-1)
    return write.add("Reshape", boxes_xyxy, [0, -1, 4])  # 0 keeps the number of images


def _add_dense_boxes(write: _Nodes, logits: str, *, bins: int, stride: int) -> str:
    """Writes the decoding of the distances of one level: xyxy (B, P, 4)."""
    distances = write.last(logits, 0, bins)
    if bins == 4:
        distances = write.add("Softplus", distances)
    else:
        by_side = write.add("Reshape", distances, [0, 0, 0, 4, bins // 4])
        values = np.arange(bins // 4, dtype=np.float32)[:, None]
        means = write.add("MatMul", write.add("Softmax", by_side, axis=-1), values)
        distances = write.add("Reshape", means, [0, 0, 0, 1, 4])
    shape, sides = write.add("Shape", logits), []
    for side, operator in enumerate(("Sub", "Sub", "Add", "Add")):  # left, top, right, bottom
        axis, place = ((2, [1, 1, -1, 1, 1]), (1, [1, -1, 1, 1, 1]))[side % 2]
        cells = write.add("Range", 0, write.add("Gather", shape, axis, axis=0), 1)
        grid = write.add("Cast", write.add("Reshape", cells, place), to=1)
        point = write.add("Add", grid, 0.5)
        sides.append(write.add(operator, point, write.last(distances, side, side + 1)))
    boxes_xyxy = write.add("Mul", write.add("Concat", *sides, axis=-1), float(stride))
    return write.add("Reshape", boxes_xyxy, [0, -1, 4])


def _add_suppression(write: _Nodes, boxes_xyxy: str, scores: str, nms: NMSSettings) -> None:
    """Writes NMS of boxes (B, P, 4) and scores (B, P, K), and the four outputs."""
    scores = write.add("Transpose", scores, perm=[0, 2, 1])
    limits = ([nms.max_detections], [nms.nms_iou], [nms.confidence])
    chosen = write.add("NonMaxSuppression", boxes_xyxy, scores, *limits)  # (N, 3)
    image, label, box = (write.last(chosen, axis, axis + 1) for axis in range(3))
    of_image = write.add("Concat", image, box, axis=1)
    write.add("GatherND", boxes_xyxy, of_image, output="boxes")
    write.add("GatherND", scores, chosen, output="scores")
    write.add("Reshape", label, [-1], output="labels")
    write.add("Reshape", image, [-1], output="image_index")


def _add_best(write: _Nodes, boxes_xyxy: str, scores: str, nms: NMSSettings) -> None:
    """Writes the choice of the best boxes of each image without NMS, and the four outputs."""
    best = write.add("ReduceMax", scores, [-1], keepdims=0)  # (B, P)
    labels = write.add("ArgMax", scores, axis=-1, keepdims=0)
    points = write.add("Slice", write.add("Shape", best), [1], [2])
    count = write.add("Min", points, [nms.max_detections])
    values = write.add("TopK", best, count, more=("nms_best_points",), axis=1)
    above = write.add("NonZero", write.add("Greater", values, nms.confidence))
    places = write.add("Transpose", above, perm=[1, 0])  # (N, 2): image and rank
    point = write.add("Unsqueeze", write.add("GatherND", "nms_best_points", places), [1])
    image = write.last(places, 0, 1)
    of_image = write.add("Concat", image, point, axis=1)
    write.add("GatherND", boxes_xyxy, of_image, output="boxes")
    write.add("GatherND", values, places, output="scores")
    write.add("GatherND", labels, of_image, output="labels")
    write.add("Reshape", image, [-1], output="image_index")


def _add_scores(write: _Nodes, classes: str, objectness: str | float, num_classes: int) -> str:
    """Writes the scores of one level: (B, P, K), 0 but for the best class of a box."""
    best = write.add("ReduceMax", classes, [-1], keepdims=1)
    products = write.add("Mul", classes, objectness)
    scores = write.add("Where", write.add("GreaterOrEqual", classes, best), products, 0.0)
    return write.add("Reshape", scores, [0, -1, num_classes])
