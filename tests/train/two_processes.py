"""Trains ten steps with batch norms in evaluation mode, and saves losses and weights.

    torchrun --nproc-per-node 2 tests/train/two_processes.py BACKBONE FILE

Alone (without torchrun) the same, which is what several processes are compared with.
"""

import sys

import torch
from torch import nn

from ossa.config import LossConfig, TrainConfig
from ossa.data.loader import EpochBatches
from ossa.models.detector import create_detector
from ossa.train.distributed import DistributedContext, joined_processes
from ossa.train.loop import forward
from ossa.train.optim import EMA, build_optimizer, optimizer_step, set_hyperparameters
from ossa.train.schedule import hyperparameters_at
from ossa.types import Batch

IMAGES, BATCH, STEPS, IMGSZ = 11, 5, 10, 64
"""Batches of 5, 5 and 1 images: shares are unequal, and one of them is empty."""


def share_of(positions: list[int]) -> Batch:
    """Returns these of 11 random images, image i with i random boxes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, IMGSZ, IMGSZ), generator=generator)
    corners = torch.rand(IMAGES, IMAGES, 2, generator=generator) * 32
    sizes = torch.rand(IMAGES, IMAGES, 2, generator=generator) * 28 + 4
    boxes = torch.cat((corners, corners + sizes), dim=2)
    kept = [boxes[position, :position] for position in positions]
    return Batch(
        images=images[positions].to(torch.uint8),
        boxes_xyxy=torch.cat([*kept, torch.zeros(0, 4)]),
        labels=torch.tensor([i % 2 for position in positions for i in range(position)]).long(),
        image_index=torch.tensor(
            [index for index, position in enumerate(positions) for _ in range(position)]
        ).long(),
        image_ids=tuple(positions),
        letterboxes=(),
    )


def train(
    backbone: str, processes: DistributedContext, *, head: str = "anchor"
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    detector = create_detector(backbone, num_classes=2, neck="n", head=head, imgsz=IMGSZ).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    config = TrainConfig(
        epochs=100, imgsz=IMGSZ, batch=BATCH, nominal_batch=10, warmup_min_batches=1, lr=1e-3
    )
    optimizer = build_optimizer(detector, config)
    loss = detector.head.criterion(LossConfig(), imgsz=IMGSZ)
    loss = loss.with_all_reduce(processes.sum)
    ema = EMA(detector, decay=0.9, ramp=10.0)
    batches = EpochBatches(IMAGES, batch=BATCH, seed=0, epochs=100, share=processes.share)
    losses, norms = [], []
    for number, draws in enumerate(batches):
        set_hyperparameters(
            optimizer, hyperparameters_at(config, number, batches.batches_per_epoch)
        )
        batch = share_of([draw.position for draw in draws])
        if batch.image_ids:
            terms = loss(forward(detector, batch.images, config), batch)
            (terms.total() * batches.images_of(number)).backward()
        else:
            terms = loss.without_images(torch.device("cpu"))
        losses.append(processes.sum(torch.stack(tuple(terms)).detach()))
        if number % 2:
            norms.append(optimizer_step(detector, optimizer, ema, config, processes))
        if len(norms) == STEPS:
            break
    return {
        "losses": torch.stack(losses),
        "norms": torch.stack(norms),
        **{f"weights.{name}": value for name, value in detector.state_dict().items()},
    }


if __name__ == "__main__":
    with joined_processes("cpu") as joined:
        result = train(sys.argv[1], joined)
        if joined.is_main:
            torch.save(result, sys.argv[2])
