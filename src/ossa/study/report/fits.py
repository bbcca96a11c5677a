"""Quality against complexity: power-law fits, Pareto sets, and the validation of predictions."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ossa.study.analysis import MeasureRanking, rank_measures
from ossa.study.efficiency import Efficiency, QuantileCurve, efficiency_sentence, quantile_curve
from ossa.study.laws import LawComparison, compare_laws
from ossa.study.prediction import Validation, validate
from ossa.study.report.figures import validation_figure
from ossa.study.report.scatter import relation_figure, relations_block
from ossa.study.report.tables import Column, ReportFiles, ReportTable, bullets, interval_columns
from ossa.study.report.text import (
    MEASURES,
    fit_sentences,
    pareto_sentence,
    ranking_sentence,
    signed,
    validation_sentence,
)
from ossa.study.results import StudyResults
from ossa.study.scaling import InsufficientData, PowerLaw, fit_families
from ossa.viz.page import Block, Section

FITTED = ("params", "flops", "ms_per_image", "train_seconds", "peak_bytes")
"""MACs are left out: they are half the FLOPs and have the same fit."""
Validations: TypeAlias = Mapping[str, Mapping[str, Validation | InsufficientData]]
"""By measure of complexity and by the unit that is left out at a time."""


def measures_of(results: StudyResults) -> list[str]:
    """Returns the measures of complexity that are known."""
    return [measure for measure in FITTED if measure in results.complexities]


def relations_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns quality against complexity, with power-law fits and Pareto sets."""
    measures = measures_of(results)
    for quality in results.qualities:
        for measure in measures:
            name = f"{quality}-{measure}".replace("_", "-")
            files.figure(name, relation_figure(results, results.relation(quality, measure)))
    efficiency = {measure: results.efficiency("ap", measure) for measure in measures}
    fits = fits_table(results)
    overall = [row for row in fits.rows if (row["quality"], row["family"]) == ("AP50-95", "all")]
    return Section(
        "Quality against complexity",
        [
            relations_block(results),
            bullets("Power-law fits", fit_sentences(overall)),
            bullets("Pareto sets", (pareto_sentence(results.relation("ap", m)) for m in measures)),
            bullets("Best predictor of quality", _ranking_sentences(results)),
            files.table(pareto_table(results), wide=True),
            files.table(fits, folded=True),
            bullets("Form of the law", _form_sentences(results)),
            bullets(
                "Efficiency",
                (
                    f"AP50-95 and {MEASURES[measure]}: {efficiency_sentence(rows)}"
                    for measure, rows in efficiency.items()
                ),
            ),
            *(
                files.table(table, folded=True)
                for table in (
                    forms_table(results),
                    efficiency_table(results, efficiency),
                    quantile_table(results),
                )
                if table.rows
            ),
        ],
        text="A model is one point, at the mean of its seeds. The power-law fit is the fitted mean "
        "trend in log-log. A model is in the Pareto set if no trained model dominates it. In "
        "brackets is the probability of membership, over other images and, if a model has several "
        "runs, other seeds.",
    )


def _ranking_sentences(results: StudyResults) -> list[str]:
    sentences = []
    for quality, title in results.qualities.items():
        points = {
            MEASURES[measure]: results.relation(quality, measure).points
            for measure in measures_of(results)
        }
        ranking = rank_measures(points)
        if isinstance(ranking, MeasureRanking) and ranking.pairs:
            sentences.append(ranking_sentence(title, ranking))
    return sentences or ["There are too few fits to compare."]


def fits_table(results: StudyResults) -> ReportTable:
    """Returns the fit of every pair of axes, for all models and families of at least eight."""
    rows: list[Mapping[str, Any]] = []
    for quality, title in results.qualities.items():
        for measure in measures_of(results):
            relation = results.relation(quality, measure)
            families = fit_families(relation.points).items()
            fits = {"all": relation.fit} | {
                family: fit for family, fit in families if isinstance(fit, PowerLaw)
            }
            axes = {
                "quality": title,
                "complexity": results.complexities[measure],
                "measure": measure,
            }
            rows += [
                {**axes, "family": family, "models": len(relation.points), **_fit_row(fit)}
                for family, fit in fits.items()
            ]
    columns = [
        *(Column("quality"), Column("complexity"), Column("family")),
        Column("models", write=str),
        Column("slope", write=signed),
        *interval_columns(write=signed),
        Column("doubling", "% when the cost doubles", write=_percent),
        Column("error", "SE", decimals=3, note="clustered by family if there are several"),
        Column("dof", "df", decimals=1, note="degrees of freedom of the interval"),
        Column("r_squared", "R²", decimals=2),
    ]
    caption = "Power-law fits: quality = a x complexity ^ slope"
    return ReportTable("laws", columns, rows, caption=caption)


