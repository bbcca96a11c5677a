import re
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.optim import SGD, AdamW

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.errors import ConfigError
from ossa.models.detector import build_detector, create_detector
from ossa.train.optim import (
    build_optimizer,
    freeze,
    learning_rate_scales,
    set_hyperparameters,
    undecayed_parameters,
)
from ossa.train.schedule import Hyperparameters


@pytest.fixture(scope="module")
def convnext() -> nn.Module:
    """A detector with batch norms (neck), layer norms and layer scales (backbone)."""
    return create_detector("convnext_atto", num_classes=2, neck="n", imgsz=64)


def names_of_groups(detector: nn.Module, config: TrainConfig) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    groups = build_optimizer(detector, config).param_groups
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


def test_every_parameter_is_in_exactly_one_group(convnext: nn.Module):
    groups = names_of_groups(convnext, TrainConfig())
    everything = sorted(name for names in groups.values() for name in names)
    assert everything == sorted(name for name, _ in convnext.named_parameters())


def test_only_the_weights_of_convolutions_decay(convnext: nn.Module):
    groups = names_of_groups(convnext, TrainConfig())
    modules = dict(convnext.named_modules())

    def owners(names: list[str]) -> set[str]:
        return {type(modules[name.rpartition(".")[0]]).__name__ for name in names}

    assert owners(groups["weights"]) == {"Conv2d"}
    assert all(name.endswith(".weight") for name in groups["weights"])
    assert owners(groups["norms"]) >= {"BatchNorm2d", "ConvNeXtBlock"}
    layer_scales = [name for name, _ in convnext.named_parameters() if name.endswith(".gamma")]
    assert len(layer_scales) == 12
    assert set(layer_scales) <= set(groups["norms"])
    assert all(name.endswith("bias") for name in groups["biases"])
    decays = {
        g["name"]: g["weight_decay"] for g in build_optimizer(convnext, TrainConfig()).param_groups
    }
    assert decays == {"weights": pytest.approx(5e-4), "norms": 0, "biases": 0}


@pytest.mark.parametrize(
    ("batch", "decay"), [(16, 5e-4), (64, 5e-4), (24, 5e-4 * 24 * 3 / 64), (128, 1e-3)]
)
def test_the_decay_of_sgd_grows_with_the_images_a_step(batch: int, decay: float):
    optimizer = build_optimizer(nn.Linear(2, 2), TrainConfig(batch=batch))
    assert isinstance(optimizer, SGD)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)


def test_sgd_has_nesterov_momentum():
    optimizer = build_optimizer(nn.Linear(2, 2), TrainConfig())
    assert all(group["nesterov"] for group in optimizer.param_groups)


def test_the_decay_of_adamw_is_as_set():
    optimizer = build_optimizer(
        nn.Linear(2, 2), TrainConfig(optimizer="adamw", batch=128, weight_decay=0.05, momentum=0.9)
    )
    assert isinstance(optimizer, AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.05
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_frozen_parameters_are_not_optimised():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    groups = {g["name"]: g["params"] for g in build_optimizer(layer, TrainConfig()).param_groups}
    assert groups["biases"] == []
    assert len(groups["weights"]) == 1


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_have_a_learning_rate_of_their_own(kind: str):
    optimizer = build_optimizer(nn.Linear(2, 2), TrainConfig(optimizer=kind))  # type: ignore[arg-type]
    set_hyperparameters(
        optimizer, Hyperparameters(lr=0.002, bias_lr=0.09, momentum=0.81, accumulate=1)
    )
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"weights": 0.002, "norms": 0.002, "biases": 0.09}
    for group in optimizer.param_groups:
        assert (group["betas"][0] if kind == "adamw" else group["momentum"]) == 0.81


