"""int8 by post-training quantisation, calibrated on images of the user's own data set."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.batches.dataset import LetterboxedDataset
from ossa.data.index import DatasetIndex
from ossa.errors import UnsupportedBackbone
from ossa.export.description import ExportDescription
from ossa.export.extras import first_line, openvino_core, quiet, require

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
