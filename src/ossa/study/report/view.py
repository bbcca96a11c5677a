"""What a report is about, computed once: models, their sampled metrics, laws and frontiers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ossa.errors import DataError
from ossa.evaluate.resampling import METRICS
from ossa.evaluate.values import Values
from ossa.study.frontier import Draws, Frontier, find_frontier, joint_draws
from ossa.study.law import Law, fit_law
from ossa.study.points import NoLaw, Points
from ossa.study.report.looks import Look, looks_of
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults, StudyRun


@dataclass(frozen=True)
class Relation:
    """One quality against one complexity, over all models."""

    quality: str
    complexity: str
    points: Points
    law: Law | NoLaw
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
