"""One look a model in all figures: the colour and marker of its family, dashes of its own."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ossa.errors import DataError
from ossa.evaluate.bootstrap import METRICS
from ossa.evaluate.statistics import Values
from ossa.files import write_atomically, write_text_atomically
from ossa.study.analysis import Draws, Frontier, find_frontier, joint_draws
from ossa.study.report.tables import ReportTable, save_tables
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults, StudyRun
from ossa.study.scaling import InsufficientData, Law, Points, fit_law
from ossa.viz.page import FigureBlock
from ossa.viz.plots import LINE_COLOURS, figure_png, figure_svg

_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("D", "diamond"),
    ("^", "triangle-up"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
)
"""Of matplotlib and of plotly."""
_DASHES = (
    ("-", "solid"),
    ((0, (5, 2)), "dash"),
    ((0, (1.5, 1.5)), "dot"),
    ((0, (5, 2, 1.5, 2)), "dashdot"),
    ((0, (9, 3)), "longdash"),
)


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    family: str
    colour: str
    marker: str
    """Of matplotlib."""
    symbol: str
    """The same, of plotly."""
    dashes: Any
    """Line style of matplotlib."""
    dash: str
    """The same, of plotly."""


def looks_of(models: pd.DataFrame) -> dict[str, Look]:
    """Returns the look of every model.

    Families get colours by their size, so that the largest differ most; beyond the eighth they
    share colours and differ in their markers.

    Args:
        models: with columns `model` and `family`.
    """
    families = [family for family, _ in Counter(models["family"]).most_common()]
    looks: dict[str, Look] = {}
    of_colour: Counter[str] = Counter()
    for model, family in zip(models["model"], models["family"], strict=True):
        number = families.index(family)
        marker, symbol = _MARKERS[number // len(LINE_COLOURS) % len(_MARKERS)]
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        dashes, dash = _DASHES[of_colour[colour] % len(_DASHES)]
        of_colour[colour] += 1
        looks[model] = Look(family, colour, marker, symbol, dashes, dash)
    return looks


def families_of(looks: Mapping[str, Look]) -> dict[str, Look]:
    """Returns the look of the first model of every family, by family."""
    first: dict[str, Look] = {}
    for look in looks.values():
        first.setdefault(look.family, look)
    return first


@dataclass(frozen=True)
class Relation:
    """One quality against one complexity, over all models."""

    quality: str
    complexity: str
    points: Points
    law: Law | InsufficientData
    frontier: Frontier
    drawn_over: str
    """What the probabilities of the frontier are over, in words; '' where there are none."""


@dataclass(frozen=True)
class StudyView:
    """A study's results as the report looks at them."""

    results: StudyResults
    models: pd.DataFrame
    """A row a model with finished runs (`StudyResults.models`)."""
    qualities: Mapping[str, str]
    """Titles of those that are known of a model at least, by key."""
    complexities: Mapping[str, str]
    values: Mapping[str, Mapping[str, Values]]
    """By metric and model; metrics of which the split has no object are absent."""
    looks: Mapping[str, Look]

    @classmethod
    def of(cls, results: StudyResults) -> "StudyView":
        """Returns the view of results with one finished run at least.

        Raises:
            DataError: no run is done with the recipe as it is.
        """
        models = results.models()
        if models.empty:
            raise DataError(
                f"expected finished runs of the recipe as it is in {results.folder.path}, found "
                "none: train them with 'ossa study run'"
            )
        values: dict[str, Mapping[str, Values]] = {}
        for metric in METRICS:
            try:
                values[metric] = results.values(metric)
            except DataError:  # no such object in the split, which the page says
                continue
        return cls(
            results=results,
            models=models,
            qualities=_known(QUALITIES, models),
            complexities=_known(COMPLEXITIES, models),
            values=values,
            looks=looks_of(models),
        )

    @property
    def names(self) -> list[str]:
        """The models with finished runs, in the order of the study."""
        return self.models["model"].tolist()

    @property
    def policies(self) -> list[str]:
        """What the models start from, each once."""
        return self.models["policy"].unique().tolist()

    @property
    def best_first(self) -> list[str]:
        """The models by their mean AP50-95."""
        return self.models.sort_values("ap", ascending=False, kind="stable")["model"].tolist()

    def number(self, model: str, key: str) -> float:
        """Returns a number of a model, NaN where it is unknown."""
        return float(self._by_model.at[model, key]) if key in self._by_model else float("nan")

    def runs_of(self, model: str) -> list[StudyRun]:
        """Returns the finished runs of a model with the recipe as it is."""
        return [run for run in self._base_runs if run.state.run.model == model]

    def relation(self, quality: str, complexity: str) -> Relation:
        """Returns one quality against one complexity."""
        return self._relations[quality, complexity]

    @cached_property
    def _by_model(self) -> pd.DataFrame:
        return self.models.set_index("model")

    @cached_property
    def _base_runs(self) -> list[StudyRun]:
        return self.results.base_runs()

    @cached_property
    def _relations(self) -> dict[tuple[str, str], Relation]:
        draws = {quality: self._draws(quality) for quality in self.qualities}
        return {
            (quality, complexity): self._relation(quality, complexity, *draws[quality])
            for quality in self.qualities
            for complexity in self.complexities
        }

    def _relation(self, quality: str, complexity: str, draws: Draws | None, over: str) -> Relation:
        points = Points.of(
            self.names,
            families=self.models["family"].tolist(),
            complexity=self.models[complexity].to_numpy(float),
            quality=self.models[quality].to_numpy(float),
        )
        frontier = find_frontier(points, draws)
        return Relation(
            quality,
            complexity,
            points,
            law=fit_law(points),
            frontier=frontier,
            drawn_over=over or (frontier.over if draws is not None else ""),
        )

    def _draws(self, quality: str) -> tuple[Draws | None, str]:
        """Returns joint draws of a quality and what they are over, '' for the usual."""
        if quality in self.values:
            runs = {model: own.resampled for model, own in self.values[quality].items()}
            return joint_draws(runs), ""
        seeds = {
            model: np.array([run.row[quality] for run in self.runs_of(model)], float)
            for model in self.names
        }
        if min(len(own) for own in seeds.values()) < 2:
            return None, ""
        draws = next(iter(next(iter(self.values.values())).values())).resampled.shape[1]
        repeated = {model: np.tile(own[:, None], draws) for model, own in seeds.items()}
        return joint_draws(repeated), "over seeds alone"


