from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ossa.config import ModelConfig, RunConfig, build_config, merge, parse_settings
from ossa.errors import ConfigError
from ossa.recipes import load_recipe, recipe_names

BASIS: dict[str, Any] = {"model": {"name": "yolov5n", "neck": "own"}, "data": "cells"}


def built(*settings: str) -> RunConfig:
    return build_config(merge(BASIS, parse_settings(settings)))


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refusal:
        build_config(merge(BASIS, settings))
    return str(refusal.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_a_configuration(name: str):
    config = build_config(merge(load_recipe(name), BASIS))
    assert config.model.name == "yolov5n"
    assert "base" not in load_recipe(name)


def test_yolov5s_recipes_are_shipped_with_its_numbers():
    low = build_config(merge(load_recipe("yolov5-low"), BASIS))
    ours = RunConfig(model=ModelConfig(name="yolov5n", neck="own"), data="cells")
    # What is not a number of YOLOv5's but a way of its code is in its recipes alone.
    own = ours.train.model_copy(update={"schedule_lag": True, "warmup_limit": None})
    assert low == ours.model_copy(update={"train": own})
    train, augment, loss = low.train, low.augment, low.loss
    assert (train.optimizer, train.lr, train.momentum) == ("sgd", 0.01, 0.937)
    assert train.weight_decay == 5e-4
    assert (train.nominal_batch, train.clip_norm, train.patience) == (64, 10, 100)
    assert (train.warmup_epochs, train.warmup_min_batches) == (3, 100)
    assert (train.warmup_momentum, train.warmup_bias_lr) == (0.8, 0.1)
    assert (train.ema_decay, train.ema_ramp, train.final_lr_fraction) == (0.9999, 2000, 0.01)
    assert (loss.box, loss.objectness, loss.classes, loss.anchor_ratio) == (0.05, 1, 0.5, 4)
    assert (augment.mosaic, augment.mixup, augment.flip) == (1, 0, 0.5)
    assert (augment.translate, augment.scale) == (0.1, 0.5)
    assert (augment.hue, augment.saturation, augment.value) == (0.015, 0.7, 0.4)
    evaluate = low.evaluate
    assert (evaluate.confidence, evaluate.nms_iou) == (0.001, 0.6)
    assert (evaluate.max_detections, evaluate.max_candidates) == (300, 30_000)
    high = build_config(merge(load_recipe("yolov5-high"), BASIS))
    assert (high.augment.scale, high.augment.mixup) == (0.9, 0.1)
    assert (high.loss.classes, high.loss.objectness, high.loss.box) == (0.3, 0.7, 0.05)
    assert (high.train.final_lr_fraction, high.train.lr) == (0.1, 0.01)


def test_the_two_readings_of_the_voc_study_differ_in_the_schedule_alone():
    cosine, one_cycle = (
        build_config(merge(load_recipe(name), BASIS)).train
        for name in ("yolov5-voc320", "yolov5-voc320-onecycle")
    )
    for train in (cosine, one_cycle):
        assert (train.epochs, train.imgsz, train.batch, train.lr) == (200, 320, 32, 0.01)
    assert (cosine.schedule, cosine.final_lr_fraction) == ("cosine", 0.1)
    assert (one_cycle.schedule, one_cycle.peak_lr) == ("one-cycle", 0.1)
    schedule = {"schedule", "final_lr_fraction", "peak_lr", "warmup_epochs", "schedule_lag"}
    assert cosine.model_dump(exclude=schedule) == one_cycle.model_dump(exclude=schedule)


def test_the_recipe_for_adamw_decays_by_layer_drops_paths_and_clips():
    config = build_config(merge(load_recipe("adamw"), BASIS))
    assert (config.train.optimizer, config.train.layer_decay) == ("adamw", 0.8)
    assert (config.model.drop_path, config.train.clip_norm) == (0.1, 1.0)


def test_a_recipe_keeps_what_its_base_says_and_it_does_not(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("base: yolov5-high\nloss: {classes: 0.25}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe["loss"] == {"box": 0.05, "objectness": 0.7, "classes": 0.25}
    assert recipe["train"]["final_lr_fraction"] == 0.1


def test_a_recipe_that_is_its_own_base_is_refused(tmp_path: Path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: {one}\n")
    with pytest.raises(ConfigError, match="is its own base"):
        load_recipe(str(one))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train: {lr: 0.1", "found a syntax error"),
        ("- train\n- loss\n", "expected sections of settings, found"),
        ("base: 3\n", "expected the name of a base, found 3"),
        ("base: yolov5-lov\n", "no recipe named 'yolov5-lov'"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path, text: str, complaint: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_recipe(str(file))


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"found another byte .*recipe\.yaml, line 1"):
        load_recipe(str(file))


def test_a_misspelt_recipe_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'yolov5-hihg'.*Did you mean yolov5-high"):
        load_recipe("yolov5-hihg")


def test_a_missing_yaml_file_is_no_recipe(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"no such YAML file\. There are adamw, convnext-coco50, q"
    ):
        load_recipe(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"train": {"epoch": 3}}, "there is no setting 'train.epoch'. Did you mean epochs?"),
        ({"trian": {}}, "there is no setting 'trian'. Did you mean train?"),
        ({"loss": {"focal": 1}}, "there is no setting 'loss.focal'."),
        ({"train": {"epochs": 0}}, "train.epochs: input should be greater than or equal to 1"),
        ({"train": {"lr": "fast"}}, "train.lr: input should be a valid number"),
        ({"train": {"lr": float("nan")}}, "train.lr: input should be a finite number"),
        ({"train": 3}, "train: input should be a valid dictionary"),
        ({"augment": {"flip": 1.5}}, "augment.flip: input should be less than or equal to 1"),
        ({"model": {"name": ModelConfig(name="a")}}, "found an object of type ModelConfig"),
        ({"model": {"neck": "tiny"}}, "model.neck: input should be 'own', 'n', 's'"),
        ({"model": {"strides": []}}, "model.strides: tuple should have at least 1 item"),
        ({"model": {"strides": [0]}}, "model.strides.0: input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], complaint: str):
    assert complaint in refused(settings)


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match=r"run\.yaml: data: field required"):
        build_config({"model": {"name": "yolov5n"}}, where="run.yaml")


@pytest.mark.parametrize(
    ("imgsz", "advice"), [(333, "use 320 or 352"), (33, "use 32 or 64"), (639, "use 608 or 640")]
)
def test_an_image_size_between_two_multiples_of_the_stride_is_answered_with_both(
    imgsz: int, advice: str
):
    message = refused({"train": {"imgsz": imgsz}})
    assert f"a multiple of the largest stride, 32, found {imgsz}: {advice}" in message


def test_settings_become_sections():
    assert parse_settings(["train.lr=1e-3", "train.epochs=5", "seed=3", "data=a=b"]) == {
        "train": {"lr": "1e-3", "epochs": 5},  # YAML takes 1e-3 for a word; the schema does not
        "seed": 3,
        "data": "a=b",
    }
    config = built("train.lr=1e-3", "train.schedule=cosine", "model.strides=[8, 16, 32]")
    assert (config.train.lr, config.train.schedule) == (0.001, "cosine")


@pytest.mark.parametrize("setting", ["train.lr", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(setting: str):
    with pytest.raises(ConfigError, match=r"expected SECTION\.KEY=VALUE"):
        parse_settings([setting])


def test_a_value_that_is_not_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"the value of train\.lr, found a syntax error"):
        parse_settings(["train.lr=[1"])


def test_the_last_of_two_values_counts():
    assert parse_settings(["seed=1", "seed=2"]) == {"seed": 2}


def test_merging_changes_neither_side():
    under, over = {"train": {"lr": 1, "epochs": 2}}, {"train": {"lr": 3}, "seed": 4}
    assert merge(under, over) == {"train": {"lr": 3, "epochs": 2}, "seed": 4}
    assert under == {"train": {"lr": 1, "epochs": 2}}
    assert over == {"train": {"lr": 3}, "seed": 4}


def test_a_configuration_survives_yaml():
    config = built("model.anchors_wh=[[[1, 2]], [[3, 4]], [[5, 6]]]", "train.lr=0.005")
    again = build_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config
    assert again.digest() == config.digest()


# One other value for every setting whose neighbour is not simply a little larger.
OTHER_VALUES: dict[str, Any] = {
    "train.tiles": 640,
    "train.overlap": 0.5,
    "model.name": "yolov5s",
    "model.neck": "s",
    "model.neck_type": "fpn",
    "model.context": "sppf",
    "model.strides": (16, 32),
    "model.anchors_wh": (((1.0, 2.0),),),
    "model.pretrained": True,
    "model.backbone_weights": "file",
    "model.backbone_mean": (0.0, 0.0, 0.0),
    "model.backbone_std": (1.0, 1.0, 1.0),
    "model.backbone_args": {"pad_type": "same"},
    "model.drop_path": 0.1,
    "model.weights": "file",
    "model.head": "dense",
    "model.end_to_end": True,
    "model.equal_conditions": True,
    "recipe": "quick",
    "train.precision": "bf16",
    "train.compile": True,
    "train.deterministic": True,
    "train.sync_batchnorm": True,
    "train.on_nan": "skip",
    "train.fraction": 0.5,
    "train.optimizer": "adamw",
    "train.schedule": "cosine",
    "train.schedule_lag": True,
    "train.peak_lr": 0.1,
    "augment.window": 64,
    "train.freeze": ("backbone",),
}


def leaves(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Returns every setting by its dotted name."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        nested = isinstance(value, BaseModel)
        found |= leaves(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def changed(section: BaseModel, path: list[str], value: Any) -> BaseModel:
    if len(path) > 1:
        value = changed(getattr(section, path[0]), path[1:], value)
    return section.model_copy(update={path[0]: value})


def test_the_digest_changes_with_every_setting_but_the_place_of_the_data():
    config = built()
    digests = {config.digest()}
    settings = leaves(config)
    del settings["data"]
    for name, value in settings.items():
        other = OTHER_VALUES[name] if name in OTHER_VALUES else value + 1
        variant = changed(config, name.split("."), other)
        assert isinstance(variant, RunConfig)
        digests.add(variant.digest())
    assert len(digests) == 1 + len(settings)
    assert built("data=elsewhere").digest() == config.digest()
    assert len(config.digest()) == 64


ONE_CYCLE = {"schedule": "one-cycle", "peak_lr": 0.1, "warmup_epochs": 0}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"train": {"schedule": "one-cycle", "warmup_epochs": 0}}, "needs train.peak_lr above"),
        ({"train": {"schedule": "one-cycle", "peak_lr": 0.1}}, "train.warmup_epochs would replace"),
        (
            {"train": {**ONE_CYCLE, "schedule_lag": True}},
            "train.schedule_lag delays the schedules linear and cosine",
        ),
        ({"train": {"peak_lr": 0.1}}, "acts with the schedule one-cycle only"),
        ({"train": {"overlap": 0.1}}, "train.overlap acts with train.tiles only"),
        ({"train": {"epochs": 3}, "augment": {"plain_epochs": 3}}, "fewer than train.epochs"),
        (
            {"augment": {"plain_epochs": 3, "mosaic": 0}},
            "leaves out mosaic and mixup, which are both 0",
        ),
        ({"model": {"pretrained": True, "backbone_weights": "f"}}, "leave one of them out"),
        ({"model": {"pretrained": True, "weights": "f"}}, "brings a whole detector"),
    ],
)
def test_what_would_not_be_heard_is_refused(settings: dict[str, Any], complaint: str):
    assert complaint in refused(settings)


def test_a_recipe_names_recipes_and_weights_below_its_own_folder_alone(tmp_path: Path):
    folder, outside = tmp_path / "mine", tmp_path / "other.yaml"
    (folder / "inner").mkdir(parents=True)
    outside.write_text("train: {lr: 0.5}\n")
    (folder / "inner" / "base.yaml").write_text("train: {lr: 0.25}\n")
    file = folder / "own.yaml"
    file.write_text("base: inner/base.yaml\nmodel: {weights: w/a.safetensors}\n")
    recipe = load_recipe(str(file))
    assert recipe["train"] == {"lr": 0.25}
    assert recipe["model"] == {"weights": str(folder / "w" / "a.safetensors")}
    for content in (
        f"base: {outside}\n",
        "base: ../other.yaml\n",
        "model: {weights: /etc/passwd}\n",
        "model: {backbone_weights: ../../a.safetensors}\n",
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=f"expected a path below {folder}, since a file may"):
            load_recipe(str(file))


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:x", "a/b", "resnet18\n"])
def test_a_model_is_a_name_and_no_address(name: str):
    assert "model.name: string should match pattern" in refused({"model": {"name": name}})


def test_an_argument_of_a_backbone_that_may_not_be_given_is_named():
    complaint = refused({"model": {"backbone_args": {"drop_path": 0.1}}})
    assert "no setting 'model.backbone_args.drop_path'. Did you mean drop_path_rate" in complaint


def test_a_section_of_a_recipe_holds_settings(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: 1\n")
    with pytest.raises(ConfigError, match="expected settings as train, found 1"):
        load_recipe(str(file))


def test_every_setting_has_a_help_text():
    def fields(schema: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
        for name, field in schema.model_fields.items():
            yield name, field.description
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from fields(field.annotation)

    assert [name for name, description in fields(RunConfig) if not description] == []
