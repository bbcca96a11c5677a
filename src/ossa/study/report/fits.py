"""Quality against cost: power-law fits, Pareto sets, and predictions put to the test."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from ossa.study.analysis import MeasureRanking, rank_measures
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
"""MACs are half the FLOPs: they have the same fit."""
Validations: TypeAlias = Mapping[str, Mapping[str, Validation | InsufficientData]]
"""By measure of complexity and by what is left out at a time."""


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
    fits = fits_table(results)
    overall = [row for row in fits.rows if (row["quality"], row["family"]) == ("AP50-95", "all")]
    return Section(
        "Quality against complexity",
        [
            relations_block(results),
            bullets("Power-law fits", fit_sentences(overall)),
            bullets("Pareto sets", (pareto_sentence(results.relation("ap", m)) for m in measures)),
            bullets("What predicts quality best?", _ranking_sentences(results)),
            files.table(pareto_table(results), wide=True),
            files.table(fits, folded=True),
        ],
        text="A model is one point, at the mean of its seeds. The power-law fit is the middle of "
        "the models, the Pareto set their edge: nothing that was trained is better and as cheap. "
        "In brackets is the probability that a model belongs to it, over other images and, where "
        "a model has several runs, other seeds.",
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
    """Returns the fit of every pair of axes, and of families of eight models and more."""
    rows: list[Mapping[str, Any]] = []
    for quality, title in results.qualities.items():
        for measure in measures_of(results):
            relation = results.relation(quality, measure)
            families = fit_families(relation.points).items()
            fits = {"all": relation.fit} | {
                family: fit for family, fit in families if isinstance(fit, PowerLaw)
            }
            title_of_cost = results.complexities[measure]
            axes = {"quality": title, "complexity": title_of_cost, "measure": measure}
            rows += [
                {**axes, "family": family, "models": len(relation.points), **_fit_row(fit)}
                for family, fit in fits.items()
            ]
    columns = [
        *(Column("quality"), Column("complexity"), Column("family", "models")),
        Column("models", "number", write=str),
        Column("slope", write=signed),
        *interval_columns(write=signed),
        Column("doubling", "% at twice the cost", write=_percent),
        *(Column("error", decimals=3), Column("error_hc3", "error, HC3", decimals=3)),
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
        "error": fit.slope_error,
        "error_hc3": fit.slope_error_hc3,
        "r_squared": fit.r_squared,
    }


def pareto_table(results: StudyResults) -> ReportTable:
    """Returns the Pareto sets of AP50-95 and the residuals of the fits, one row per model."""
    rows: dict[str, dict[str, Any]] = {
        row["model"]: {key: row[key] for key in ("model", "family", "policy")}
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
            note = f"measured AP50-95 over that of the fit to {title}"
            column = Column(f"{measure}_residual", "% above fit", write=_percent, note=note)
            columns.append(column)
    caption = "Pareto sets and residuals, AP50-95"
    return ReportTable("frontier", columns, list(rows.values()), caption=caption)


def pretraining_columns(results: StudyResults) -> list[Column]:
    """Returns the column that declares initial weights where the models' differ, else none."""
    return [Column("policy", "starts from")] if len(results.pretraining_sources) > 1 else []


def prediction_section(results: StudyResults, files: ReportFiles) -> Section:
    """Returns how predictions of models that were left out compare with what was measured."""
    validations: Validations = {
        measure: validate(results.points("ap", measure)) for measure in measures_of(results)
    }
    found = [validation_sentence(measure, own) for measure, own in validations.items()]
    sentences = [sentence for sentence in found if sentence is not None]
    summary = files.table(validation_table(results, validations))
    predictions = predictions_table(results, validations)
    left_out = files.table(predictions, folded=True)
    if predictions.rows:
        figure = files.figure("prediction-test", validation_figure(results, validations))
        blocks: list[Block] = [bullets("", sentences), summary, figure, left_out]
    else:
        reasons = [
            found.reason
            for own in validations.values()
            for found in own.values()
            if isinstance(found, InsufficientData)
        ]
        blocks = [bullets("", [f"No test of predictions: {reasons[0]}."])]
    return Section(
        "Do its predictions hold?",
        blocks,
        text="'ossa study predict' gives the quality to expect of a model that was not trained. "
        "Here models that were trained are left out, predicted from the others, and compared.",
    )


def validation_table(results: StudyResults, validations: Validations) -> ReportTable:
    """Returns errors and coverage, one row per measure of complexity and group left out."""
    rows: list[Mapping[str, Any]] = []
    for measure, groups in validations.items():
        for group, found in groups.items():
            row: dict[str, Any] = {
                "complexity": results.complexities[measure],
                "left_out": group,
            }
            if isinstance(found, Validation):
                low, high = found.coverage_interval
                row |= {
                    "error": found.mean_absolute_error,
                    "log_error": 100 * found.mean_absolute_log_error,
                    "coverage": found.coverage,
                    "low": low,
                    "high": high,
                }
            rows.append(row)
    columns = [
        Column("complexity", "predicted from"),
        Column("left_out", "left out at a time"),
        Column("error", "mean absolute error of AP50-95", decimals=3),
        Column("log_error", "in %", decimals=1),
        Column("coverage", "80% intervals that held"),
        *interval_columns(decimals=2),
    ]
    return ReportTable(
        "prediction-test",
        columns,
        rows,
        caption="Predicted against measured",
        note="The interval of the coverage is Clopper and Pearson's. It takes the models to be "
        "independent, which the members of a family are not.",
    )


def predictions_table(results: StudyResults, validations: Validations) -> ReportTable:
    """Returns one row per model that was left out, measure and group."""
    rows: list[Mapping[str, Any]] = [
        {
            "complexity": results.complexities[measure],
            "left_out": group,
            "model": row.model,
            "family": row.family,
            "measured": row.measured,
            "expected": row.prediction.expected,
            "low": row.prediction.low,
            "high": row.prediction.high,
            "covered": "yes" if row.covered else "no",
            "inside": "yes" if row.prediction.inside else "no, extrapolated",
        }
        for measure, groups in validations.items()
        for group, found in groups.items()
        if isinstance(found, Validation)
        for row in found.predictions
    ]
    columns = [
        *(Column("complexity", "predicted from"), Column("left_out", "left out")),
        *(Column("model"), Column("family"), Column("measured", decimals=3)),
        Column("expected", "predicted", decimals=3),
        *interval_columns("80%", decimals=3),
        Column("covered", "held"),
        Column("inside", "within the models' range"),
    ]
    return ReportTable("held-out", columns, rows, caption="Every model that was left out")
