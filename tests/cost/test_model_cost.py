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


def test_parts_add_up_and_the_peak_is_that_of_the_greediest() -> None:
    cost = cost_detector("resnet18", num_classes=3, imgsz=64, compare=False)
    for form in (cost.training, cost.fused):
        assert tuple(form.parts) == PARTS
        for figure in ("params", "flops", "macs", "activations"):
            parts = [getattr(part, figure) for part in form.parts.values()]
            assert getattr(form.total, figure) == sum(parts)
        assert form.total.peak_bytes == max(part.peak_bytes for part in form.parts.values())
    assert cost.fused.total.peak_bytes < cost.training.total.peak_bytes


def test_norms_are_listed_as_long_as_they_are_there() -> None:
    cost = cost_detector("cspdarknet_n", num_classes=3, imgsz=64, compare=False)
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
    cost = cost_detector("repvgg_a0", num_classes=3, imgsz=64, compare=False)
    saved = cost.training.parts["backbone"].flops - cost.fused.parts["backbone"].flops
    # A block's 1x1 has a ninth of the multiply-adds of its 3x3.
    assert saved * 9 == cost.fused.parts["backbone"].flops
    assert cost.training.parts["head"].flops == cost.fused.parts["head"].flops


def test_both_forms_are_computed_and_agree() -> None:
    difference = cost_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64).difference
    assert difference is not None
    assert 0 < difference.relative < 1e-3


@pytest.mark.parametrize(
    ("name", "params", "giga_macs"),
    [("resnet50", 25_557_032, 4.089), ("roadmap_resnet50", 25_557_032, 4.089)],
)
def test_classifiers_have_the_published_figures(name: str, params: int, giga_macs: float) -> None:
    cost = cost_classifier(name, num_classes=1000, compare=False)
    assert cost.training.total.params == params
    assert round(cost.training.total.macs / 1e9, 3) == giga_macs
    assert cost.training.parts == {}


def test_of_a_transformer_only_convolutions_and_linear_layers_count() -> None:
    cost = cost_classifier("vit_tiny_patch16_224", num_classes=1000, compare=False)
    tokens, width, blocks = 197, 192, 12
    linear = blocks * tokens * width * (3 * width + width + 8 * width) + width * 1000
    patches = 196 * 192 * 3 * 16 * 16
    assert cost.training.total.macs == linear + patches
    (products,) = (entry for entry in cost.training.uncounted if entry.operation == "bmm")
    assert products.calls == 2 * blocks


def test_a_transformer_is_built_for_the_size_asked_for() -> None:
    cost = cost_classifier("vit_tiny_patch16_224", num_classes=10, imgsz=64, compare=False)
    # 16 patches and a class token.
    assert cost.training.total.params < 5_600_000
    assert cost.imgsz == 64


def test_a_name_that_timm_does_not_know_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no classifier named 'resnet51'. Did you mean resnet"):
        cost_classifier("resnet51", num_classes=10)


def test_a_size_that_a_classifier_cannot_take_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="levit_128 cannot classify 60 x 60 pixels"):
        cost_classifier("levit_128", num_classes=10, imgsz=60)
