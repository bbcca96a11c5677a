"""OpenVINO: conversion, files (.xml beside .bin) and running them.

The OpenVINO Python package is imported in functions only: it is an extra.
"""

import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import LetterboxedDataset
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, legible
from ossa.export.backends import Engine
from ossa.export.graph import (
    METADATA_KEY,
    ExportDescription,
    LogitsGraph,
    Precision,
    first_line,
    openvino_core,
    quiet,
    read_description,
    require,
)
from ossa.export.onnx import nms_graph

PURPOSE = "OpenVINO"
_FIRST_BYTE_OF_ONNX = b"\x08"
"""Of protobuf, in which the version of the format comes first: field 1, a varint."""
_HINT_OF = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}
"""What OpenVINO computes in; left alone it takes bf16 wherever the processor can."""


def convert(graph: LogitsGraph, description: ExportDescription) -> Any:
    """Returns the `openvino.Model` of a graph, with its description and its shapes.

    Raises:
        ConfigError: OpenVINO is not installed.
        UnsupportedBackbone: an operation that OpenVINO cannot express.
    """
    openvino = require("openvino", purpose=PURPOSE)
    side = description.imgsz
    example = torch.zeros(description.batch or 1, 3, side, side, dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            model = openvino.convert_model(
                graph, example_input=example, input=[openvino.PartialShape(shape_of(description))]
            )
    except Exception as problem:  # of whatever kind the converter and the tracer raise
        raise UnsupportedBackbone(
            f"this backbone cannot be converted to OpenVINO ({first_line(problem)}): try "
            "--format onnx"
        ) from None
    return described(name_ports(model, description), description)


def name_ports(model: Any, description: ExportDescription) -> Any:
    """Gives input and outputs the names that the documentation says, and returns the model."""
    model.input(0).set_names({"images"})
    for output, stride in zip(model.outputs, description.strides, strict=True):
        output.set_names({f"logits_{stride}"})
    return model


def add_nms(model: Any, description: ExportDescription) -> Any:
    """Returns the `openvino.Model` of logits followed by decoding and NMS.

    The graph is written as ONNX and read by OpenVINO, so the package onnx is needed, too.
    """
    openvino = require("openvino", purpose=PURPOSE)
    content = nms_graph(description).SerializeToString()
    behind = openvino_core(purpose=PURPOSE).read_model(BytesIO(content))
    for parameter, result in zip(behind.get_parameters(), model.get_results(), strict=True):
        parameter.output(0).replace(result.input_value(0))
    joined = openvino.Model(behind.get_results(), model.get_parameters(), "ossa")
    joined.validate_nodes_and_infer_types()
    return joined


def described(model: Any, description: ExportDescription) -> Any:
    """Returns the model with the description in its rt_info."""
    model.set_rt_info(description.to_json(), [METADATA_KEY])
    return model


def shape_of(description: ExportDescription) -> list[int]:
    """Returns the shape of the input, -1 where it is dynamic."""
    side = -1 if description.any_size else description.imgsz
    return [description.batch or -1, 3, side, side]


def save(model: Any, file: Path, *, precision: Precision) -> None:
    """Writes .xml and .bin; the weights in half precision for fp16 only."""
    require("openvino", purpose=PURPOSE).save_model(
        model, str(file), compress_to_fp16=precision == "fp16"
    )


def read(file: Path) -> tuple[Any, ExportDescription]:
    """Returns the model of an .xml and what it says of itself.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file, or the .bin beside it, is missing, damaged or of another program.
    """
    core = openvino_core(purpose=f"reading {file}")
    weights = file.with_suffix(".bin")
    if not weights.is_file():
        raise CheckpointError(f"expected the weights of {file} at {weights}, found none")
    try:
        model = core.read_model(str(file), str(weights))
    except RuntimeError as problem:
        raise CheckpointError(
            f"{file} is damaged or no OpenVINO file: {first_line(problem)}"
        ) from None
    return model, _description_in(model, [METADATA_KEY], where=str(file))


def read_onnx(file: Path) -> tuple[Any, ExportDescription]:
    """Returns the model of an .onnx and what it says of itself, read by OpenVINO.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: damaged, of another program, or with an operator that it does not know.
    """
    core = openvino_core(purpose="--runtime openvino")
    with file.open("rb") as content:
        if content.read(1) != _FIRST_BYTE_OF_ONNX:  # all of OpenVINO's readers would try, aloud
            raise CheckpointError(f"{file} is damaged or no ONNX file: fetch or export it again")
    try:
        model = core.read_model(str(file))
    except RuntimeError as problem:
        raise CheckpointError(
            f"{file} is damaged or no ONNX file that OpenVINO knows: {first_line(problem)}"
        ) from None
    # Where OpenVINO's reader of ONNX puts the metadata.
    return model, _description_in(model, ["framework", METADATA_KEY], where=str(file))


def _description_in(model: Any, path: list[str], *, where: str) -> ExportDescription:
    text = model.get_rt_info(path).value if model.has_rt_info(path) else None
    return read_description(text, where=where)


def engine(model: Any, *, precision: Precision, threads: int | None = None) -> Engine:
    """Returns what runs a model on the processor; every thread has its own request.

    Args:
        model: an `openvino.Model`.
        precision: of the computation. That of fp16 is fp32: only the file is half as large.
        threads: OpenVINO's choice if None.

    Raises:
        ConfigError: the processor cannot compute so.
    """
    core = openvino_core(purpose=PURPOSE)
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError("this processor has no bf16 arithmetic: take --precision fp32")
    # One picture at a time is to be done soon, not many in a while.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = _HINT_OF[precision]
    # A thread bound to one core waits for whatever else that core has to do.
    settings["ENABLE_CPU_PINNING"] = False
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as problem:
        raise CheckpointError(f"OpenVINO cannot run this file: {first_line(problem)}") from None
    return _Engine(compiled)


class _Engine:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._of_thread = threading.local()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        pixels = np.ascontiguousarray(images.numpy())
        # Answers are copied out: the request writes the next ones over its own memory.
        try:
            outputs = request.infer([pixels], share_inputs=True, share_outputs=False)
        except RuntimeError as problem:
            raise CheckpointError(
                f"OpenVINO cannot run this file: {legible(first_line(problem))}"
            ) from None
        return tuple(torch.from_numpy(outputs[port]) for port in self._compiled.outputs)


CALIBRATION_IMAGES = 300
"""At most; NNCF's own advice. The ranges of features hardly change with more."""


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
    if not hasattr(model, "graph"):
        openvino_core(purpose="--precision int8")  # before NNCF makes one of its own
    batches = list(range(0, len(images), description.batch or 1))
    source = LetterboxedDataset(images, imgsz=description.imgsz)
    name = "images" if hasattr(model, "graph") else 0

    def fed(first: int) -> dict[Any, NDArray[np.uint8]]:
        positions = np.arange(first, first + (description.batch or 1)) % len(source)
        pixels = [source[int(position)][0].image.transpose(2, 0, 1) for position in positions]
        return {name: np.stack(pixels)}

    try:
        with quiet():
            return nncf.quantize(
                model,
                nncf.Dataset(batches, fed),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=sorted(set(_last_convolutions(model)))),
            )
    except Exception as problem:  # of whatever kind NNCF raises
        raise UnsupportedBackbone(
            f"this backbone cannot be quantised ({type(problem).__name__}: {first_line(problem)}): "
            "take --precision fp16 or bf16"
        ) from None


def _last_convolutions(model: Any) -> Iterator[str]:
    """Yields the names of the convolutions nearest to each output."""
    if hasattr(model, "graph"):
        writers = {output: node for node in model.graph.node for output in node.output}
        for output in model.graph.output:
            node = writers[output.name]
            while node.op_type != "Conv":
                node = writers[node.input[0]]
            yield node.name
    else:
        for output in model.outputs:
            node = output.get_node()
            while node.get_type_name() not in ("Convolution", "GroupConvolution"):
                node = node.input_value(0).get_node()
            yield node.get_friendly_name()
