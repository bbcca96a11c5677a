"""The plan of a study: the configuration of every run, and a check that they differ as declared.

A plan needs neither data nor measurements; `ossa.study.measure` estimates its time.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossa.config import CONDITIONS_VERSION, RunConfig, build_config, merge, parse_settings
from ossa.data.cache_files import content_fingerprint
from ossa.errors import ConfigError
from ossa.models.detector import PRESETS, with_weights_settings
from ossa.study.config import SETTINGS_OF_A_HEAD, StudyConfig
from ossa.study.initial_weights import InitialWeights, initial_weights
from ossa.train.callbacks import Callback
from ossa.train.splits import read_split, read_training_data

_BACKBONE_SETTINGS = frozenset(
    "model." + name
    for name in (
        *("name", "pretrained", "weights"),
        *("backbone_weights", "backbone_mean", "backbone_std", "backbone_args"),
    )
)
"""Settings that name the backbone and the weights it starts from."""
_COSTLY = frozenset({"train.imgsz", "train.batch"})
"""Settings outside `model` that change the cost of a step or of an image."""
_PLACES = frozenset({"data", "seed"})
_OF_THE_NECK = frozenset({"model.neck", "model.equal_conditions"})
"""Settings that a preset has otherwise where it keeps its own neck."""
NOT_EQUAL = "not under equal conditions"


@dataclass(frozen=True)
class PlannedRun:
    """One training of a study."""

    name: str
    """Name of its folder: `convnext_tiny-seed0`, or `convnext_tiny-lr0.005-seed0` or
    `convnext_tiny-head-dense-seed0` if a setting is varied."""
    model: str
    """Name of the model in the study."""
    family: str
    seed: int
    varied: Mapping[str, Any]
    """Values of the varied settings, by their dotted names."""
    weights: InitialWeights
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """All runs of a study in the order of training, and the settings that they share."""

    study: StudyConfig
    runs: tuple[PlannedRun, ...]
    """Ordered by seed, so that an unfinished study can compare all models."""
    conditions: Mapping[str, Any]
    """The shared settings, which are the same for all runs, by their dotted names."""
    exceptions: Mapping[str, Mapping[str, Any]]
    """Other settings that differ as declared, such as the neck, with their values by model."""
    base: Mapping[str, Any]
    """For each varied setting, the value that runs have otherwise if it is listed, else the
    first one."""

    @property
    def not_equal(self) -> tuple[str, ...]:
        """The models that keep a neck of their own, so that more than the backbone differs."""
        return tuple(model for model in self.study.models if self.study.neck_of(model) == "own")

    @property
    def equality(self) -> str:
        """A sentence on what is equal by construction."""
        context = "the same context block (SPPF)" if self.study.context == "sppf" else "no SPPF"
        sentence = (
            "only the backbone differs: each passes a 1x1 lateral with norm at every level and "
            f"{context}, and the initial neck and head of a seed are equal bit for bit in all but "
            "the laterals."
        )
        if factors := self.study.factors:
            sentence = f"at each value of {' and '.join(factors)}, {sentence}"
        if not self.not_equal:
            return sentence[0].upper() + sentence[1:]
        marked = f"{NOT_EQUAL.capitalize()}: {', '.join(self.not_equal)}, with a neck of its own."
        all_marked = len(self.not_equal) == len(self.study.models)
        return marked if all_marked else f"{marked} Of the other models {sentence}"

    def marked(self, model: str) -> str:
        """Returns the name of a model for a table, marked where its conditions are not equal."""
        return f"{model} ({NOT_EQUAL})" if model in self.not_equal else model

    @property
    def shared_settings_hash(self) -> str:
        """The sha256 of the canonical JSON of the shared settings."""
        canonical = json.dumps(self.conditions, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def detector_of(self, run: PlannedRun) -> str:
        """Returns the name of a run's detector in measurements: that of its model, if not varied.

        Runs with other values of settings that change the cost have detectors of their own.
        """
        changed = {
            key: value
            for key, value in run.varied.items()
            if value != self.base[key] and (key.startswith("model.") or key in _COSTLY)
        }
        return ", ".join([run.model, *(f"{key} {value}" for key, value in changed.items())])

    def base_runs(self) -> list[PlannedRun]:
        """Returns the runs with the base values of the varied settings."""
        return [run for run in self.runs if run.varied == self.base]

    def run(self, name: str) -> PlannedRun:
        """Returns the run with this name.

        Raises:
            ConfigError: there is no such run.
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise ConfigError(expected=f"a run of the study {self.study.name}", found=repr(name))


