"""ONNX: conversion, files and running them in ONNX Runtime.

The packages onnx, onnxscript and onnxruntime are imported in functions only: they are an extra.
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
