"""JSON and tables."""

import json
import math
from dataclasses import fields

import pytest

from ossa.cli.console import KEYS, duration, print_json, print_metrics_table, row_of, with_unit
from ossa.evaluate.metrics import METRIC_TITLES, Metrics

LEFT_OUT = {"f1", "best_confidence", "ar_small", "ar_medium", "ar_large"}
"""Metrics that the table and the keys leave out on purpose."""


def test_every_metric_is_in_the_table_or_left_out_on_purpose() -> None:
    metrics = {field.name for field in fields(Metrics)} & set(METRIC_TITLES)
    assert metrics - set(KEYS) == LEFT_OUT


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (114_750, "115 k"),
        (999_499, "999 k"),
        (999_999, "1.00 M"),
        (1_872_157, "1.87 M"),
        (46_563_709, "46.6 M"),
        (4_468_121_600, "4.47 G"),
        (9_996_000_000, "10.0 G"),
        (2.5e12, "2.50 T"),
    ],
)
def test_large_numbers_have_three_digits_and_a_unit(number: int, text: str) -> None:
    assert with_unit(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.8, "1 h 00 min"),
        (7 * 3600 + 65, "7 h 01 min"),
    ],
)
def test_durations_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_json_says_null_where_a_number_is_undefined(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"ap": math.nan, "rates": [math.inf, 1.5], "name": "é"}])
    written = capsys.readouterr().out
    assert json.loads(written) == [{"ap": None, "rates": [None, 1.5], "name": "é"}]
    assert "NaN" not in written


def test_a_row_has_every_key_and_what_else_is_known() -> None:
    row = row_of({"ap": 0.25, "folder": "runs/x"})
    assert list(row) == [*KEYS, "folder"]
    assert row["ap"] == 0.25
    assert row["ms_per_image"] is None


def test_the_table_has_a_column_a_model_and_only_known_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_metrics_table(
        [
            row_of({"model": "first", "ap": 0.5, "params": 1_872_157}),
            row_of({"model": "second", "ap": None, "params": 2_000_000}),
        ]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["first", "second"],
        ["AP50-95", "0.500", "–"],
        ["parameters", "1.87", "M", "2.00", "M"],
    ]


def test_a_long_name_is_not_cut_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", "convnextv2_base.fcmae_ft_in22k"]
    print_metrics_table([row_of({"model": name, "imgsz": 640}) for name in names])
    assert capsys.readouterr().out.split()[:2] == names
