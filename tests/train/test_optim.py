import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from ossa.config import TrainConfig
from ossa.models.build import create_detector
from ossa.train.optim import apply_settings, build_optimizer, clip_and_step
from ossa.train.schedule import StepSettings


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
    apply_settings(optimizer, StepSettings(lr=0.002, bias_lr=0.09, momentum=0.81, accumulate=1))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"weights": 0.002, "norms": 0.002, "biases": 0.09}
    for group in optimizer.param_groups:
        assert (group["betas"][0] if kind == "adamw" else group["momentum"]) == 0.81


def test_a_step_clips_the_global_norm_and_clears_the_gradients():
    layer = nn.Linear(2, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = SGD(layer.parameters(), lr=1.0)
    layer.weight.grad = torch.tensor([[30.0, 0.0]])
    layer.bias.grad = torch.tensor([40.0])  # the norm of both is 50
    clip_and_step(optimizer, layer, clip_norm=10.0)
    assert layer.weight.tolist() == [[pytest.approx(-6), 0]]
    assert layer.bias.tolist() == [pytest.approx(-8)]
    assert layer.weight.grad is None
