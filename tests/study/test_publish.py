"""A published study is small, is a study as any other, and its figures can be computed again."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_studies import InThisProcess, a_study
from typer.testing import CliRunner

from ossa.cli.main import app
from ossa.data.reading import read_data
from ossa.errors import ConfigError, DataError
from ossa.evaluate.coco import read_coco_results, write_columns
from ossa.evaluate.metrics import evaluate_detections
from ossa.files import without_nan
from ossa.study.comparisons import Comparisons, PairwiseComparison
from ossa.study.folder import StudyFolder, create_study, read_study_folder
from ossa.study.report.publish import (
    Published,
    changes_in_words,
    publish_study,
    verify_sentences,
)
from ossa.study.results import load_study
from ossa.study.runner import run_study
from ossa.study.verify import verify_study


class Tiny(NamedTuple):
    """A published study."""

    study: StudyFolder
    about: Published
    least: float
    """Half of the detections had lower scores."""


@pytest.fixture(scope="module")
def tested(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A finished study that reports on test."""
    path = tmp_path_factory.mktemp("tested") / "tiny"
    settings = a_study(models=["cspdarknet_n"], reported={"split": "test"})
    study = create_study(settings, path, data=scenes, weights_folder=path.parent)
    run_study(study, InThisProcess(), on_run=lambda state: None)
    return study


@pytest.fixture(scope="module")
def published(tested: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("results") / "tiny-2core"
    least = float(np.median(scores_of(tested)))
    about = publish_study(tested, folder, least_score=least)
    return Tiny(read_study_folder(folder), about, least)


def scores_of(study: StudyFolder) -> list[float]:
    """Returns the scores of all detections of all runs on test."""
    scores = []
    for run in study.plan.runs:
        with gzip.open(study.run_folder(run) / "test-detections.json.gz") as file:
            scores += [entry["score"] for entry in json.load(file)]
    return scores


def test_what_is_published_is_verified_from_its_own_files(
    published: Tiny, scenes: Path, tmp_path: Path
):
    study, about, _ = published
    assert about.runs == 1
    assert about.size < 500_000
    names = {file.name for file in study.path.rglob("*") if file.is_file()}
    assert names == {
        *("study.yaml", "README.md", "report.html", "record.json", "log.jsonl"),
        *("published.json", "reported.json", "test-detections.npz"),
    }
    moved = shutil.copytree(scenes, tmp_path / "moved")
    for run in verify_study(read_study_folder(study.path, data=moved)):
        assert (run.verdict, run.mismatches, run.unverified) == ("agrees", (), ())
        assert set(run.not_published) == {
            *("val-detections.json.gz", "last.safetensors", "best.safetensors"),
        }


def test_a_sentence_that_was_changed_and_a_run_that_was_removed_are_noticed(
    published: Tiny, tmp_path: Path
):
    folder = shutil.copytree(published.study.path, tmp_path / "copy")
    copy = read_study_folder(folder)
    agrees = verify_sentences(copy)
    assert agrees
    assert (agrees.verdict, agrees.unverified) == ("agrees", ())
    assert not list(folder.rglob("resampled.npz"))
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("1 seed, 8 images", "1 seed, 80 images"))
    result = CliRunner().invoke(app, ["study", "verify", str(folder)])
    assert result.exit_code == 2
    assert "times are measurements and are taken as they are" in result.stdout
    line = text[: text.index("1 seed, 8 images")].count("\n") + 1
    assert f"README.md differs: line {line}: '1 backbone, 1 seed, 80 images" in result.stdout
    assert "these files give '1 backbone, 1 seed, 8 images" in result.stdout
    shutil.rmtree(folder / "runs")
    fewer = verify_sentences(copy)
    assert fewer
    assert [str(one) for one in fewer.mismatches] == ["finished runs: 1 were published, 0 are here"]