def make_plan(study: StudyConfig, *, data: Path, folder: Path) -> Plan:
    """Returns the plan of a study.

    Args:
        study: the configuration of the study.
        data: a data.yaml, or the folder that contains one.
        folder: the folder of the study's file; its weights and recipes are in it or below it.

    Raises:
        ConfigError: a setting is invalid, or weights do not fit the models.

    Examples:
        >>> study = StudyConfig(name="tiny", data="scenes", models=("resnet18",), seeds=(0, 1))
        >>> plan = make_plan(study, data=Path("scenes"), folder=Path())
        >>> [run.name for run in plan.runs]
        ['resnet18-seed0', 'resnet18-seed1']
    """
    for model in study.models:
        scale = PRESETS.get(model)
        if scale is not None and study.neck != "own":
            raise ConfigError(
                f"study {study.name}: {model} is a detector with a neck of its own; expected its "
                f"backbone, cspdarknet_{scale}, behind the neck {study.neck} of all, or 'neck: own'"
            )
    weights = initial_weights(study, folder=folder)
    sections = study.recipe.sections(folder)

    def planned(model: str, seed: int, varied: Mapping[str, Any]) -> PlannedRun:
        return _planned(
            study,
            sections,
            weights[model],
            model=model,
            seed=seed,
            varied=varied,
            data=data,
            equal=study.neck_of(model) != "own",
        )

    runs = tuple(
        planned(model, seed, varied)
        for seed in study.seeds
        for varied in _variations(study)
        for model in study.models
    )
    same, different = _compare_settings(study, runs)
    plain = flat_settings(planned(study.models[0], study.seeds[0], {}).config)
    base = {
        key: plain[key] if plain[key] in levels else levels[0]
        for key, levels in study.factors.items()
    }
    return Plan(study, runs, same, different, base)


def _variations(study: StudyConfig) -> Iterator[dict[str, Any]]:
    """Yields every combination of the varied values; a single empty one if nothing is varied."""
    factors = study.factors
    for values in itertools.product(*factors.values()):
        yield dict(zip(factors, values, strict=True))


def _planned(
    study: StudyConfig,
    sections: Mapping[str, Any],
    weights: InitialWeights,
    *,
    model: str,
    seed: int,
    varied: Mapping[str, Any],
    data: Path,
    equal: bool,
) -> PlannedRun:
    detector = {
        "name": model,
        "head": study.heads[0],
        "neck_type": study.neck_types[0],
        "neck": study.neck_of(model),
        "context": study.context,
        "strides": study.strides,
        "equal_conditions": equal,
        **weights.model_settings,
    }
    settings = {
        **sections,
        "model": {**sections.get("model", {}), **detector},
        "data": str(data),
        "recipe": study.recipe.base,
        "seed": seed,
    }
    for key, value in varied.items():
        settings = merge(settings, parse_settings([f"{key}={json.dumps(value)}"]))
    if len(study.heads) > 1:
        others = SETTINGS_OF_A_HEAD.keys() - {settings["model"]["head"]}
        ignored = frozenset[str]().union(*(SETTINGS_OF_A_HEAD[head] for head in others))
        settings["model"] = {k: v for k, v in settings["model"].items() if k not in ignored}
    config = build_config(settings, where=f"study {study.name}")
    config = config.model_copy(update={"model": with_weights_settings(config.model)})
    values = [_in_a_name(key, value) for key, value in varied.items()]
    name = "-".join([model, *values, f"seed{seed}"])
    return PlannedRun(name, model, study.family(model), seed, varied, weights, config)


