"""The optimiser and its three groups of parameters."""

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ossa.config import TrainConfig
from ossa.train.schedule import StepSettings, full_accumulation

_ADAM_BETA2 = 0.999


def build_optimizer(detector: nn.Module, config: TrainConfig) -> Optimizer:
    """Returns the optimiser with groups 'weights' (decayed), 'norms' and 'biases' (not decayed).

    Every parameter of one dimension or none that is no bias counts as a norm's (so do layer
    scales). For sgd the decay is multiplied by batch x accumulate / nominal batch, as YOLOv5 does.
    """
    weights, norms, biases = [], [], []
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("bias"):
            biases.append(parameter)
        elif parameter.ndim <= 1:
            norms.append(parameter)
        else:
            weights.append(parameter)
    decay = config.weight_decay
    if config.optimizer == "sgd":
        decay *= config.batch * full_accumulation(config) / config.nominal_batch
    groups = [
        {"name": "weights", "params": weights, "weight_decay": decay},
        {"name": "norms", "params": norms, "weight_decay": 0.0},
        {"name": "biases", "params": biases, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, _ADAM_BETA2))
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def apply_settings(optimizer: Optimizer, settings: StepSettings) -> None:
    """Sets learning rate and momentum (the first beta of AdamW) of every group."""
    for group in optimizer.param_groups:
        group["lr"] = settings.bias_lr if group["name"] == "biases" else settings.lr
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum


def clip_and_step(optimizer: Optimizer, detector: nn.Module, *, clip_norm: float) -> None:
    """Takes one step with the global norm of the gradients at most `clip_norm`."""
    torch.nn.utils.clip_grad_norm_(detector.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
