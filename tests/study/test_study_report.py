"""The report of a study: a small one as a page, a larger one with all that can go wrong."""

import csv
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from page_structure import HOSTILE, structure

from ossa.errors import ConfigError, DataError
from ossa.study.folder import StudyFolder, read_study_folder
from ossa.study.laws import choose_law
from ossa.study.measure import cost_in_study
from ossa.study.prediction import predict_quality
from ossa.study.report.answers import budgets_table, main_measure, sentences
from ossa.study.report.factors import factors_section
from ossa.study.report.figures import models_outside
from ossa.study.report.fits import pareto_table
from ossa.study.report.report import write_study_report
from ossa.study.report.sections import curves_section, models_table, pairs_section
from ossa.study.report.tables import ReportFiles
from ossa.study.results import StudyResults, load_study

ROOT = Path(__file__).parents[2]
synthetic = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py")))
FAMILIES = ("resnet18", "resnet34", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100")
NINE = (*FAMILIES, "convnext_atto", "convnext_tiny", "ghostnet_100", "densenet121")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Two models with one seed and no measurements, as in the demo."""
    folder = tmp_path_factory.mktemp("two")
    study = synthetic.write_study(
        folder,
        models=("resnet18", "mobilenetv2_100"),
        seeds=(0,),
        images=8,
        epochs=3,
        false_per_image=2,
        measured=False,
    )
    return load_study(study)


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Nine models with three seeds; one run failed and one has not begun."""
    folder = tmp_path_factory.mktemp("nine")
    study = synthetic.write_study(folder, models=NINE, images=10, epochs=4, false_per_image=2)
    states = {state.run.name: state for state in study.states()}
    synthetic.write_failed_run(states["ghostnet_100-seed2"], "the loss became NaN")
    synthetic.remove_run(states["convnext_tiny-seed1"])
    return read_study_folder(study.path)


def rows_of(folder: Path, table: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "tables" / f"{table}.csv").open()))


def test_the_first_screen_has_at_most_five_sentences_with_interval_seeds_and_images(
    two: StudyResults,
):
    found = sentences(two)
    assert 2 <= len(found) <= 5
    best, intervals = two.best_first[0], two.intervals("ap")
    assert intervals is not None
    low, high = intervals[best]
    assert (
        f"{best}, AP50-95 {two.number(best, 'ap'):.3f} (95% CI {low:.3f} to {high:.3f};" in found[0]
    )
    assert "1 seed, 8 images, interval over images alone" in found[0]
    assert "the higher of the two" in found[0]
    assert "with these weights" in found[0]
    assert re.match(r"The two models (differ|are [a-z ]+) with these weights: ", found[-1])


def test_budgets_of_the_study_decide_what_is_recommended(two: StudyResults):
    costs = {model: two.number(model, "flops") for model in two.names}
    cheap = min(costs, key=costs.__getitem__)
    assert [row["best"] for row in budgets_table(two).rows][-1] == cheap
    limits = (0.5 * costs[cheap], costs[cheap])
    study = two.study.model_copy(update={"budgets": {"flops": limits}})
    plan = replace(two.folder.plan, study=study)
    asked = replace(two, folder=replace(two.folder, plan=plan))
    rows = budgets_table(asked).rows
    assert [(row["limit"], row.get("best")) for row in rows] == [
        (costs[cheap], cheap),
        (0.5 * costs[cheap], None),
    ]
    found = sentences(asked)
    assert "no model; the cheapest has " in found[1]
    best = two.best_first[0]
    assert found[0].startswith(
        f"Up to {rows[0]['budget']}: {best}, " if best == cheap else f"Highest of all 2: {best}, "
    )


def test_what_was_not_measured_has_no_column_and_a_sentence(two: StudyResults):
    table = models_table(two)
    keys = [column.key for column in table.columns]
    assert keys[:2] == ["model", "ap"]
    assert "ms_per_image" not in keys
    assert main_measure(two) == "flops"
    assert "Latency was not measured for resnet18 and mobilenetv2_100." in table.note
    assert "S, M and L are means over the classes with objects of that size" in table.note
    assert "Pareto: the probability with these weights, in AP50-95" in table.note
    assert "Other programs were busy" not in table.note
    disturbed = replace(two, measurements={"others_busy": True})
    assert "Other programs were busy while the models were timed" in models_table(disturbed).note


