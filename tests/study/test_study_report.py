"""The report of a study: a small one as a page, a larger one with all that can go wrong."""

import csv
import gc
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from page_structure import HOSTILE, structure

from ossa.errors import ConfigError, DataError
from ossa.study.folder import StudyFolder, read_study_folder
from ossa.study.laws import choose_law
from ossa.study.measure import cost_in_study
from ossa.study.prediction import predict_quality
from ossa.study.report.answers import answers_section, pairs_section
from ossa.study.report.fits import efficiency_table, prediction_section
from ossa.study.report.report import write_study_report
from ossa.study.report.sections import missing_notes, models_table
from ossa.study.report.tables import ReportFiles
from ossa.study.results import StudyResults, load_study

ROOT = Path(__file__).parents[2]
synthetic = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py")))
FAMILIES = ("resnet18", "resnet34", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100")
NINE = (*FAMILIES, "convnext_atto", "convnext_tiny", "ghostnet_100", "densenet121")


@pytest.fixture(scope="module", autouse=True)
def few_collections() -> Iterator[None]:
    """statsmodels collects garbage at every correction by Holm, 0.7 s with PyTorch in memory."""
    gc.freeze()
    yield
    gc.unfreeze()


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


def test_two_models_have_no_fit_and_no_seed_interval_and_the_page_says_so(
    two: StudyResults, tmp_path: Path
):
    files = ReportFiles(tmp_path)
    section = answers_section(two, files)
    assert "fewer than 3 finished runs (the fewest: 1)" in section.text
    first = prediction_section(two, files).blocks[0]
    assert "No test of predictions: expected 8 models at least, found 2" in str(first)


def test_what_was_not_measured_has_no_column_and_a_sentence(two: StudyResults):
    keys = [column.key for column in models_table(two).columns]
    assert "ms_per_image" not in keys
    assert keys[:4] == ["model", "family", "runs", "ap"]
    sentences = missing_notes(two)
    assert "Latency and memory per image were not measured." in sentences
    large = "The split has no large objects: AP is undefined."
    assert (large in sentences) == ("ap_large" not in keys)


def test_every_pair_of_few_models_is_compared_the_better_one_first(
    two: StudyResults, tmp_path: Path
):
    assert pairs_section(two, ReportFiles(tmp_path)) is not None
    (pair,) = rows_of(tmp_path, "pairs")
    first, second = two.best_first
    assert (pair["model"], pair["reference"]) == (first, second)
    difference = two.number(first, "ap") - two.number(second, "ap")
    assert float(pair["difference"]) == pytest.approx(difference, abs=1e-9)


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
    numbers = re.search(r'id="relations-data">(.*?)</script>', hostile, re.DOTALL)
    assert numbers is not None
    assert "<" not in numbers[1]
    for chart in json.loads(numbers[1]).values():  # plotly takes some tags in its texts
        assert not any("<" in trace.get("name", "") for trace in chart["data"])
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
        assert f'{attribute}"http' not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "default-src 'none'" in html  # nor does a script load anything
    assert html.count("plotly.js v") == 1
    for heading in ("Answers", "All-pairs matrix", "Example detections", "Conditions"):
        assert f">{heading}</h2>" in html
    svgs = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert svgs == {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert {"ap-params", "recall-flops", "curves", "confusions", "pairs"} <= svgs
    tables = tmp_path / "report" / "tables"
    names = {path.stem for path in tables.glob("*.csv")}
    assert names == {path.stem for path in tables.glob("*.md")}
    assert names == {path.stem for path in tables.glob("*.tex")}
    rows = list(csv.DictReader((tables / "models.csv").open()))
    assert {row["model"] for row in rows} == {"resnet18", "mobilenetv2_100"}
    assert float(rows[0]["ap"]) == pytest.approx(two.runs[0].row["ap"])
    numbers = re.search(r'id="relations-data">(.*?)</script>', html, re.DOTALL)
    assert numbers is not None
    chart = json.loads(numbers[1])["ap/params"]
    assert chart["layout"]["annotations"][0]["text"].startswith("No power-law fit: expected 8")
    assert len({name for trace in chart["data"] for name in trace.get("text", [])}) == 4


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
    efficiency = {"params": results.efficiency("ap", "params")}
    ReportFiles(tmp_path).table(efficiency_table(results, efficiency))
    found = predict_quality(results, 2e7)
    law = choose_law(results.points("ap", "params"))
    row = found.flat()
    assert row["expected"] == pytest.approx(law.expected([2e7])[0])
    assert row["low"] < row["expected"] < row["high"]
    assert (row["form"], row["new_family"], row["models"]) == (law.form, True, 9)
    assert {row["model"] for row in rows_of(tmp_path, "efficiency")} == set(results.names)


@pytest.mark.slow
def test_a_varied_study_says_whether_the_ranking_changes(tmp_path: Path):
    study = synthetic.write_study(
        tmp_path,
        models=FAMILIES[:3],
        seeds=(0,),
        images=8,
        epochs=3,
        false_per_image=2,
        settings={"vary": {"train.lr": [0.01, 0.03]}},
    )
    section = answers_section(load_study(study), ReportFiles(tmp_path))
    rows = rows_of(tmp_path, "tuning")
    assert {row["model"] for row in rows} == set(FAMILIES[:3])
    assert sorted(float(row["train.lr 0.03 rank"]) for row in rows) == [1, 2, 3]
    assert "With train.lr 0.03 in place of train.lr 0.01: " in str(section.blocks)
