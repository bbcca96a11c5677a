"""From which weights the models of a study start, and which data these have seen.

Weights that have seen other data are another treatment: they belong to another study, or the study
says so. Every name is resolved to an explicit tag of timm, for a tag's default hides its data
(`convnext_tiny` alone means `in12k_ft_in1k`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossa.errors import ConfigError
from ossa.models.backbones.pretrained import PretrainedTag, pretrained_tags
from ossa.models.backbones.weights_file import read_backbone_weights
from ossa.models.presets import cspdarknet_scale, preset_scale
from ossa.models.weights import read_checkpoint
from ossa.recipes import file_below
from ossa.study.config import NO_WEIGHTS, StudyConfig

POLICIES: Mapping[str, tuple[str, ...]] = {
    "imagenet-1k": ("in1k",),
    "imagenet-12k": ("in12k",),
    "imagenet-22k": ("in22k", "in21k", "inw21k"),
}
"""The first data that the weights were trained on; fine-tuning on ImageNet-1k may follow."""


@dataclass(frozen=True)
class InitialWeights:
    """What one model starts from."""

    policy: str
    """`none`, `imagenet-1k`, ..., `coco`; the word of the tag where no policy has a name for it."""
    source: str
    """`none`, timm's full name with the tag, or a file."""
    licence: str | None
    model_settings: Mapping[str, Any]
    """For `ModelConfig`."""


def initial_weights(study: StudyConfig, *, folder: Path) -> dict[str, InitialWeights]:
    """Returns what every model starts from.

    Args:
        study: names a policy for all, or weights for each.
        folder: of the study's file; the weights that it names lie in it or below.

    Raises:
        ConfigError: an unknown policy or tag, a model without weights of the policy, or different
            policies that the study does not declare.
        CheckpointError: a file that does not say what it is.
    """
    asked = study.initial_weights
    if isinstance(asked, str) and asked != NO_WEIGHTS and asked not in POLICIES:
        raise ConfigError(
            f"initial_weights: expected one of {', '.join([NO_WEIGHTS, *POLICIES])}, or a tag or "
            f"file for each model, found {asked!r}"
        )
    found = {
        model: _by_policy(model, asked)
        if isinstance(asked, str)
        else _by_name(model, asked.get(model, NO_WEIGHTS), folder)
        for model in study.models
    }
    policies = {weights.policy for weights in found.values()}
    if len(policies) > 1 and not study.mixed_initial_weights:
        told = ", ".join(f"{model} {weights.policy}" for model, weights in found.items())
        raise ConfigError(
            f"initial_weights: the models start from weights of different data ({told}), so a "
            "difference between them is not that of the backbones: choose the same for all, "
            "or declare it with 'mixed_initial_weights: true'"
        )
    return found


def _by_policy(model: str, policy: str) -> InitialWeights:
    if policy == NO_WEIGHTS:
        return InitialWeights(NO_WEIGHTS, NO_WEIGHTS, None, {})
    architecture, _, wanted = model.partition(".")
    tags = [
        tag
        for tag in pretrained_tags().get(architecture, [])
        if _policy_of(tag) == policy and wanted in ("", tag.tag)
    ]
    if not tags:
        others = [tag.tag for tag in pretrained_tags().get(architecture, [])]
        has = f"; timm has {', '.join(others)}" if others else "; it has no weights in timm"
        raise ConfigError(
            f"initial_weights: {model} has no weights of the policy {policy}{has}: leave the model "
            "out, or choose another policy"
        )
    # Weights that saw no other data behind the policy's come first.
    return _of_tag(architecture, min(tags, key=lambda tag: len(tag.data)))


def _by_name(model: str, name: str, folder: Path) -> InitialWeights:
    """Returns the weights that a study names for one model: `none`, a tag or a file."""
    if name == NO_WEIGHTS or name in POLICIES:
        return _by_policy(model, name)
    if name.endswith((".safetensors", ".pt")):
        where = f"initial_weights.{model}"
        return _of_file(model, file_below(folder, name, where=where))
    architecture = model.partition(".")[0]
    tags = {tag.tag: tag for tag in pretrained_tags().get(architecture, [])}
    if name.removeprefix(f"{architecture}.") not in tags:
        known = ", ".join(tags) or "none"
        raise ConfigError(
            f"initial_weights.{model}: expected '{NO_WEIGHTS}', a policy, a .safetensors or .pt "
            f"file or a tag of timm ({known}), found {name!r}"
        )
    return _of_tag(architecture, tags[name.removeprefix(f"{architecture}.")])


def _of_tag(architecture: str, tag: PretrainedTag) -> InitialWeights:
    name = f"{architecture}.{tag.tag}"
    settings = {"name": name, "pretrained": True}
    return InitialWeights(_policy_of(tag), name, tag.licence, settings)


def _policy_of(tag: PretrainedTag) -> str:
    first = tag.data[0] if tag.data else tag.tag
    return next((policy for policy, names in POLICIES.items() if first in names), first)


def _of_file(model: str, file: Path) -> InitialWeights:
    """Returns the weights of a file: of a whole detector for CSPDarknet, else of a backbone."""
    if not os.path.isfile(file):
        raise ConfigError(f"initial_weights.{model}: expected a file at {file}, found none")
    if preset_scale(model) is not None or cspdarknet_scale(model) is not None:
        origin = read_checkpoint(file).origin
        data = origin["pretraining"] or "unknown"
        return InitialWeights(data, str(file), origin["licence"], {"weights": str(file)})
    _, metadata = read_backbone_weights(str(file))
    data = metadata.get("pretraining", "unknown").lower()
    settings = {"backbone_weights": str(file)}
    return InitialWeights(data, str(file), metadata.get("license"), settings)