def test_a_single_evaluated_epoch_is_no_sign_of_convergence(two: StudyResults, tmp_path: Path):
    files = ReportFiles(tmp_path)
    assert "In the last quarter of the epochs, AP50-95 on val changed by +" in (
        curves_section(two, files).text
    )
    runs = [
        replace(run, log=(*({**row, "ap": None} for row in run.log[:-1]), run.log[-1]))
        for run in two.runs
    ]
    once = replace(two, runs=tuple(runs))
    assert curves_section(once, files).text.startswith("AP50-95 on val was evaluated only once in ")
    assert {"epochs"} == {column.key for column in models_table(two).columns} - {
        column.key for column in models_table(once).columns
    }


def test_every_pair_of_few_models_is_compared_the_better_one_first(
    two: StudyResults, tmp_path: Path
):
    assert pairs_section(two, ReportFiles(tmp_path)) is not None
    (pair,) = rows_of(tmp_path, "pairs")
    first, second = two.best_first
    assert (pair["model"], pair["reference"]) == (first, second)
    difference = two.number(first, "ap") - two.number(second, "ap")
    assert float(pair["difference"]) == pytest.approx(difference, abs=1e-9)


def test_models_at_zero_are_outside_of_the_axes_and_the_page_says_that_none_is_above(
    tmp_path: Path,
):
    study = synthetic.write_study(
        tmp_path,
        models=("resnet18", "mobilenetv2_100"),
        seeds=(0,),
        images=4,
        epochs=2,
        false_per_image=0,
        measured=False,
        skill=-20.0,
    )
    results = load_study(study)
    outside = models_outside(results, results.relation("ap", "flops"))
    assert outside == {model: results.number(model, "flops") for model in results.names}
    page = write_study_report(results, tmp_path / "report").read_text()
    assert (
        "No model reached an AP50-95 above 0 (95% CI 0 to 0.000 at most; 2 models, 1 seed" in page
    )
    assert "no model with AP50-95 above 0" in page
    assert page.count("No power-law fit: expected 8 models") == 1


@pytest.mark.slow
def test_no_family_and_no_reason_of_a_failure_is_more_than_text(tmp_path: Path):
    models = ("resnet18", "mobilenetv2_100", "resnet34")

    def page_of(texts: tuple[str, ...], folder: str) -> str:
        study = synthetic.write_study(
            tmp_path / folder,
            models=models,
            seeds=(0,),
            images=4,
            epochs=2,
            false_per_image=1,
            settings={"families": dict(zip(models, texts, strict=False))},
        )
        synthetic.write_failed_run(study.states()[2], " ".join(texts))
        return write_study_report(load_study(study), tmp_path / f"{folder}-page").read_text()

    plain, hostile = page_of(("a", "b", "c"), "plain"), page_of(HOSTILE, "hostile")
    elements = [structure(html)[0] for html in (plain, hostile)]
    for found in elements:  # longer names leave less room for labels in a drawing
        del found["g"], found["text"]
    assert elements[0] == elements[1]
    assert structure(hostile)[1] == []
    for file in (tmp_path / "hostile-page").rglob("*.*"):
        if file.suffix in (".svg", ".csv", ".md", ".tex"):
            assert "\x1b" not in file.read_text()
        if file.suffix in (".svg", ".md"):  # which browsers and Markdown take for HTML
            assert "<script" not in file.read_text().replace(r"\<script", "")


