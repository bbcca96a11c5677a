"""The plan: every run, the proof that they are alike, and what is refused."""

from pathlib import Path

import pytest
from tiny_studies import TINY, a_plan

from ossa.errors import ConfigError


def test_runs_come_seed_by_seed_so_that_an_unfinished_study_compares_all_models():
    plan = a_plan(seeds=[0, 3])
    assert [run.name for run in plan.runs] == [
        "cspdarknet_n-seed0",
        "resnet10t-seed0",
        "cspdarknet_n-seed3",
        "resnet10t-seed3",
    ]


def test_runs_differ_in_backbone_and_seed_alone():
    plan = a_plan(seeds=[0, 1])
    assert not plan.exceptions
    first, other = plan.runs[0].config, plan.runs[3].config
    assert first.train == other.train
    assert first.augment == other.augment
    assert first.model.neck == other.model.neck == "n"
    assert "model.name" not in plan.conditions
    assert "seed" not in plan.conditions
    assert plan.conditions["train.imgsz"] == 64


def test_the_hash_of_the_shared_settings_depends_on_them_alone():
    assert (
        a_plan(seeds=[5]).shared_settings_hash == a_plan(models=["resnet18"]).shared_settings_hash
    )
    assert (
        a_plan(recipe={**TINY, "epochs": 3}).shared_settings_hash != a_plan().shared_settings_hash
    )


def test_the_model_section_of_a_recipe_holds_for_every_backbone():
    models = ["convnext_atto", "test_convnext"]
    plan = a_plan(models=models, recipe={**TINY, "base": "adamw"})
    assert [run.config.model.drop_path for run in plan.runs] == [0.1, 0.1]
    plan = a_plan(models=models, recipe={**TINY, "base": "adamw", "model": {"drop_path": None}})
    assert [run.config.model.drop_path for run in plan.runs] == [None, None]


@pytest.mark.parametrize(
    ("key", "value"),
    [("context", "sppf"), ("name", "x"), ("pretrained", True), ("weights", "/tmp/a.pt"), ("x", 1)],
)
def test_a_recipe_does_not_decide_what_the_study_decides(key: str, value: object):
    with pytest.raises(ConfigError, match=f"only anchors_wh, drop_path, .* found {key}"):
        a_plan(recipe={**TINY, "model": {key: value}})


def test_a_neck_of_ones_own_is_declared_and_shown():
    plan = a_plan(models=["yolov5n", "resnet18"], neck="own")
    assert plan.exceptions == {
        "model.neck": {"yolov5n": "own", "resnet18": "s"},
        "model.equal_conditions": {"yolov5n": False, "resnet18": True},
    }


def test_a_preset_behind_the_neck_of_the_study_is_refused():
    with pytest.raises(ConfigError, match="expected its backbone, cspdarknet_n, behind the neck s"):
        a_plan(models=["yolov5n"], neck="s")


def test_varied_settings_multiply_the_runs_and_the_recipes_own_value_is_the_base():
    plan = a_plan(models=["resnet18"], vary={"train.lr": [0.001, 0.002], "loss.box": [0.1, 0.2]})
    assert [run.name for run in plan.runs] == [
        "resnet18-lr0.001-box0.1-seed0",
        "resnet18-lr0.001-box0.2-seed0",
        "resnet18-lr0.002-box0.1-seed0",
        "resnet18-lr0.002-box0.2-seed0",
    ]
    assert plan.runs[2].config.train.lr == 0.002
    # 0.002 is the learning rate of the recipe `quick`; its box gain, 0.05, is not among the values.
    assert plan.base == {"train.lr": 0.002, "loss.box": 0.1}
    assert [run.name for run in plan.base_runs()] == ["resnet18-lr0.002-box0.1-seed0"]


def test_heads_and_neck_types_multiply_the_runs_and_the_first_are_the_base():
    plan = a_plan(
        models=["resnet18"],
        heads=["anchor", "dense"],
        neck_types=["pafpn", "fpn"],
        recipe={**TINY, "model": {"reg_max": 1}},
    )
    assert [run.name for run in plan.runs] == [
        "resnet18-head-anchor-neck-type-pafpn-seed0",
        "resnet18-head-anchor-neck-type-fpn-seed0",
        "resnet18-head-dense-neck-type-pafpn-seed0",
        "resnet18-head-dense-neck-type-fpn-seed0",
    ]
    models = [run.config.model for run in plan.runs]
    assert [model.head for model in models] == ["anchor", "anchor", "dense", "dense"]
    assert [model.neck_type for model in models] == ["pafpn", "fpn", "pafpn", "fpn"]
    # A setting of one head alone is set for that head alone.
    assert [model.reg_max for model in models] == [16, 16, 1, 1]
    assert plan.base == {"model.head": "anchor", "model.neck_type": "pafpn"}
    assert [plan.detector_of(run) for run in plan.runs[:3]] == [
        "resnet18",
        "resnet18, model.neck_type fpn",
        "resnet18, model.head dense",
    ]


