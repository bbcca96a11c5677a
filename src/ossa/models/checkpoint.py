"""Weights of whole detectors: our checkpoints, and the official YOLOv5 files.

A checkpoint is a safetensors file; its metadata hold the configuration of the model, the class
names and where the weights came from, as JSON, so that nothing else is needed to use it.
"""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field
from safetensors.torch import save
from timm.layers import resample_abs_pos_embed  # pyright: ignore[reportPrivateImportUsage]
from timm.models import Eva, VisionTransformer
from torch import Tensor

from ossa.backbone_args import MAX_IMGSZ
from ossa.config import ModelConfig
from ossa.errors import CheckpointError, OssaError, legible
from ossa.files import sha256_of, write_atomically
from ossa.models.backbones.catalog import shipped_table
from ossa.models.backbones.pretrained import (
    Claim,
    check_claims,
    check_finite,
    read_header,
    read_tensors,
)
from ossa.models.complexity import SkipInit
from ossa.models.detector import Detector, build_detector
from ossa.models.yolov5_weights import YOLOV5_STRIDES, read_yolov5
from ossa.schema import Section, validated

EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Of files that are made of a checkpoint and are none themselves: `ossa.export.select`."""
_FORMAT = "ossa-detector-1"
_METADATA_KEY = "ossa"
_OFFICIAL_LICENCE = "AGPL-3.0"
_COCO_IMGSZ = 640
_NO_SOURCES = {"pretrained": False, "backbone_weights": None, "weights": None}
"""Of a checkpoint's model: what it once started from is not needed again, and never fetched."""
_MAX_MODEL_TEXT = 64 << 10
_UNHELD_BYTES = 512 << 20
"""What a detector may take beside the tensors of its file: masks and tables of its image size."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole detector as it was saved."""

    model: ModelConfig
    names: tuple[str, ...]
    """K class names."""
    imgsz: int
    """Side of the square input in pixels that it was trained at."""
    tensors: dict[str, Tensor]
    """In our names."""
    origin: dict[str, Any]
    """file, sha256, pretraining, licence: what a record says of initial weights."""
    details: dict[str, Any]
    """Whatever else was saved with it: epoch, metrics, the run's configuration."""

    @property
    def best_confidence(self) -> float | None:
        """The confidence of the best F1 on val; None where unknown, as in official files."""
        return (self.details.get("metrics") or {}).get("best_confidence")


class _Metrics(BaseModel):
    best_confidence: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, strict=True
    )


class _Run(BaseModel):
    data: str | None = None


class _Details(BaseModel):
    """Of `Checkpoint.details` what is used; there may be more."""

    metrics: _Metrics | None = None
    run: _Run | None = None
    pretraining: str | None = None
    licence: str | None = None


class _Description(Section):
    """The metadata of a checkpoint, as `save_checkpoint` writes them."""

    format: str
    model: ModelConfig
    names: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(min_length=1, fail_fast=True)
    imgsz: int = Field(ge=32, le=MAX_IMGSZ)
    details: _Details


