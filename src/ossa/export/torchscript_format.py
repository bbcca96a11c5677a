"""TorchScript: conversion, files and running them.

A TorchScript file is a program in a language without files, network or imports, but PyTorch's own
operators include some that read and write files, and the C++ that reads the archive is not
hardened. So before `torch.jit.load` sees a file its description must be ours, and its source, which
lies in the archive as text, must not name any such operator. That stops accidents and known tricks;
it is no proof: run files of people you trust.
"""

import io
import json
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ossa.errors import CheckpointError, UnsupportedBackbone
from ossa.export.description import ExportDescription, Precision, read_description
from ossa.export.extras import first_line, quiet
from ossa.export.runtimes import Engine
from ossa.files import write_atomically

DESCRIPTION_FILE = "ossa.json"
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_FORBIDDEN = re.compile(
    r"\b(?:from_file|save|load|_load_for_executor|import_|system|open|exec|eval|print|warn)\s*\("
    r"|\bops\.(?!(?:torchvision\.nms|prim|aten)\b)\w+|\btorch\.classes\b|__torch__\.torch\.classes"
)
"""Operators that reach out of the computation, and operators and classes of other libraries."""
_MOST_SOURCE = 64 * 2**20
"""Bytes of program text that are read; a large network's have a hundredth of it."""


def convert(graph: nn.Module, description: ExportDescription) -> torch.jit.ScriptModule:
    """Returns the traced graph.

    Raises:
        UnsupportedBackbone: it cannot be traced.
    """
    side = description.imgsz
    images = torch.zeros(description.batch or 1, 3, side, side, dtype=torch.uint8)
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(graph.eval(), images, check_trace=False)
    except Exception as problem:  # of whatever kind the tracer raises
        raise UnsupportedBackbone(
            f"this backbone cannot be traced to TorchScript ({first_line(problem)}): try "
            "--format onnx"
        ) from None
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def save(module: torch.jit.ScriptModule, description: ExportDescription, file: Path) -> None:
    """Writes a .torchscript with the description beside the program."""
    with quiet():
        extra = {DESCRIPTION_FILE: description.to_json()}
        buffer = io.BytesIO()
        torch.jit.save(module, buffer, _extra_files=extra)
    write_atomically(file, buffer.getvalue())


def read(
    file: Path, *, device: torch.device | str = "cpu"
) -> tuple[torch.jit.ScriptModule, ExportDescription]:
    """Returns the program of a file and what it says of itself.

    Raises:
        CheckpointError: missing, damaged, of another program, or with operators that a detector
            has no use for.
    """
    content = file.read_bytes()
    description = read_description(_screened(content, where=str(file)), where=str(file))
    try:
        with quiet():
            module = torch.jit.load(io.BytesIO(content), map_location=device)
    except Exception as problem:  # RuntimeError and others, by what is broken
        raise CheckpointError(
            f"{file} is damaged or no TorchScript file: {first_line(problem)}"
        ) from None
    return module.eval(), description


def engine(module: torch.jit.ScriptModule) -> Engine:
    """Returns what runs a program, which threads may share."""

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return tuple(module(images))

    return run


def _screened(content: bytes, *, where: str) -> str | None:
    """Returns the description in an archive, once nothing in its source is forbidden."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise CheckpointError(
                    f"{where} holds two entries of one name: it was tampered with"
                )
            sources = [entry for entry in entries if "/code/" in entry.filename]
            told = [name for name in names if name.endswith(f"/extra/{DESCRIPTION_FILE}")]
            if sum(entry.file_size for entry in sources) > _MOST_SOURCE or len(told) != 1:
                return None
            for entry in sources:
                _refuse_forbidden(archive.read(entry), where=where)
            return archive.read(told[0]).decode()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise CheckpointError(
            f"{where} is damaged or no TorchScript file: {first_line(problem)}"
        ) from None


def _refuse_forbidden(source: bytes, *, where: str) -> None:
    found = _FORBIDDEN.search(source.decode(errors="replace"))
    if found is not None:
        raise CheckpointError(
            f"{where} uses {json.dumps(found[0])}, which no detector of ossa does: it is not run"
        )
