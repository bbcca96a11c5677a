"""The configuration of a study: models, shared settings, varied settings, and executor."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from ossa.config import AugmentConfig, LossConfig, TrainConfig, merge
from ossa.errors import ConfigError, legible, os_reason, suggestion
from ossa.evaluate.statistics import FEWEST_RUNS
from ossa.model_config import ModelConfig
from ossa.models.detector import PRESETS
from ossa.recipes import load_recipe
from ossa.safe_yaml import read_yaml
from ossa.schema import Section, validated

NO_WEIGHTS = "none"
Budget: TypeAlias = Literal["params", "flops", "ms_per_image", "train_seconds", "peak_bytes"]
_MOST_RUNS, _MOST_DATA_SETS, _MOST_SEEDS = 10_000, 100, 256
_FAMILY = re.compile(r"(?:(?:tf|ese|legacy|dm|nf|test)_)?([a-z]+?(?:\d[a-z]{2,})?)(?=v\d|[^a-z]|$)")
"""Matches the first word of a model name, without the prefix of the weights and the version."""
_VARIABLE: Mapping[str, type[Section]] = {
    "train": TrainConfig,
    "loss": LossConfig,
    "augment": AugmentConfig,
    "model": ModelConfig,
}
"""Sections with settings that a study may vary."""
SETTINGS_OF_A_HEAD: Mapping[str, frozenset[str]] = {
    "anchor": frozenset({"anchors_wh"}),
    "dense": frozenset({"reg_max", "end_to_end"}),
}
"""Settings of a model that act with one head only."""
_MODEL_KEYS_OF_A_RECIPE = {"drop_path"}.union(*SETTINGS_OF_A_HEAD.values())
_VARIABLE_OF_A_MODEL = {"head", "neck_type", "strides", "context"} | _MODEL_KEYS_OF_A_RECIPE


class RecipeChoice(Section):
    """A recipe, and the settings that the study overrides for all runs.

    Examples:
        >>> RecipeChoice(epochs=3).sections(Path())["train"]["epochs"]
        3
    """

    base: str = "yolov5-low"
    """A shipped recipe, or a YAML file in or below the folder of the study's file."""
    epochs: PositiveInt | None = None
    """`epochs`, `imgsz` and `batch` are short for the settings in `train`."""
    imgsz: PositiveInt | None = None
    batch: PositiveInt | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    loss: dict[str, Any] = Field(default_factory=dict)
    augment: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    """`drop_path`, `anchors_wh`, `reg_max` and `end_to_end` of every detector with such a head;
    the study decides the rest of the model."""

    def sections(self, folder: Path) -> dict[str, Any]:
        """Returns the sections of `RunConfig`; `folder` is the folder of the study's file."""
        short = {"epochs": self.epochs, "imgsz": self.imgsz, "batch": self.batch}
        train = {key: value for key, value in short.items() if value is not None}
        for key in train.keys() & self.train.keys():
            raise ConfigError(
                f"recipe.{key} and recipe.train.{key} are the same setting: remove one"
            )
        sections = {
            "train": {**train, **self.train},
            "loss": self.loss,
            "augment": self.augment,
            "evaluate": self.evaluate,
            "model": self.model,
        }
        sections = merge(load_recipe(self.base, below=folder), sections)
        for key in sections["model"].keys() - _MODEL_KEYS_OF_A_RECIPE:
            raise ConfigError(
                expected=f"only {', '.join(sorted(_MODEL_KEYS_OF_A_RECIPE))} in the model section "
                "of a study's recipe",
                found=str(key),
                advice="the study's own settings decide the rest",
            )
        return sections


class Reported(Section):
    """The weights and the split whose metrics the study reports.

    Examples:
        >>> Reported().weights, Reported(weights="best", split="test").split
        ('last', 'test')
    """

    weights: Literal["last", "best"] = "last"
    """The last EMA weights, or those of the best epoch on val."""
    split: Literal["val", "test"] = "val"


class ExecutorConfig(Section):
    """Where the runs of a study are computed; the results do not depend on it.

    Examples:
        >>> ExecutorConfig(kind="ray", address="auto", cpus=8, gpus=1).requeues
        5
    """

    kind: Literal["local", "ray", "slurm"] = "local"
    jobs: PositiveInt | None = Field(default=None, le=1024)
    """Number of concurrent runs. Default for local: one per GPU, or one on the CPU."""
    device: str | None = None
    """cpu, cuda or GPU numbers separated by commas (local). Default: all GPUs."""
    workers: NonNegativeInt | None = Field(default=None, le=256)
    """Number of processes per run that load images."""
    cache: Literal["auto", "disk", "none"] = "auto"
    """Where decoded images are cached for all runs: in memory if they fit (auto), or in the user's
    cache folder (disk)."""
    threads: PositiveInt | None = Field(default=None, le=1024)
    """Threads per run. Default: the number of processors divided by `jobs`."""
    address: str | None = None
    """ray: address of the cluster; None starts Ray on this machine."""
    cpus: PositiveInt = 1
    """ray, slurm: processors requested per run."""
    gpus: NonNegativeInt = 0
    """ray, slurm: GPUs requested per run."""
    partition: str | None = None
    """slurm: the partition."""
    minutes: PositiveInt = 24 * 60
    """slurm: the time limit of a job; a longer run is resumed in another job."""
    requeues: NonNegativeInt = 5
    """ray, slurm: how often a run is resumed after its machine was lost."""

    @field_validator("cache", mode="before")
    @classmethod
    def _of_earlier_versions(cls, value: Any) -> Any:
        if value == "ram":
            raise ValueError("expected auto, disk or none; use auto in place of ram")
        return "auto" if value is None else value


