"""Pretrained weights of backbones: timm's tags (licence, data, input), and safetensors files."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import timm
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ossa.backbone_args import BackboneArgs, Numbers3, PositiveNumbers3
from ossa.errors import CheckpointError, ConfigError, legible
from ossa.schema import Section, validated

COMMERCIAL_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"})
"""They allow everybody commercial use; a maker's own (`gemma`) may do so on conditions."""

_DATA = re.compile(
    r"""(?<![^_])(
    in1k | in12k | in21k | in22k | inw21k          # ImageNet, its parts and its winter edition
    | jft | ig1b | yfcc15m | yfcc100m | cc12m | bamboo
    | laion2b | laion400m | laiona | openai | webli | datacomp1b | datacompxl
    | dfn2b | dfn5b | dfndr2b | merged2b | m30m | m38m
    | metaclip2?_(?:400m | 2pt5b | worldwide | altogether)
    | lvd142m | lvd1689m | sat493m | sa1b
    )(?![^_])""",
    re.VERBOSE,
)
"""The words of timm's tags that name data."""


@dataclass(frozen=True)
class PretrainedTag:
    """One set of weights that timm has for an architecture."""

    tag: str
    """Behind the dot of the model's name: `fb_in22k_ft_in1k`."""
    licence: str | None
    """As timm writes it; None where it does not know."""
    data: tuple[str, ...]
    """Data sets it was trained on, first to last, as far as the tag tells."""
    input_size: tuple[int, int]
    """Height and width in pixels of the images it was trained on."""
    mean: tuple[float, ...]
    """(3,) of the input in 0..1."""
    std: tuple[float, ...]
    """(3,) of the input in 0..1."""

    @property
    def commercial(self) -> bool:
        return self.licence in COMMERCIAL_LICENCES

    def flat(self) -> dict[str, Any]:
        """Return plain keys; what is undefined is None."""
        return {
            "tag": self.tag,
            "licence": self.licence,
            "commercial": self.commercial,
            "data": list(self.data) or None,
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
        }


def pretrained_tags() -> Mapping[str, list[PretrainedTag]]:
    """Return the tags of every architecture that has any, in timm's order; nothing is fetched."""
    tags: dict[str, list[PretrainedTag]] = {}
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        config = timm.get_pretrained_cfg(name)
        assert config is not None
        found = PretrainedTag(
            tag,
            licence=None if config.license == "unknown" else config.license,
            data=pretraining_data(tag),
            input_size=config.input_size[1:],
            mean=tuple(config.mean),
            std=tuple(config.std),
        )
        tags.setdefault(architecture, []).append(found)
    return tags


def pretraining_data(tag: str) -> tuple[str, ...]:
    """Return the data sets that a tag names, in timm's words: in22k, in1k for `fb_in22k_ft_in1k`.

    Empty where the tag names none (`mae`, `seer`).
    """
    return tuple(dict.fromkeys(_DATA.findall(tag)))


_MAX_HEADER_BYTES = 8 << 20
"""Names and shapes of the largest timm models take a twentieth of it."""
_FLOATING = ("F16", "BF16", "F32", "F64")
_INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")
_CLASSIFIER_KEYS = ("classifier", "head", "fc")


class TensorInfo(NamedTuple):
    """What the header of a file says of one of its tensors."""

    shape: tuple[int, ...]
    dtype: str
    """Of safetensors: F32, I64 and the like."""


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


class _Metadata(Section):
    """The metadata of a file of a backbone's weights, each parsed from JSON."""

    mean: Numbers3 | None = None
    std: PositiveNumbers3 | None = None
    model_args: BackboneArgs = Field(default_factory=BackboneArgs)