class Adapted(NamedTuple):
    """The tensors of a checkpoint, by name, that a detector did not take as they are."""

    left_out: tuple[str, ...]
    resampled: tuple[str, ...]


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a checkpoint of ours, or an official `yolov5*.pt`, without running code of either.

    Raises:
        CheckpointError: missing, damaged, exported, of another program, or unsafe.
    """
    path = Path(path)
    if not os.path.isfile(path):  # which, unlike Path's, takes any text
        raise CheckpointError(f"expected a weights file at {legible(str(path))}, found none")
    refuse_torchscript(path)
    if path.suffix in EXPORTED_SUFFIXES:
        raise CheckpointError(
            f"expected a checkpoint, found the exported file {path}: give the checkpoint that it "
            "was made of"
        )
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise CheckpointError(
            f"expected a detector, found {path}, the weights of an OpenVINO file: give "
            f"{path.with_suffix('.xml')}"
        )
    if path.suffix == ".safetensors":
        return _read_ours(path)
    return _from_official(path)


def refuse_torchscript(path: Path) -> None:
    """Raises CheckpointError for a TorchScript file, whatever its name, before anything is loaded.

    Such a file is a program, and its operators read and write files.
    """
    is_script = path.suffix == ".torchscript"
    with suppress(OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [name.lower() for name in archive.namelist()]
            is_script |= any(
                name.endswith("/constants.pkl") or "/code/" in f"/{name}" for name in members
            )
    if is_script:
        raise CheckpointError(
            f"expected weights or a graph, found the TorchScript file {path}, which is a program "
            "and is not run: give the checkpoint that it was made of, or an export to ONNX"
        )


def detector_from(checkpoint: Checkpoint) -> Detector:
    """Returns the detector of a checkpoint in evaluation mode, built as it was for the training.

    Images of other sizes may come, but windows and position embeddings stay those of the training.

    Raises:
        CheckpointError: its tensors are not those of its model.
    """
    detector = build_detector(
        checkpoint.model, num_classes=len(checkpoint.names), imgsz=checkpoint.imgsz
    )
    load_tensors(detector, checkpoint.tensors, where=checkpoint.origin["file"])
    return detector.eval()


def start_from(detector: Detector, checkpoint: Checkpoint) -> Adapted:
    """Loads a checkpoint into a detector that may have other classes or another image size.

    Where the number of classes differs the head's predictions stay as they were initialised. A
    plain transformer's position embedding is resampled to the patches of its new image size.

    Raises:
        CheckpointError: backbone and neck are not those of the checkpoint.
    """
    own = detector.state_dict()
    fitting = {
        key: tensor
        for key, tensor in checkpoint.tensors.items()
        if not key.startswith("head.predict.") or own.get(key, tensor).shape == tensor.shape
    }
    left_out = tuple(sorted(set(checkpoint.tensors) - set(fitting)))
    kept = {key: own[key] for key in left_out}
    resampled = _resampled_positions(detector, checkpoint.tensors)
    load_tensors(detector, {**fitting, **kept, **resampled}, where=checkpoint.origin["file"])
    return Adapted(left_out, tuple(resampled))


def save_checkpoint(
    path: Path,
    detector: Detector,
    *,
    model: ModelConfig,
    names: tuple[str, ...],
    imgsz: int,
    details: dict[str, Any],
) -> None:
    """Writes a detector's weights with all that is needed to use them; the file is whole or old.

    Raises:
        CheckpointError: the file cannot be written (a full disk, say); what was there remains.
    """
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in detector.state_dict().items()
    }
    description = {
        "format": _FORMAT,
        "model": model.model_copy(update=_NO_SOURCES).model_dump(mode="json"),
        "names": names,
        "imgsz": imgsz,
        "details": details,
    }
    # One entry, since safetensors writes several in any order: equal runs give equal files.
    write_atomically(path, save(tensors, {_METADATA_KEY: json.dumps(description)}))


def load_tensors(detector: Detector, tensors: dict[str, Tensor], *, where: str) -> None:
    """Loads every tensor of a detector; all must be there and fit.

    Raises:
        CheckpointError: listing the first that are missing, unexpected or of another shape.
    """
    claims = {key: _claim(tensor) for key, tensor in tensors.items()}
    check_claims(detector.state_dict(), claims, where=where, what="does not fit this detector")
    detector.load_state_dict(tensors)


def _resampled_positions(detector: Detector, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the position embeddings that are those of another number of patches, resampled.

    As timm resamples them when such a network sees images of another size than its own.
    """
    resampled = {}
    for name, module in detector.named_modules():
        key = f"{name}.pos_embed"
        if not isinstance(module, VisionTransformer | Eva) or key not in tensors:
            continue
        own, theirs = detector.state_dict()[key], tensors[key]  # (1, prefix + patches, channels)
        prefix = 0 if module.no_embed_class else module.num_prefix_tokens
        side = math.isqrt(theirs.shape[1] - prefix)
        if theirs.shape != own.shape and theirs.shape == (1, prefix + side * side, own.shape[2]):
            grid = list(module.patch_embed.grid_size)
            resampled[key] = resample_abs_pos_embed(theirs, grid, num_prefix_tokens=prefix)
    return resampled


