"""Confidence intervals and comparisons of metrics, over images and over seeds.

Dimensions: R runs of a model, B resamples, G parts of the images, W weightings (1 + B + G).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ossa.errors import DataError
from ossa.evaluate.bootstrap import (
    RESAMPLES,
    Bin,
    image_weightings,
    is_varied,
    needs_bins,
    num_parts,
    resample,
)
from ossa.evaluate.matching import Matches

LEVEL = 0.95
FEWEST_RUNS = 3
"""Of a model, for an interval over seeds."""

Verdict: TypeAlias = Literal["better", "worse", "not distinguishable"]


class Variance(NamedTuple):
    """An estimated variance and its degrees of freedom."""

    value: float
    dof: float

    @property
    def half_width(self) -> float:
        """Half the width of the 95% interval by Student's t."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.dof)) * self.value**0.5


@dataclass(frozen=True)
class Values:
    """One metric of the runs of a model."""

    plain: NDArray[np.float64]
    """(R,) every image once."""
    resampled: NDArray[np.float64]
    """(R, B), without the resamples in which there is no ground truth."""
    left_out: NDArray[np.float64]
    """(R, G)."""
    num_images: int
    """How many images, or groups of images, count as independent."""

    @classmethod
    def of(cls, values: NDArray[np.float64], *, num_images: int) -> "Values":
        """Returns them from values (R, W) under the weightings of `image_weightings`."""
        drawn_end = values.shape[1] - num_parts(num_images)
        plain, *others = np.split(values, [1, drawn_end], axis=1)
        # What is defined is the same for all runs of all models.
        resampled, left_out = (columns[:, np.isfinite(columns[0])] for columns in others)
        return cls(plain[:, 0], resampled, left_out, num_images)

    def difference(self, other: "Values") -> "Values":
        """Returns the difference of the means of both models' runs, as of one run."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in _ARRAYS]
        return Values(
            *(a.mean(axis=0, keepdims=True) - b.mean(axis=0, keepdims=True) for a, b in pairs),
            num_images=self.num_images,
        )

    def image_variance(self) -> Variance:
        """Returns the variance of the mean of the runs over images, by the bootstrap.

        Its degrees of freedom follow from the kurtosis of the jackknife's influences.
        """
        influences = self.left_out.mean(axis=0)
        deviations = influences - influences.mean()
        second, fourth = (deviations**2).mean(), (deviations**4).mean()
        doubt = fourth - second**2  # kurtosis less 1, times the square of the variance
        dof = float(2 * len(deviations) * second**2 / doubt) if doubt > 0 else np.inf
        variance = float(self.resampled.mean(axis=0).var(ddof=1))
        return Variance(variance, min(dof, self.num_images - 1.0))

    def seed_variance(self) -> Variance:
        """Returns the variance of the mean of the runs over seeds, on the same images."""
        runs = len(self.plain)
        return Variance(float(self.plain.var(ddof=1)) / runs, runs - 1.0)

    def shared_variance(self) -> float:
        """Returns what both variances count: that of what an image is to one run alone."""
        runs = len(self.plain)
        own = self.resampled - self.resampled.mean(axis=0)
        return float(own.var(axis=1, ddof=1).sum()) / (runs - 1) / runs


_ARRAYS = ("plain", "resampled", "left_out")


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A metric of a model, or a difference of two: the mean of the runs."""

    value: float
    images: Interval
    """If these same runs were scored on other images of the kind."""
    seeds: Interval | None
    """If other seeds were trained, too; None where a model has fewer than three runs."""
    p: float
    """Two-sided, of a value of 0: over seeds where there is that interval, else over images."""


@dataclass(frozen=True)
class Comparison:
    """A metric of a model, and its difference from the first model's."""

    metric: str
    model: int
    """Its position among those compared; the first, 0, is the reference."""
    estimate: Estimate
    difference: Estimate | None = None
    """The model less the reference; None for the reference itself."""
    p_adjusted: float | None = None
    """That of the difference, by Holm over all differences of the call."""
    verdict: Verdict | None = None
    """Whether `p_adjusted` is under 0.05, and on which side. Never 'equal': that was not tested."""