def test_the_page_needs_nothing_beside_it_and_everything_lies_there_as_files(
    two: StudyResults, tmp_path: Path
):
    page = write_study_report(two, tmp_path / "report")
    html = page.read_text()
    for attribute in ("src=", "href="):
        assert f'{attribute}"http' not in html
    assert "default-src 'none'" in html  # nor does a script load anything
    for heading in ("Pairs", "Quality and cost", "Example detections", "Conditions"):
        assert f">{heading}</h2>" in html
    assert html.count('<details class="fold">') == 6
    assert html.count("No power-law fit") == 1
    svgs = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert svgs == {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert {"first", "ap-params", "recall-flops", "curve-ap", "confusion-resnet18", "pairs"} <= svgs
    tables = tmp_path / "report" / "tables"
    names = {path.stem for path in tables.glob("*.csv")}
    assert names == {path.stem for path in tables.glob("*.md")}
    assert names == {path.stem for path in tables.glob("*.tex")}
    rows = list(csv.DictReader((tables / "models.csv").open()))
    assert [row["model"] for row in rows] == two.best_first
    assert float(rows[0]["ap"]) == pytest.approx(two.number(two.best_first[0], "ap"))
    assert rows[0]["family"] in ("resnet", "mobilenet")
    # Under the pointer, a point says what it is.
    assert len(re.findall(r"<title>resnet18 \(resnet\): AP50-95 0\.\d{3}, ", html)) >= 2


def test_the_summary_has_the_sentences_of_the_page(two: StudyResults, tmp_path: Path):
    write_study_report(two, tmp_path)
    summary = (tmp_path / "summary.md").read_text()
    for sentence in sentences(two):
        assert sentence.replace("<", "\\<") in summary
    assert "s of training and " in summary


def test_nothing_is_predicted_from_two_models(two: StudyResults):
    with pytest.raises(DataError, match="allows no prediction from parameters: expected 8 models"):
        predict_quality(two, 7e6)
    with pytest.raises(ConfigError, match="Expected a quality of ap, ap50"):
        predict_quality(two, 7e6, quality="map")


def test_the_cost_of_a_model_that_was_not_trained_is_that_behind_the_neck_of_the_study(
    two: StudyResults,
):
    cost = cost_in_study(two.folder, "cspdarknet_n", num_classes=3)
    # Without CSPDarknet's SPPF: 1x1 convolutions from 256 to 128 and from 4 * 128 to 256 channels.
    sppf = 256 * 128 + 2 * 128 + 512 * 256 + 2 * 256
    assert (cost.params, cost.flops) == (4_076_456 - sppf, 531_046_400 - 8_192_000)


@pytest.mark.slow
def test_a_failed_and_a_missing_run_are_told_and_never_filled_in(nine: StudyFolder, tmp_path: Path):
    results = load_study(nine)
    page = write_study_report(results, tmp_path / "report")
    rows = rows_of(tmp_path / "report", "missing")
    assert {row["run"]: row["state"] for row in rows} == {
        "ghostnet_100-seed2": "failed",
        "convnext_tiny-seed1": "waiting",
    }
    assert "the loss became NaN" in page.read_text()
    models = rows_of(tmp_path / "report", "models")
    runs = {row["model"]: int(row["runs"]) for row in models}
    assert runs["ghostnet_100"] == runs["convnext_tiny"] == 2
    assert runs["resnet18"] == 3
    assert "25 of 27 planned runs are done" in page.read_text()
    law = next(csv.DictReader((tmp_path / "report" / "tables" / "laws.csv").open()))
    assert (law["quality"], law["models"]) == ("AP50-95", "9")
    assert float(law["slope"]) > 0


@pytest.mark.slow
def test_a_prediction_lies_on_the_fit_and_comes_with_its_validation(
    nine: StudyFolder, tmp_path: Path
):
    results = load_study(nine)
    ReportFiles(tmp_path).table(pareto_table(results))
    found = predict_quality(results, 2e7)
    law = choose_law(results.points("ap", "params"))
    row = found.flat()
    assert row["expected"] == pytest.approx(law.expected([2e7])[0])
    assert row["low"] < row["expected"] < row["high"]
    assert (row["form"], row["new_family"], row["models"]) == (law.form, True, 9)
    assert {row["model"] for row in rows_of(tmp_path, "frontier")} == set(results.names)


@pytest.mark.slow
def test_a_varied_study_says_whether_the_ranking_changes(tmp_path: Path):
    study = synthetic.write_study(
        tmp_path,
        models=FAMILIES[:3],
        seeds=(0,),
        images=8,
        epochs=3,
        false_per_image=2,
        settings={
            "vary": {"train.lr": [0.01, 0.03]},
            "recipe": {"base": "quick", "epochs": 3, "train": {"tiles": 640}},
        },
    )
    results = load_study(study)
    assert "With tiles, FLOPs and ms/image are of one window" in models_table(results).note
    section = factors_section(results, ReportFiles(tmp_path))
    assert section is not None
    rows = rows_of(tmp_path, "tuning")
    assert {row["model"] for row in rows} == set(FAMILIES[:3])
    assert sorted(float(row["train.lr 0.03 rank"]) for row in rows) == [1, 2, 3]
    assert "train.lr 0.03 in place of 0.01 (F test of the interaction: p " in section.text
    assert "1 seed, 8 images, intervals over images alone" in section.text
    gains = rows_of(tmp_path, "gains")
    assert all(float(row["low"]) < float(row["gain"]) < float(row["high"]) for row in gains)
    assert len(gains) == 3
