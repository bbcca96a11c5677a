"""Sixty architectures that the table calls supported, drawn by a fixed seed, each train a step.

So does every family of the works that were reproduced, and each of those detects.

Those of up to 60 million parameters, so that each fits in 2 GB and all in five minutes of one
core. Nothing is downloaded: the weights are random.

Every parameter takes part in all of them. Of all 737 that are small enough, 446 were tried so once,
and only HRNet has idle ones: those of the map at stride 4, which nobody asked for.
"""

import random

import pytest
import torch

from ossa.config import EvaluateConfig, LossConfig
from ossa.errors import UnsupportedBackbone
from ossa.models.backbones.catalog import shipped_table
from ossa.models.detector import Detector, create_detector
from ossa.models.postprocess import non_max_suppression
from ossa.types import Batch, Letterbox

CLASSES = 3
DRAWN = 60
MOST_PARAMS = 60_000_000


def drawn_names() -> list[str]:
    small = [
        row.model
        for row in shipped_table().values()
        if row.supported and row.params is not None and row.params <= MOST_PARAMS
    ]
    return sorted(random.Random(0).sample(small, DRAWN))


def smallest_detector(name: str) -> tuple[Detector, int]:
    """Returns a detector with the smallest neck and the smallest image that it takes."""
    for imgsz in (64, 96, 128):
        try:
            return create_detector(name, num_classes=CLASSES, neck="n", imgsz=imgsz), imgsz
        except UnsupportedBackbone:
            continue
    raise AssertionError(f"{name} takes no image of 64, 96 or 128 pixels")


def two_images(imgsz: int) -> Batch:
    """Returns two images of noise with two objects each, one of which fills half of its image."""
    generator = torch.Generator().manual_seed(0)
    half = imgsz / 2
    boxes_xyxy = torch.tensor([[4, 4, 20, 24], [8, 8, 8 + half, 8 + half]] * 2)
    return Batch(
        images=torch.randint(256, (2, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator),
        boxes_xyxy=boxes_xyxy.float(),
        labels=torch.tensor([0, 1, 2, 0]),
        image_index=torch.tensor([0, 0, 1, 1]),
        image_ids=(0, 1),
        letterboxes=(),
    )


def gradients_of(name: str) -> tuple[Detector, list[str]]:
    """Returns a detector with the gradients of one batch, and the parameters without any."""
    torch.manual_seed(0)
    detector, imgsz = smallest_detector(name)
    loss = detector.head.criterion(LossConfig(), imgsz=imgsz)
    batch = two_images(imgsz)
    total = loss(detector.train()(batch.images), batch).total()
    total.backward()
    assert total.isfinite()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    return detector, idle


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn_names())
def test_a_supported_backbone_trains(name: str):
    detector, idle = gradients_of(name)
    assert idle == []
    before = [parameter.detach().clone() for parameter in detector.backbone.parameters()]
    torch.optim.SGD(detector.parameters(), lr=0.01).step()
    after = list(detector.backbone.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.slow
def test_of_hrnet_only_what_leads_to_the_map_at_stride_4_is_idle():
    _, idle = gradients_of("hrnet_w18_small")
    to_stride_4 = ("stage4.0.fuse_layers.0.", "incre_modules.0.")
    assert {name for name in idle if not any(part in name for part in to_stride_4)} == set()
    # Three fusions of a convolution and a norm, a bottleneck of three, and its shortcut.
    assert len(idle) == 3 * (3 + 3 + 1)


FAMILIES = (
    *(f"cspdarknet_{scale}" for scale in "nsmlx"),
    *("convnext_tiny", "convnext_small", "convnext_base"),
    *("repvgg_a0", "repvgg_a1", "repvgg_a2", "repvgg_b0", "repvgg_b1"),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("ghostnet_100", "ghostnetv2_100", "densenet121", "densenet169"),
    *("resnet18", "resnet34", "resnet50", "inception_v4"),
    *("convnextv2_atto", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"),
    *("efficientnet_b0", "tf_efficientnetv2_b0", "efficientvit_b0", "efficientvit_l1"),
    *("hgnetv2_b0", "repvit_m0_9", "fastvit_t8", "mobileone_s0", "mambaout_femto"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    *("convnext_tiny.dinov3_lvd1689m", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"),
    *("vit_small_patch16_dinov3", "eva02_tiny_patch14_224"),
    *("roadmap_resnet50", "roadmap_depthwise", "roadmap_kernel7", "roadmap_convnext_tiny"),
)
"""ConvNeXt L and XL are S and B with other numbers, and too large for a test."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns_and_the_detector_detects(name: str):
    detector, idle = gradients_of(name)
    assert idle == []
    torch.optim.SGD(detector.parameters(), lr=1e-4).step()
    with torch.device("meta"):
        _, side = smallest_detector(name)
    batch = two_images(side)
    with torch.no_grad():
        raw = detector.eval()(batch.images)
    placement = Letterbox(1.0, 1.0, 0, 0, side, side)
    config = EvaluateConfig(confidence=0.0, max_detections=10)
    found = non_max_suppression(raw, [placement] * 2, config)
    assert [len(image) for image in found] == [10, 10]
    assert all(torch.from_numpy(image.scores).isfinite().all() for image in found)