def _percent(value: float) -> str:
    return signed(value, decimals=1)


def _fit_row(fit: PowerLaw | InsufficientData) -> dict[str, Any]:
    if isinstance(fit, InsufficientData):
        return {"reason": fit.reason}
    return {
        "models": len(fit.points),
        "slope": fit.slope,
        "low": fit.slope_interval.low,
        "high": fit.slope_interval.high,
        "doubling": 100 * (2**fit.slope - 1),
        "error": float(fit.slope_errors.standard[0]),
        "dof": float(fit.slope_errors.dof[0]),
        "r_squared": fit.r_squared,
    }


def _form_sentences(results: StudyResults) -> list[str]:
    sentences = [
        f"AP50-95 and {MEASURES[measure]}: {comparison.sentence()}"
        for measure in measures_of(results)
        if isinstance(comparison := compare_laws(results.points("ap", measure)), LawComparison)
    ]
    return sentences or ["There are too few fits to compare."]


def forms_table(results: StudyResults) -> ReportTable:
    """Returns the leave-one-out error of AP50-95 by form of the law and measure of complexity."""
    rows = [
        {"complexity": results.complexities[measure], **row}
        for measure in measures_of(results)
        if isinstance(comparison := compare_laws(results.points("ap", measure)), LawComparison)
        for row in comparison.flat()
    ]
    columns = [
        *(Column("complexity"), Column("formula")),
        Column("error", "mean leave-one-out error of AP50-95", decimals=3),
        Column("difference", "more than the best", decimals=3),
        *interval_columns(decimals=3),
        *(Column("exponent", "c", decimals=2), Column("ceiling", "a", decimals=3)),
    ]
    note = (
        "x is the complexity. c and a are given if the data identify them: if the 95% profile "
        "interval of c lies within 0.05 to 2."
    )
    return ReportTable("forms", columns, rows, caption="Forms of the law", note=note)


def efficiency_table(
    results: StudyResults, efficiency: Mapping[str, Sequence[Efficiency]]
) -> ReportTable:
    """Returns the efficiency of every model by measure of complexity."""
    rows = [
        {"measure": results.complexities[measure], **row.flat()}
        for measure, models in efficiency.items()
        for row in models
    ]
    columns = [
        *(Column("measure", "complexity"), Column("model"), Column("cheapest", "at least as good")),
        Column("value", "efficiency", decimals=2),
        *interval_columns(decimals=2),
    ]
    note = (
        "The cost of the cheapest model that is at least as good, over the cost of the model: 1 in "
        "the Pareto set. The interval is the middle 95% of the draws."
    )
    return ReportTable("efficiency", columns, rows, caption="Efficiency, AP50-95", note=note)


def quantile_table(results: StudyResults) -> ReportTable:
    """Returns the knots of the 0.9-quantile curves of AP50-95, from 20 models on."""
    rows = [
        {"measure": results.complexities[measure], **row}
        for measure in measures_of(results)
        if isinstance(curve := quantile_curve(results.points("ap", measure)), QuantileCurve)
        for row in curve.flat()
    ]
    columns = [
        Column("measure", "complexity"),
        Column("complexity", "at"),
        Column("quality", "AP50-95", decimals=3),
    ]
    caption = "The AP50-95 that about one model in ten exceeds, from 20 models on"
    return ReportTable("quantile", columns, rows, caption=caption)


