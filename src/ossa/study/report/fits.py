"""Quality against complexity: power-law fits, Pareto sets, and the validation of predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from ossa.study.analysis import MeasureRanking, rank_measures
from ossa.study.efficiency import QuantileCurve, efficiency_sentence, quantile_curve
from ossa.study.laws import LawComparison, compare_laws
from ossa.study.prediction import Validation, validate
from ossa.study.report.answers import main_measure, timing_note
from ossa.study.report.figures import relation_figure
from ossa.study.report.tables import Column, ReportFiles, ReportTable, bullets, interval_columns
from ossa.study.report.text import MEASURES, listed, probability, signed
from ossa.study.results import StudyResults
from ossa.study.scaling import InsufficientData, PowerLaw, fit_families
from ossa.viz.page import Block, Section, Switch

_FITTED = ("params", "flops", "ms_per_image", "train_seconds", "peak_bytes")
"""MACs are left out: they are half the FLOPs and have the same fit."""


def measures_of(results: StudyResults) -> list[str]:
    """Returns the measures of complexity that are known, the one of the first screen first."""
    known = [measure for measure in _FITTED if measure in results.complexities]
    return sorted(known, key=lambda measure: measure != main_measure(results))


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
    first, *sentences = fit_sentences(overall)
    sentences += _ranking_sentences(results)
    if busy := timing_note(results):
        sentences.append(busy)
    for measure in measures:
        about = f"AP50-95 and {MEASURES[measure]}"
        forms = compare_laws(results.points("ap", measure))
        if isinstance(forms, LawComparison):
            sentences.append(f"{about}: {forms.sentence()}")
        sentences.append(f"{about}: {efficiency_sentence(results.efficiency('ap', measure))}")
    tables = [pareto_table(results)]
    if any("slope" in row for row in fits.rows):
        tables += [fits, forms_table(results), quantile_table(results)]
    shown = [files.table(table, folded=True) for table in tables if table.rows]
    switch = Switch({"quality": results.qualities, "cost": titles}, figures)
    return Section("Quality and cost", [switch, bullets("", sentences), *shown], first, True)


def fit_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence per power-law fit; without any fit, the first reason."""
    sentences = [
        f"AP50-95 and {MEASURES[row['measure']]}: {signed(row['doubling'], decimals=1)}% when the "
        f"cost doubles (slope {signed(row['slope'])}, 95% CI {signed(row['low'])} to "
        f"{signed(row['high'])}; R² {row['r_squared']:.2f}; {row['models']} models)."
        for row in rows
        if "slope" in row
    ]
    if sentences:
        return sentences
    reason = str(rows[0]["reason"])
    return [f"No power-law fit: {reason if len(reason) < 120 else reason[:119] + '…'}."]


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
            fits = {family: fit for family, fit in families if isinstance(fit, PowerLaw)}
            axes = {"quality": title, "measure": measure, "cost": results.complexities[measure]}
            rows += [
                {**axes, "family": family, **_fit_row(fit)}
                for family, fit in [("all", relation.fit), *fits.items()]
            ]
    columns = [
        *map(Column, ("quality", "cost", "family", "models")),
        *(Column("slope", write=signed), *interval_columns(write=signed)),
        Column("doubling", "% when the cost doubles", write=_percent),
        Column("error", "SE", decimals=3, note="clustered by family if there are several"),
        Column("dof", "df", decimals=1, note="degrees of freedom of the interval"),
        Column("r_squared", "R²", decimals=2),
    ]
    return ReportTable("laws", columns, rows, caption="Power-law fits: quality = a x cost ^ slope")


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


def forms_table(results: StudyResults) -> ReportTable:
    """Returns the leave-one-out error of AP50-95 by form of the law and measure of complexity."""
    rows = [
        {"cost": results.complexities[measure], **row}
        for measure in measures_of(results)
        if isinstance(comparison := compare_laws(results.points("ap", measure)), LawComparison)
        for row in comparison.flat()
    ]
    columns = [
        *(Column("cost"), Column("formula")),
        Column("error", "mean leave-one-out error of AP50-95", decimals=3),
        Column("difference", "more than the best", decimals=3),
        *interval_columns(decimals=3),
        *(Column("exponent", "c", decimals=2), Column("ceiling", "a", decimals=3)),
    ]
    note = "c and a are given if the 95% profile interval of c lies within 0.05 to 2."
    return ReportTable("forms", columns, rows, caption="Forms of the law, x: cost", note=note)