class StudyConfig(Section):
    """The configuration of a study: many models, a few seeds, one recipe.

    Examples:
        >>> import ossa
        >>> study = ossa.StudyConfig(name="first", data="scenes", models=("resnet18", "yolov5n"))
        >>> study.seeds, study.family("yolov5n")
        ((0, 1, 2), 'cspdarknet')
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    data: str | tuple[str, ...]
    """A folder below the data root, or a data.yaml in it; or several, see `ossa.study.datasets`."""
    models: tuple[str, ...] = Field(min_length=1)
    neck: Literal["own", "n", "s", "m", "l", "x"] = "s"
    """The scale of the neck of all models; with `own`, presets keep theirs and others have s."""
    heads: tuple[Literal["anchor", "dense"], ...] = Field(default=("anchor",), min_length=1)
    """Every model is trained with each; the first is in the main tables."""
    neck_types: tuple[Literal["pafpn", "fpn", "bifpn", "none"], ...] = Field(
        default=("pafpn",), min_length=1
    )
    """Like `heads`."""
    context: Literal["none", "sppf"] = "none"
    strides: tuple[PositiveInt, ...] = (8, 16, 32)
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    initial_weights: str | dict[str, str] = NO_WEIGHTS
    """A pretraining source for all models, or by model: `none`, a source, a timm tag or a file."""
    mixed_initial_weights: bool = False
    """Whether models may start from weights pretrained on different data; tables then show it."""
    mixed_environments: bool = False
    """Whether runs may be computed by different code, versions or kinds of device; see
    `ossa.study.environments`."""
    recipe: RecipeChoice = RecipeChoice()
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Settings such as train.imgsz, with the values that every model is trained with."""
    reported: Reported = Reported()
    margin: PositiveFloat = Field(default=0.02, lt=1)
    """Models whose difference is certainly smaller are practically the same."""
    looks: tuple[PositiveInt, ...] = (3, 5, 8)
    """Numbers of seeds after which `ossa study run --until decided` looks at the results."""
    budgets: dict[Budget, tuple[PositiveFloat, ...]] = Field(default_factory=dict)
    """Limits on the cost of a model, by measure of complexity, under each of which the report
    recommends a model. Default: the costs of three models of the Pareto set."""
    families: dict[str, str] = Field(default_factory=dict)
    """Families of models whose family is not the first word of their name."""
    executor: ExecutorConfig = ExecutorConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        several = list(value) if isinstance(value, list | tuple) else [value]
        if not 0 < len(several) <= _MOST_DATA_SETS or not all(isinstance(v, str) for v in several):
            raise ValueError(f"expected a data set or a list of at most {_MOST_DATA_SETS}")
        return several[0] if len(several) == 1 else tuple(several)

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        within = looks and looks[0] >= FEWEST_RUNS and looks[-1] <= _MOST_SEEDS
        if not within or sorted(set(looks)) != list(looks):
            raise ValueError(
                f"expected increasing numbers of seeds, {FEWEST_RUNS} to {_MOST_SEEDS}"
            )
        return looks

    @field_validator("executor", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @property
    def factors(self) -> dict[str, tuple[Any, ...]]:
        """The settings that differ beside the model, by their dotted names, with their levels."""
        of_model = {"model.head": self.heads, "model.neck_type": self.neck_types}
        return {key: levels for key, levels in of_model.items() if len(levels) > 1} | self.vary

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets, as they are named in the file."""
        return (self.data,) if isinstance(self.data, str) else self.data

    def family(self, model: str) -> str:
        """Returns the family of a model, such as mobilenet for mobilenetv3_large_100."""
        if model in self.families:
            return self.families[model]
        if model in PRESETS:
            return "cspdarknet"
        word = _FAMILY.match(model)
        return word[1] if word else model

    def neck_of(self, model: str) -> str:
        """Returns the scale of a model's neck, or `own` for a preset that keeps its neck."""
        if self.neck == "own" and model not in PRESETS:
            return "s"
        return self.neck


def read_study(path: Path) -> StudyConfig:
    """Returns the study of a YAML file.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is out of range.

    Examples:
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
        ConfigError: a key is unknown, a value is invalid, or a model or seed is repeated.
    """
    study = validated(StudyConfig, content, where=where)
    for key in ("models", "seeds", "data_sets", "heads", "neck_types"):
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
            f"{where}: the best epoch is chosen on val, so its score there is biased upwards: "
            "report the last weights, or the best weights on another split (split: test)"
        )
    _check_varied(study, where)
    values = math.prod(len(values) for values in study.factors.values())
    if (runs := len(study.data_sets) * len(study.models) * len(study.seeds) * values) > _MOST_RUNS:
        raise ConfigError(f"{where}: expected at most {_MOST_RUNS:,} runs, found {runs:,}")
    return study


def _check_varied(study: StudyConfig, where: str) -> None:
    """Raises ConfigError for an unknown varied setting, or one with fewer than two values."""
    known = {
        f"{section}.{name}"
        for section, schema in _VARIABLE.items()
        for name in schema.model_fields
        if section != "model" or name in _VARIABLE_OF_A_MODEL
    }
    for key in ("head", "neck_type"):
        if f"model.{key}" in study.vary:
            raise ConfigError(f"{where}: vary has 'model.{key}': list them under '{key}s' instead")
    for key, values in study.vary.items():
        if key not in known:
            raise ConfigError(
                f"{where}: vary has '{legible(key)}', expected a setting of "
                f"{', '.join(_VARIABLE)} such as train.lr.{suggestion(key, known)}"
            )
        if len(set(map(str, values))) < max(2, len(values)):
            raise ConfigError(f"{where}: vary.{key} needs at least two different values, each once")
