"""Every family of the works reproduced, and the modern ones: a step of training, and detections."""

import pytest
import torch
from test_catalog_training import gradients_of, smallest_detector, two_images

from ossa.config import EvaluateConfig
from ossa.models.postprocess import non_max_suppression
from ossa.types import Letterbox

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
    found = non_max_suppression(
        raw, [placement] * 2, EvaluateConfig(confidence=0.0, max_detections=10)
    )
    assert [len(image) for image in found] == [10, 10]
    assert all(torch.from_numpy(image.scores).isfinite().all() for image in found)
