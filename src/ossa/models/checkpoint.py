"""Weights of whole detectors: our checkpoints, and the official YOLOv5 files.

A checkpoint is a safetensors file whose metadata hold the configuration of the model, the class
names and where the weights came from, as JSON, so that nothing else is needed to use it.
"""

import json
import math
import os
import re
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
from typing_extensions import TypedDict  # pydantic takes that of Python itself from 3.12 on

from ossa.backbone_args import MAX_IMGSZ
from ossa.config import ModelConfig, Overlap, Tiles, TileSide
from ossa.errors import CheckpointError, OssaError, legible
from ossa.files import sha256_of, write_atomically
from ossa.models.backbones.catalog import shipped_table
from ossa.models.backbones.pretrained import (
    TensorInfo,
    check_finite,
    check_tensors,
    read_header,
    read_tensors,
)
from ossa.models.backbones.timm import SkipInit, warn_of_other_code
from ossa.models.detector import PRESETS, Detector, build_detector
from ossa.models.yolov5_weights import YOLOV5_STRIDES, read_yolov5
from ossa.schema import Section, validated

EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Files that are exported from a checkpoint: `ossa.export.select` opens them."""
_FORMAT = "ossa-detector-1"
_METADATA_KEY = "ossa"
_OFFICIAL_LICENCE = "AGPL-3.0"
_COCO_IMGSZ = 640
_NO_SOURCES = {"pretrained": False, "backbone_weights": None, "weights": None}
"""In a checkpoint's model: what it once started from is not needed again, and never fetched."""
_MAX_MODEL_TEXT = 64 << 10
_MAX_UNSTORED_BYTES = 512 << 20
"""Memory for what is not in the file: masks and tables of the image size."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole detector as it was saved."""

    model: ModelConfig
    names: tuple[str, ...]
    """K class names."""
    imgsz: int
    """Side of the square input in pixels that it was trained at."""
    tensors: dict[str, Tensor]
    """By our names."""
    origin: dict[str, Any]
    """file, sha256, pretraining, licence: the `initial_weights` of a record."""
    details: dict[str, Any]
    """Whatever else was saved with it: epoch, metrics, the run's configuration."""

    @property
    def best_confidence(self) -> float | None:
        """The confidence of the best F1 on val; None where unknown, as in official files."""
        return (self.details.get("metrics") or {}).get("best_confidence")

    @property
    def tiles(self) -> Tiles | None:
        """Those that it was trained with; None where it saw images whole."""
        train = (self.details.get("run") or {}).get("train") or {}
        if train.get("tiles") is None:
            return None
        given = {"side": train["tiles"], "overlap": train.get("overlap")}
        return Tiles.model_validate({k: v for k, v in given.items() if v is not None})


class _Metrics(TypedDict, total=False):
    best_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] | None


class _Train(TypedDict, total=False):
    tiles: TileSide | None
    overlap: Overlap


class _Run(TypedDict, total=False):
    data: str | None
    train: _Train


class _Details(BaseModel):
    """What is used of `Checkpoint.details`; there may be more."""

    metrics: _Metrics | None = None
    run: _Run | None = None
    pretraining: str | None = None
    licence: str | None = None
    backbone_code: str | None = None


class _Metadata(Section):
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
    """Read a checkpoint of ours, or an official `yolov5*.pt`, without running code of either.

    Raises:
        CheckpointError: missing, damaged, exported, of another program, or unsafe.
    """
    path = Path(path)
    if not os.path.isfile(path):  # which, unlike Path's, takes any text
        advice = ""
        if str(path).removesuffix(".pt") in PRESETS:
            advice = (
                f". Nothing is fetched unasked: 'ossa weights get {path.stem}' shows the licence "
                "of the official file and puts it here"
            )
        refuse_run_folder(path)
        found = f"expected a weights file at {legible(str(path))}, found none{advice}"
        raise CheckpointError(found)
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
    return _read_ours(path) if path.suffix == ".safetensors" else _read_official(path)


