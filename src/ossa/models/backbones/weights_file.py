"""Weights of a backbone alone, from a safetensors file, and whether they fit an architecture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from ossa.errors import CheckpointError

_NOT_NETWORK_KEYS = ("classifier", "head", "fc")


@dataclass(frozen=True)
class BackboneWeights:
    """Weights of a backbone with what must travel with them."""

    file: str
    """A safetensors file with timm's key names."""
    mean: tuple[float, ...]
    """(3,) of the input in 0..1."""
    std: tuple[float, ...]
    build_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's constructor that the weights were trained with."""


def read_backbone_weights(
    file: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    build_args: Mapping[str, Any] | None = None,
) -> tuple[BackboneWeights, dict[str, str]]:
    """Returns the weights with their input statistics, and the file's metadata.

    Raises:
        CheckpointError: the file cannot be read, or neither it nor the arguments say which mean
            and deviation its weights were trained with.
    """
    try:
        with safe_open(file, "pt") as archive:
            metadata = archive.metadata() or {}
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"expected a safetensors file at {file}, found none that can be read ({problem})"
        ) from None
    try:
        mean = mean or tuple(json.loads(metadata["mean"]))
        std = std or tuple(json.loads(metadata["std"]))
        arguments = json.loads(metadata.get("model_args", "{}"))
    except KeyError as missing:
        raise CheckpointError(
            f"{file} does not say with which input {missing.args[0]} its weights were trained: "
            "give --backbone-mean and --backbone-std (three numbers each, for pixels in 0..1)"
        ) from None
    except json.JSONDecodeError as problem:
        raise CheckpointError(f"the metadata of {file} is not JSON: {problem}") from None
    if len(mean) != 3 or len(std) != 3:
        raise CheckpointError(f"{file}: expected three means and deviations, found {mean}, {std}")
    if build_args is not None:
        arguments = dict(build_args)
    return BackboneWeights(file, mean, std, arguments), metadata


def check_backbone_weights(name: str, weights: BackboneWeights) -> None:
    """Raises CheckpointError unless the file's keys and shapes are those of the architecture.

    The classifier does not count: it is not part of a detector.
    """
    with torch.device("meta"):
        try:
            expected = timm.create_model(name, **weights.build_args).state_dict()
        except TypeError:
            raise CheckpointError(
                f"{weights.file} was made with the arguments {dict(weights.build_args)}, "
                f"which {name} does not take: it holds the weights of another architecture"
            ) from None
    with safe_open(weights.file, "pt") as archive:
        found = {key: tuple(archive.get_slice(key).get_shape()) for key in archive.keys()}  # noqa: SIM118
    wanted = {key: tuple(value.shape) for key, value in expected.items() if _in_network(key)}
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(key for key in set(found) - set(expected) if _in_network(key))
    misshapen = [key for key in wanted if key in found and found[key] != wanted[key]]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{weights.file} does not hold the weights of {name}: "
            f"{_listed('missing', missing)}; {_listed('unexpected', unexpected)}; "
            f"{_listed('of another shape', misshapen)}"
        )


def _listed(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {what}" + (f" ({shown})" if keys else "")


def _in_network(key: str) -> bool:
    return key.split(".")[0] not in _NOT_NETWORK_KEYS
