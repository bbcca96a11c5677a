"""The analysis of an evaluation, and the page and files on it."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, an_index, found
from page_structure import HOSTILE, structure

from ossa.data.annotations import DatasetIndex
from ossa.evaluate import report
from ossa.evaluate.error_analysis import Analysis, analyse
from ossa.evaluate.object_bins import metrics_of_one_image
from ossa.evaluate.report import write_report
from ossa.viz.plots import save_figure

TABLES = (
    *("metrics", "classes", "confusion", "size", "crowding", "coverage", "errors"),
    "calibration",
)
FIGURES = (
    *("precision-recall", "f1-confidence", "confusion", "size", "crowding", "coverage"),
    *("errors", "calibration"),
)


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    """Three images: in the first two truths of which one is missed, in the second a false cat."""
    index = an_index([[(0, SQUARE), (0, ELSEWHERE)], [(0, SQUARE)], [(1, SQUARE)]])
    for name in index.file_names.tolist():
        cv2.imwrite(str(tmp_path / name), np.full((80, 100, 3), 90, np.uint8))
    index = replace(index, root=tmp_path)
    detections = {
        1: found((0.9, 0, SQUARE), (0.2, 0, ELSEWHERE)),
        2: found((0.8, 0, ELSEWHERE), (0.7, 0, SQUARE), (0.6, 1, ELSEWHERE)),
        3: found((0.95, 1, SQUARE)),
    }
    return analyse(index, detections, imgsz=100, confidence=0.5, resamples=20)


def test_the_worst_images_are_those_with_most_missed_and_most_false(analysis: Analysis):
    # At 0.5 the first image misses a cat, and the second has a false cat and a false dog.
    assert analysis.worst_images(4) == {"missed": [(0, 1)], "false": [(1, 2)]}


def test_the_curve_has_the_f1_of_every_hundredth(analysis: Analysis):
    assert [point.confidence for point in analysis.curve][:3] == pytest.approx([0, 0.01, 0.02])
    # At 0.5 two of three cats are found with one false; the dog, with one false dog.
    at_half = analysis.curve[50]
    assert at_half.precision.tolist() == pytest.approx([2 / 3, 1 / 2])
    assert at_half.recall.tolist() == pytest.approx([2 / 3, 1])


def test_bins_have_intervals_where_they_have_ground_truth(analysis: Analysis):
    sizes = next(bins for bins in analysis.bins if bins.name == "size")
    (filled,) = [one for one in sizes.bins if one.num_truths]
    assert filled.label == "8 to 16"  # 10 x 10 px in an image of 100 px at 100 px
    assert filled.ap is not None
    assert filled.ap_low is not None
    assert filled.ap_high is not None
    assert 0 <= filled.ap_low <= filled.ap_high <= 1
    assert filled.ap_low < filled.ap_high
    assert all(one.ap_low is None for one in sizes.bins if not one.num_truths)


def test_a_bin_with_objects_in_one_image_or_one_group_has_no_interval():
    small, large = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 70.0, 70.0)
    index = an_index([[(0, small)], [(0, small)], [(0, large), (0, large)]])
    groups = np.array([0, 0, 1])

    def intervals(index: DatasetIndex) -> dict[str, bool]:
        sizes = analyse(index, {1: found((0.9, 0, small))}, imgsz=100, resamples=50).bins[0]
        return {one.label: one.ap_low is not None for one in sizes.bins if one.num_truths}

    assert intervals(index) == {"8 to 16": True, "64 to 128": False}
    assert intervals(replace(index, groups=groups)) == {"8 to 16": False, "64 to 128": False}
    assert metrics_of_one_image(index) == {"ap_medium", "ap_large", "ap_touching", "ap_crowded"}


def test_the_page_stands_alone_beside_its_figures_and_tables(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "save_figure", partial(save_figure, dpi=20))
    page = write_report(
        analysis, tmp_path / "report", title="A < B", subtitle="val", facts={"image size": "100 px"}
    )
    html = page.read_text()
    assert "A &lt; B" in html
    assert "image size 100 px" in html
    assert html.count("<svg") == len(FIGURES)
    assert html.count("data:image/jpeg;base64,") == 2
    for name in FIGURES:
        assert (page.parent / "figures" / f"{name}.svg").is_file()
        assert cv2.imread(str(page.parent / "figures" / f"{name}.png")) is not None
    for name in TABLES:
        rows = json.loads((page.parent / "tables" / f"{name}.json").read_text())
        with (page.parent / "tables" / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(rows) > 0
    classes = json.loads((page.parent / "tables" / "classes.json").read_text())
    assert [row["name"] for row in classes] == ["cat", "dog"]


def test_a_page_without_detections_is_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "save_figure", lambda figure, path: "<svg></svg>")
    index = an_index([[(0, SQUARE)], []])
    for name in index.file_names.tolist():
        cv2.imwrite(str(tmp_path / name), np.full((80, 100, 3), 90, np.uint8))
    nothing = analyse(replace(index, root=tmp_path), {}, imgsz=100, resamples=5)
    page = write_report(nothing, tmp_path / "report", title="none", subtitle="", facts={})
    assert "None at this confidence" in page.read_text()


@pytest.mark.slow
def test_no_name_is_more_than_text_in_the_page_its_figures_and_tables(tmp_path: Path):
    def page_of(names: tuple[str, ...], folder: str) -> Path:
        truths = [[(label, SQUARE), (label, ELSEWHERE)] for label in range(len(names))]
        files = [name.replace("/", "|").replace("\x00", "") + ".png" for name in names]
        index = an_index(truths, names=names, root=tmp_path, file_names=np.array(files))
        for name in files:
            (tmp_path / name).write_bytes(PICTURE)
        detections = {
            label + 1: found((0.9, label, SQUARE), (0.8, (label + 1) % len(names), ELSEWHERE))
            for label in range(len(names))
        }
        seen = analyse(index, detections, imgsz=100, confidence=0.5, resamples=2)
        facts = {name: name for name in names}
        return write_report(seen, tmp_path / folder, title=names[0], subtitle=names[1], facts=facts)

    plain = page_of(tuple(f"class {number}" for number in range(len(HOSTILE))), "plain")
    hostile = page_of(HOSTILE, "hostile")
    assert structure(hostile.read_text()) == structure(plain.read_text())
    assert structure(hostile.read_text())[1] == []
    for file in (tmp_path / "hostile").rglob("*"):
        if file.suffix in (".svg", ".csv", ".json"):
            text = file.read_text()
            assert "\x1b" not in text
            assert file.suffix != ".svg" or "<script" not in text


PICTURE = cv2.imencode(".png", np.full((80, 100, 3), 90, np.uint8))[1].tobytes()
