"""Numbers, sentences, tables, budgets and labels of a report, without a study."""

import csv
import io

from matplotlib.figure import Figure
from matplotlib.text import Text

from ossa.study.report.figures import label_points
from ossa.study.report.fits import fit_sentences
from ossa.study.report.tables import Column, ReportTable
from ossa.study.report.text import (
    amount,
    compact,
    duration,
    extremes,
    listed,
    mean_and_deviation,
    p_value,
    probability,
    signed,
)

NAN = float("nan")


def test_numbers_are_written_as_a_reader_says_them():
    assert compact(4_076_456) == "4.08 M"
    assert compact(999_999) == "1 M"
    assert compact(266) == "266"
    assert compact(0) == "0"
    assert duration(59.96) == "1 min 00 s"
    assert amount("flops", 2e9) == "2 GFLOPs"
    assert amount("train_seconds", 300.0) == "5 min 00 s of training"
    assert amount("peak_bytes", 1e8) == "100 MB of memory"
    assert signed(-0.0124) == "−0.012"
    assert signed(-0.0001) == "0.000"
    assert mean_and_deviation(0.4118, 0.0057) == "0.412 ± 0.006"
    assert mean_and_deviation(0.4118, NAN) == "0.412"
    assert mean_and_deviation(None, None) == "–"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert p_value(0.0004) == "< 0.001"
    assert extremes({"a": 0.3, "b": 0.07}, "{:.0%}".format) == ", from 7% (b) to 30% (a)"
    assert extremes({"a": 0.3, "b": 0.3}, str) == ""


TABLE = ReportTable(
    "sizes",
    [
        Column("model", "model"),
        Column("ap", "AP50-95", decimals=3),
        Column("params", "parameters", write=compact),
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


def test_why_there_is_no_fit_is_said_once():
    rows = [{"complexity": name, "reason": "expected 8 models"} for name in ("params", "FLOPs")]
    assert fit_sentences(rows) == ["No power-law fit: expected 8 models."]


def test_a_membership_is_never_certain():
    assert [probability(share) for share in (1.0, 0.991, 0.99, 0.5, 0.01, 0.004, 0.0)] == [
        *("> 0.99", "> 0.99", "0.99", "0.50", "0.01", "< 0.01", "< 0.01")
    ]


def test_names_cover_neither_points_nor_each_other():
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    names = [f"model_{number}" for number in range(6)]
    x, y = [5.0, 5.2, 5.4, 5.1, 9.8, 0.2], [5.0, 5.1, 4.9, 5.3, 9.7, 0.3]
    points = dict(zip(names, zip(x, y, strict=True), strict=True))
    without = label_points(axes, points, named=names, lines=[], bars=[], colour="black")
    assert without == []
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without lines to points
    assert len(boxes) == 6
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(*axes.transData.transform(p)) for p in zip(x, y, strict=True))


def test_a_name_rather_crosses_a_bar_than_lies_on_the_line_of_the_pareto_set():
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    line = (0.0, 5.0, 10.0, 5.0)
    bars = [(x, 0.0, x, 10.0) for x in [n / 4 for n in range(41)]]  # denser than any name is wide
    label_points(
        axes, {"a_name": (5.0, 5.0)}, named=["a_name"], lines=[line], bars=bars, colour="k"
    )
    figure.draw_without_rendering()
    box = Text.get_window_extent(axes.texts[0])
    on_line = axes.transData.transform((5.0, 5.0))[1]
    assert not box.y0 <= on_line <= box.y1
