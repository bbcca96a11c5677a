"""The initial weights of the models of a study: none, weights of timm, or files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossa.errors import ConfigError
from ossa.models.backbones.cspdarknet import cspdarknet_scale
from ossa.models.backbones.pretrained import PretrainedTag, pretrained_tags, read_backbone_weights
from ossa.models.checkpoint import read_checkpoint
from ossa.models.detector import PRESETS
from ossa.recipes import file_below
from ossa.study.config import NO_WEIGHTS, StudyConfig

PRETRAINING_SOURCES: Mapping[str, tuple[str, ...]] = {
    "imagenet-1k": ("in1k",),
    "imagenet-12k": ("in12k",),
    "imagenet-22k": ("in22k", "in21k", "inw21k"),
}
"""First training data of weights by source; they may be fine-tuned on ImageNet-1k afterwards."""


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of one model."""

    pretraining: str
    """`none`, a pretraining source or `coco`; for other data, the first word of the tag."""
    source: str
    """`none`, timm's full name with the tag, or a file."""
    licence: str | None
    model_settings: Mapping[str, Any]
    """Settings for `ModelConfig`."""


def initial_weights(study: StudyConfig, *, folder: Path) -> dict[str, InitialWeights]:
    """Returns the initial weights of every model.

    Args:
        study: has a pretraining source for all models, or weights for each.
        folder: the folder of the study's file; its weights are in it or below it.

    Raises:
        ConfigError: a source or tag is unknown, a model has no weights of the source, or sources
            differ without being declared.
        CheckpointError: a file has no description of its weights.
    """
    asked = study.initial_weights
    if isinstance(asked, str) and asked not in (NO_WEIGHTS, *PRETRAINING_SOURCES):
        raise ConfigError(
            f"initial_weights: expected one of {', '.join([NO_WEIGHTS, *PRETRAINING_SOURCES])}, or "
            f"a tag or file for each model, found {asked!r}"
        )
    names = asked if isinstance(asked, dict) else dict.fromkeys(study.models, asked)
    weights = {
        model: _weights_of(model, names.get(model, NO_WEIGHTS), folder) for model in study.models
    }
    sources = {initial.pretraining for initial in weights.values()}
    if len(sources) > 1 and not study.mixed_initial_weights:
        each = ", ".join(f"{model} {initial.pretraining}" for model, initial in weights.items())
        raise ConfigError(
            f"initial_weights: the models start from weights of different data ({each}), so a "
            "difference between them is not due to the backbones alone: choose the same for all, "
            "or declare it with 'mixed_initial_weights: true'"
        )
    return weights


def _weights_of(model: str, name: str, folder: Path) -> InitialWeights:
    """Returns the initial weights of a model from their name in the study."""
    if name == NO_WEIGHTS:
        return InitialWeights(NO_WEIGHTS, NO_WEIGHTS, None, {})
    if name.endswith((".safetensors", ".pt")):
        return _of_file(model, file_below(folder, name, where=f"initial_weights.{model}"))
    architecture, _, wanted = model.partition(".")
    tags = {tag.tag: tag for tag in pretrained_tags().get(architecture, [])}
    if name in PRETRAINING_SOURCES:
        usable = [
            tag for tag in tags.values() if _pretraining_of(tag) == name and wanted in ("", tag.tag)
        ]
        if not usable:
            has = f"; timm has {', '.join(tags)}" if tags else "; it has no weights in timm"
            raise ConfigError(
                f"initial_weights: {model} has no weights pretrained on {name}{has}: leave the "
                "model out, or choose another source"
            )
        # Prefer weights that were not fine-tuned on other data.
        return _of_tag(architecture, min(usable, key=lambda tag: len(tag.data)))
    tag = tags.get(name.removeprefix(f"{architecture}."))
    if tag is None:
        raise ConfigError(
            f"initial_weights.{model}: expected '{NO_WEIGHTS}', a pretraining source, a "
            f".safetensors or .pt file or a tag of timm ({', '.join(tags) or 'none'}), found "
            f"{name!r}"
        )
    return _of_tag(architecture, tag)


def _of_tag(architecture: str, tag: PretrainedTag) -> InitialWeights:
    name = f"{architecture}.{tag.tag}"
    settings = {"name": name, "pretrained": True}
    return InitialWeights(_pretraining_of(tag), name, tag.licence, settings)


def _pretraining_of(tag: PretrainedTag) -> str:
    first = tag.data[0] if tag.data else tag.tag
    return next((name for name, data in PRETRAINING_SOURCES.items() if first in data), first)


def _of_file(model: str, file: Path) -> InitialWeights:
    """Returns the weights in a file: a whole detector for CSPDarknet, else a backbone."""
    if not os.path.isfile(file):
        raise ConfigError(expected=f"a file for initial_weights.{model}", path=file)
    if model in PRESETS or cspdarknet_scale(model) is not None:
        origin = read_checkpoint(file).origin
        data = origin["pretraining"] or "unknown"
        return InitialWeights(data, str(file), origin["licence"], {"weights": str(file)})
    _, metadata = read_backbone_weights(str(file))
    data = metadata.get("pretraining", "unknown").lower()
    settings = {"backbone_weights": str(file)}
    return InitialWeights(data, str(file), metadata.get("license"), settings)
