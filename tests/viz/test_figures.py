"""Figures from plain numbers."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ossa.viz.plots import (
    LINE_COLOURS,
    Line,
    Panel,
    figure_svg,
    line_figure,
    panel_figure,
    save_figure,
)


def figure_of(*lines: Line) -> Figure:
    return line_figure(lines, x_label="epoch", y_label="AP")


def test_the_same_figure_gives_the_same_svg_and_no_date():
    lines = [Line("a", [1, 2, 3], [0.1, 0.2, 0.4]), Line("b", [1, 2, 3], [0.3, None, 0.2])]
    figure = figure_of(*lines)
    first = figure_svg(figure)
    assert first == figure_svg(figure) == figure_svg(figure_of(*lines))
    assert first.startswith("<svg")
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_text_in_a_figure_can_be_selected_and_is_escaped():
    svg = figure_svg(figure_of(Line("resnet18 <b> & co", [1, 2], [0.1, 0.2])))
    assert ">resnet18 &lt;b&gt; &amp; co</text>" in svg


def test_figures_leave_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    figure_svg(figure_of(Line("a", [1, 2], [0.1, 0.2])))
    assert dict(mpl.rcParams) == before


def test_a_missing_value_leaves_a_gap():
    figure = figure_of(Line("a", [1, 2, 3], [0.1, None, 0.4]))
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.1, np.nan, 0.4])


def test_lines_have_a_legend_and_none_looks_like_another():
    figure = figure_of(*(Line(f"line {i}", [1, 2], [0, i]) for i in range(20)))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"line {i}" for i in range(20)]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].lines}  # type: ignore[attr-defined]
    assert len(looks) == 20
    assert len(LINE_COLOURS) == 8


def test_a_line_without_a_name_has_no_legend():
    assert figure_of(Line("", [1, 2], [0.1, 0.2])).axes[0].get_legend() is None


def test_bounds_are_a_band_around_the_line():
    figure = figure_of(Line("a", [1, 2], [0.2, 0.4], low=[0.1, 0.3], high=[0.3, 0.5]))
    band = np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (0.1, 0.5)


def test_panels_stand_in_rows_each_with_its_title_and_scales():
    panels = [Panel([Line("a", [1, 2], [n, 2 * n])], "epoch", "loss", f"{n}") for n in (1, 5, 9)]
    figure = panel_figure(panels, columns=2, panel_inches=(4, 3))
    assert figure.get_size_inches().tolist() == [8, 6]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["1", "5", "9"]
    places = [axes.get_position() for axes in figure.axes]
    assert places[0].x1 < places[1].x0
    assert places[0].y0 > places[2].y1
    assert [axes.get_ylim()[1] > 12 for axes in figure.axes] == [False, False, True]


def test_an_axis_begins_where_it_is_told_to():
    lines = [Line("a", [1, 2], [0.5, 0.6])]
    (told,) = panel_figure([Panel(lines, "epoch", "AP", y_low=0.0)], columns=1).axes
    (free,) = panel_figure([Panel(lines, "epoch", "AP")], columns=1).axes
    assert told.get_ylim()[0] == 0
    assert 0.45 < free.get_ylim()[0] < 0.5


def test_lines_without_a_value_are_told_instead_of_drawn_on_a_scale_of_nothing():
    (axes,) = figure_of(Line("a", [1, 2], [None, None])).axes
    assert "no values" in [text.get_text() for text in axes.texts]
    assert len(axes.get_yticks()) == 0


def test_epochs_are_whole_numbers():
    for last in (1, 3, 7, 300):
        epochs = list(range(1, last + 1))
        ticks = figure_of(Line("a", epochs, [0.5] * last)).axes[0].get_xticks()
        assert all(float(tick).is_integer() for tick in ticks)


def test_a_figure_is_written_as_svg_and_png_beside_each_other(tmp_path: Path):
    figure = figure_of(Line("a", [1, 2], [0.1, 0.2]))
    save_figure(figure, tmp_path / "yolov5n-0.5")
    assert (tmp_path / "yolov5n-0.5.svg").read_text() == figure_svg(figure)
    assert (tmp_path / "yolov5n-0.5.png").read_bytes().startswith(b"\x89PNG")