def _read_ours(path: Path) -> Checkpoint:
    metadata, claims = read_header(str(path))
    if _METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} is no whole detector of this program; weights of a backbone go to "
            "--backbone-weights"
        )
    description, details = _described(metadata[_METADATA_KEY], path)
    model = description.model.model_copy(update=_NO_SOURCES)
    names, imgsz = description.names, description.imgsz
    _check_detector(model, claims, num_classes=len(names), imgsz=imgsz, where=path)
    tensors = read_tensors(str(path))
    anchors_wh = tensors["head.anchors_wh"]
    if not ((anchors_wh > 0) & (anchors_wh <= MAX_IMGSZ)).all():
        raise CheckpointError(
            f"{path}: expected anchors of more than 0 and at most {MAX_IMGSZ:,} pixels, found "
            f"{anchors_wh.min():g} to {anchors_wh.max():g}"
        )
    return Checkpoint(
        model=model,
        names=names,
        imgsz=imgsz,
        tensors=tensors,
        origin={
            "file": str(path),
            "sha256": sha256_of(path),
            "pretraining": details.get("pretraining"),
            "licence": details.get("licence"),
        },
        details=details,
    )


def _described(text: str, path: Path) -> tuple[_Description, dict[str, Any]]:
    """Returns the checked metadata of a checkpoint, and its details as they are."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("they are no dictionary")
        # Every fault of a section is written down before the first is told.
        if len(json.dumps(content.get("model"))) > _MAX_MODEL_TEXT:
            raise ValueError("they describe a model in more than 64 KiB")
    except (ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{path}: expected metadata of a detector in JSON, found others: {legible(str(fault))}"
        ) from None
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: expected a detector of the format {_FORMAT}, found "
            f"{legible(repr(content.get('format')))}: read it with the version that wrote it"
        )
    try:
        return validated(_Description, content, where=f"the metadata of {path}"), content["details"]
    except OssaError as fault:
        raise CheckpointError(str(fault)) from None


def _check_detector(
    model: ModelConfig,
    claims: Mapping[str, Claim],
    *,
    num_classes: int,
    imgsz: int,
    where: Path,
) -> None:
    """Raises CheckpointError unless a file claims the tensors of its detector.

    Nothing takes memory: the detector is built on the meta device, and not even there where the
    file claims less than half of the parameters that its architecture is known to have.
    """
    held = sum(math.prod(claim.shape) for claim in claims.values())
    row = shipped_table().get(model.name.partition(".")[0])
    if row is not None and (row.params or 0) > 2 * held:
        raise CheckpointError(
            f"{where} does not fit this detector: its backbone {model.name} has {row.params:,} "
            f"parameters, and the file {held:,} numbers"
        )
    try:
        with torch.device("meta"), SkipInit():
            detector = build_detector(model, num_classes=num_classes, imgsz=imgsz)
    except OssaError as refusal:
        raise CheckpointError(f"{where} describes no detector: {refusal}") from None
    check_claims(detector.state_dict(), claims, where=str(where), what="does not fit this detector")
    taken = sum(tensor.nbytes for tensor in (*detector.parameters(), *detector.buffers()))
    if taken > 8 * held + _UNHELD_BYTES:
        raise CheckpointError(
            f"{where}: its detector for images of {imgsz} pixels takes {taken / 1e9:.1f} GB, "
            f"expected little more than its {held:,} numbers"
        )


def _claim(tensor: Tensor) -> Claim:
    return Claim(tuple(tensor.shape), "F32" if tensor.is_floating_point() else "I64")


def _from_official(path: Path) -> Checkpoint:
    """Returns an official YOLOv5 file in our names and in single precision."""
    official = read_yolov5(path)
    model = ModelConfig(name=f"yolov5{official.scale}", neck="own", strides=YOLOV5_STRIDES)
    # Before they become single precision: tensors that share their numbers in the file then do not.
    claims = {key: _claim(tensor) for key, tensor in official.tensors.items()}
    classes = len(official.names)
    _check_detector(model, claims, num_classes=classes, imgsz=_COCO_IMGSZ, where=path)
    tensors = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in official.tensors.items()
    }
    check_finite(tensors, where=str(path))
    return Checkpoint(
        model=model,
        names=official.names,
        imgsz=_COCO_IMGSZ,
        tensors=tensors,
        origin={
            "file": str(path),
            "sha256": sha256_of(path),
            "pretraining": "coco" if classes == 80 else None,
            "licence": official.licence or _OFFICIAL_LICENCE,
        },
        details={},
    )
