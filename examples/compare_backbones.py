"""A small study: two backbones, three seeds each, and a table that says how sure the difference is.

Runs offline on a CPU, in two or three minutes of one core: `python examples/compare_backbones.py`.
Both are trained by one recipe behind one neck, checked setting by setting when the plan is made.
With 120 drawn scenes the numbers are low; the intervals say what such a small study can tell.
"""

from pathlib import Path

from ossa.data.synthetic import write_scenes
from ossa.evaluate.statistics import Estimate, compare_values, with_verdicts
from ossa.study.config import ExecutorConfig, StudyConfig
from ossa.study.executors import create_executor
from ossa.study.folder import create_study
from ossa.study.results import load_study
from ossa.study.runner import run_study

MODELS = ("cspdarknet_n", "mobilenetv3_small_050")  # any timm architectures


def main(folder: Path = Path("comparison"), *, num_scenes: int = 120, epochs: int = 8) -> None:
    data = write_scenes(
        folder / "scenes", images={"train": num_scenes, "val": num_scenes // 2}, imgsz=128
    )
    study = create_study(
        StudyConfig.model_validate(
            {
                "name": "comparison",
                "data": "scenes",
                "models": MODELS,
                "neck": "n",
                "seeds": [0, 1, 2],
                "recipe": {"base": "quick", "epochs": epochs, "imgsz": 128},
            }
        ),
        folder / "study",
        data=data,
        weights_folder=folder,
    )
    executor = create_executor(ExecutorConfig(jobs=2, threads=1, device="cpu"))
    run_study(study, executor, on_run=lambda state: print(state.run.name, state.state))

    results = load_study(study)
    costs = results.models().set_index("model")
    values = results.values("ap")  # AP50-95 of every run, under 2,000 draws of the images
    rows = with_verdicts(compare_values("ap", [values[model] for model in MODELS]))
    print(f"\n{'backbone':<22} {'params':>7}  {'AP50-95':<24} difference to the first")
    for row in rows:
        model, own, other = MODELS[row.model], row.estimate, row.difference
        told = f"{own.value:.3f} ({_interval(own)})"
        params = f"{costs.params[model] / 1e6:.2f} M"
        verdict = f"{other.value:+.3f} ({_interval(other)}): {row.verdict}" if other else ""
        print(f"{model:<22} {params:>7}  {told:<24} {verdict}".rstrip())
    print("intervals of 95 %, over other images and other seeds")


def _interval(estimate: Estimate) -> str:
    low, high = estimate.seeds or estimate.images
    return f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
