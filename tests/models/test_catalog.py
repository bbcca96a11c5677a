"""The table of architectures, the probe that made it, and timm's word on the weights."""

from pathlib import Path

import pytest
import timm
import torch

from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.models import probe
from ossa.models.backbones.catalog import (
    TABLE_TIMM,
    CatalogRow,
    parse_table,
    shipped_table,
    similar_supported,
    write_table,
)
from ossa.models.backbones.pretrained import pretrained_tags, pretraining_data
from ossa.models.complexity import count_cost
from ossa.models.detector import create_backbone, create_detector, known_backbones
from ossa.types import Level

TABLE = shipped_table()
needs_the_version_of_the_table = pytest.mark.skipif(
    timm.__version__ != TABLE_TIMM, reason=f"the table is of timm {TABLE_TIMM}"
)


def test_at_least_1100_architectures_are_supported():
    assert len(TABLE) >= 1370
    assert sum(row.supported for row in TABLE.values()) >= 1100


def test_every_supported_row_has_all_figures_and_every_other_a_reason():
    for row in TABLE.values():
        if row.supported:
            assert [level.stride for level in row.levels] == [8, 16, 32], row
            assert min(level.channels for level in row.levels) > 0, row
            assert min(row.params or 0, row.flops or 0) > 0, row
        else:
            assert len(row.reason or "") > 20, row
            # What cannot be built has no figures; what can be, though not for all sizes, has.
            assert (row.params is None) == (row.levels == ()), row


@needs_the_version_of_the_table
def test_the_table_lists_what_can_be_asked_for_and_nothing_else():
    assert set(TABLE) == set(known_backbones())
    assert {"cspdarknet_n", "roadmap_patchify", "resnet50"} <= set(TABLE)


@pytest.mark.parametrize(
    ("name", "channels", "params"),
    [
        # He et al.: 25,557,032 parameters, of which the classifier has 2048 x 1000 + 1000.
        ("resnet50", (512, 1024, 2048), 25_557_032 - 2_049_000),
        # Liu et al.: 28,589,128, the classifier 768 x 1000 + 1000 and its norm 2 x 768.
        ("convnext_tiny", (192, 384, 768), 28_589_128 - 769_000 - 1536),
        # The transposed convolution from 384 to 192 channels that makes stride 8 is counted, the
        # 640 / 16 = 40 by 40 positions too, instead of 14 by 14, and the classifier is not.
        (
            "vit_small_patch16_224",
            (192, 384, 384),
            22_050_664 - 385_000 + (40**2 - 14**2) * 384 + 384 * 192 * 4 + 192,
        ),
    ],
)
def test_rows_have_the_channels_and_parameters_of_the_papers(
    name: str, channels: tuple[int, ...], params: int
):
    row = TABLE[name]
    assert row.supported
    assert row.levels == tuple(map(Level, (8, 16, 32), channels))
    assert row.params == params


def test_flops_of_resnet50_are_those_of_the_paper_scaled_to_640_pixels():
    # 3.8e9 multiply-adds at 224 px (4.1e9 with the stride in the 3x3 convolutions, as in timm).
    assert TABLE["resnet50"].macs == pytest.approx(4.1e9 * (640 / 224) ** 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convmixer_768_32", "stride 7 only"),
        ("mixer_b16_224", "only square images"),
        ("levit_128", "strides [16, 32, 64], but strides [8, 16, 32] were asked for"),
        ("halonet26t", "cannot take 640 x 640 pixels"),
    ],
)
def test_what_is_not_supported_says_why(name: str, said: str):
    reason = TABLE[name].reason
    assert reason is not None
    assert said in reason


@needs_the_version_of_the_table
@pytest.mark.parametrize(
    "name",
    [
        *("cspdarknet_n", "mixer_s16_224"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "mixer_s32_224")),
    ],
)
def test_a_probe_finds_what_the_table_says(name: str):
    assert probe.probe_backbone(name) == TABLE[name]


def test_the_figures_are_those_of_a_detectors_backbone():
    with torch.device("meta"):
        detector = create_detector("mobilenetv2_050", num_classes=3)
    cost = count_cost(detector, 640).parts["backbone"]
    row = TABLE["mobilenetv2_050"]
    assert (row.params, row.flops, row.macs) == (cost.params, cost.flops, cost.macs)


def test_parameters_among_the_maps_do_not_stop_the_count():
    # timm's PiT passes its class token from stage to stage; 79 of 80 cells at stride 8.
    row = TABLE["pit_xs_224"]
    assert row.reason is not None
    assert row.reason.startswith("takes only square images")
    assert probe.probe_backbone("pit_xs_224") == row


def test_flops_at_half_the_side_are_a_quarter():
    row = TABLE["resnet18"]
    assert row.flops is not None
    assert probe.with_flops_at(row, 320).flops == row.flops // 4


def test_a_size_that_cannot_be_built_has_no_flops():
    # Patches of 16 pixels, of which 100 is no multiple.
    assert probe.with_flops_at(TABLE["mixer_s16_224"], 100).flops is None


def test_a_probe_of_no_architecture_is_an_error():
    with pytest.raises(ConfigError, match="Did you mean resnet50"):
        probe.probe_backbone("resnett50")


