"""`ossa backbones`."""

import json
from typing import Any

import pytest
import timm
from running import Ossa

from ossa.cli.backbones import _number
from ossa.errors import ConfigError
from ossa.models.backbones.catalog import TABLE_TIMM, shipped_table

pytestmark = pytest.mark.skipif(
    timm.__version__ != TABLE_TIMM, reason=f"would probe all: the table is of timm {TABLE_TIMM}"
)


def rows_of(ossa: Ossa, *arguments: object) -> list[dict[str, Any]]:
    result = ossa("backbones", *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def models_of(ossa: Ossa, *arguments: object) -> list[str]:
    return [row["model"] for row in rows_of(ossa, *arguments)]


def test_the_help_tells_what_supported_means(ossa: Ossa) -> None:
    said = " ".join(ossa("backbones", "--help").stdout.split())
    assert "maps at strides 8, 16 and 32 for images of 320 x 320, 640 x 640 and 384 x 672" in said


def test_without_a_pattern_all_are_listed_by_name(ossa: Ossa) -> None:
    assert models_of(ossa) == sorted(shipped_table())


def test_a_word_is_part_of_the_name_and_a_wildcard_means_the_whole(ossa: Ossa) -> None:
    assert models_of(ossa, "darknet_n") == ["cspdarknet_n"]
    assert models_of(ossa, "resnet[13]?") == ["resnet18", "resnet34"]
    assert models_of(ossa, "convnext_tin?") == ["convnext_tiny"]


def test_a_row_has_figures_levels_and_tags(ossa: Ossa) -> None:
    (row,) = rows_of(ossa, "resnet5[0]")
    assert list(row) == [
        *("model", "source", "supported", "reason", "strides", "channels"),
        *("params", "imgsz", "flops", "macs", "tags"),
    ]
    assert (row["model"], row["source"]) == ("resnet50", "timm")
    assert (row["supported"], row["reason"]) == (True, None)
    assert (row["strides"], row["channels"]) == ([8, 16, 32], [512, 1024, 2048])
    assert row["params"] == 23_508_032
    assert (row["imgsz"], row["flops"]) == (640, 2 * row["macs"])
    tag = next(tag for tag in row["tags"] if tag["tag"] == "tv_in1k")
    assert tag == {
        "tag": "tv_in1k",
        "licence": "bsd-3-clause",
        "commercial": True,
        "data": ["in1k"],
        "input_size": [224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_what_is_not_known_is_null(ossa: Ossa) -> None:
    (row,) = rows_of(ossa, "convmixer_768_32")
    assert not row["supported"]
    assert "stride 7 only" in row["reason"]
    keys = ("strides", "channels", "params", "flops", "macs")
    assert [row[key] for key in keys] == [None] * 5


def test_our_own_are_told_from_timms(ossa: Ossa) -> None:
    assert {row["source"] for row in rows_of(ossa, "cspdarknet_?")} == {"ossa"}
    roadmap = rows_of(ossa, "roadmap_*")
    assert len(roadmap) == 16
    assert {(row["source"], row["supported"]) for row in roadmap} == {("ossa", True)}
    assert "yes, ossa's own" in ossa("backbones", "cspdarknet_n").stdout
    (row,) = json.loads(ossa("backbones", "cspdarknet-w0.375-d0.33", "--json").stdout)
    assert (row["source"], row["channels"]) == ("ossa", [96, 192, 384])


def test_filters_leave_what_is_small_enough_and_supported(ossa: Ossa) -> None:
    # 11.2 M, 21.3 M and 23.5 M parameters; 29.6, 59.8 and 66.7 GFLOPs.
    three = ["resnet18", "resnet34", "resnet50"]
    assert models_of(ossa, "resnet[135][048]") == three
    assert models_of(ossa, "resnet[135][048]", "--max-params", "22M") == three[:2]
    assert models_of(ossa, "resnet[135][048]", "--max-params", "2.35e7") == three[:2]
    assert models_of(ossa, "resnet[135][048]", "--max-flops", "30G") == three[:1]
    assert "efficientvit_m0" in models_of(ossa, "efficientvit")
    assert "efficientvit_m0" not in models_of(ossa, "efficientvit", "--supported")


def test_what_has_no_figures_is_not_small_enough(ossa: Ossa) -> None:
    assert models_of(ossa, "convmixer_768_32", "--max-params", "1T") == []


def test_commercial_means_that_some_weights_may_be_used(ossa: Ossa) -> None:
    assert models_of(ossa, "convnextv2_atto", "--commercial") == []  # cc-by-nc-4.0
    assert models_of(ossa, "res2net50d", "--commercial") == []  # unknown
    assert models_of(ossa, "cspdarknet_n", "--commercial") == []  # none
    (row,) = rows_of(ossa, "vit_base_patch16_22[4]", "--commercial")
    commercial = {tag["tag"]: tag["commercial"] for tag in row["tags"]}
    assert commercial["augreg_in21k"]  # apache-2.0
    assert not commercial["mae"]  # cc-by-nc-4.0, and still listed


def test_the_smallest_come_first_and_what_is_unknown_last(ossa: Ossa) -> None:
    params = [row["params"] for row in rows_of(ossa, "efficientvit", "--sort", "params")]
    known = [number for number in params if number is not None]
    assert len(known) < len(params)
    assert params == sorted(known) + [None] * (len(params) - len(known))
    flops = [row["flops"] for row in rows_of(ossa, "resnet", "--sort", "flops", "--supported")]
    assert flops == sorted(flops)


def test_flops_at_another_size_are_counted_then_filtered(ossa: Ossa) -> None:
    arguments = ("backbones", "resnet[13]?", "--imgsz", 320, "--json")
    at_640 = {row["model"]: row["flops"] for row in rows_of(ossa, "resnet[13]?")}
    result = ossa(*arguments)
    rows = json.loads(result.stdout)
    assert result.stderr == "counting FLOPs at 320 px\n"
    assert [(row["imgsz"], row["flops"]) for row in rows] == [
        (320, flops // 4) for flops in at_640.values()
    ]
    limited = json.loads(ossa(*arguments, "--max-flops", "10G").stdout)
    assert [row["model"] for row in limited] == ["resnet18"]


def test_the_table_has_a_line_a_model_and_the_reason(ossa: Ossa) -> None:
    lines = ossa("backbones", "resnet[135][048]").stdout.splitlines()
    assert lines[1].split() == [
        *("resnet18", "11.2", "M", "29.6", "G", "128,", "256,", "512", "yes")
    ]
    assert lines[-1] == "3 architectures, 3 of them supported"
    assert "no: takes only square images" in ossa("backbones", "mixer_s16_224").stdout


def test_with_tags_the_table_has_a_line_for_each_of_the_weights(ossa: Ossa) -> None:
    lines = ossa("backbones", "convnextv2_atto", "--tags").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("convnextv2_atto.fcmae_ft_in1k"))
    told = ("cc-by-nc-4.0", "in1k", "224", "x", "224")
    assert tuple(line.split()[6:11]) == told
    (line,) = (line for line in lines if line.startswith("convnextv2_atto.fcmae "))
    assert "not stated" in line


def test_a_misspelt_pattern_is_answered_with_the_near_ones(ossa: Ossa) -> None:
    for pattern in ("convnxt_tiny", "convnxt_tiny*"):
        result = ossa("backbones", pattern)
        assert result.exit_code == 2
        assert result.stdout == ""
        said = f"error: no architecture matches '{pattern}'. Did you mean convnext_tiny"
        assert result.stderr.startswith(said)


@pytest.mark.parametrize(
    ("text", "number"),
    [("30M", 30e6), ("5.5e6", 5.5e6), ("4G", 4e9), ("800k", 8e5), ("1 T", 1e12), ("12", 12.0)],
)
def test_numbers_have_units(text: str, number: float) -> None:
    assert _number("--max-params", text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "M", "3x", "-3M", "nan", "1e", "3MM"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"such as 30M .* for --max-flops"):
        _number("--max-flops", text)


def test_an_image_size_between_two_multiples_of_32_is_refused(ossa: Ossa) -> None:
    result = ossa("backbones", "resnet18", "--imgsz", 330)
    assert result.exit_code == 2
    assert "use 320 or 352" in result.stderr