def test_a_parameter_that_is_named_as_undecayed_goes_to_the_norms():
    groups = build_optimizer(nn.Bilinear(2, 2, 2), TrainConfig(), undecayed={"weight"}).param_groups
    sizes = {group["name"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert sizes == {"weights": [], "norms": [(2, 2, 2)], "biases": [(2,)]}


@pytest.mark.parametrize(
    ("name", "pattern", "count"),
    [
        # Both ways in which timm keeps a model's modules, an asterisk, and models without any.
        ("vit_tiny_patch16_224", r"\.(pos_embed|cls_token)$", 2),
        ("swin_tiny_patch4_window7_224", r"\.relative_position_bias_table$", 12),
        ("xcit_nano_12_p16_224", r"\.pos_embed\.", 2),
        ("convnext_atto", "never", 0),
        ("yolov5n", "never", 0),
    ],
)
def test_the_parameters_that_timm_names_do_not_decay(name: str, pattern: str, count: int):
    detector = on_meta(name)
    undecayed = undecayed_parameters(detector, run_of(name).model)
    parameters = dict(detector.named_parameters())
    assert undecayed == {key for key in parameters if re.search(pattern, key)}
    assert len(undecayed) == count
    optimizer = build_optimizer(detector, TrainConfig(), undecayed=undecayed)
    weights, norms, biases = (group["params"] for group in optimizer.param_groups)
    ones = {id(parameter) for parameter in norms}
    assert all(id(parameters[key]) in ones for key in undecayed if not key.endswith("bias"))
    assert len(weights) + len(norms) + len(biases) == len(parameters)


# How fast each group learns


def run_of(name: str, **settings: Any) -> RunConfig:
    model = ModelConfig(name=name, neck="own" if name == "yolov5n" else "n")
    return RunConfig(model=model, data="cells", train=TrainConfig(**settings))


@cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_detector(run_of(name).model, num_classes=2, imgsz=224)


def test_by_default_everything_learns_alike(convnext: nn.Module):
    assert learning_rate_scales(convnext, run_of("convnext_atto")) == {}
    groups = build_optimizer(convnext, TrainConfig()).param_groups
    found = [(group["name"], group["lr_scale"]) for group in groups]
    assert found == [("weights", 1.0), ("norms", 1.0), ("biases", 1.0)]


def test_the_schedule_is_multiplied_by_the_scale_of_each_group():
    scales = {"weight": 0.5, "bias": 0.25}
    optimizer = build_optimizer(nn.Linear(2, 2), TrainConfig(), lr_scales=scales)
    set_hyperparameters(
        optimizer, Hyperparameters(lr=0.002, bias_lr=0.08, momentum=0.8, accumulate=1)
    )
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups if group["params"]}
    assert rates == {"weights": 0.001, "biases": 0.02}


@pytest.mark.parametrize("name", ["yolov5n", "resnet18", "vit_tiny_patch16_224"])
def test_the_backbone_has_a_learning_rate_of_its_own(name: str):
    config = run_of(name, backbone_lr_scale=0.1)
    detector = on_meta(name)
    scales = learning_rate_scales(detector, config)
    assert set(scales.values()) == {0.1}
    # The pyramid of a plain transformer is new, as the neck is.
    assert set(scales) == {
        key
        for key, _ in detector.named_parameters()
        if key.startswith("backbone.") and not key.startswith("backbone.pyramid.")
    }


def test_layers_learn_the_slower_the_nearer_they_are_to_the_image():
    config = run_of("resnet18", layer_decay=0.5, backbone_lr_scale=0.1)
    scales = learning_rate_scales(on_meta("resnet18"), config)
    # The stem and 8 blocks are the layers 0 to 8, below the neck as layer 9.
    assert scales["backbone.network.conv1.weight"] == 0.1 * 0.5**9
    assert scales["backbone.network.bn1.bias"] == 0.1 * 0.5**9
    assert scales["backbone.network.layer1.0.conv1.weight"] == 0.1 * 0.5**8
    assert scales["backbone.network.layer4.1.bn2.weight"] == 0.1 * 0.5
    assert len(set(scales.values())) == 9


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "roadmap_convnext_tiny"])
def test_the_scales_are_those_of_timm_with_the_neck_for_the_classifier(name: str):
    config = run_of(name, layer_decay=0.75)
    detector = on_meta(name)
    ours = learning_rate_scales(detector, config)
    with torch.device("meta"):
        whole = timm.create_model(name)
    names = {id(parameter): key for key, parameter in whole.named_parameters()}
    theirs = {
        names[id(parameter)]: group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.75)
        for parameter in group["params"]
    }
    # In a network of feature maps timm calls stages.0 stages_0, or puts the model into `model`.
    flat = {key.replace(".", "_", 1): scale for key, scale in theirs.items()}
    theirs |= flat | {f"model.{key}": scale for key, scale in theirs.items()}
    assert ours == {key: theirs[key.partition("network.")[2]] for key in ours}


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_with_layer_decay_too_every_parameter_is_in_exactly_one_group(name: str):
    config = run_of(name, layer_decay=0.75)
    detector = on_meta(name)
    scales = learning_rate_scales(detector, config)
    names = {id(parameter): key for key, parameter in detector.named_parameters()}
    found: list[str] = []
    for group in build_optimizer(detector, config.train, lr_scales=scales).param_groups:
        inside = [names[id(parameter)] for parameter in group["params"]]
        assert all(scales.get(key, 1.0) == group["lr_scale"] for key in inside)
        found += inside
    assert sorted(found) == sorted(names.values())


@pytest.mark.parametrize("name", ["yolov5n", "convnext_atto"])
def test_layer_decay_of_a_backbone_without_layers_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(ConvNeXt, "group_matcher")  # as there is none in some models of timm
    config = run_of(name, layer_decay=0.75)
    with pytest.raises(ConfigError, match=f"parameters of {name} are not grouped in layers"):
        learning_rate_scales(on_meta(name), config)


@pytest.mark.parametrize("key", ["layer_decay", "backbone_lr_scale"])
def test_a_learning_rate_of_a_frozen_backbone_is_refused(key: str):
    config = run_of("resnet18", **{key: 0.5})
    detector = deepcopy(on_meta("resnet18"))
    freeze(detector, ["backbone"])
    with pytest.raises(ConfigError, match="act on the backbone, which is frozen"):
        learning_rate_scales(detector, config)
