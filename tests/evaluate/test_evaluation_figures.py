"""Figures of an evaluation, and pictures of what was found."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, an_index, found
from matplotlib.figure import Figure

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.confusion import ConfusionMatrix
from ossa.evaluate.metrics import evaluate_detections
from ossa.evaluate.report import open_gallery, predictions_above_gt
from ossa.evaluate.report_figures import confusion_figure, precision_recall_figure, save_confusion


def many_classes(number: int) -> tuple[str, ...]:
    return tuple(f"class {n}" for n in range(number))


def labelled_curves(figure: Figure) -> dict[str, np.ndarray]:
    lines = figure.axes[0].lines
    labels = [str(line.get_label()) for line in lines]
    return {
        label: np.asarray(line.get_ydata())
        for label, line in zip(labels, lines, strict=True)
        if not label.startswith("_")
    }


# Precision over recall


def test_every_class_has_its_curve_and_its_ap50_beside_the_mean() -> None:
    index = an_index([[(0, SQUARE), (1, ELSEWHERE)]])
    wrong_first = found((0.9, 1, SQUARE), (0.8, 1, ELSEWHERE), (0.7, 0, SQUARE))
    metrics = evaluate_detections(index, {1: wrong_first})
    curves = labelled_curves(precision_recall_figure(metrics))
    assert list(curves) == ["1.000  cat", "0.500  dog", "0.750  mean of 2 classes"]
    np.testing.assert_allclose(curves["1.000  cat"], 1)
    np.testing.assert_allclose(curves["0.500  dog"], 0.5)
    np.testing.assert_allclose(curves["0.750  mean of 2 classes"], 0.75)


def test_classes_without_ground_truth_have_no_curve() -> None:
    metrics = evaluate_detections(an_index([[(0, SQUARE)]]), {})
    curves = labelled_curves(precision_recall_figure(metrics))
    assert list(curves) == ["0.000  cat"]
    assert curves["0.000  cat"].tolist() == [0] * 101


def test_without_ground_truth_the_figure_says_so() -> None:
    figure = precision_recall_figure(evaluate_detections(an_index([[]]), {}))
    assert "no ground truth" in [text.get_text() for text in figure.axes[0].texts]
    assert labelled_curves(figure) == {}


# Confusion matrix


def numbers_in(figure: Figure) -> dict[tuple[float, float], str]:
    """Returns what is written in the cells by (row, column)."""
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    return {(y - 0.5, x - 0.5): text for (x, y), text in texts.items() if text.isdigit()}


def test_cells_with_a_count_are_shaded_by_their_share_of_the_row_and_numbered() -> None:
    counts = np.array([[30, 0, 10], [0, 0, 0], [7, 0, 0]])
    figure = confusion_figure(ConfusionMatrix(("cat", "dog", "background"), counts, 0.25, 0.5))
    assert numbers_in(figure) == {(0, 0): "30", (0, 2): "10", (2, 0): "7"}
    (cells,) = figure.axes[0].collections
    assert np.asarray(cells.get_array()).tolist() == [0.75, 0.25, 1]
    corners = [np.asarray(path.vertices).min(axis=0).tolist() for path in cells.get_paths()]
    assert corners == [[0, 0], [2, 0], [0, 2]], "x is the prediction, y the truth"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()][1] == "dog"


def test_of_more_than_twenty_classes_numbers_and_names_of_curves_are_left_out() -> None:
    names, counts = many_classes(21), np.eye(22, dtype=int)
    matrix = ConfusionMatrix((*names, "background"), counts, 0.25, 0.5)
    assert numbers_in(confusion_figure(matrix)) == {}
    index = an_index([[(label, SQUARE)] for label in range(21)], names=names)
    figure = precision_recall_figure(evaluate_detections(index, {}))
    assert len(figure.axes[0].lines) == 22
    assert len(labelled_curves(figure)) == 1


@pytest.mark.parametrize("number", [1, 12])
def test_a_matrix_of_any_size_is_drawn_inside_its_figure(number: int) -> None:
    names = (*(f"a class with a long name {n}" for n in range(number)), "background")
    matrix = ConfusionMatrix(names, np.zeros((number + 1, number + 1), int), 0.25, 0.5)
    figure = confusion_figure(matrix)
    figure.draw_without_rendering()
    inside = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert inside.x0 >= 0
    assert inside.y0 >= 0
    assert inside.x1 <= width
    assert inside.y1 <= height


def test_a_matrix_is_written_in_four_forms(tmp_path: Path) -> None:
    matrix = ConfusionMatrix(("cat", "background"), np.array([[3, 1], [2, 0]]), 0.25, 0.5)
    save_confusion(matrix, tmp_path / "confusion")
    assert json.loads((tmp_path / "confusion.json").read_text()) == matrix.as_dict()
    assert (tmp_path / "confusion.csv").read_text() == matrix.csv()
    assert (tmp_path / "confusion.svg").read_text().startswith("<svg")
    assert cv2.imread(str(tmp_path / "confusion.png")) is not None


# Pictures


def a_split(folder: Path, truths: list[list]) -> DatasetIndex:
    """Returns an index of grey images of 100 x 80 pixels."""
    index = an_index(truths, root=folder)
    for name in index.file_names:
        cv2.imwrite(str(folder / str(name)), np.full((80, 100, 3), 128, np.uint8))
    return index


def test_a_gallery_is_spread_over_the_images_with_ground_truth(tmp_path: Path) -> None:
    index = a_split(tmp_path, [[(0, SQUARE)] if n % 2 else [] for n in range(20)])
    assert open_gallery(index, most=4, side=50).positions == (1, 7, 13, 19)
    assert open_gallery(index, most=99, side=50).positions == tuple(range(1, 20, 2))
    nothing = a_split(tmp_path, [[]] * 3)
    assert open_gallery(nothing, most=8, side=50).positions == (0, 1, 2)


def test_boxes_lie_where_they_are_in_the_image_at_its_new_size(tmp_path: Path) -> None:
    index = a_split(tmp_path, [[(0, (20, 30, 80, 70))]])
    gallery = open_gallery(index, most=1, side=300)
    (picture,) = gallery.with_gt()
    assert picture.shape == (240, 300, 3)
    rows, columns = np.nonzero((np.abs(picture.astype(int) - 128) > 20).any(axis=2))
    # The box (60, 90, 240, 210), and the name above its left top corner.
    assert (columns.min(), columns.max() + 1, rows.max() + 1) == (60, 240, 210)
    assert 60 < rows.min() < 90


def test_detections_below_the_confidence_are_not_drawn(tmp_path: Path) -> None:
    index = a_split(tmp_path, [[(0, SQUARE)], []])
    gallery = open_gallery(index, most=1, side=200)
    (plain,) = gallery.with_detections({})
    assert (np.abs(plain.astype(int) - 128) < 5).all()
    for score, drawn in ((0.24, False), (0.25, True)):
        (picture,) = gallery.with_detections({1: found((score, 0, SQUARE))})
        assert (picture != plain).any() == drawn
    (other,) = gallery.with_detections({2: found((0.9, 0, SQUARE))})
    np.testing.assert_array_equal(other, plain)


def test_ground_truth_stand_below_the_predictions_of_the_same_images(tmp_path: Path) -> None:
    index = a_split(tmp_path, [[(0, SQUARE)]] * 6)
    gallery = open_gallery(index, most=8, side=200)
    found_first = {1: found((0.9, 1, ELSEWHERE))}
    picture = predictions_above_gt(gallery, found_first)
    # Gap 5, title 24; rows of 4, 4, 2 and 2 pictures of 160 x 200.
    assert picture.shape == (5 + 4 * (24 + 160 + 5), 5 + 4 * (200 + 5), 3)
    (first, *_), (truth, *_) = gallery.with_detections(found_first), gallery.with_gt()
    np.testing.assert_array_equal(picture[29:189, 5:205], first)
    np.testing.assert_array_equal(picture[218:378, 5:205], truth)
    assert (first != truth).any()