def pareto_table(results: StudyResults) -> ReportTable:
    """Returns membership in the Pareto sets of AP50-95 and the residuals of the fits, by model."""
    rows: dict[str, dict[str, Any]] = {
        row["model"]: {key: row[key] for key in ("model", "family", "pretraining")}
        for row in results.models().to_dict("records")
    }
    columns = [Column("model"), Column("family"), *pretraining_columns(results)]
    for measure in measures_of(results):
        relation, title = results.relation("ap", measure), results.complexities[measure]
        for point in relation.pareto:
            rows[point.model][f"{measure}_member"] = "yes" if point.is_member else "no"
            rows[point.model][f"{measure}_probability"] = point.probability
        note = f"{title}: share of the draws in which the model is in the Pareto set"
        columns += [
            Column(f"{measure}_member", f"Pareto, {title}"),
            Column(f"{measure}_probability", "probability", decimals=2, note=note),
        ]
        if isinstance(relation.fit, PowerLaw):
            ratios = relation.fit.ratios().tolist()
            for model, ratio in zip(relation.points.models, ratios, strict=True):
                rows[model][f"{measure}_residual"] = 100 * (ratio - 1)
            note = f"measured AP50-95 relative to the power-law fit to {title}"
            column = Column(f"{measure}_residual", "% above fit", write=_percent, note=note)
            columns.append(column)
    caption = "Pareto sets and residuals, AP50-95"
    return ReportTable("frontier", columns, list(rows.values()), caption=caption)


def pretraining_columns(results: StudyResults) -> list[Column]:
    """Returns the column of the pretraining data if it differs between models, else no column."""
    return [Column("pretraining")] if len(results.pretraining_sources) > 1 else []


def prediction_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns the comparison of predictions with the measured quality of left-out models."""
    validations: Validations = {
        measure: validate(results.points("ap", measure)) for measure in measures_of(results)
    }
    candidates = [validation_sentence(measure, tests) for measure, tests in validations.items()]
    sentences = [sentence for sentence in candidates if sentence is not None]
    summary = files.table(validation_table(results, validations))
    predictions = predictions_table(results, validations)
    left_out = files.table(predictions, folded=True)
    if predictions.rows:
        figure = files.figure("prediction-test", validation_figure(results, validations))
        blocks: list[Block] = [bullets("", sentences), summary, figure, left_out]
    else:
        reasons = [
            test.reason
            for tests in validations.values()
            for test in tests.values()
            if isinstance(test, InsufficientData)
        ]
        blocks = [bullets("", [f"No test of predictions: {reasons[0]}."])]
    return Section(
        "Prediction test",
        blocks,
        text="'ossa study predict' predicts the quality of a model that was not trained. Here, "
        "trained models are left out, predicted from the others, and compared with their measured "
        "AP50-95.",
    )


def validation_table(results: StudyResults, validations: Validations) -> ReportTable:
    """Returns errors and coverage, one row per measure of complexity and group left out."""
    rows: list[Mapping[str, Any]] = []
    for measure, groups in validations.items():
        for group, test in groups.items():
            row: dict[str, Any] = {
                "complexity": results.complexities[measure],
                "left_out": group,
            }
            if isinstance(test, Validation):
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
        Column("complexity", "predicted from"),
        Column("left_out", "left out at a time"),
        Column("error", "mean absolute error of AP50-95", decimals=3),
        Column("log_error", "mean absolute log error, %", decimals=1),
        Column("coverage", "coverage of the 80% interval"),
        *interval_columns(decimals=2),
    ]
    return ReportTable(
        "prediction-test",
        columns,
        rows,
        caption="Predicted against measured",
        note="The confidence interval of the coverage is by Clopper and Pearson. It assumes "
        "independent models, which the members of a family are not. A model of a new family has an "
        "interval only if there are four other families.",
    )


def predictions_table(results: StudyResults, validations: Validations) -> ReportTable:
    """Returns one row per left-out model, measure of complexity and unit left out."""
    rows: list[Mapping[str, Any]] = [
        {
            "complexity": results.complexities[measure],
            "left_out": group,
            "model": row.model,
            "family": row.family,
            "measured": row.measured,
            **row.prediction.flat(),
            "covered": "–" if row.covered is None else "yes" if row.covered else "no",
            "inside": "yes" if row.prediction.inside else "no, extrapolated",
        }
        for measure, groups in validations.items()
        for group, test in groups.items()
        if isinstance(test, Validation)
        for row in test.predictions
    ]
    columns = [
        *(Column("complexity", "predicted from"), Column("left_out", "left out")),
        *(Column("model"), Column("family"), Column("measured", decimals=3)),
        Column("expected", "predicted", decimals=3),
        *interval_columns("80% interval", decimals=3),
        *(Column("covered"), Column("form")),
        Column("inside", "within the fitted range"),
    ]
    return ReportTable("held-out", columns, rows, caption="Predictions of left-out models")
