"""The test of the predictions: models and families left out, predicted, and measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ossa.report.figures import INK, MUTED, fix_layout, style_axes, write_in_the_middle
from ossa.study.points import NoLaw
from ossa.study.prediction import PredictionTest, check_predictions
from ossa.study.report.laws import measures_of
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView
from ossa.study.report.words import MEASURES, listed

LEFT_OUT = ("model", "family")


def run_tests(
    view: StudyView, *, quality: str = "ap"
) -> dict[tuple[str, str], PredictionTest | NoLaw]:
    """Returns the tests by measure of complexity and what is left out at a time."""
    return {
        (measure, left_out): check_predictions(
            view.relation(quality, measure).points, left_out=left_out
        )
        for measure in measures_of(view)
        for left_out in LEFT_OUT
    }


def sentences_of_tests(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | NoLaw]
) -> list[str]:
    """Returns what each test found, or why there is none."""
    reasons = {test.reason for test in tests.values() if isinstance(test, NoLaw)}
    if all(isinstance(test, NoLaw) for test in tests.values()):
        return [f"No test of predictions: {listed(sorted(reasons), most=3)}."]
    return [
        f"From {MEASURES[measure]}: "
        + "; ".join(_told(tests[measure, left_out], left_out) for left_out in LEFT_OUT)
        + "."
        for measure in measures_of(view)
    ]


def _told(test: PredictionTest | NoLaw, left_out: str) -> str:
    start = "without the model itself" if left_out == "model" else "without its whole family"
    if isinstance(test, NoLaw):
        return f"{start} no test, {test.reason}"
    low, high = test.coverage_interval
    text = (
        f"{start} a mean absolute error of {test.mean_absolute_error:.3f}, and {test.coverage} "
        f"intervals of 80 % hold (95 %: {low:.0%} to {high:.0%})"
    )
    return text + (f" (untested: {listed(list(test.untested), most=4)})" if test.untested else "")


def tests_table(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | NoLaw]
) -> ReportTable:
    """Returns a row a test."""
    rows: list[Mapping[str, Any]] = []
    for (measure, left_out), test in tests.items():
        row: dict[str, Any] = {"complexity": view.complexities[measure], "left_out": left_out}
        if isinstance(test, PredictionTest):
            low, high = test.coverage_interval
            row |= {
                "error": test.mean_absolute_error,
                "log_error": 100 * test.mean_absolute_log_error,
                "coverage": test.coverage,
                "low": low,
                "high": high,
            }
        rows.append(row)
    columns = [
        TableColumn("complexity", "predicted from"),
        TableColumn("left_out", "left out at a time"),
        TableColumn("error", "mean absolute error of AP50-95", decimals=3),
        TableColumn("log_error", "in %", decimals=1),
        TableColumn("coverage", "intervals of 80 % that held"),
        TableColumn("low", "95 % from", decimals=2),
        TableColumn("high", "to", decimals=2),
    ]
    return ReportTable(
        "prediction-test",
        columns,
        rows,
        caption="Predicted against measured",
        note="The interval of the coverage is Clopper and Pearson's. It takes the models for "
        "independent, which the members of a family are not.",
    )


def held_out_table(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | NoLaw]
) -> ReportTable:
    """Returns a row a model that was left out, in every test."""
    rows: list[Mapping[str, Any]] = [
        {
            "complexity": view.complexities[measure],
            "left_out": left_out,
            "model": one.model,
            "family": one.family,
            "measured": one.measured,
            "expected": one.prediction.expected,
            "low": one.prediction.low,
            "high": one.prediction.high,
            "covered": "yes" if one.covered else "no",
            "inside": "yes" if one.prediction.inside else "no, extrapolated",
        }
        for (measure, left_out), test in tests.items()
        if isinstance(test, PredictionTest)
        for one in test.held_out
    ]
    columns = [
        TableColumn("complexity", "predicted from"),
        TableColumn("left_out", "left out"),
        TableColumn("model", "model"),
        TableColumn("family", "family"),
        TableColumn("measured", "measured", decimals=3),
        TableColumn("expected", "predicted", decimals=3),
        TableColumn("low", "80 % from", decimals=3),
        TableColumn("high", "to", decimals=3),
        TableColumn("covered", "held"),
        TableColumn("inside", "within the models' range"),
    ]
    return ReportTable("held-out", columns, rows, caption="Every model that was left out")


def tests_figure(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | NoLaw]
) -> Figure:
    """Returns measured against predicted AP50-95: a row of panels a kind of test."""
    measures = measures_of(view)[:3]
    figure = Figure(figsize=(3.9 * len(measures), 7.4), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
    for row, left_out in enumerate(LEFT_OUT):
        for column, measure in enumerate(measures):
            place = row * len(measures) + column + 1
            axes = figure.add_subplot(len(LEFT_OUT), len(measures), place)
            _draw_test(axes, view, tests[measure, left_out])
            title = f"{view.complexities[measure]}, without its {left_out}"
            axes.set_title(title, loc="left", color=INK, fontsize=10.5, fontweight="bold", pad=24)
    fix_layout(figure)
    return figure


def _draw_test(axes: Axes, view: StudyView, test: PredictionTest | NoLaw) -> None:
    if isinstance(test, NoLaw):
        style_axes(axes, x_label="", y_label="")
        axes.set(xticks=[], yticks=[])
        write_in_the_middle(axes, "no test")
        return
    style_axes(axes, x_label="measured AP50-95", y_label=f"predicted, 80 %: {test.coverage} hold")
    values = np.array([(one.measured, one.prediction.expected) for one in test.held_out])
    low, high = values.min(), values.max()
    room = 0.12 * max(high - low, 0.02)
    limits = (low - room, high + room)
    axes.plot(limits, limits, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    many = len(test.held_out) > 30
    for one in test.held_out:
        look, prediction = view.looks[one.model], one.prediction
        axes.plot(
            [one.measured] * 2,
            [prediction.low, prediction.high],
            color=look.colour,
            linewidth=0.8 if many else 1.4,
            alpha=0.35 if many else 0.5,
        )
        axes.plot(
            *([one.measured], [prediction.expected]),
            marker=look.marker,
            markersize=4 if many else 6,
            color=look.colour,
            markerfacecolor=look.colour if one.covered else "white",
            linestyle="none",
        )
    axes.set(xlim=limits, ylim=limits)
