"""Quality against complexity: power-law fits, Pareto sets, and the validation of predictions."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ossa.study.analysis import MeasureRanking, rank_measures
from ossa.study.efficiency import Efficiency, QuantileCurve, efficiency_sentence, quantile_curve
from ossa.study.laws import LawComparison, compare_laws
from ossa.study.prediction import Validation, validate
from ossa.study.report.answers import main_measure
from ossa.study.report.figures import relation_figure
from ossa.study.report.tables import Column, ReportFiles, ReportTable, bullets, interval_columns
from ossa.study.report.text import MEASURES, listed, probability, signed
from ossa.study.results import StudyResults
from ossa.study.scaling import InsufficientData, PowerLaw, fit_families
from ossa.viz.page import Block, Section, Switch

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
    figures: dict[tuple[str, ...], Block] = {
        (quality, measure): files.figure(
            f"{quality}-{measure}".replace("_", "-"),
            relation_figure(results, results.relation(quality, measure)),
        )
        for quality in results.qualities
        for measure in measures
    }
    titles = {measure: results.complexities[measure] for measure in measures}
    fits = fits_table(results)
    overall = [row for row in fits.rows if (row["quality"], row["family"]) == ("AP50-95", "all")]
    blocks: list[Block] = [Switch({"quality": results.qualities, "cost": titles}, figures)]
    sentences = fit_sentences(overall)[1:] + _ranking_sentences(results) + _form_sentences(results)
    efficiency = {measure: results.efficiency("ap", measure) for measure in measures}
    sentences += [
        f"AP50-95 and {MEASURES[measure]}: {efficiency_sentence(rows)}"
        for measure, rows in efficiency.items()
    ]
    blocks.append(bullets("", sentences))
    tables = [pareto_table(results), efficiency_table(results, efficiency)]
    if any("slope" in row for row in fits.rows):
        tables += [fits, forms_table(results), quantile_table(results)]
    blocks += [files.table(table, folded=True) for table in tables if table.rows]
    return Section("Quality and cost", blocks, text=fit_sentences(overall)[0], folded=True)


def fit_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence per power-law fit; without any fit, the first reason."""
    sentences = [
        f"AP50-95 and {MEASURES[row['measure']]}: {signed(row['doubling'], decimals=1)}% when the "
        f"cost doubles (slope {signed(row['slope'])}, 95% CI {signed(row['low'])} to "
        f"{signed(row['high'])}; R² {row['r_squared']:.2f}; {row['models']} models)."
        for row in rows
        if "slope" in row
    ]
    return sentences or [f"No power-law fit: {rows[0]['reason']}."]


def _ranking_sentences(results: StudyResults) -> list[str]:
    points = {MEASURES[m]: results.relation("ap", m).points for m in measures_of(results)}
    ranking = rank_measures(points)
    if not isinstance(ranking, MeasureRanking) or not ranking.pairs:
        return []
    errors = listed([f"{name} {100 * error:.1f}%" for name, error in ranking.errors.items()])
    best = "best" if len(ranking.best) == 1 else "not decided between"
    return [f"Mean leave-one-out error by measure: {errors}; {best} {listed(ranking.best)}."]


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
    return [
        f"AP50-95 and {MEASURES[measure]}: {comparison.sentence()}"
        for measure in measures_of(results)
        if isinstance(comparison := compare_laws(results.points("ap", measure)), LawComparison)
    ]


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
    rows: dict[str, dict[str, Any]] = {model: {"model": model} for model in results.best_first}
    columns = [Column("model")]
    for measure in measures_of(results):
        relation, title = results.relation("ap", measure), results.complexities[measure]
        for point in relation.pareto:
            rows[point.model][f"{measure}_member"] = "yes" if point.is_member else "no"
            rows[point.model][f"{measure}_probability"] = point.probability
        note = f"{title}: probability that the model is in the Pareto set"
        columns += [
            Column(f"{measure}_member", f"Pareto, {title}"),
            Column(f"{measure}_probability", "probability", write=probability, note=note),
        ]
        if isinstance(relation.fit, PowerLaw):
            ratios = relation.fit.ratios().tolist()
            for model, ratio in zip(relation.points.models, ratios, strict=True):
                rows[model][f"{measure}_residual"] = 100 * (ratio - 1)
            note = f"measured AP50-95 relative to the power-law fit to {title}"
            columns.append(Column(f"{measure}_residual", "% above fit", write=_percent, note=note))
    caption = "Pareto sets and residuals, AP50-95"
    return ReportTable("frontier", columns, list(rows.values()), caption=caption)


def prediction_section(results: StudyResults, files: ReportFiles) -> Section | None:
    """Returns predictions of left-out models beside their measured quality, None without any."""
    validations: Validations = {
        measure: validate(results.points("ap", measure)) for measure in measures_of(results)
    }
    sentences = [
        f"Predicted from {results.complexities[measure]} with one {group} left out, AP50-95 is off "
        f"by {test.mean_absolute_error:.3f} on average, and {test.coverage} of the 80% intervals "
        "contain the measured value (95% CI {:.0%} to {:.0%}).".format(*test.coverage_interval)
        for measure, tests in validations.items()
        for group, test in tests.items()
        if isinstance(test, Validation) and measure == main_measure(results)
    ]
    if not sentences:
        return None
    summary = files.table(validation_table(results, validations))
    left_out = files.table(predictions_table(results, validations), folded=True)
    return Section("Held-out predictions", [summary, left_out], " ".join(sentences), folded=True)


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