def _in_a_name(key: str, value: Any) -> str:
    section, _, name = key.rpartition(".")
    if section != "model":
        return f"{name}{value}"
    values = value if isinstance(value, list | tuple) else [value]
    return "-".join([name.replace("_", "-"), *map(str, values)])


def _compare_settings(
    study: StudyConfig, runs: Sequence[PlannedRun]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the settings that are the same in all runs, and the others by model.

    Raises:
        ConfigError: a setting differs that the study does not declare.
    """
    may_differ = _BACKBONE_SETTINGS | _PLACES | set(study.factors)
    if len(study.heads) > 1:
        of_heads = frozenset[str]().union(*SETTINGS_OF_A_HEAD.values())
        may_differ |= {f"model.{name}" for name in of_heads}
    settings = [flat_settings(run.config) for run in runs]
    same: dict[str, Any] = {}
    different: dict[str, dict[str, Any]] = {}
    for key in settings[0]:
        values = [row.get(key) for row in settings]
        if key in may_differ:
            continue
        if all(value == values[0] for value in values):
            same[key] = values[0]
        else:
            different[key] = {run.model: value for run, value in zip(runs, values, strict=True)}
    undeclared = set(different) - (_OF_THE_NECK if study.neck == "own" else set())
    if undeclared:
        key = min(undeclared)
        raise ConfigError(
            f"study {study.name}: expected the same {key} in all runs, found {different[key]}"
        )
    return same, different


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings of a run by their dotted names."""

    def flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in settings.items():
            # `backbone_args` is a single setting.
            if isinstance(value, dict) and key != "backbone_args":
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(flat(config.model_dump(mode="json"), ""))


@dataclass(frozen=True)
class DatasetSummary:
    """The size and fingerprint of the data of a study."""

    train_images: int
    val_images: int
    test_images: int | None
    """If the study reports on test."""
    num_classes: int
    data_fingerprint: str
    """Of the annotations; like the next, the same value as in the records of the runs."""
    image_fingerprint: str
    """Of the image files: what their pixels are."""

    def last_batch(self, plan: Plan) -> int:
        """Returns the number of images in the last batch of an epoch."""
        batch = plan.conditions.get("train.batch", plan.runs[0].config.train.batch)
        return self.train_images % batch or min(batch, self.train_images)

    def flat(self, plan: Plan) -> dict[str, Any]:
        """Returns the shared settings and the differences as values ready for JSON."""
        return {
            "recipe_hash": plan.shared_settings_hash,
            "data_fingerprint": self.data_fingerprint,
            "image_fingerprint": self.image_fingerprint,
            "train_images": self.train_images,
            "val_images": self.val_images,
            "test_images": self.test_images,
            "last_batch_images": self.last_batch(plan),
            "initial_weights": sorted({run.weights.pretraining for run in plan.runs}),
            "conditions_version": CONDITIONS_VERSION,
            "equality": plan.equality,
            "not_equal": list(plan.not_equal),
            "conditions": dict(plan.conditions),
            "exceptions": {key: dict(values) for key, values in plan.exceptions.items()},
            "varied": {key: list(values) for key, values in plan.study.factors.items()},
        }


def summarize_data(
    plan: Plan, *, allow_unlabeled: bool = False, callback: Callback | None = None
) -> DatasetSummary:
    """Returns a summary of the decodable images that the runs of a plan will be trained on.

    Args:
        plan: the plan of a study.
        allow_unlabeled: allow more than half of the training images to have no label.
        callback: receives notes on missing or damaged data.

    Raises:
        ConfigError, DataError: as for `ossa train`.
    """
    config = plan.runs[0].config
    read = read_training_data(
        config, callback=callback or Callback(), allow_unlabeled=allow_unlabeled
    )
    train, val = (split.index for split in read)
    reported, test = plan.study.reported.split, None
    if reported != "val":
        test = read_split(config, reported, callback=callback or Callback()).index
    return DatasetSummary(
        train_images=len(train),
        val_images=len(val),
        test_images=None if test is None else len(test),
        num_classes=len(train.names),
        data_fingerprint=f"{train.fingerprint()}-{val.fingerprint()}",
        image_fingerprint=f"{content_fingerprint(train)}-{content_fingerprint(val)}",
    )
