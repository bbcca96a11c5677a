"""The configuration of a study: what is compared, under which conditions, and where it runs."""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from ossa.config import AugmentConfig, LossConfig, TrainConfig, merge
from ossa.errors import ConfigError, legible, os_reason, suggestion
from ossa.models.backbones.pretrained import PretrainedTag, pretrained_tags, read_backbone_weights
from ossa.models.checkpoint import read_checkpoint
from ossa.models.detector import CSPDARKNETS, PRESETS
from ossa.recipes import file_below, load_recipe
from ossa.safe_yaml import read_yaml
from ossa.schema import Section, validated

NO_WEIGHTS = "none"
_MOST_RUNS = 10_000
_FAMILY = re.compile(r"(?:(?:tf|ese|legacy|dm|nf|test)_)?([a-z]+?(?:\d[a-z]{2,})?)(?=v\d|[^a-z]|$)")
"""The first word of a name, without who made the weights and without a version."""
_VARIABLE: Mapping[str, type[Section]] = {
    "train": TrainConfig,
    "loss": LossConfig,
    "augment": AugmentConfig,
}
"""Sections whose settings a study may vary."""


class RecipeChoice(Section):
    """A recipe, and the settings that the study changes for all runs.

    Example:
        >>> RecipeChoice(epochs=3).sections(Path())["train"]["epochs"]
        3
    """

    base: str = "yolov5-low"
    """A shipped recipe, or a YAML file in the folder of the study's file or below it."""
    epochs: PositiveInt | None = None
    """Like `imgsz` and `batch`, short for the setting of `train`."""
    imgsz: PositiveInt | None = None
    batch: PositiveInt | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    loss: dict[str, Any] = Field(default_factory=dict)
    augment: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)

    def sections(self, folder: Path) -> dict[str, Any]:
        """Returns the sections of `RunConfig`; `folder` is that of the study's file."""
        short = {"epochs": self.epochs, "imgsz": self.imgsz, "batch": self.batch}
        train = {key: value for key, value in short.items() if value is not None}
        for key in train.keys() & self.train.keys():
            raise ConfigError(f"recipe.{key} and recipe.train.{key} say the same: leave one out")
        sections = {
            "train": {**train, **self.train},
            "loss": self.loss,
            "augment": self.augment,
            "evaluate": self.evaluate,
        }
        return merge(load_recipe(self.base, below=folder), sections)


class Reported(Section):
    """Which weights of a run are scored, and on what: the number that the study reports.

    Example:
        >>> Reported().weights, Reported(weights="best", split="test").split
        ('last', 'test')
    """

    weights: Literal["last", "best"] = "last"
    """The last running average, or the one of the epoch that was best on val."""
    split: Literal["val", "test"] = "val"


class ExecutorConfig(Section):
    """Where the runs of a study are computed; no result depends on it.

    Example:
        >>> ExecutorConfig(kind="ray", address="auto", cpus=8, gpus=1).requeues
        5
    """

    kind: Literal["local", "ray", "slurm"] = "local"
    jobs: PositiveInt | None = Field(default=None, le=1024)
    """Runs at a time, on any executor. local: one per GPU, or one on the CPU."""
    device: str | None = None
    """cpu, cuda or the number of a GPU; local: several, separated by commas. Default: all GPUs."""
    workers: NonNegativeInt | None = Field(default=None, le=256)
    """Processes of each run that load images."""
    cache: Literal["auto", "disk", "none"] = "auto"
    """Where decoded images are kept for all runs: auto in memory while they fit, disk in the user's
    cache folder."""
    threads: PositiveInt | None = Field(default=None, le=1024)
    """Threads of each run; the processors divided by `jobs`."""
    address: str | None = None
    """ray: of the cluster; None for one on this machine."""
    cpus: PositiveInt = 1
    """ray, slurm: processors a run asks for."""
    gpus: NonNegativeInt = 0
    """ray, slurm: GPUs a run asks for."""
    partition: str | None = None
    """slurm."""
    minutes: PositiveInt = 24 * 60
    """slurm: the time limit of a job; a run that needs longer is resumed in another."""
    requeues: NonNegativeInt = 5
    """ray, slurm: how often a run that lost its machine is resumed elsewhere."""

    @field_validator("cache", mode="before")
    @classmethod
    def _of_earlier_versions(cls, value: Any) -> Any:
        if value == "ram":
            raise ValueError("expected auto, disk or none; what was ram is auto")
        return "auto" if value is None else value