def test_a_study_without_factors_has_the_runs_it_always_had():
    plan = a_plan(models=["resnet18"], heads=["dense"])
    assert [run.name for run in plan.runs] == ["resnet18-seed0"]
    assert plan.conditions["model.head"] == "dense"


def test_strides_and_the_image_size_may_be_varied():
    vary = {"model.strides": [[8, 16, 32], [4, 8, 16, 32]], "train.imgsz": [64, 96]}
    plan = a_plan(models=["resnet18"], vary=vary)
    assert plan.runs[-1].name == "resnet18-strides-4-8-16-32-imgsz96-seed0"
    assert plan.runs[-1].config.model.strides == (4, 8, 16, 32)
    assert plan.base == {"model.strides": [8, 16, 32], "train.imgsz": 64}
    assert [run.name for run in plan.base_runs()] == ["resnet18-strides-8-16-32-imgsz64-seed0"]


def test_a_source_resolves_every_model_to_an_explicit_tag():
    plan = a_plan(models=["convnext_tiny", "resnet18"], initial_weights="imagenet-1k")
    weights = {run.model: run.weights.source for run in plan.runs}
    assert weights == {"convnext_tiny": "convnext_tiny.fb_in1k", "resnet18": "resnet18.a1_in1k"}
    assert plan.runs[0].config.model.name == "convnext_tiny.fb_in1k"
    assert plan.runs[0].config.model.pretrained


def test_pretraining_sources_are_distinguished():
    tags = {
        source: a_plan(models=["convnext_tiny"], initial_weights=source).runs[0].weights.source
        for source in ("imagenet-1k", "imagenet-12k", "imagenet-22k")
    }
    assert tags == {
        "imagenet-1k": "convnext_tiny.fb_in1k",
        "imagenet-12k": "convnext_tiny.in12k",
        "imagenet-22k": "convnext_tiny.fb_in22k",
    }


def test_a_model_without_weights_of_the_source_is_named():
    with pytest.raises(ConfigError, match="ghostnet_100 has no weights pretrained on imagenet-22k"):
        a_plan(models=["ghostnet_100"], initial_weights="imagenet-22k")


def test_different_pretraining_data_are_refused_unless_declared():
    mix = {"convnext_tiny": "fb_in22k", "resnet18": "a1_in1k"}
    with pytest.raises(ConfigError, match=r"weights of different data .convnext_tiny imagenet-22k"):
        a_plan(models=["convnext_tiny", "resnet18"], initial_weights=mix)
    plan = a_plan(
        models=["convnext_tiny", "resnet18"], initial_weights=mix, mixed_initial_weights=True
    )
    assert [run.weights.pretraining for run in plan.runs] == ["imagenet-22k", "imagenet-1k"]


def test_an_unknown_tag_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match=r"a tag of timm .*a1_in1k.*, found 'in1kk'"):
        a_plan(models=["resnet18"], initial_weights={"resnet18": "in1kk"})


@pytest.mark.realdata
def test_weights_of_a_file_bring_their_data_and_licence(shared: Path):
    file = shared / "weights" / "mobilenetv2_100_in1k.safetensors"
    plan = a_plan(
        folder=file.parent,
        models=["mobilenetv2_100"],
        initial_weights={"mobilenetv2_100": file.name},
    )
    weights = plan.runs[0].weights
    assert (weights.pretraining, weights.licence) == ("imagenet-1k", "apache-2.0")
    assert plan.runs[0].config.model.backbone_mean == (0.5, 0.5, 0.5)


@pytest.mark.realdata
def test_weights_of_a_whole_detector_are_of_coco(shared: Path):
    file = shared / "weights" / "yolov5n.pt"
    plan = a_plan(
        folder=file.parent, models=["yolov5n"], neck="own", initial_weights={"yolov5n": file.name}
    )
    assert plan.runs[0].weights.pretraining == "coco"