def test_what_would_change_a_verdict_is_refused_and_leaves_nothing_behind(
    tested: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decided = PairwiseComparison("b", "a", 0.03, 0.01, 0.05, p=0.01, margin=0.02)
    pairs = iter([[decided], [replace(decided, low=-0.01)]])
    monkeypatch.setattr(Comparisons, "pairs", lambda self: next(pairs))
    with pytest.raises(ConfigError, match=r"'b against a: better'.*not decided.*--min-score"):
        publish_study(tested, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_low_scores_are_left_out_and_what_that_changes_is_said(
    tested: StudyFolder, published: Tiny
):
    study, about, least = published
    changes, kept = [], 0
    for done in load_study(tested).runs:
        run = done.state.run
        before = json.loads((tested.run_folder(run) / "reported.json").read_text())["metrics"]
        after = json.loads((study.run_folder(run) / "reported.json").read_text())["metrics"]
        assert json.loads((study.run_folder(run) / "published.json").read_text()) == {
            "least_score": least,
            "left_out": ["best.safetensors", "last.safetensors", "val-detections.json.gz"],
            "metrics": before | {"ap_crowded": without_nan(done.row["ap_crowded"])},
        }
        with np.load(study.run_folder(run) / "test-detections.npz") as columns:
            assert (columns["score"] >= least * (1 - 1e-6)).all()
            assert columns["score"].dtype == columns["bbox"].dtype == np.float32
            kept += len(columns["score"])
            changes.append(after["ap"] - before["ap"])
    assert kept == sum(score >= least for score in scores_of(tested))
    assert about.changes["AP50-95"] == max(changes, key=abs)
    assert (
        {"AP50-95", "AP50"}
        < about.changes.keys()
        <= {
            *("AP50-95", "AP50", "S", "M", "L", "crowded"),
        }
    )
    sentences = (study.path / "README.md").read_text()
    assert f"of a run by at most: {changes_in_words(about.changes)}.\n" in sentences
    assert load_study(study).names == ["cspdarknet_n"]


def test_detections_that_were_changed_after_publication_are_noticed(
    published: Tiny, scenes: Path, tmp_path: Path
):
    copy = read_study_folder(shutil.copytree(published.study.path, tmp_path / "copy"))
    index = read_data(scenes, "test").index
    write_columns(copy.run_folder(copy.plan.runs[0]) / "test-detections.npz", index, {})
    (first,) = verify_study(copy)
    assert first.verdict == "cannot be verified"
    assert "its sha256 differs" in first.unverified[0]


def test_a_log_that_was_changed_is_not_excused_as_left_out(published: Tiny, tmp_path: Path):
    copy = read_study_folder(shutil.copytree(published.study.path, tmp_path / "copy"))
    folder = copy.run_folder(copy.plan.runs[0])
    about = json.loads((folder / "published.json").read_text())
    about["left_out"].append("log.jsonl")
    (folder / "published.json").write_text(json.dumps(about))
    (folder / "log.jsonl").write_text((folder / "log.jsonl").read_text() + "\n")
    (state,) = copy.states()
    assert state.state == "foreign"
    assert "log.jsonl is not the file that record.json lists" in str(state.reason)


def test_columns_are_read_as_the_results_that_they_are(scenes: Path, tmp_path: Path):
    index = read_data(scenes, "test").index
    perfect = read_coco_results(_perfect(scenes, tmp_path), index)
    assert evaluate_detections(index, perfect).ap == pytest.approx(1.0)
    spoilt = tmp_path / "spoilt.npz"
    for columns, sentence in [
        ({"image_id": np.zeros(2), "category_id": np.zeros(2)}, "bbox"),
        (
            {"image_id": np.array([{}]), "category_id": [1], "bbox": [[0] * 4], "score": [1]},
            "pickle",
        ),
        ({"image_id": [1, 2], "category_id": [1], "bbox": [[0] * 4], "score": [1]}, "shorter"),
        ({"image_id": [1], "category_id": [1], "bbox": [[0] * 3], "score": [1]}, "four numbers"),
        ({"image_id": [1], "category_id": [1], "bbox": [[0] * 4], "score": [1j]}, "found .*1j"),
    ]:
        np.savez(spoilt, **columns)
        with pytest.raises(DataError, match=sentence):
            read_coco_results(spoilt, index)


def _perfect(scenes: Path, folder: Path) -> Path:
    """Writes the ground truth of the test split as detections."""
    index = read_data(scenes, "test").index
    np.savez(
        folder / "perfect.npz",
        image_id=index.image_ids[index.gt_image_positions()],
        category_id=index.category_ids[index.labels],
        bbox=index.boxes_xywh,
        score=np.ones(len(index.labels)),
    )
    return folder / "perfect.npz"


def test_a_study_on_val_and_a_folder_in_use_are_refused(
    finished: StudyFolder, tested: StudyFolder, tmp_path: Path
):
    with pytest.raises(ConfigError, match="reports on val"):
        publish_study(finished, tmp_path / "new")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="new or empty folder"):
        publish_study(tested, tmp_path)
