"""The laws of a study, its frontier and what predicts best, in sentences and tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ossa.study.analysis import MeasureRanking, rank_measures
from ossa.study.prediction import PredictionTest, check_predictions
from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.text import MEASURES, counted, listed, signed, signed_interval
from ossa.study.report.view import Relation, StudyView
from ossa.study.scaling import FEWEST_MODELS, InsufficientData, Law, fit_family_laws
from ossa.viz.plots import INK, MUTED, fix_layout, style_axes, write_in_the_middle

FITTED = ("params", "flops", "ms_per_image", "train_seconds", "peak_bytes")
"""MACs are half the FLOPs: they have the same law."""
_FARTHEST = 3
"""Models above and below the law that are named."""


def measures_of(view: StudyView) -> list[str]:
    """Returns the measures of complexity that are known."""
    return [measure for measure in FITTED if measure in view.complexities]


def law_sentences(view: StudyView) -> list[str]:
    """Returns what the laws of AP50-95 say, a sentence or two a measure; or why there is none."""
    relations = [view.relation("ap", measure) for measure in measures_of(view)]
    reasons = {row.law.reason for row in relations if isinstance(row.law, InsufficientData)}
    if len(view.names) < FEWEST_MODELS:
        return [
            f"No law: it takes {FEWEST_MODELS} models at least, and "
            f"{counted(len(view.names), 'model has', 'models have')} finished runs."
        ]
    if len(reasons) == 1 and all(isinstance(row.law, InsufficientData) for row in relations):
        return [f"No law: {reasons.pop()}."]
    return [_law_sentence(view, row) for row in relations]


def _law_sentence(view: StudyView, relation: Relation) -> str:
    measure, law = MEASURES[relation.complexity], relation.law
    if isinstance(law, InsufficientData):
        return f"AP50-95 and {measure}: no law, {law.reason}."
    interval = law.slope_interval
    text = (
        f"Twice the {measure} goes with {signed(100 * (2**law.slope - 1), decimals=1)} % AP50-95 "
        f"(slope {law.slope:.3f}, 95 %: {signed_interval(interval)}; R² {law.r_squared:.2f}; "
        f"{len(law.points)} models)."
    )
    if interval.low <= 0 <= interval.high:
        text = f"{text[:-1]}; the interval holds 0, so no growth is shown."
    ranked = sorted(law.residuals(), key=lambda row: -row.log)

    def told(rows: Any) -> str:
        return listed([f"{row.model} ({signed(row.percent, decimals=0)} %)" for row in rows])

    above = [row for row in ranked[:_FARTHEST] if row.log > 0]
    below = [row for row in ranked[: -_FARTHEST - 1 : -1] if row.log < 0]
    return f"{text} Farthest above the law: {told(above)}; below: {told(below)}."


def frontier_sentences(view: StudyView) -> list[str]:
    """Returns the Pareto sets of AP50-95."""
    sentences = []
    for measure in measures_of(view):
        relation = view.relation("ap", measure)
        members = relation.frontier.members
        told = [
            row.model if row.probability is None else f"{row.model} ({row.probability:.2f})"
            for row in members
        ]
        others = [
            f"{row.model} ({row.probability:.2f})"
            for row in relation.frontier.standings
            if not row.on_frontier and (row.probability or 0) >= 0.25
        ]
        text = f"AP50-95 and {MEASURES[measure]}: on the Pareto set {_is(members)} "
        text += listed(told, most=15)
        if others:
            text += f"; perhaps also {listed(others, most=8)}"
        sentences.append(text + ".")
    return sentences


def _is(members: Any) -> str:
    return "is" if len(members) == 1 else "are"


def rank_of_measures(view: StudyView) -> dict[str, MeasureRanking | InsufficientData]:
    """Returns which measure predicts a quality best, by quality."""
    return {
        quality: rank_measures(
            {
                MEASURES[measure]: view.relation(quality, measure).points
                for measure in measures_of(view)
            }
        )
        for quality in view.qualities
    }


def ranking_sentences(
    view: StudyView, ranks: Mapping[str, MeasureRanking | InsufficientData]
) -> list[str]:
    """Returns a sentence a quality that can be ranked; one alone where none can."""
    sentences = []
    for quality, rank in ranks.items():
        if isinstance(rank, InsufficientData) or not rank.pairs:
            continue
        errors = listed([f"{name} {100 * error:.1f} %" for name, error in rank.errors.items()])
        title = view.qualities[quality]
        text = f"{title[0].upper()}{title[1:]}, mean error of a model left out: {errors}. "
        text += rank.sentence[0].upper() + rank.sentence[1:]
        first = rank.pairs[0]
        value, low, high = (
            signed(100 * points, decimals=1)
            for points in (first.difference.value, *first.difference.interval)
        )
        text += f" ({first.first} less {first.second}: {value} points, {low} to {high})."
        sentences.append(text)
    return sentences or ["Which measure predicts best cannot be told: there are no laws."]


def laws_table(view: StudyView) -> ReportTable:
    """Returns the law of every pair of axes, and of families of eight models and more."""
    rows: list[Mapping[str, Any]] = []
    for quality in view.qualities:
        for measure in measures_of(view):
            relation = view.relation(quality, measure)
            laws = {"all": relation.law}
            laws |= {
                family: law
                for family, law in fit_family_laws(relation.points).items()
                if isinstance(law, Law)
            }
            rows += [_law_row(view, relation, family, law) for family, law in laws.items()]
    columns = [
        TableColumn("quality", "quality"),
        TableColumn("complexity", "complexity"),
        TableColumn("family", "models"),
        TableColumn("models", "number", write=str),
        TableColumn("slope", "slope", write=signed),
        TableColumn("low", "95 % from", write=signed),
        TableColumn("high", "to", write=signed),
        TableColumn("doubling", "% at twice the cost", write=lambda x: signed(x, decimals=1)),
        TableColumn("error", "error", write=lambda x: f"{x:.3f}"),
        TableColumn("error_hc3", "error, HC3", write=lambda x: f"{x:.3f}"),
        TableColumn("r_squared", "R²", write=lambda x: f"{x:.2f}"),
    ]
    return ReportTable("laws", columns, rows, caption="Laws: quality = a x complexity ^ slope")


def _law_row(
    view: StudyView, relation: Relation, family: str, law: Law | InsufficientData
) -> Mapping[str, Any]:
    row: dict[str, Any] = {
        "quality": view.qualities[relation.quality],
        "complexity": view.complexities[relation.complexity],
        "family": family,
        "models": len(relation.points),
    }
    if isinstance(law, InsufficientData):
        return row
    return row | {
        "models": len(law.points),
        "slope": law.slope,
        "low": law.slope_interval.low,
        "high": law.slope_interval.high,
        "doubling": 100 * (2**law.slope - 1),
        "error": law.slope_error,
        "error_hc3": law.slope_error_hc3,
        "r_squared": law.r_squared,
    }


def frontier_table(view: StudyView, policy: list[TableColumn]) -> ReportTable:
    """Returns a row a model: the probability of each Pareto set of AP50-95, and the residuals.

    Args:
        view: of the study.
        policy: the column that declares initial weights, where they differ.
    """
    measures = measures_of(view)
    rows: dict[str, dict[str, Any]] = {
        row["model"]: {key: row[key] for key in ("model", "family", "policy")}
        for row in view.models.to_dict("records")
    }
    columns = [TableColumn("model", "model"), TableColumn("family", "family"), *policy]
    for measure in measures:
        relation, title = view.relation("ap", measure), view.complexities[measure]
        for standing in relation.frontier.standings:
            rows[standing.model][f"{measure}_probability"] = standing.probability
            rows[standing.model][f"{measure}_member"] = "yes" if standing.on_frontier else "no"
        if isinstance(relation.law, Law):
            for residual in relation.law.residuals():
                rows[residual.model][f"{measure}_residual"] = residual.percent
        columns.append(TableColumn(f"{measure}_member", f"Pareto, {title}"))
        if relation.drawn_over:
            columns.append(
                TableColumn(
                    f"{measure}_probability",
                    "probability",
                    decimals=2,
                    note=f"{title}: share of the draws in which the model is on the Pareto set",
                )
            )
        if isinstance(relation.law, Law):
            columns.append(
                TableColumn(
                    f"{measure}_residual",
                    "% above law",
                    write=lambda value: signed(value, decimals=1),
                    note=f"measured AP50-95 over that of the law of {title}",
                )
            )
    return ReportTable(
        "frontier", columns, list(rows.values()), caption="Pareto sets and residuals, AP50-95"
    )


LEFT_OUT = ("model", "family")


def run_tests(
    view: StudyView, *, quality: str = "ap"
) -> dict[tuple[str, str], PredictionTest | InsufficientData]:
    """Returns the tests by measure of complexity and what is left out at a time."""
    return {
        (measure, left_out): check_predictions(
            view.relation(quality, measure).points, left_out=left_out
        )
        for measure in measures_of(view)
        for left_out in LEFT_OUT
    }


def sentences_of_tests(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | InsufficientData]
) -> list[str]:
    """Returns what each test found, or why there is none."""
    reasons = {test.reason for test in tests.values() if isinstance(test, InsufficientData)}
    if all(isinstance(test, InsufficientData) for test in tests.values()):
        return [f"No test of predictions: {listed(sorted(reasons), most=3)}."]
    return [
        f"From {MEASURES[measure]}: "
        + "; ".join(_told(tests[measure, left_out], left_out) for left_out in LEFT_OUT)
        + "."
        for measure in measures_of(view)
    ]


def _told(test: PredictionTest | InsufficientData, left_out: str) -> str:
    start = "without the model itself" if left_out == "model" else "without its whole family"
    if isinstance(test, InsufficientData):
        return f"{start} no test, {test.reason}"
    low, high = test.coverage_interval
    text = (
        f"{start} a mean absolute error of {test.mean_absolute_error:.3f}, and {test.coverage} "
        f"intervals of 80 % hold (95 %: {low:.0%} to {high:.0%})"
    )
    return text + (f" (untested: {listed(list(test.untested), most=4)})" if test.untested else "")


def tests_table(
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | InsufficientData]
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
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | InsufficientData]
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
    view: StudyView, tests: Mapping[tuple[str, str], PredictionTest | InsufficientData]
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


def _draw_test(axes: Axes, view: StudyView, test: PredictionTest | InsufficientData) -> None:
    if isinstance(test, InsufficientData):
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