def quantile_table(results: StudyResults) -> ReportTable:
    """Returns the knots of the 0.9-quantile curves of AP50-95, from 20 models on."""
    rows = [
        {"cost": results.complexities[measure], **row}
        for measure in measures_of(results)
        if isinstance(curve := quantile_curve(results.points("ap", measure)), QuantileCurve)
        for row in curve.flat()
    ]
    columns = [Column("cost"), Column("complexity", "at")]
    columns.append(Column("quality", "AP50-95", decimals=3))
    caption = "The AP50-95 that about one model in ten exceeds, from 20 models on"
    return ReportTable("quantile", columns, rows, caption=caption)


def pareto_table(results: StudyResults) -> ReportTable:
    """Returns membership, efficiency and residual of every model, by measure of complexity."""
    rows = []
    for measure in measures_of(results):
        relation, ratios = results.relation("ap", measure), {}
        if isinstance(relation.fit, PowerLaw):
            names = relation.points.models
            ratios = dict(zip(names, relation.fit.ratios().tolist(), strict=True))
        efficiency = {row.model: row.flat() for row in results.efficiency("ap", measure)}
        rows += [
            {
                **efficiency[point.model],
                "cost": results.complexities[measure],
                "member": "yes" if point.is_member else "no",
                "probability": point.probability,
                "residual": 100 * (ratios[point.model] - 1) if ratios else None,
            }
            for point in relation.pareto
        ]
    columns = [
        *map(Column, ("cost", "model", "family")),
        *(Column("member", "Pareto set"), Column("probability", write=probability)),
        *(Column("cheapest", "at least as good"), Column("value", "efficiency", decimals=2)),
        *interval_columns(decimals=2),
        Column("residual", "% above fit", write=_percent),
    ]
    note = "Efficiency: the cost of the cheapest model that is at least as good, over its own cost."
    caption = "Pareto sets and efficiency, AP50-95"
    return ReportTable("frontier", columns, rows, caption=caption, note=note)


def prediction_section(results: StudyResults, files: ReportFiles) -> Section | None:
    """Returns predictions of left-out models beside their measured quality, None without any."""
    sentences, rows = [], []
    for measure in measures_of(results):
        title = results.complexities[measure]
        for group, test in validate(results.points("ap", measure)).items():
            if isinstance(test, Validation):
                low, high = test.coverage_interval
                without = len(test.predictions) - test.num_intervals
                outside = f"; {without} outside the others' range have none" if without else ""
                sentences.append(
                    f"Predicted from {title} with one {group} left out, AP50-95 is off by "
                    f"{test.mean_absolute_error:.3f} on average, and {test.coverage} of the 80% "
                    f"intervals contain the measured value (95% CI {low:.0%} to {high:.0%}"
                    f"{outside})."
                )
                rows += prediction_rows(test, cost=title, left_out=group)
    if not sentences:
        return None
    columns = [
        *(Column("cost", "predicted from"), Column("left_out", "left out")),
        *(Column("model"), Column("family"), Column("measured", decimals=3)),
        Column("expected", "predicted", decimals=3),
        *interval_columns("80% interval", decimals=3),
        *map(Column, ("covered", "form", "extrapolated")),
    ]
    note = "The interval of the coverage takes models as independent, which families are not."
    caption = "Predictions of left-out models"
    table = files.table(ReportTable("held-out", columns, rows, caption, note), folded=True)
    return Section("Held-out predictions", [bullets("", sentences[1:]), table], sentences[0], True)


def prediction_rows(test: Validation, **shared: str) -> list[dict[str, Any]]:
    """Returns one row per left-out model."""
    return [
        {
            **shared,
            **row.prediction.flat(),
            "model": row.model,
            "family": row.family,
            "measured": row.measured,
            "covered": "–" if row.covered is None else "yes" if row.covered else "no",
            "extrapolated": "no" if row.prediction.inside else "yes",
        }
        for row in test.predictions
    ]
