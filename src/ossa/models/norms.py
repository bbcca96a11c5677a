"""Norms in training on the CPU whose sums keep the precision of their type.

Three of PyTorch's kernels add up long rows of numbers one by one (seen in 2.14.1): batch norm and
group norm of channels-last maps, and, in bf16, the gradients of layer norm's weight and bias. The
documentation of training shows the error.
"""

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ossa.models.complexity import meta_image, on_meta

_FEW_ROWS = 4096
"""So many are added up one by one with a relative error of 4e-7."""
_WIDTH = 1024
"""Numbers in a row of the view that is added up; wider rows do not stay in the CPU's cache."""


class PreciseNorms(TorchFunctionMode):
    """Context in which norms compute what PyTorch's do, precisely.

    It acts on every call of `torch.nn.functional`, by modules of torch and timm alike, none of
    which is changed. In evaluation mode, and on other devices than the CPU, it changes nothing,
    except that on every device a batch norm in training that has one value per channel, from which
    PyTorch takes no statistics (1 x 1 maps or pooled features of one image), uses its running
    statistics.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _PRECISE.get(func, func)(*args, **(kwargs or {}))


def single_value_norms(network: nn.Module, imgsz: int) -> list[str]:
    """Return the names of the batch norms that have one value per channel of a single image.

    Args:
        network: maps uint8 images (B, 3, imgsz, imgsz); on any device, where nothing is computed.
        imgsz: side of the image in pixels.
    """
    found: list[str] = []

    def note_single_value(name: str, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    shadow = on_meta(network)
    for name, module in shadow.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(note_single_value, name))
    with torch.no_grad():
        shadow(meta_image(imgsz))
    return found


def _batch_norm(
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Replace `functional.batch_norm`."""
    rows = features.numel() // max(features.shape[1], 1)
    training = training and not (rows == 1 and running_mean is not None)
    if not training or rows <= _FEW_ROWS or not _adds_up_row_by_row(features):
        return functional.batch_norm(
            features, running_mean, running_var, weight, bias, training, momentum, eps
        )
    mean, var = _moments(features)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (rows / (rows - 1)), momentum)
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return _Normalize.apply(features, weight, bias, mean, var, eps)  # type: ignore[no-any-return]


def _adds_up_row_by_row(features: Tensor) -> bool:
    """Return whether a channel's values lie in steps of C in memory, on the CPU."""
    if features.device.type != "cpu" or features.ndim not in (2, 4):
        return False
    if features.ndim == 2 or features.shape[2:].numel() == 1:
        return features.is_contiguous()
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not features.is_contiguous()


@lru_cache
def _group_count(rows: int, channels: int) -> int:
    """Return the number of groups of equal size to split rows into: at most their square root."""
    most = max(min(int(rows**0.5), _WIDTH // channels), 2)
    return next(count for count in range(most, 0, -1) if rows % count == 0)


def _grouped(features: Tensor) -> tuple[Tensor, int]:
    """Return a view (rows / G, G x C), G groups of rows side by side as if channels, and G.

    Sums over the view and then over the groups are short, and so precise.
    """
    rows = features.movedim(1, -1).contiguous()  # no copy of channels-last maps
    channels = rows.shape[-1]
    groups = _group_count(rows.numel() // channels, channels)
    return rows.view(-1, groups * channels), groups


@torch.no_grad()
def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, float32."""
    grouped, groups = _grouped(features)
    # Unused, but their type makes the moments of bf16 float32.
    unused, also = torch.zeros(2, grouped.shape[1])
    means, variances = torch.batch_norm_update_stats(grouped, unused, also, 0.0)
    between, mean = torch.var_mean(means.view(groups, -1), dim=0, correction=0)
    return mean, variances.view(groups, -1).mean(dim=0) + between


class _Normalize(torch.autograd.Function):
    """(features - mean) / sqrt(var + eps) x weight + bias, where mean and var are the features'."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, (var + eps).rsqrt())
        return torch.native_batch_norm(features, weight, bias, mean, var, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, inverse_std = ctx.saved_tensors
        x, groups = _grouped(features)
        dy, _ = _grouped(gradients[0])
        of_groups = torch.stack((mean, inverse_std)).repeat(1, groups)
        sums = torch.ops.aten.native_batch_norm_backward(
            dy, x, None, None, None, *of_groups, True, 0.0, [False, True, True]
        )
        weight_gradient, bias_gradient = torch.stack(sums[1:]).view(2, groups, -1).sum(dim=1)
        # dx = a dy + b x + c
        a = weight * inverse_std
        b = a * inverse_std * weight_gradient / (-x.numel() / len(mean))
        c = a * bias_gradient / (-x.numel() / len(mean)) - b * mean
        a, b, c = torch.stack((a, b, c)).repeat(1, groups)
        dx = torch.addcmul(c, x, b).addcmul_(dy, a).to(x.dtype)
        channels_last = dx.view(*features.movedim(1, -1).shape).movedim(-1, 1)
        return channels_last, weight_gradient, bias_gradient, None, None, None


def _group_norm(features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Replace `functional.group_norm`: compute it on maps that lie channels-first in memory."""
    if features.device.type != "cpu" or features.ndim != 4 or features.is_contiguous():
        return functional.group_norm(features, *args, **kwargs)
    normalized = functional.group_norm(features.contiguous(), *args, **kwargs)
    return normalized.contiguous(memory_format=torch.channels_last)


def _layer_norm(features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Replace `functional.layer_norm`: compute it in float32, as autocast does on GPUs."""
    if features.device.type != "cpu" or features.dtype != torch.bfloat16:
        return functional.layer_norm(features, *args, **kwargs)
    return functional.layer_norm(features.float(), *args, **kwargs).to(features.dtype)


_PRECISE = {
    functional.batch_norm: _batch_norm,
    functional.group_norm: _group_norm,
    functional.layer_norm: _layer_norm,
}
