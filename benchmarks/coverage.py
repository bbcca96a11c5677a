"""How often the intervals of `ossa compare` hold what they promise, and how often it errs.

    nice python benchmarks/coverage.py                # 1,000 data sets, some minutes of one core

Draws data sets from a population whose true metrics are known (from 240,000 images), has three
models find things in each, compares them and counts. Model 0 is the reference, model 1 is as good,
model 2 is better. Prints, for one run a model and for three,

- coverage: how often the interval of 95 % holds the true AP, and the true difference of a model;
- false verdicts: how often models 0 and 1, compared alone, are told to differ.

What is simulated is the matching: an image has a difficulty, and so has an object, for all models
alike (so their errors are correlated); a model errs on objects of its own, a run on others again,
and a seed makes a run better or worse. Of three classes the rarest is in about 30 of 150 images.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.bootstrap import average_precision
from ossa.evaluate.matching import IOU_THRESHOLDS, Matches
from ossa.evaluate.statistics import LEVEL, Comparison, Estimate, Interval, compare_models

SKILLS = (0.0, 0.0, 0.12)
"""Of the three models. 0.12 is about 0.04 of AP."""
_CLASS_SKILLS = np.array([0.9, 0.7, 0.5])
_CLASS_SHARES = np.array([0.6, 0.3, 0.1])
_SEED_DEVIATION = 0.05
"""Of the skill of a run; about 0.012 of AP, as among seeds of a real training."""
_POPULATION_IMAGES, _POPULATIONS = 1_200, 200


@dataclass(frozen=True)
class Scenes:
    """Images with their objects, and with what lures detectors. N objects, F lures."""

    num_images: int
    images: NDArray[np.int64]
    """(N,)."""
    labels: NDArray[np.int64]
    """(N,)."""
    difficulty: NDArray[np.float64]
    """(N,)."""
    lure_images: NDArray[np.int64]
    """(F,)."""
    lure_labels: NDArray[np.int64]
    lure_strength: NDArray[np.float64]


def draw_scenes(rng: np.random.Generator, num_images: int) -> Scenes:
    """Returns images with four objects and three lures on average, many more in some."""
    difficulty = rng.normal(size=num_images)
    images = np.repeat(np.arange(num_images), rng.negative_binomial(2, 1 / 3, num_images))
    lure_counts = rng.poisson(3 * np.exp(0.3 * difficulty))
    lure_images = np.repeat(np.arange(num_images), lure_counts)
    return Scenes(
        num_images=num_images,
        images=images,
        labels=rng.choice(len(_CLASS_SHARES), len(images), p=_CLASS_SHARES),
        difficulty=0.5 * difficulty[images] + 0.65 * rng.normal(size=len(images)),
        lure_images=lure_images,
        lure_labels=rng.choice(len(_CLASS_SHARES), len(lure_images), p=_CLASS_SHARES),
        lure_strength=rng.normal(size=len(lure_images)),
    )


def draw_runs(
    rng: np.random.Generator,
    scenes: Scenes,
    skill: float,
    *,
    seed_skills: Sequence[NDArray[np.float64]],
) -> list[Matches]:
    """Returns what the runs of one model found.

    Args:
        rng: of the model's and the runs' own errors.
        scenes: the data set.
        skill: the model's.
        seed_skills: (K,) of each run, to be added to it.
    """
    own = 0.45 * rng.normal(size=len(scenes.images))
    return [_draw_run(rng, scenes, _CLASS_SKILLS + skill + seed, own) for seed in seed_skills]


def draw_seed_skills(rng: np.random.Generator, runs: int) -> list[NDArray[np.float64]]:
    """Returns how much better or worse each run is by its seed; nothing where there is one run."""
    if runs == 1:
        return [np.zeros(len(_CLASS_SKILLS))]
    return [
        _SEED_DEVIATION * (0.8 * rng.normal() + 0.6 * rng.normal(size=len(_CLASS_SKILLS)))
        for _ in range(runs)
    ]


def _draw_run(
    rng: np.random.Generator,
    scenes: Scenes,
    skills: NDArray[np.float64],
    own: NDArray[np.float64],
) -> Matches:
    truths = len(scenes.images)
    quality = skills[scenes.labels] - scenes.difficulty + own + 0.4 * rng.normal(size=truths)
    ious = 1 - 0.5 * np.exp(-np.maximum(quality, 0))
    seen = (quality > 0) | (rng.random(truths) < 0.6)  # some boxes are too poor for a match
    lured = rng.random(len(scenes.lure_images)) < 0.7
    rows = np.flatnonzero(seen)
    scores = np.concatenate(
        (
            quality[seen] + 0.7 * rng.normal(size=len(rows)),
            -0.6 + (0.8 * scenes.lure_strength + 0.6 * rng.normal(size=len(lured)))[lured],
        )
    )
    labels = np.concatenate((scenes.labels[seen], scenes.lure_labels[lured]))
    images = np.concatenate((scenes.images[seen], scenes.lure_images[lured]))
    found = np.full((len(scores), len(IOU_THRESHOLDS)), -1, np.int32)
    close = (quality[seen, None] > 0) & (ious[seen, None] >= IOU_THRESHOLDS)
    found[: len(rows)] = np.where(close, rows[:, None], -1)
    order = np.lexsort((-scores, labels))
    return Matches(
        num_images=scenes.num_images,
        num_classes=len(skills),
        images=images[order],
        labels=labels[order],
        scores=scores[order],
        boxes_xyxy=np.zeros((len(scores), 4)),
        areas=np.zeros(len(scores)),
        matched_gt=found[order],
        ignored=np.zeros(found.shape, bool),
        gt_image_positions=scenes.images,
        gt_labels=scenes.labels,
        gt_scored=np.ones(truths, bool),
    )


def true_aps(runs: int) -> NDArray[np.float64]:
    """Returns AP of the three models over all images and, with several runs, over all seeds."""
    values = []
    for number in range(_POPULATIONS):
        rng = np.random.default_rng([0, number])
        scenes = draw_scenes(rng, _POPULATION_IMAGES)
        seed_skills = draw_seed_skills(rng, runs)[:1]  # one for all, so the difference varies less
        values.append(
            [
                average_precision(
                    draw_runs(rng, scenes, skill, seed_skills=seed_skills)[0]
                ).means()["ap"]
                for skill in SKILLS
            ]
        )
    return np.mean(values, axis=0)


@dataclass(frozen=True)
class Tally:
    """What became of the intervals and verdicts of so many data sets."""

    sets: int
    metric: float
    """Coverage of the AP of the models; of images alone for one run a model, else of seeds, too."""
    difference: float
    """Coverage of the difference of model 2, which is better."""
    false_verdicts: float
    """Part of the data sets in which models 0 and 1 are told to differ."""
    found: float
    """Part in which model 2 is told to be better, by Holm over both differences."""
    width: float
    """Mean of the interval of model 2's difference."""