class StudyConfig(Section):
    """Many models, a few seeds, one recipe.

    Example:
        >>> import ossa
        >>> study = ossa.StudyConfig(name="first", data="scenes", models=("resnet18", "yolov5n"))
        >>> study.seeds, study.family("yolov5n")
        ((0, 1, 2), 'cspdarknet')
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    data: str
    """A folder below the data root, or a data.yaml there."""
    models: tuple[str, ...] = Field(min_length=1)
    neck: Literal["own", "n", "s", "m", "l", "x"] = "s"
    """The same for all; with `own`, presets bring theirs and the others have s."""
    context: Literal["none", "sppf"] = "none"
    strides: tuple[PositiveInt, ...] = (8, 16, 32)
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    initial_weights: str | dict[str, str] = NO_WEIGHTS
    """A pretraining source for all, or for each model `none`, a source, a tag of timm or a file."""
    mixed_initial_weights: bool = False
    """Whether models may start from weights of different data, which every table then shows."""
    recipe: RecipeChoice = RecipeChoice()
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Settings such as train.lr and the values that every model is trained with."""
    reported: Reported = Reported()
    families: dict[str, str] = Field(default_factory=dict)
    """Of models whose family is not the first word of their names."""
    executor: ExecutorConfig = ExecutorConfig()

    @field_validator("executor", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    def family(self, model: str) -> str:
        """Returns the family of a model: mobilenet of mobilenetv3_large_100."""
        if model in self.families:
            return self.families[model]
        if model in PRESETS or model in CSPDARKNETS:
            return "cspdarknet"
        word = _FAMILY.match(model)
        return word[1] if word else model

    def neck_of(self, model: str) -> str:
        """Returns the scale of a model's neck, or `own` for a preset that brings its own."""
        if self.neck == "own" and model not in PRESETS:
            return "s"
        return self.neck


def read_study(path: Path) -> StudyConfig:
    """Returns the study of a YAML file.

    Raises:
        ConfigError: no such file, not YAML, a key that is misspelt or a value out of range.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("study.yaml").write_text("{name: first, data: scenes, models: [resnet18]}")
        >>> read_study(Path("study.yaml")).models
        ('resnet18',)
    """
    try:
        content = read_yaml(path).value
    except OSError as error:
        expected, found = "the file of a study", os_reason(error)
        raise ConfigError(expected=expected, found=found, path=path) from None
    if not isinstance(content, dict):
        raise ConfigError(expected="the settings of a study", found=repr(content), path=path)
    return check_study(content, where=str(path))


def check_study(content: Mapping[str, Any], *, where: str) -> StudyConfig:
    """Returns the checked study.

    Raises:
        ConfigError: naming the first key that is misspelt, or twice the same model or seed.
    """
    study = validated(StudyConfig, content, where=where)
    for key in ("models", "seeds"):
        counts = Counter(getattr(study, key))
        if repeated := sorted(str(value) for value, count in counts.items() if count > 1):
            found = legible(repeated[0])
            raise ConfigError(f"{where}: {key} has {found} more than once: leave one out")
    for key, names in {
        "initial_weights": study.initial_weights,
        "families": study.families,
    }.items():
        unknown = sorted(set(names) - set(study.models))
        if isinstance(names, dict) and unknown:
            found = legible(unknown[0])
            raise ConfigError(f"{where}: {key} names {found}, which is not among the models")
    if study.reported.weights == "best" and study.reported.split == "val":
        raise ConfigError(
            f"{where}: the best epoch is chosen on val, so reporting it there flatters every run: "
            "report the last weights, or the best ones on another split (split: test)"
        )
    _check_varied(study, where)
    values = math.prod(len(values) for values in study.vary.values())
    if (runs := len(study.models) * len(study.seeds) * values) > _MOST_RUNS:
        raise ConfigError(f"{where}: expected at most {_MOST_RUNS:,} runs, found {runs:,}")
    return study


def _check_varied(study: StudyConfig, where: str) -> None:
    """Raises ConfigError for a varied setting that there is not, or that has one value."""
    known = {
        f"{section}.{name}" for section, schema in _VARIABLE.items() for name in schema.model_fields
    }
    for key, values in study.vary.items():
        if key not in known:
            raise ConfigError(
                f"{where}: vary has '{legible(key)}', expected a setting of "
                f"{', '.join(_VARIABLE)} such as train.lr.{suggestion(key, known)}"
            )
        if len(set(map(str, values))) < 2:
            raise ConfigError(f"{where}: vary.{key} needs two different values at least")


PRETRAINING_SOURCES: Mapping[str, tuple[str, ...]] = {
    "imagenet-1k": ("in1k",),
    "imagenet-12k": ("in12k",),
    "imagenet-22k": ("in22k", "in21k", "inw21k"),
}
"""The first data that weights were trained on; fine-tuning on ImageNet-1k may follow."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights that one model starts from."""

    pretraining: str
    """`none`, a pretraining source, `coco`; the first word of the tag where no source has it."""
    source: str
    """`none`, timm's full name with the tag, or a file."""
    licence: str | None
    model_settings: Mapping[str, Any]
    """For `ModelConfig`."""


def initial_weights(study: StudyConfig, *, folder: Path) -> dict[str, InitialWeights]:
    """Returns the weights that every model starts from.

    Args:
        study: names a pretraining source for all, or weights for each.
        folder: of the study's file; the weights that it names lie in it or below.

    Raises:
        ConfigError: an unknown source or tag, a model without weights of the source, or different
            sources that the study does not declare.
        CheckpointError: a file that does not say what it is.
    """
    asked = study.initial_weights
    if isinstance(asked, str) and asked not in (NO_WEIGHTS, *PRETRAINING_SOURCES):
        raise ConfigError(
            f"initial_weights: expected one of {', '.join([NO_WEIGHTS, *PRETRAINING_SOURCES])}, or "
            f"a tag or file for each model, found {asked!r}"
        )
    names = asked if isinstance(asked, dict) else dict.fromkeys(study.models, asked)
    found = {
        model: _weights_of(model, names.get(model, NO_WEIGHTS), folder) for model in study.models
    }
    sources = {weights.pretraining for weights in found.values()}
    if len(sources) > 1 and not study.mixed_initial_weights:
        each = ", ".join(f"{model} {weights.pretraining}" for model, weights in found.items())
        raise ConfigError(
            f"initial_weights: the models start from weights of different data ({each}), so a "
            "difference between them is not that of the backbones: choose the same for all, "
            "or declare it with 'mixed_initial_weights: true'"
        )
    return found


def _weights_of(model: str, name: str, folder: Path) -> InitialWeights:
    """Returns what a model starts from by the name of its weights in the study."""
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
        # Weights that saw no other data after the source come first.
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
    """Returns the weights of a file: of a whole detector for CSPDarknet, else of a backbone."""
    if not os.path.isfile(file):
        raise ConfigError(expected=f"a file for initial_weights.{model}", path=file)
    if model in PRESETS or model in CSPDARKNETS:
        origin = read_checkpoint(file).origin
        data = origin["pretraining"] or "unknown"
        return InitialWeights(data, str(file), origin["licence"], {"weights": str(file)})
    _, metadata = read_backbone_weights(str(file))
    data = metadata.get("pretraining", "unknown").lower()
    settings = {"backbone_weights": str(file)}
    return InitialWeights(data, str(file), metadata.get("license"), settings)