def refuse_run_folder(path: Path) -> None:
    """Raise CheckpointError, with the name of the best weights, for the folder of a run."""
    best = path / "best.safetensors"
    if os.path.isfile(best):
        advice = f"name the file in it: {best}"
        raise CheckpointError(
            expected="a weights file", found="the folder of a run", path=path, advice=advice
        )


def refuse_torchscript(path: Path) -> None:
    """Raise CheckpointError for a TorchScript file, whatever its name, before anything is loaded.

    Such a file is a program, and its operators read and write files.
    """
    members: list[str] = []
    unreadable = (OSError, ValueError, NotImplementedError, zipfile.BadZipFile)
    with suppress(*unreadable), zipfile.ZipFile(path) as archive:
        members = [f"/{name.lower()}" for name in archive.namelist()]
    marks = (name.endswith("/constants.pkl") or "/code/" in name for name in members)
    if path.suffix == ".torchscript" or any(marks):
        raise CheckpointError(
            f"expected weights or a graph, found the TorchScript file {path}, which is a program "
            "and is not run: give the checkpoint that it was made of, or an export to ONNX"
        )


def detector_from(checkpoint: Checkpoint) -> Detector:
    """Return the detector of a checkpoint in evaluation mode, built as it was for the training.

    It takes images of other sizes, but windows and position embeddings stay those of the training.

    Raises:
        CheckpointError: its tensors are not those of its model.
    """
    detector = build_detector(
        checkpoint.model, num_classes=len(checkpoint.names), imgsz=checkpoint.imgsz
    )
    _check_fits(detector, _infos(checkpoint.tensors), checkpoint.origin["file"])
    detector.load_state_dict(checkpoint.tensors)
    return detector.eval()


def start_from(
    detector: Detector, checkpoint: Checkpoint, *, backbone_only: bool = False
) -> Adapted:
    """Load a checkpoint into a detector that may have other classes or another image size.

    Where the number of classes differs, what depends on it in the head stays as it was initialised,
    and all of another kind of head does; with `backbone_only` all of neck and head do, and a
    CSPDarknet without SPPF leaves it out. A plain transformer's position embedding is resampled to
    the patches of its new image size.

    Raises:
        CheckpointError: backbone and neck are not those of the checkpoint.
    """
    own, tensors = detector.state_dict(), checkpoint.tensors
    if backbone_only:
        left_out = {key for key in tensors if not re.match(r"backbone\.(?!context\.)", key)}
        kept = {key: own[key] for key in own if not key.startswith("backbone.")}
    else:
        left_out = {
            key
            for key in tensors.keys() & own.keys()
            if key.startswith("head.")
            and key != "head.anchors_wh"
            and own[key].shape != tensors[key].shape
        }
        kept = {key: own[key] for key in left_out}
        ours, theirs = ({k for k in one if k.startswith("head.")} for one in (own, tensors))
        if ours != theirs:
            left_out, kept = theirs, {key: own[key] for key in ours}
    resampled = _resampled_positions(detector, tensors)
    taken = {key: tensor for key, tensor in tensors.items() if key not in left_out}
    taken = taken | kept | resampled
    _check_fits(detector, _infos(taken), checkpoint.origin["file"])
    detector.load_state_dict(taken)
    return Adapted(tuple(sorted(left_out)), tuple(resampled))


