"""OpenVINO: conversion, files (.xml beside .bin) and running them.

The OpenVINO Python package is imported in functions only: it is an extra.
"""

import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import LetterboxedDataset
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone
from ossa.export.backends import Engine
from ossa.export.graph import (
    METADATA_KEY,
    ExportDescription,
    LogitsGraph,
    Precision,
    first_line,
    openvino_core,
    quiet,
    require,
    unreadable,
)
from ossa.export.onnx import nms_graph

CALIBRATION_IMAGES = 300
"""At most; NNCF's own advice. The ranges of features hardly change with more."""
_PURPOSE = "OpenVINO"
_FIRST_BYTE_OF_ONNX = b"\x08"
"""Of protobuf, in which the version of the format comes first: field 1, a varint."""


def convert(graph: LogitsGraph, description: ExportDescription) -> Any:
    """Returns the `openvino.Model` of a graph, with its shapes and the names of its outputs.

    Raises:
        ConfigError: OpenVINO is not installed.
        UnsupportedBackbone: an operation that OpenVINO cannot express.
    """
    openvino = require("openvino", purpose=_PURPOSE)
    side = description.imgsz
    example = torch.zeros(description.batch or 1, 3, side, side, dtype=torch.uint8)
    size_hw = [-1, -1] if description.any_size else [side, side]  # -1: dynamic
    shape = openvino.PartialShape([description.batch or -1, 3, *size_hw])
    try:
        with quiet(), torch.no_grad():
            model = openvino.convert_model(graph, example_input=example, input=[shape])
    except Exception as problem:  # of whatever kind the converter and the tracer raise
        raise UnsupportedBackbone(
            f"this backbone cannot be converted to OpenVINO ({first_line(problem)}): try "
            "--format onnx"
        ) from None
    model.input(0).set_names({"images"})
    for output, stride in zip(model.outputs, description.strides, strict=True):
        output.set_names({f"logits_{stride}"})
    return model


def add_nms(model: Any, description: ExportDescription) -> Any:
    """Returns the `openvino.Model` of logits followed by decoding and NMS.

    The graph is written as ONNX and read by OpenVINO, so the package onnx is needed, too.
    """
    openvino = require("openvino", purpose=_PURPOSE)
    content = nms_graph(description).SerializeToString()
    behind = openvino_core().read_model(BytesIO(content))
    for parameter, result in zip(behind.get_parameters(), model.get_results(), strict=True):
        parameter.output(0).replace(result.input_value(0))
    joined = openvino.Model(behind.get_results(), model.get_parameters(), "ossa")
    joined.validate_nodes_and_infer_types()
    return joined


def save(model: Any, file: Path, description: ExportDescription) -> None:
    """Writes .xml, with the description, and .bin; the weights in half precision for fp16 only."""
    model.set_rt_info(description.to_json(), [METADATA_KEY])
    require("openvino", purpose=_PURPOSE).save_model(
        model, str(file), compress_to_fp16=description.precision == "fp16"
    )


def read(file: Path) -> tuple[Any, str | None]:
    """Returns the `openvino.Model` of an .xml or .onnx and the description in the file.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file is damaged, or holds an operator that OpenVINO does not know.
    """
    core = openvino_core()
    is_onnx = file.suffix == ".onnx"
    with file.open("rb") as content:
        # OpenVINO's readers would all try such a file, and print.
        if is_onnx and content.read(1) != _FIRST_BYTE_OF_ONNX:
            raise CheckpointError(expected="an ONNX file", found="a damaged one", path=file)
    try:
        weights = () if is_onnx else (str(file.with_suffix(".bin")),)
        model = core.read_model(str(file), *weights)
    except RuntimeError as problem:
        raise unreadable("OpenVINO", problem, path=file) from None
    key = ["framework", METADATA_KEY] if is_onnx else [METADATA_KEY]
    return model, model.get_rt_info(key).value if model.has_rt_info(key) else None