def compare_models(
    models: Sequence[Sequence[Matches]],
    *,
    metrics: Sequence[str] = ("ap", "ap50", "ap75", "ar_100"),
    bins: Callable[[Matches], Mapping[str, Bin]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
    on_run: Callable[[int, int], None] | None = None,
) -> list[Comparison]:
    """Returns every metric of every model with intervals, and its difference to the first model.

    Args:
        models: the runs of each, on the same images, that differ in their seeds alone.
        metrics: names of `ossa.evaluate.bootstrap.RESAMPLED_METRICS`.
        bins: of a run, for metrics of one kind of objects (`ossa.evaluate.object_bins.bins_of`).
        resamples: how often the images are drawn.
        seed: of the draws.
        groups: (I,) of images that are drawn together (`DatasetIndex.groups`).
        on_run: called with the number of runs done and their total.

    Raises:
        DataError: models with other ground truth, or ground truth in fewer than two images.

    Examples:
        >>> import ossa
        >>> from pathlib import Path
        >>> from ossa.evaluate.matching import match
        >>> index = ossa.read_data("scenes").index
        >>> perfect = match(index, ossa.read_coco_results(Path("results.json"), index))
        >>> reference, other = compare_models([[match(index, {})], [perfect]], metrics=["ap50"])
        >>> round(other.difference.value, 3), other.difference.seeds  # one seed each
        (1.0, None)
    """
    runs = [run for model in models for run in model]
    check_gt(runs, groups=groups)
    num_images = runs[0].num_images
    weights = image_weightings(num_images, resamples=resamples, seed=seed, groups=groups)
    num_units = num_images if groups is None else int(groups.max()) + 1
    sampled: list[dict[str, NDArray[np.float64]]] = []
    for run in runs:
        sampled.append(resample(run, metrics, weights=weights, bins=bins(run) if bins else None))
        if on_run is not None:
            on_run(len(sampled), len(runs))
    ends = np.cumsum([len(model) for model in models])[:-1]
    comparisons: list[Comparison] = []
    for metric in metrics:
        if bins and needs_bins([metric]):
            _check_varied(runs[0], bins(runs[0]), metric, weights)
        values = np.split(np.stack([run[metric] for run in sampled]), ends)
        comparisons += compare_values(metric, [Values.of(v, num_images=num_units) for v in values])
    return with_verdicts(comparisons)


def check_gt(runs: Sequence[Matches], *, groups: NDArray[np.int64] | None = None) -> None:
    """Raises DataError unless all runs have the same ground truth, in two images at least.

    If there are `groups` (I,) of images, in two of these.
    """
    first = runs[0]
    for run in runs[1:]:
        same = (run.num_images, run.num_classes) == (first.num_images, first.num_classes) and all(
            np.array_equal(getattr(run, name), getattr(first, name))
            for name in ("gt_image_positions", "gt_labels", "gt_scored")
        )
        if not same:
            raise DataError(
                "expected models that were scored on the same ground truth, found others: compare "
                "detections on one split of one data set"
            )
    images = np.unique(first.gt_image_positions[first.gt_scored])
    unit, total = "images", first.num_images
    if groups is not None:
        unit, images, total = "groups", np.unique(groups[images]), int(groups.max()) + 1
    if len(images) < 2:
        raise DataError(
            f"expected objects in two {unit} at least, found them in {len(images)} of "
            f"{total}: how results vary from image to image cannot be estimated"
        )


def _check_varied(
    run: Matches, bins: Mapping[str, Bin], metric: str, weights: NDArray[np.integer]
) -> None:
    kind = metric.removeprefix("ap_")
    if not is_varied(run, weights, bins[kind].gt):
        raise DataError(
            f"expected {kind} objects in two images, or groups of them, at least for {metric}, "
            "found fewer: how results vary from image to image cannot be estimated"
        )


def compare_values(metric: str, models: Sequence[Values]) -> list[Comparison]:
    """Returns one metric of every model and its difference to the first, without verdicts."""
    reference = models[0]
    comparisons = [Comparison(metric, 0, _estimate(reference, [reference], lowest=0.0))]
    for position, model in enumerate(models[1:], start=1):
        difference = _estimate(model.difference(reference), [model, reference], lowest=-1.0)
        value = _estimate(model, [model], lowest=0.0)
        comparisons.append(Comparison(metric, position, value, difference))
    return comparisons


def _estimate(values: Values, models: Sequence[Values], *, lowest: float) -> Estimate:
    """Returns the mean of `values` with its intervals within `lowest` and 1.

    Args:
        values: of a model, or of the difference of two.
        models: the one or two of them.
        lowest: 0 for a metric, -1 for a difference.
    """
    value = float(values.plain.mean())
    images = seeds = values.image_variance()
    over_seeds = min(len(model.plain) for model in models) >= FEWEST_RUNS
    if over_seeds:
        common = max(images.value - sum(model.shared_variance() for model in models), 0.0)
        parts = [Variance(common, images.dof), *(model.seed_variance() for model in models)]
        # By chance three runs agree better than the images allow.
        seeds = max(images, _sum(parts), key=lambda variance: variance.half_width)

    def interval(variance: Variance) -> Interval:
        half = variance.half_width
        return Interval(max(value - half, lowest), min(value + half, 1.0))

    return Estimate(
        value=value,
        images=interval(images),
        seeds=interval(seeds) if over_seeds else None,
        p=_p_of_zero(seeds, value),
    )


def _sum(parts: Sequence[Variance]) -> Variance:
    """Returns the variance of a sum of independent parts, by Welch and Satterthwaite."""
    variance = sum(part.value for part in parts)
    doubt = sum(part.value**2 / part.dof for part in parts)
    return Variance(variance, variance**2 / doubt if doubt else 1.0)


def _p_of_zero(variance: Variance, value: float) -> float:
    """Returns the two-sided p of `value` if the true value is 0."""
    if variance.value == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * float(stats.t.sf(abs(value) / variance.value**0.5, variance.dof))


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values such that all under 0.05 are wrong together in at most 5%, in their order.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.

    Examples:
        >>> adjust_by_holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(order))
    factors = np.arange(len(order), 0, -1)
    raised = np.maximum.accumulate(factors * np.asarray(p_values, float)[order])
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted.tolist()


def with_verdicts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns them with verdicts, by the p of all differences adjusted by Holm."""
    p = [row.difference.p for row in comparisons if row.difference is not None]
    adjusted = iter(adjust_by_holm(p))
    return [
        row
        if row.difference is None
        else replace(row, p_adjusted=(own := next(adjusted)), verdict=_verdict(row.difference, own))
        for row in comparisons
    ]


def _verdict(difference: Estimate, p_adjusted: float) -> Verdict:
    if p_adjusted >= 1 - LEVEL:
        return "not distinguishable"
    return "better" if difference.value > 0 else "worse"
