"""The figure of costs."""

import pytest

from ossa.cost.figure import cost_figure
from ossa.cost.model_cost import ModelCost, cost_detector
from ossa.viz.plots import figure_svg


@pytest.fixture(scope="module")
def costs() -> list[ModelCost]:
    return [
        cost_detector(name, num_classes=3, neck="n", imgsz=64, compare=False)
        for name in ("yolov5n", "cspdarknet_s")
    ]


def test_the_bars_end_where_the_figures_say(costs: list[ModelCost]) -> None:
    panels = cost_figure(costs, [5.0, 12.5], timed_on="a machine").axes
    parameters, flops, times = (
        [
            sum(part.patches[row].get_width() for part in panel.containers)  # type: ignore[attr-defined]
            for row in range(2)
        ]
        for panel in panels
    )
    totals = [cost.deployed.total for cost in costs]
    assert parameters == pytest.approx([total.params / 1e6 for total in totals])
    assert flops == pytest.approx([total.flops / 1e9 for total in totals])
    assert times == [5.0, 12.5]


def test_models_parts_and_hardware_are_named(costs: list[ModelCost]) -> None:
    svg = figure_svg(cost_figure(costs, [5.0, 12.5], timed_on="a machine"))
    for word in (
        "64 x 64 px",
        "yolov5n",
        "cspdarknet_s",
        "backbone",
        "lateral",
        "12.5",
        "a machine",
    ):
        assert f"{word}</text>" in svg