def read_header(file: str) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Return the metadata of a safetensors file, and shape and dtype of its tensors by name.

    Raises:
        CheckpointError: no such regular file, or none that is whole and of that format.
    """
    if not os.path.isfile(file):
        raise CheckpointError(f"expected a safetensors file at {file}, found none")
    try:
        with open(file, "rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
        if header_bytes > min(_MAX_HEADER_BYTES, os.path.getsize(file)):
            raise ValueError(
                f"its header claims {header_bytes:,} bytes, more than the file has or than "
                f"{_MAX_HEADER_BYTES:,}"
            )
        with safe_open(file, "pt") as archive:
            infos = {}
            for key in archive.keys():  # noqa: SIM118
                part = archive.get_slice(key)
                infos[key] = TensorInfo(tuple(part.get_shape()), part.get_dtype())
            return archive.metadata() or {}, infos
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(
            f"expected a safetensors file at {file}, found one that is damaged or no safetensors "
            f"file: {legible(str(problem))}"
        ) from None


def read_tensors(file: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file whose header was checked.

    Raises:
        CheckpointError: numbers among them that are not finite.
    """
    with safe_open(file, "pt") as archive:
        tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    check_finite(tensors, where=file)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Raise CheckpointError for a tensor that holds infinity or NaN."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{where}: expected finite weights, found others in {legible(name)}: its training "
                "diverged, or the file is damaged"
            )


def check_tensors(
    expected: Mapping[str, Tensor], infos: Mapping[str, TensorInfo], *, where: str, what: str
) -> None:
    """Raise CheckpointError unless a file has the expected tensors and no others.

    `expected` is a state dict, which may lie on the meta device. The sentence begins with the file,
    `where`, and `what`: "does not fit this detector".
    """
    faults: dict[str, list[str]] = {
        "missing": sorted(expected.keys() - infos.keys()),
        "unexpected": [legible(key) for key in sorted(infos.keys() - expected.keys())],
        "of another shape": [],
        "of another type": [],
    }
    for key in (key for key in expected if key in infos):
        (shape, dtype), tensor = infos[key], expected[key]
        if shape != tensor.shape:
            found = f"{key} {legible(str(shape))} instead of {tuple(tensor.shape)}"
            faults["of another shape"].append(found)
        if dtype not in (_FLOATING if tensor.is_floating_point() else _INTEGERS):
            faults["of another type"].append(f"{key} {legible(dtype)}")
    listed = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for fault, keys in faults.items()
        if keys
    ]
    if listed:
        raise CheckpointError(f"{where} {what}: {'; '.join(listed)}")


def read_backbone_weights(
    file: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    build_args: Mapping[str, Any] | None = None,
) -> tuple[BackboneWeights, dict[str, str]]:
    """Return the weights with their input statistics, and the file's metadata.

    Raises:
        CheckpointError: the file cannot be read, or neither it nor the arguments say which mean
            and standard deviation its weights were trained with.
    """
    if not file.endswith(".safetensors"):
        raise CheckpointError(
            f"expected a .safetensors file with a backbone's weights, found {file}"
        )
    metadata, _ = read_header(file)
    try:
        parsed = {
            key: json.loads(metadata[key]) for key in _Metadata.model_fields if key in metadata
        }
        stated = validated(_Metadata, parsed, where=f"the metadata of {file}")
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(
            f"the metadata of {file} is not JSON: {legible(str(problem))}"
        ) from None
    except ConfigError as problem:
        raise CheckpointError(str(problem)) from None
    mean, std = mean or stated.mean, std or stated.std
    if mean is None or std is None:
        raise CheckpointError(
            f"{file} does not say with which input {'std' if mean else 'mean'} its weights were "
            "trained: give --backbone-mean and --backbone-std (three numbers each, for pixels in "
            "0..1)"
        )
    arguments = dict(stated.model_args if build_args is None else build_args)
    return BackboneWeights(file, mean, std, arguments), metadata


def check_backbone_weights(name: str, weights: BackboneWeights) -> None:
    """Raise CheckpointError unless the file's keys and shapes are those of the architecture.

    The classifier does not count: it is not part of a detector.
    """
    try:
        with torch.device("meta"):
            state = timm.create_model(name, **weights.build_args).state_dict()
    except Exception as problem:  # a thousand models fail in as many ways
        raise CheckpointError(
            f"{weights.file} was made with the arguments {dict(weights.build_args)}, which {name} "
            f"does not take ({legible(str(problem))}): it holds the weights of another architecture"
        ) from None
    _, infos = read_header(weights.file)
    classifier = {key for key in (*state, *infos) if key.split(".")[0] in _CLASSIFIER_KEYS}
    check_tensors(
        {key: tensor for key, tensor in state.items() if key not in classifier},
        {key: info for key, info in infos.items() if key not in classifier},
        where=weights.file,
        what=f"does not hold the weights of {name}",
    )
    read_tensors(weights.file)
