"""A study on several data sets: the same conditions on each, and one page on the ranks."""

import html
import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tiny_studies import TINY

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError, DataError
from ossa.study.config import check_study
from ossa.study.datasets import (
    StudySet,
    create_studies,
    data_names,
    extend_studies,
    read_studies,
    split_study,
)
from ossa.study.pack import machines_by_data
from ossa.study.report.across import write_studies_report
from ossa.study.report.answers import sentences
from ossa.study.results import StudyResults, load_study

ROOT = Path(__file__).parents[2]
synthetic = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "synthetic_study.py")))
CONTENT = {
    **{"name": "two", "data": ["one", "sets/two"], "models": ["resnet18", "mobilenetv2_100"]},
    **{"neck": "n", "seeds": [0, 1, 2], "recipe": TINY},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set with a test split, and one without."""
    root = tmp_path_factory.mktemp("data")
    one = write_scenes(root / "one", images={"train": 2, "val": 8, "test": 8}, imgsz=160)
    two = write_scenes(root / "sets/two", images={"train": 2, "val": 8}, imgsz=160)
    return {"one": one.parent, "sets-two": two.parent}


def created(path: Path, places: dict[str, Path], **settings: object) -> StudySet:
    study = check_study({**CONTENT, **settings}, where="the test")
    return create_studies(study, path, places=places, weights_folder=path.parent)


def test_every_data_set_has_a_study_of_its_own_under_the_same_conditions(
    places: dict[str, Path], tmp_path: Path
):
    made = created(tmp_path / "study", places)
    assert list(made.studies) == ["one", "sets-two"]
    first, second = made.studies.values()
    assert (first.study.name, second.study.name) == ("two-one", "two-sets-two")
    assert first.plan.shared_settings_hash == second.plan.shared_settings_hash
    assert first.path == tmp_path / "study" / "data_sets" / "one"
    assert [run.config.data for run in second.plan.runs] == [str(places["sets-two"])] * 6
    assert sum(len(one.plan.runs) for one in made.studies.values()) == 2 * 2 * 3
    again = created(tmp_path / "study", places)
    assert again.studies.keys() == made.studies.keys()
    more = extend_studies(tmp_path / "study", models=["resnet34"], seeds=[])
    assert [len(one.plan.runs) for one in more] == [9, 9]
    with pytest.raises(ConfigError, match="resnet34 is already in the study; '--seed N' alone"):
        extend_studies(tmp_path / "study", models=["resnet34"], seeds=[])


def test_a_data_set_without_a_test_split_reports_val_and_says_so(
    places: dict[str, Path], tmp_path: Path
):
    made = created(tmp_path / "study", places, reported={"weights": "best", "split": "test"})
    reported = [one.study.reported for one in made.studies.values()]
    assert [(one.weights, one.split) for one in reported] == [("best", "test"), ("last", "val")]
    assert made.notes == [
        "sets-two has no test split: the last weights are reported on its val, unlike the others"
    ]
    assert created(tmp_path / "other", places).notes == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (["one", "one"], "data_sets has one more than once: leave one out"),
        ([], "data: expected a data set or a list of at most 100, found []"),
        (["one", 2], "expected a data set or a list of at most 100, found ['one', 2]"),
        (["a/one", "a-one"], "Expected data sets with different names, found a-one and a/one"),
    ],
)
def test_data_sets_that_cannot_be_told_apart_are_refused(data: list[object], sentence: str):
    with pytest.raises(ConfigError) as error:
        data_names(check_study({**CONTENT, "data": data}, where="the test"))
    assert sentence in str(error.value)


def test_a_study_under_other_conditions_is_refused_in_a_sentence(
    places: dict[str, Path], tmp_path: Path
):
    created(tmp_path / "study", places)
    file = tmp_path / "study" / "data_sets" / "one" / "study.yaml"
    content = yaml.safe_load(file.read_text())
    content["study"]["recipe"]["epochs"] = 3
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        read_studies(tmp_path / "study")
    assert "Expected the same train.epochs on all data sets (3), found 2" in str(error.value)
    assert "results under different conditions are not comparable" in str(error.value).lower()
    shutil.rmtree(file.parent)
    with pytest.raises(ConfigError, match=r"found no study\.yaml"):
        read_studies(tmp_path / "study")


def test_a_folder_in_use_and_another_study_are_refused(places: dict[str, Path], tmp_path: Path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ConfigError, match="a study on several data sets, found one in use"):
        created(tmp_path / "used", places)
    created(tmp_path / "study", places)
    with pytest.raises(ConfigError, match="add its model or seed with 'ossa study add'"):
        created(tmp_path / "study", places, models=["resnet34"])
    other = {"one": places["one"], "sets-two-copy": places["sets-two"]}
    with pytest.raises(ConfigError) as error:
        created(tmp_path / "study", other, data=["one", "sets/two/copy"])
    assert "Expected a study on one, sets-two-copy, found one on one, sets-two" in str(error.value)
    assert list(read_studies(tmp_path / "study").studies) == ["one", "sets-two"]


@pytest.fixture(scope="module")
def finished(
    places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StudyResults]:
    """The results on each data set of a study in which every run is done."""
    results = {}
    folder = tmp_path_factory.mktemp("finished") / "study"
    for name, study in created(folder, places).studies.items():
        splits = [
            read_index(read_description(places[name]), split).index for split in ("train", "val")
        ]
        fingerprint = "-".join(index.fingerprint() for index in splits)
        for run in study.plan.runs:
            folder = study.run_folder(run)
            synthetic.write_run(folder, run, splits[1], data_fingerprint=fingerprint)
        results[name] = load_study(study)
    return results


def test_one_page_ranks_the_models_over_the_data_sets_and_shows_each_by_a_switch(
    finished: dict[str, StudyResults], tmp_path: Path
):
    folder = tmp_path / "page"
    page = write_studies_report(finished, folder, detections=False, notes=["a note"]).read_text()
    assert "2 backbones on 2 data sets: one, sets-two." in page
    assert "Of the mean over these 2 data sets " in page
    assert "Nothing is said of other data sets: expected 5 at least, found 2." in page
    assert "a note" in page
    assert re.findall(r'<input type="radio" name="choice-1" value="([^"]*)"', page) == [
        *("", "one", "sets-two"),
    ]
    assert re.findall(r'<div data-choice="([\w-]*)"( hidden)?>\s*<section', page) == [
        *(("", ""), ("one", " hidden"), ("sets-two", " hidden")),
    ]
    for name, one in finished.items():
        assert all(html.escape(sentence) in page for sentence in sentences(one))
        assert (folder / name / "index.html").is_file()
    names = {file.stem for file in (folder / "tables").glob("*.csv")}
    assert names == {"ranks", "means", "best"}
    assert len((folder / "tables" / "ranks.csv").read_text().splitlines()) == 1 + 6


def test_measurements_belong_to_the_study_that_they_name(
    finished: dict[str, StudyResults], tmp_path: Path
):
    times = {"median_ms": 1.0, "mean_ms": 1.0, "p95_ms": 1.0}
    file = tmp_path / "measurements.json"
    for study, found in (("two-sets-two", None), ("three", "found three")):
        content = {
            **{"schema_number": 1, "machine": "a", "study": study, "imgsz": 64, "cpu": "a"},
            **{"system": "a", "runtime": "onnxruntime", "runtime_version": "1", "threads": 1},
            **{"warmup_runs": 1, "timed_runs": 1},
            "models": {"resnet18": {**times, "weights_sha256": "0" * 64}},
        }
        file.write_text(json.dumps(content))
        # Of the right study, it is read, and its weights, which were never trained, are not.
        with pytest.raises(DataError, match=found or "times of weights of the study two-sets-two"):
            machines_by_data(finished, [file])


def test_a_list_of_one_is_one():
    assert check_study({**CONTENT, "data": ["one"]}, where="the test").data == "one"


def test_the_split_of_a_study_keeps_what_is_shared(places: dict[str, Path]):
    study = check_study({**CONTENT, "margin": 0.05}, where="the test")
    parts = split_study(study, places)
    assert [part.data for part in parts.values()] == ["one", "sets/two"]
    assert {part.margin for part in parts.values()} == {0.05}
    assert json.loads(parts["one"].model_dump_json())["models"] == CONTENT["models"]