def engine(model: Any, *, precision: Precision, threads: int | None = None) -> Engine:
    """Returns what runs a model on the processor; every thread has its own request.

    Args:
        model: an `openvino.Model`.
        precision: of the computation. That of fp16 is fp32: only the file is half as large.
        threads: OpenVINO's choice if None.

    Raises:
        CheckpointError: OpenVINO cannot run the model.
        ConfigError: the processor cannot compute so.
    """
    core = openvino_core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError("this processor has no bf16 arithmetic: take --precision fp32")
    settings = {
        # One image at a time is to be done soon, not many in a while.
        "PERFORMANCE_HINT": "LATENCY",
        # Left alone, it computes in bf16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        # A thread bound to one core waits for whatever else that core has to do.
        "ENABLE_CPU_PINNING": False,
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }
    try:
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as problem:
        raise unreadable("OpenVINO", problem) from None
    of_thread = threading.local()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        pixels = np.ascontiguousarray(images.numpy())
        # Answers are copied out: the request writes the next ones over its own memory.
        try:
            outputs = of_thread.request.infer([pixels], share_inputs=True, share_outputs=False)
        except RuntimeError as problem:
            raise unreadable("OpenVINO", problem) from None
        return tuple(torch.from_numpy(outputs[port]) for port in compiled.outputs)

    return run


def quantized(model: Any, description: ExportDescription, images: DatasetIndex) -> Any:
    """Returns a model whose convolutions compute in int8.

    Weights are rounded per channel and features per tensor, symmetric where they are of both
    signs, with the fast correction of biases. The last convolution of each level stays in float:
    its outputs are boxes, scores and classes at once, of ranges too different for one step.

    Source: Jacob et al. 2018 (quantisation), Nagel et al. 2019 (correction of biases), as NNCF does
    them.

    Args:
        model: an `openvino.Model` or an `onnx.ModelProto` that returns logits.
        description: how it is fed.
        images: from which the ranges of the features are taken; not those that the AP is taken
            from.

    Raises:
        ConfigError: NNCF is not installed.
        UnsupportedBackbone: NNCF cannot quantise this network.
    """
    with quiet():
        nncf = require("nncf", purpose="--precision int8")
    is_onnx = hasattr(model, "graph")
    if not is_onnx:
        openvino_core()  # before NNCF makes one of its own
    batch = description.batch or 1
    batches = list(range(0, len(images), batch))
    source = LetterboxedDataset(images, imgsz=description.imgsz)

    def fed(first: int) -> dict[Any, NDArray[np.uint8]]:
        positions = np.arange(first, first + batch) % len(source)
        pixels = [source[int(position)][0].image.transpose(2, 0, 1) for position in positions]
        return {"images" if is_onnx else 0: np.stack(pixels)}

    convolutions = _last_onnx_convolutions(model) if is_onnx else _last_convolutions(model)
    try:
        with quiet():
            return nncf.quantize(
                model,
                nncf.Dataset(batches, fed),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=sorted(convolutions)),
            )
    except Exception as problem:  # of whatever kind NNCF raises
        raise UnsupportedBackbone(
            f"this backbone cannot be quantised ({type(problem).__name__}: {first_line(problem)}): "
            "take --precision fp16 or bf16"
        ) from None


def _last_onnx_convolutions(model: Any) -> set[str]:
    """Returns the names of the convolutions nearest to each output."""
    writers = {output: node for node in model.graph.node for output in node.output}
    names, pending = set(), [output.name for output in model.graph.output]
    while pending:
        node = writers.get(pending.pop())  # none writes weights and constants
        if node is not None and node.op_type == "Conv":
            names.add(node.name)
        elif node is not None:
            pending.extend(node.input)
    return names


def _last_convolutions(model: Any) -> set[str]:
    names, pending = set(), [output.get_node() for output in model.outputs]
    while pending:
        node = pending.pop()
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            names.add(node.get_friendly_name())
        else:
            pending.extend(value.get_node() for value in node.input_values())
    return names
