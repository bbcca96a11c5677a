"""What models cost, against figures that are known or can be worked out."""

import pytest

from ossa.cost.model_cost import cost_classifier, cost_detector
from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.models.complexity import PARTS


def test_yolov5n_as_trained_and_as_deployed() -> None:
    row = cost_detector("yolov5n", num_classes=80, compare=False).row()
    assert (row["params"], row["params_deployed"]) == (1_872_157, 1_867_405)
    assert row["flops"] == row["flops_deployed"] == 2 * row["macs"] == 4_468_121_600
    # The outputs of the head: 3 anchors x 85 numbers on 80^2 + 40^2 + 20^2 cells.
    assert row["activations_head"] == 255 * (80**2 + 40**2 + 20**2)
    assert row["difference"] is None


def test_parts_add_up_and_norms_are_listed_as_long_as_they_are_there() -> None:
    cost = cost_detector("cspdarknet_n", num_classes=3, imgsz=64, compare=False)
    for form in (cost.training, cost.fused):
        assert tuple(form.parts) == PARTS
        for figure in ("params", "flops", "macs", "activations"):
            parts = [getattr(part, figure) for part in form.parts.values()]
            assert getattr(form.total, figure) == sum(parts)
        assert form.total.peak_bytes == max(part.peak_bytes for part in form.parts.values())
    assert cost.fused.total.peak_bytes < cost.training.total.peak_bytes
    training, deployed = (
        {entry.operation: entry.calls for entry in form.uncounted}
        for form in (cost.training, cost.fused)
    )
    # 31 of the backbone, 3 laterals, 26 of the neck of scale s.
    assert training["native_batch_norm"] == training["silu"] == 60
    assert "native_batch_norm" not in deployed
    assert deployed["silu"] == 60
    assert deployed["upsample_nearest2d"] == 2
    assert deployed["max_pool2d_with_indices"] == 3


def test_repvgg_is_smaller_as_deployed() -> None:
    cost = cost_classifier("repvgg_a0", num_classes=3, imgsz=64, compare=False)
    classifier = 2 * 1280 * 3
    saved = cost.training.total.flops - cost.fused.total.flops
    # A block's 1x1 has a ninth of the multiply-adds of its 3x3.
    assert saved * 9 == cost.fused.total.flops - classifier


def test_both_forms_are_computed_and_agree() -> None:
    difference = cost_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64).difference
    assert difference is not None
    assert 0 < difference.relative < 1e-3


def test_a_classifier_has_the_published_figures() -> None:
    cost = cost_classifier("resnet50", num_classes=1000, compare=False)
    assert cost.training.total.params == 25_557_032
    assert round(cost.training.total.macs / 1e9, 3) == 4.089
    assert cost.training.parts == {}


def test_of_a_transformer_only_convolutions_and_linear_layers_count() -> None:
    # A transformer is built for the size asked for: here 16 patches and a class token.
    cost = cost_classifier("vit_tiny_patch16_224", num_classes=10, imgsz=64, compare=False)
    tokens, width, blocks = 17, 192, 12
    linear = blocks * tokens * width * (3 * width + width + 8 * width) + width * 10
    patches = 16 * 192 * 3 * 16 * 16
    assert (cost.imgsz, cost.training.total.macs) == (64, linear + patches)
    (products,) = (entry for entry in cost.training.uncounted if entry.operation == "bmm")
    assert products.calls == 2 * blocks


def test_a_name_that_timm_does_not_know_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no classifier named 'resnet51'. Did you mean resnet"):
        cost_classifier("resnet51", num_classes=10)


def test_a_size_that_a_classifier_cannot_take_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="levit_128 cannot classify 60 x 60 pixels"):
        cost_classifier("levit_128", num_classes=10, imgsz=60)
