"""One step by itself: the forward pass, clipping, what is not finite, and reading late."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ossa.config import LossConfig, TrainConfig
from ossa.models.detector import Detector, create_detector
from ossa.models.loss import DetectionLoss, LossTerms
from ossa.train.distributed import AsyncMetricReader
from ossa.train.loop import forward
from ossa.train.optim import EMA, build_optimizer, optimizer_step
from ossa.types import Batch

CPU = torch.device("cpu")


def losses_of(network: Any, batch: Batch, **settings: Any) -> LossTerms:
    criterion: Any = DetectionLoss(LossConfig(), num_classes=2, num_levels=3, imgsz=64)
    return criterion(forward(network, batch.images, TrainConfig(imgsz=64, **settings)), batch)


def step(network: nn.Module, **settings: Any) -> tuple[Tensor, EMA[Any]]:
    """Takes a step with the gradients that are there, and returns their norm and the average."""
    config, ema = TrainConfig(imgsz=64, **settings), EMA(network, decay=0.5, ramp=1.0)
    return optimizer_step(network, build_optimizer(network, config), ema, config), ema


def batch_of(images: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (images, 3, 64, 64), generator=generator, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(images, 1),
        labels=torch.zeros(images, dtype=torch.int64),
        image_index=torch.arange(images),
        image_ids=tuple(range(images)),
        letterboxes=(),
    )


@pytest.fixture
def line() -> nn.Linear:
    """A layer of zeros, with 30 and 40 as gradients: a norm of 50."""
    layer = nn.Linear(2, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.weight.grad = torch.tensor([[30.0, 0.0]])
    layer.bias.grad = torch.tensor([40.0])
    return layer


def test_a_share_of_one_image_with_maps_of_one_cell_takes_a_step():
    torch.manual_seed(0)
    detector, batch = create_detector("yolov5n", num_classes=2).train(), batch_of(1)
    images = batch.images[..., ::2, ::2].contiguous(memory_format=torch.channels_last)
    small = replace(batch, images=images, boxes_xyxy=batch.boxes_xyxy / 2)  # 32 px
    mean = detector.get_buffer("neck.bottom_up.1.merge.norm.running_mean")
    before = mean.clone()
    losses_of(detector, small).total().backward()
    assert step(detector)[0].isfinite()
    assert torch.equal(before, mean)


def test_a_step_clips_the_global_norm_and_clears_the_gradients(line: nn.Linear):
    norm, _ = step(line, lr=1.0, momentum=0.0, clip_norm=10.0)
    assert norm.item() == pytest.approx(50)
    assert line.weight.tolist() == [[pytest.approx(-6), 0]]
    assert line.bias.tolist() == [pytest.approx(-8)]
    assert line.weight.grad is None


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gradients_that_are_not_finite_move_nothing(line: nn.Linear, optimizer: str, on_nan: str):
    line.bias.grad = torch.tensor([float("inf")])
    norm, ema = step(line, optimizer=optimizer, on_nan=on_nan)
    assert not norm.isfinite()
    assert line.weight.tolist() == [[0, 0]]
    assert line.bias.tolist() == [0]
    assert all(value.isfinite().all() for value in ema.network.state_dict().values())


def test_bf16_runs_the_network_in_bf16_and_keeps_losses_and_weights_in_fp32():
    def detector() -> Detector:
        torch.manual_seed(0)
        return create_detector("yolov5n", num_classes=2, imgsz=64).train()

    exact, rounded = detector(), detector()
    seen: list[torch.dtype] = []
    rounded.head.register_forward_hook(lambda *call: seen.append(call[-1].logits[0].dtype))
    fp32, bf16 = losses_of(exact, batch_of(2)), losses_of(rounded, batch_of(2), precision="bf16")
    bf16.total().backward()
    step(rounded)
    assert seen == [torch.bfloat16]
    assert bf16.box.dtype == torch.float32
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.float32}
    assert not torch.equal(torch.stack(bf16), torch.stack(fp32))
    torch.testing.assert_close(torch.stack(bf16), torch.stack(fp32), rtol=0.05, atol=0.0)


def test_on_the_cpu_nothing_is_read_late():
    reader = AsyncMetricReader[str](CPU)
    assert reader.put("a batch", Tensor([3.0])) == [("a batch", [3.0])]
    assert reader.drain() == []
