"""How many images a GPU has room for."""

from collections.abc import Callable

import torch

from ossa.config import RunConfig
from ossa.errors import ConfigError
from ossa.models.detector import build_detector
from ossa.models.norms import PreciseNorms
from ossa.types import Batch

_SHARE = 0.9
"""Of the free memory that a training may take: the allocator needs some room."""
_GT_BOXES_PER_IMAGE = 60
_MOST_IMAGES = 1024


def largest_batch(config: RunConfig, *, num_classes: int, device: torch.device) -> int | None:
    """Returns how many images of `train.imgsz` the GPU can train at once, None if not even one.

    Tries batches of 1, 2, 4, ... and then the halves between, each with forward, losses and
    backward pass. At most 1024.

    Raises:
        ConfigError: the device is no GPU, which would take ever more memory of the machine.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"--batch auto looks for what fits on a GPU, found {device}: give a number"
        )
    free, _ = torch.cuda.mem_get_info(device)
    trial = TrialStep(config, num_classes=num_classes, device=device)
    limit = int(_SHARE * free)

    def fits(images: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial(images)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) <= limit

    return largest_that_fits(fits, most=_MOST_IMAGES)


def largest_that_fits(fits: Callable[[int], bool], *, most: int) -> int | None:
    """Returns the largest number in 1..`most` that fits where all below fit too, or None.

    Asked are powers of two until one does not fit, then the middle of what is left.
    """
    good, bad = 0, most + 1
    trial = 1
    while trial < bad:
        if fits(trial):
            good, trial = trial, trial * 2
        else:
            bad = trial
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good or None


class TrialStep:
    """Trains one batch of as many images as it is called with, all but the optimizer's step."""

    def __init__(self, config: RunConfig, *, num_classes: int, device: torch.device) -> None:
        # Weights do not matter for memory: none are fetched.
        nothing = {"pretrained": False, "backbone_weights": None, "weights": None}
        model = config.model.model_copy(update=nothing)
        self.train = config.train
        self.device = device
        self.detector = build_detector(model, num_classes=num_classes, imgsz=config.train.imgsz)
        self.detector.to(device).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = self.detector.head.criterion(config.loss, imgsz=config.train.imgsz)
        # Room for the average and for the optimizer's one or two moments.
        copies = 3 if config.train.optimizer == "adamw" else 2
        self.held = [torch.zeros_like(p) for p in self.detector.parameters() for _ in range(copies)]

    def __call__(self, images: int) -> None:
        imgsz, device = self.train.imgsz, self.device
        box_xyxy = torch.tensor([[imgsz / 4, imgsz / 4, imgsz / 2, imgsz / 2]], device=device)
        boxes = images * _GT_BOXES_PER_IMAGE
        batch = Batch(
            images=torch.zeros(images, 3, imgsz, imgsz, dtype=torch.uint8, device=device),
            boxes_xyxy=box_xyxy.repeat(boxes, 1),
            labels=torch.zeros(boxes, dtype=torch.int64, device=device),
            image_index=torch.arange(images, device=device).repeat_interleave(_GT_BOXES_PER_IMAGE),
            image_ids=tuple(range(images)),
            letterboxes=(),
        )
        bf16 = self.train.precision == "bf16"
        with PreciseNorms(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            raw = self.detector(batch.images)
        self.loss(raw, batch).total().backward()
        self.detector.zero_grad(set_to_none=True)
