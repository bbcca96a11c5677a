"""What initial weights are worth to each backbone, and whether the gains differ, from two studies.

    python benchmarks/pretraining.py results/bccd-224-2core-amd-epyc \\
        results/bccd-224-imagenet-2core-amd-epyc --data DATA/bccd

The first study is the one from scratch; models of both count, with the seeds of both. The gain of a
seed is the AP of its two runs apart, and gains are compared as `ossa study report` compares models:
over seeds and images, with simultaneous intervals for differences between gains.
"""

import argparse
from pathlib import Path

from ossa.evaluate.statistics import Values
from ossa.study.comparisons import compare_all
from ossa.study.folder import read_study_folder
from ossa.study.report.answers import evidence
from ossa.study.results import StudyResults, load_study


def gains(scratch: StudyResults, pretrained: StudyResults, metric: str) -> dict[str, Values]:
    """Returns the metric of each pretrained run less that of the run from scratch of its seed."""
    before, after = scratch.values(metric), pretrained.values(metric)
    found = {}
    for model in pretrained.names:
        seeds = [
            [run.state.run.seed for run in of.runs_by_model[model]] for of in (scratch, pretrained)
        ]
        if seeds[0] != seeds[1]:
            raise SystemExit(f"{model}: seeds {seeds[0]} from scratch, {seeds[1]} pretrained")
        one, other = before[model], after[model]
        found[model] = Values(
            other.plain - one.plain,
            other.resampled - one.resampled,
            other.left_out - one.left_out,
            one.num_images,
        )
    return found


def main() -> None:
    """Prints a table of gains and one of their differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    scratch, pretrained = (
        load_study(read_study_folder(path, data=options.data))
        for path in (options.scratch, options.pretrained)
    )
    compared = compare_all(gains(scratch, pretrained, "ap"))
    print("| backbone | from scratch | pretrained | gain | 95% CI |\n|---|---|---|---|---|")
    for i, model in enumerate(compared.models):
        low, high = compared.interval(model, within=(-1.0, 1.0))
        print(
            f"| {model} | {scratch.number(model, 'ap'):.3f} | {pretrained.number(model, 'ap'):.3f} "
            f"| {compared.estimates.means[i]:+.3f} | {low:+.3f} to {high:+.3f} |"
        )
    print(f"\n{evidence(pretrained, pretrained.names)}. Differences between gains, simultaneous:\n")
    for pair in compared.pairs():
        print(
            f"- {pair.model} less {pair.reference}: {pair.difference:+.3f} "
            f"({pair.low:+.3f} to {pair.high:+.3f})"
        )


if __name__ == "__main__":
    main()