def save_checkpoint(
    path: Path,
    detector: Detector,
    *,
    model: ModelConfig,
    names: tuple[str, ...],
    imgsz: int,
    details: dict[str, Any],
) -> None:
    """Write a detector's weights with all that is needed to use them; the file is whole or old.

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


def _check_fits(detector: Detector, infos: Mapping[str, TensorInfo], where: Path | str) -> None:
    what = "does not fit this detector"
    check_tensors(detector.state_dict(), infos, where=str(where), what=what)


def _resampled_positions(detector: Detector, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the position embeddings of another number of patches, resampled as timm does it."""
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
    texts, infos = read_header(str(path))
    if _METADATA_KEY not in texts:
        raise CheckpointError(
            f"{path} is no whole detector of this program; weights of a backbone go to "
            "--backbone-weights"
        )
    metadata, details = _parse_metadata(texts[_METADATA_KEY], path)
    model = metadata.model.model_copy(update=_NO_SOURCES)
    names, imgsz = metadata.names, metadata.imgsz
    _check_detector(model, infos, num_classes=len(names), imgsz=imgsz, where=path)
    warn_of_other_code(model.name, details.get("backbone_code"), where=path)
    tensors = read_tensors(str(path))
    anchors_wh = tensors.get("head.anchors_wh")
    if anchors_wh is not None and not ((anchors_wh > 0) & (anchors_wh <= MAX_IMGSZ)).all():
        raise CheckpointError(
            f"{path}: expected anchors of more than 0 and at most {MAX_IMGSZ:,} pixels, found "
            f"{anchors_wh.min():g} to {anchors_wh.max():g}"
        )
    origin = _origin(path, details.get("pretraining"), details.get("licence"))
    return Checkpoint(model, names, imgsz, tensors, origin, details)


def _parse_metadata(text: str, path: Path) -> tuple[_Metadata, dict[str, Any]]:
    """Return the checked metadata of a checkpoint, and its details as they are."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("they are no dictionary")
        # pydantic lists every fault of a section, whatever their number.
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
        return validated(_Metadata, content, where=f"the metadata of {path}"), content["details"]
    except OssaError as fault:
        raise CheckpointError(str(fault)) from None


def _check_detector(
    model: ModelConfig,
    infos: Mapping[str, TensorInfo],
    *,
    num_classes: int,
    imgsz: int,
    where: Path,
) -> None:
    """Raise CheckpointError unless a file has the tensors of its detector.

    No memory is taken: the detector is built on the meta device, and not even there where the
    file has less than half of the parameters that its architecture is known to have.
    """
    stored = sum(math.prod(info.shape) for info in infos.values())
    row = shipped_table().get(model.name.partition(".")[0])
    if row is not None and (row.params or 0) > 2 * stored:
        raise CheckpointError(
            f"{where} does not fit this detector: its backbone {model.name} has {row.params:,} "
            f"parameters, and the file {stored:,} numbers"
        )
    try:
        with torch.device("meta"), SkipInit():
            detector = build_detector(model, num_classes=num_classes, imgsz=imgsz)
    except OssaError as refusal:
        raise CheckpointError(f"{where} describes no detector: {refusal}") from None
    _check_fits(detector, infos, where)
    taken = sum(tensor.nbytes for tensor in (*detector.parameters(), *detector.buffers()))
    if taken > 8 * stored + _MAX_UNSTORED_BYTES:
        raise CheckpointError(
            f"{where}: its detector for images of {imgsz} pixels takes {taken / 1e9:.1f} GB, "
            f"expected little more than its {stored:,} numbers"
        )


def _infos(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    return {
        key: TensorInfo(tuple(tensor.shape), "F32" if tensor.is_floating_point() else "I64")
        for key, tensor in tensors.items()
    }


def _origin(path: Path, pretraining: str | None, licence: str | None) -> dict[str, Any]:
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "pretraining": pretraining,
        "licence": licence,
    }


def _read_official(path: Path) -> Checkpoint:
    """Return an official YOLOv5 file in our names and in single precision."""
    scale, official = read_yolov5(path)
    model = ModelConfig(name=f"yolov5{scale}", neck="own", strides=YOLOV5_STRIDES)
    classes, infos = len(official.names), _infos(official.tensors)
    # Before they become single precision: tensors that share a storage in the file then do not.
    _check_detector(model, infos, num_classes=classes, imgsz=_COCO_IMGSZ, where=path)
    tensors = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in official.tensors.items()
    }
    check_finite(tensors, where=str(path))
    pretraining = "coco" if classes == 80 else None
    origin = _origin(path, pretraining, official.licence or _OFFICIAL_LICENCE)
    return Checkpoint(model, official.names, _COCO_IMGSZ, tensors, origin, details={})
