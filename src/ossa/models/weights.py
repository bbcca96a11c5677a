"""Weights of whole detectors: our checkpoints, and the official YOLOv5 files.

A checkpoint is a safetensors file; its metadata hold the configuration of the model, the class
names and where the weights came from, as JSON, so that nothing else is needed to use it.
"""

import json
import math
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.layers import resample_abs_pos_embed  # pyright: ignore[reportPrivateImportUsage]
from timm.models import Eva, VisionTransformer
from torch import Tensor

from ossa.config import ModelConfig
from ossa.errors import CheckpointError
from ossa.files import sha256_of, write_atomically
from ossa.models.backbones.cspdarknet import SCALES
from ossa.models.build import build_detector
from ossa.models.detector import Detector
from ossa.models.safe_pickle import ArchivedCheckpoint, read_torch_archive

EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Of files that are made of a checkpoint and are none themselves: `ossa.export.files`."""
_FORMAT = "ossa-detector-1"
_METADATA_KEY = "ossa"
_OFFICIAL_LICENCE = "AGPL-3.0"
_COCO_IMGSZ = 640

_OFFICIAL_LAYERS = {
    0: "backbone.stem",
    1: "backbone.stages.0.0",
    2: "backbone.stages.0.1",
    3: "backbone.stages.1.0",
    4: "backbone.stages.1.1",
    5: "backbone.stages.2.0",
    6: "backbone.stages.2.1",
    7: "backbone.stages.3.0",
    8: "backbone.stages.3.1",
    9: "backbone.context",
    10: "neck.reduce.1",
    13: "neck.top_down.1",
    14: "neck.reduce.0",
    17: "neck.top_down.0",
    18: "neck.downsample.0",
    20: "neck.bottom_up.0",
    21: "neck.downsample.1",
    23: "neck.bottom_up.1",
}
"""Our name of each numbered layer of YOLOv5 v6/v7."""
_OFFICIAL_HEAD = 24
_C3_PARTS = {"cv1": "enter", "cv2": "bypass", "cv3": "merge", "m": "bottlenecks"}
_SPPF_PARTS = {"cv1": "enter", "cv2": "merge"}
_BOTTLENECK_PARTS = {"cv1": "pointwise", "cv2": "spatial"}


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
    if not path.is_file():
        raise CheckpointError(f"expected a weights file at {path}, found none")
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
    return _from_official(path, read_torch_archive(path))


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
    # The architecture alone: the weights that it once started from are not needed again.
    bare = checkpoint.model.model_copy(
        update={"pretrained": False, "backbone_weights": None, "weights": None}
    )
    detector = build_detector(bare, num_classes=len(checkpoint.names), imgsz=checkpoint.imgsz)
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
        "model": model.model_dump(mode="json"),
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
    own = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    missing = sorted(set(own) - set(tensors))
    unexpected = sorted(set(tensors) - set(own))
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {shape}"
        for key, shape in own.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if missing or unexpected or misshapen:
        faults = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])})"
            for what, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", misshapen),
            )
            if keys
        )
        raise CheckpointError(f"{where} does not fit this detector: {faults}")
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
    try:
        with safe_open(str(path), "pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {problem}") from None
    try:
        description = json.loads(metadata[_METADATA_KEY])
        if description["format"] != _FORMAT:
            raise ValueError(f"format {description['format']!r}, expected {_FORMAT!r}")
        details = description["details"]
        model = ModelConfig.model_validate(description["model"])
        names, imgsz = tuple(description["names"]), int(description["imgsz"])
    except (KeyError, TypeError, ValueError) as fault:
        raise CheckpointError(
            f"{path} is no whole detector of this program ({type(fault).__name__}: {fault}); "
            "weights of a backbone go to --backbone-weights"
        ) from None
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


def _from_official(path: Path, archive: ArchivedCheckpoint) -> Checkpoint:
    """Returns an official YOLOv5 file in our names and in single precision."""
    stem = archive.tensors.get("model.0.conv.weight")
    widths = {scale.channels(64): name for name, scale in SCALES.items()}
    scale = None if stem is None or stem.ndim != 4 else widths.get(stem.shape[0])
    anchors = archive.tensors.get(f"model.{_OFFICIAL_HEAD}.anchors")
    if scale is None or anchors is None or archive.names is None:
        raise CheckpointError(
            f"{path} holds no YOLOv5 v6/v7 detector: expected layers model.0 to model.24 with "
            f"anchors and class names, found {', '.join(sorted(archive.tensors)[:3])}, ..."
        )
    tensors = {
        _our_name(key): tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in archive.tensors.items()
        if not key.startswith(f"model.{_OFFICIAL_HEAD}.anchor")
    }
    strides = (8, 16, 32)
    anchors_wh = anchors.float() * anchors.new_tensor(strides).float().view(3, 1, 1)
    tensors["head.anchors_wh"] = anchors_wh
    for key in ("mean", "std"):
        value = 0.0 if key == "mean" else 1.0
        tensors[f"backbone.normalize.{key}"] = anchors_wh.new_full((1, 3, 1, 1), value)
    return Checkpoint(
        model=ModelConfig(name=f"yolov5{scale}", neck="own", strides=strides),
        names=archive.names,
        imgsz=_COCO_IMGSZ,
        tensors=tensors,
        origin={
            "file": str(path),
            "sha256": sha256_of(path),
            "pretraining": "coco" if len(archive.names) == 80 else None,
            "licence": archive.meta.get("license") or _OFFICIAL_LICENCE,
        },
        details={},
    )


def _our_name(official: str) -> str:
    """Returns our name of an official tensor: model.4.m.0.cv1.bn.bias and the like.

    A name that has no counterpart comes back as it is, and is then reported as unexpected.
    """
    match = re.fullmatch(r"model\.(\d+)\.(.+)", official)
    if match is None:
        return official
    layer, rest = int(match[1]), match[2].split(".")
    if layer == _OFFICIAL_HEAD:
        return ".".join(["head.predict", *rest[1:]])
    if layer not in _OFFICIAL_LAYERS:
        return official
    if rest[0] in _C3_PARTS:
        parts = _SPPF_PARTS if layer == 9 else _C3_PARTS
        rest[0] = parts.get(rest[0], rest[0])
        if rest[0] == "bottlenecks" and len(rest) > 2:
            rest[2] = _BOTTLENECK_PARTS.get(rest[2], rest[2])
    rest = ["norm" if part == "bn" else part for part in rest]
    return ".".join([_OFFICIAL_LAYERS[layer], *rest])