def is_known(models: pd.DataFrame, key: str) -> bool:
    """Returns whether a number is known of one model at least."""
    return key in models and bool(models[key].notna().to_numpy().any())


def _known(titles: Mapping[str, str], models: pd.DataFrame) -> dict[str, str]:
    return {key: title for key, title in titles.items() if is_known(models, key)}


FIGURES_FOLDER, TABLES_FOLDER = "figures", "tables"


@dataclass
class Parts:
    """What is saved beside the page, by the names of the files."""

    on_figure: Callable[[int], None] | None = None
    """Called with the number of figures drawn."""
    drawings: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """SVG and PNG."""
    tables: dict[str, ReportTable] = field(default_factory=dict)

    def figure(self, name: str, figure: Figure) -> FigureBlock:
        """Draws a figure, keeps it and returns its block of the page."""
        svg = figure_svg(figure)
        self.drawings[name] = svg, figure_png(figure)
        if self.on_figure is not None:
            self.on_figure(len(self.drawings))
        return FigureBlock(svg)

    def table(self, table: ReportTable) -> ReportTable:
        """Keeps a table and returns it."""
        self.tables[table.name] = table
        return table

    def save(self, folder: Path) -> None:
        """Writes figures/*.svg and *.png, tables/*.csv, *.md and *.tex.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        save_tables(list(self.tables.values()), folder / TABLES_FOLDER)
        (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
        for name, (svg, png) in self.drawings.items():
            write_text_atomically(folder / FIGURES_FOLDER / f"{name}.svg", svg)
            write_atomically(folder / FIGURES_FOLDER / f"{name}.png", png)
