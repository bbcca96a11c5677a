"""One step by itself: clipping, what is not finite, and reading late."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ossa.config import LossConfig, TrainConfig
from ossa.models.detector import create_detector
from ossa.models.loss import DetectionLoss
from ossa.train.distributed import SINGLE_PROCESS
from ossa.train.optim import EMA, build_optimizer
from ossa.train.step import AsyncMetricReader, Step, StepResult
from ossa.types import Batch

CPU = torch.device("cpu")


def step_of(network: Any, *, device: torch.device = CPU, **settings: Any) -> Step:
    config = TrainConfig(imgsz=64, **settings)
    return Step(
        network,
        loss=DetectionLoss(LossConfig(), num_classes=2, num_levels=3, imgsz=64),
        optimizer=build_optimizer(network, config),
        average=EMA(network, decay=0.5, ramp=1.0),
        config=config,
        device=device,
        processes=SINGLE_PROCESS,
    )


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


def test_the_loss_of_a_batch_is_its_mean_times_the_images_of_all_processes():
    torch.manual_seed(0)
    step = step_of(create_detector("yolov5n", num_classes=2).eval())
    shares = step.backward(batch_of(2), images=6)
    ours = {name: p.grad for name, p in step.detector.named_parameters()}
    step.detector.zero_grad(set_to_none=True)
    terms = step.loss(step.detector(batch_of(2).images), batch_of(2))
    (6 * terms.total()).backward()
    assert torch.allclose(shares.sum(), terms.total())
    for name, parameter in step.detector.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad)


def test_a_share_of_one_image_with_maps_of_one_cell_takes_a_step():
    torch.manual_seed(0)
    step = step_of(create_detector("yolov5n", num_classes=2).train())
    batch = batch_of(1)
    images = batch.images[..., ::2, ::2].contiguous(memory_format=torch.channels_last)
    small = replace(batch, images=images, boxes_xyxy=batch.boxes_xyxy / 2)  # 32 px
    before = step.detector.get_buffer("neck.bottom_up.1.merge.norm.running_mean").clone()
    assert step.backward(small, images=1).isfinite().all()
    assert step.update().isfinite()
    after = step.detector.get_buffer("neck.bottom_up.1.merge.norm.running_mean")
    assert torch.equal(before, after)


def test_a_step_clips_the_global_norm_and_clears_the_gradients(line: nn.Linear):
    norm = step_of(line, lr=1.0, momentum=0.0, clip_norm=10.0).update()
    assert norm.item() == pytest.approx(50)
    assert line.weight.tolist() == [[pytest.approx(-6), 0]]
    assert line.bias.tolist() == [pytest.approx(-8)]
    assert line.weight.grad is None


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gradients_that_are_not_finite_move_nothing(line: nn.Linear, optimizer: str, on_nan: str):
    step = step_of(line, optimizer=optimizer, on_nan=on_nan)
    line.bias.grad = torch.tensor([float("inf")])
    assert not step.update().isfinite()
    assert line.weight.tolist() == [[0, 0]]
    assert line.bias.tolist() == [0]
    assert all(value.isfinite().all() for value in step.average.network.state_dict().values())


def test_a_batch_that_is_not_finite_leaves_no_trace_where_it_is_to_be_skipped():
    detector = create_detector("yolov5n", num_classes=2, imgsz=64).train()
    step = step_of(detector, on_nan="skip")
    with torch.no_grad():
        detector.head.get_parameter("predict.0.bias").fill_(float("nan"))
    before = {name: value.clone() for name, value in detector.named_buffers()}
    assert not step.backward(batch_of(2), images=2).isfinite().all()
    assert all(torch.equal(before[name], value) for name, value in detector.named_buffers())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_bf16_runs_the_network_in_bf16_and_keeps_losses_and_weights_in_fp32():
    detector = create_detector("yolov5n", num_classes=2, imgsz=64).train()
    seen: list[torch.dtype] = []
    detector.head.register_forward_hook(lambda *call: seen.append(call[-1].logits[0].dtype))
    step = step_of(detector, precision="bf16")
    share = step.backward(batch_of(2), images=2)
    step.update()
    assert seen == [torch.bfloat16]
    assert share.dtype == torch.float32
    assert {parameter.dtype for parameter in detector.parameters()} == {torch.float32}
    exact = step_of(create_detector("yolov5n", num_classes=2, imgsz=64).train())
    exact.detector.load_state_dict(detector.state_dict())
    fp32, bf16 = (torch.stack(s.terms(batch_of(2))) for s in (exact, step))
    assert not torch.equal(fp32, bf16)
    torch.testing.assert_close(bf16, fp32, rtol=0.05, atol=0.0)


def test_on_the_cpu_nothing_is_read_late():
    def outcome(numbers: list[float]) -> StepResult:
        return StepResult(7, 2, (0, 1), 0.01, (numbers[0], 0.0, 0.0), 0.0, False, 0.0)

    (known,) = AsyncMetricReader(CPU).put(Tensor([3.0]), outcome)
    assert known.losses[0] == 3
    assert known.finite
    assert not known._replace(gradient_norm=float("nan")).finite
    assert AsyncMetricReader(CPU).rest() == []
