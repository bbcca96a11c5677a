"""Numbers, tables, budgets and labels of a report, without a study."""

import csv
import io

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ossa.evaluate.statistics import Estimate, Interval
from ossa.study.report.budgets import BudgetAnswer, round_limits
from ossa.study.report.comparisons import Difference
from ossa.study.report.figures import label_points
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import (
    amount,
    compact,
    duration,
    listed,
    mean_and_deviation,
    p_value,
    signed,
)
from ossa.study.report.view import looks_of

NAN = float("nan")


def test_numbers_are_written_as_a_reader_says_them():
    assert compact(4_076_456) == "4.08 M"
    assert compact(999_999) == "1 M"
    assert compact(266) == "266"
    assert compact(0) == "0"
    assert duration(59.96) == "1 min 00 s"
    assert amount("flops", 2e9) == "2 GFLOPs"
    assert amount("train_seconds", 300.0) == "5 min of training"
    assert amount("train_seconds", 7200.0) == "2 h of training"
    assert amount("peak_bytes", 1e8) == "100 MB of memory"
    assert signed(-0.0124) == "−0.012"
    assert signed(-0.0001) == "0.000"
    assert mean_and_deviation(0.4118, 0.0057) == "0.412 ± 0.006"
    assert mean_and_deviation(0.4118, NAN) == "0.412"
    assert mean_and_deviation(None, None) == "–"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert p_value(0.0004) == "p < 0.001"


TABLE = ReportTable(
    "sizes",
    [
        TableColumn("model", "model"),
        TableColumn("ap", "AP50-95", decimals=3),
        TableColumn("params", "parameters", write=compact),
    ],
    [
        {"model": "rep_vgg", "ap": 0.41177, "ap_std": 0.00571, "params": 4_076_456},
        {"model": "a|b", "ap": NAN, "params": None},
    ],
    note="One study.",
)


def test_a_csv_has_plain_numbers_and_leaves_out_what_is_missing():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert list(rows[0]) == ["model", "ap", "ap_std", "params"]
    assert (rows[0]["ap"], rows[0]["params"]) == ("0.41177", "4076456")
    assert float(rows[0]["ap_std"]) == 0.00571
    assert rows[1]["ap"] == rows[1]["params"] == ""


def test_markdown_and_latex_say_what_the_page_says_and_escape_what_means_something_to_them():
    markdown = TABLE.markdown().splitlines()
    assert markdown[0] == "| model | AP50-95 | parameters |"
    assert markdown[1] == "| --- | ---: | ---: |"
    assert markdown[2] == "| rep_vgg | 0.412 ± 0.006 | 4.08 M |"
    assert markdown[3] == "| a\\|b | – | – |"
    assert markdown[-1] == "One study."
    latex = TABLE.latex()
    assert r"\begin{tabular}{lrr}" in latex
    assert r"rep\_vgg & 0.412 $\pm$ 0.006 & 4.08 M \\" in latex


def test_budgets_are_round_and_each_lets_more_models_in():
    assert round_limits("params", [3.4e6, 4.4e6, 18e6, 96e6]) == [5e6, 2e7, 1e8]
    assert round_limits("params", [3e6]) == [5e6]
    assert round_limits("train_seconds", [70.0, 500.0]) == [120.0, 600.0]
    many = round_limits("flops", [10.0**power for power in range(3, 13)])
    assert len(many) == 5
    assert (many[0], many[-1]) == (1e3, 1e12)


def a_difference(model: str, value: float) -> Difference:
    interval = Interval(value - 0.01, value + 0.02)
    estimate = Estimate(value, images=interval, seeds=None, p=0.4)
    return Difference("ap", model, "best", estimate, 0.8, "not distinguishable")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            BudgetAnswer("params", 1e7, "resnet18", 0.412, 0.006, (a_difference("g", -0.008),), 4),
            "Under 10 M parameters resnet18 has the highest AP50-95, 0.412 ± 0.006; not "
            "distinguishable from it (Holm over 4 comparisons): g (−0.008, −0.018 to +0.012).",
        ),
        (
            BudgetAnswer("flops", 2e9, "resnet18", 0.412, NAN, (), 1),
            "Under 2 GFLOPs resnet18 has the highest AP50-95, 0.412; the other model is worse "
            "(Holm over 1 comparison).",
        ),
        (
            BudgetAnswer("params", 5e6, "resnet18", 0.412, NAN, (), 0),
            "Under 5 M parameters there is resnet18 alone, with an AP50-95 of 0.412.",
        ),
    ],
)
def test_a_budget_is_answered_in_one_sentence(answer: BudgetAnswer, sentence: str):
    assert answer.sentence == sentence


def test_a_family_has_one_colour_and_its_members_differ_in_their_dashes():
    models = pd.DataFrame({"model": ["a1", "b1", "a2"], "family": ["a", "b", "a"]})
    looks = looks_of(models)
    assert looks["a1"].colour == looks["a2"].colour != looks["b1"].colour
    assert looks["a1"].dash != looks["a2"].dash


def test_twenty_families_have_twenty_looks():
    names = [f"f{number}" for number in range(20)]
    looks = looks_of(pd.DataFrame({"model": names, "family": names}))
    assert len({(look.colour, look.symbol) for look in looks.values()}) == 20


def test_names_cover_neither_points_nor_each_other():
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    names = [f"model_{number}" for number in range(6)]
    x, y = [5.0, 5.2, 5.4, 5.1, 9.8, 0.2], [5.0, 5.1, 4.9, 5.3, 9.7, 0.3]
    without = label_points(axes, names, x=x, y=y, named=names, lines=[], colour="black")
    assert without == []
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 6
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(*axes.transData.transform(p)) for p in zip(x, y, strict=True))