class OneMap(torch.nn.Module):
    """A backbone that returns all of its maps for squares and one for oblong images."""

    levels = (Level(8, 4), Level(16, 4), Level(32, 4))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        height, width = images.shape[-2:]
        count = 3 if height == width else 1
        return [images.new_zeros(1, 4, height // s, width // s) for s, _ in self.levels[:count]]


def test_maps_that_are_right_in_squares_only_are_not_supported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "create_backbone", lambda *_, **__: OneMap())
    row = probe.probe_backbone("resnet18")
    assert row.reason is not None
    assert row.reason.startswith("returns maps of [(1, 4, 48, 84)] at 384 x 672 pixels")
    assert (row.levels, row.params, row.flops) == (OneMap.levels, 0, 0)


def test_a_constructor_without_feature_maps_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise TypeError("unexpected keyword argument 'features_only'")

    monkeypatch.setattr(timm, "create_model", refuse)
    reason = probe.probe_backbone("resnet18").reason
    assert reason is not None
    assert reason.startswith("gives no feature maps: timm says")


def test_arguments_that_a_model_does_not_take_are_an_error():
    with pytest.raises(ConfigError, match=r"does not take these arguments: .*window_size"):
        create_backbone("resnet18", build_args={"window_size": 7})


def test_another_version_of_timm_is_probed_as_far_as_the_filter_leaves_it(
    monkeypatch: pytest.MonkeyPatch,
):
    names = ["resnet18", "resnet50", "of_a_new_timm", "convmixer_768_32"]

    def small(row: CatalogRow) -> bool:
        return row.params is not None and row.params < 20e6

    monkeypatch.setattr(timm, "__version__", TABLE_TIMM)
    assert probe.known_rows(names, small) == ([TABLE["resnet18"]], ["of_a_new_timm"])
    monkeypatch.setattr(timm, "__version__", "9.0.0")
    assert probe.known_rows(names, small) == ([], ["of_a_new_timm", "resnet18"])


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    rows = [
        CatalogRow("b", None, (Level(8, 2), Level(16, 4)), 10, 20),
        CatalogRow("a", 'says "no", twice'),
    ]
    write_table(tmp_path / "table.csv", rows)
    read = parse_table((tmp_path / "table.csv").read_text())
    assert list(read.values()) == [rows[1], rows[0]]


def test_similar_ones_are_supported_and_of_the_family():
    assert not TABLE["vit_relpos_base_patch16_224"].supported
    similar = similar_supported("vit_relpos_base_patch16_224")
    assert similar[0] == "vit_base_patch16_224"
    assert len(similar) == 3
    assert all(TABLE[name].supported and name.startswith("vit_") for name in similar)


def test_without_a_supported_family_similar_is_only_what_is_spelt_alike():
    assert similar_supported("sedarknet21")[0] == "darknet21"
    assert similar_supported("zzz") == []


def test_a_refusal_names_similar_backbones_that_work():
    with pytest.raises(UnsupportedBackbone) as refusal:
        create_backbone("efficientvit_m0")
    similar = similar_supported("efficientvit_m0")
    assert similar[0] == "efficientvit_b0"
    assert str(refusal.value).endswith(f"Similar backbones that work: {', '.join(similar)}")


def test_a_refusal_at_other_strides_names_none_since_the_table_does_not_know():
    with pytest.raises(UnsupportedBackbone) as refusal:
        create_backbone("resnet18", strides=(16, 32, 64), imgsz=64)
    assert "Similar" not in str(refusal.value)


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        ("fb_in22k_ft_in1k", ("in22k", "in1k")),
        ("in22k_ft_in22k_in1k", ("in22k", "in1k")),
        ("augreg2_in21k_ft_in1k", ("in21k", "in1k")),
        ("openai_ft_in12k_in1k", ("openai", "in12k", "in1k")),
        ("dinov3_lvd1689m", ("lvd1689m",)),
        ("metaclip_2pt5b", ("metaclip_2pt5b",)),
        ("ns_jft_in1k_475", ("jft", "in1k")),
        ("mae", ()),
        ("fb_r896_2pt1", ()),
    ],
)
def test_the_data_are_the_words_of_the_tag_that_name_data(tag: str, data: tuple[str, ...]):
    assert pretraining_data(tag) == data


def test_tags_have_licence_data_and_input_of_the_weights():
    tags = {tag.tag: tag for tag in pretrained_tags()["convnext_tiny"]}
    tag = tags["fb_in22k_ft_in1k"]
    assert (tag.licence, tag.commercial) == ("apache-2.0", True)
    assert tag.data == ("in22k", "in1k")
    assert tag.input_size == (224, 224)
    assert tag.mean == (0.485, 0.456, 0.406)
    assert tag.std == (0.229, 0.224, 0.225)


def test_what_forbids_commerce_or_does_not_say_is_not_commercial():
    tags = {
        f"{model}.{tag.tag}": tag.commercial
        for model, tags in pretrained_tags().items()
        for tag in tags
    }
    assert tags["resnet50.a1_in1k"]
    assert not tags["vit_base_patch16_224.mae"]  # cc-by-nc-4.0
    assert not tags["res2net50d.in1k"]  # unknown
    assert "resnet17t" not in pretrained_tags()