def simulate(runs: int, *, sets: int, images: int, resamples: int) -> Tally:
    """Returns how the comparisons of three models with so many runs each turn out."""
    true = true_aps(runs)
    outcomes = [
        _outcome(comparisons, true, over_seeds=runs > 1)
        for comparisons in _comparisons(runs, sets=sets, images=images, resamples=resamples)
    ]
    return Tally(sets, *np.mean(outcomes, axis=0).tolist())


def _comparisons(
    runs: int, *, sets: int, images: int, resamples: int
) -> Iterator[list[Comparison]]:
    for number in range(sets):
        rng = np.random.default_rng([1, number])
        scenes = draw_scenes(rng, images)
        models = [
            draw_runs(rng, scenes, skill, seed_skills=draw_seed_skills(rng, runs))
            for skill in SKILLS
        ]
        yield compare_models(models, metrics=("ap",), resamples=resamples, seed=number)


def _outcome(
    comparisons: Sequence[Comparison], true: NDArray[np.float64], *, over_seeds: bool
) -> list[float]:
    """Returns the figures of `Tally` behind `sets` for one data set."""

    def interval(estimate: Estimate | None) -> Interval:
        assert estimate is not None
        return estimate.seeds if over_seeds and estimate.seeds else estimate.images

    _, equal, better = comparisons
    low, high = interval(better.difference)
    assert equal.difference is not None
    metrics = [interval(row.estimate) for row in comparisons]
    return [
        float(np.mean([lo <= ap <= hi for (lo, hi), ap in zip(metrics, true, strict=True)])),
        float(low <= true[2] - true[0] <= high),
        float(equal.difference.p < 1 - LEVEL),
        float(better.verdict == "better"),
        high - low,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulated coverage of ossa compare.")
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--images", type=int, default=150, help="in each data set")
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    print("| runs a model | coverage, AP | coverage, difference | false verdicts | better found |")
    print("|---|---|---|---|---|")
    for runs in (1, 3):
        started = time.process_time()
        tally = simulate(
            runs, sets=options.sets, images=options.images, resamples=options.resamples
        )
        error = 100 * (LEVEL * (1 - LEVEL) / tally.sets) ** 0.5
        print(
            f"| {runs} | {tally.metric:.1%} | {tally.difference:.1%} | {tally.false_verdicts:.1%} "
            f"| {tally.found:.1%} |",
            flush=True,
        )
        print(
            f"{runs} runs: {tally.sets} data sets of {options.images} images, {options.resamples} "
            f"resamples; by chance ± {error:.1f} points; mean width of the interval of the "
            f"difference {tally.width:.3f}; {time.process_time() - started:.0f} s of processor",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
