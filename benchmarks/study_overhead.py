"""What a study takes beside training and evaluating.

    OMP_NUM_THREADS=1 python benchmarks/study_overhead.py --data bccd --study runs/bccd-224

Runs a study of one model, one run after another, with a short and a longer training, and takes the
time of its epochs from its time by the clock: what is left is planning, starting processes, reading
the data, checkpoints and records. Two lengths tell what a run costs from what an epoch costs. With
`--study`, that is set against the runs of a study that is finished.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean

from ossa.study.config import ExecutorConfig, check_study
from ossa.study.executors import create_executor
from ossa.study.folder import create_study, read_study_folder
from ossa.study.runner import run_study

_SHORT, _LONG = 1, 6


def main() -> None:
    parser = argparse.ArgumentParser(description="The share of a study that is not training.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="cspdarknet_s")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--study", type=Path, help="folder of a finished study to compare with")
    options = parser.parse_args()
    beside: dict[int, float] = {}
    for epochs in (_SHORT, _LONG):
        whole, trained = seconds_of_study(
            options.data, options.model, epochs=epochs, imgsz=options.imgsz, runs=options.runs
        )
        beside[epochs] = (whole - trained) / options.runs
        print(
            f"{options.runs} runs of {epochs} epochs: {whole:.1f} s, of which {trained:.1f} s are "
            f"epochs; beside them {beside[epochs]:.2f} s a run"
        )
    an_epoch = max(0.0, (beside[_LONG] - beside[_SHORT]) / (_LONG - _SHORT))
    a_run = beside[_SHORT] - _SHORT * an_epoch
    print(f"{a_run:.2f} s a run and {an_epoch:.3f} s an epoch (checkpoints)")
    if options.study is not None:
        records = [
            state.record
            for state in read_study_folder(options.study).states()
            if state.state == "done" and state.record is not None
        ]
        times = [sum(record.times.values()) for record in records]
        epochs = [record.config["train"]["epochs"] for record in records]
        beside_all = len(records) * a_run + sum(epochs) * an_epoch
        print(
            f"{options.study}: {len(times)} runs of {fmean(times):.0f} s on average, "
            f"{sum(times) / 3600:.2f} hours; what is beside training {beside_all / sum(times):.2%}"
        )


def seconds_of_study(
    data: Path, model: str, *, epochs: int, imgsz: int, runs: int
) -> tuple[float, float]:
    """Returns the seconds of a study by the clock, and those in which its epochs were computed."""
    settings = {
        "name": "overhead",
        "data": str(data),
        "models": [model],
        "seeds": list(range(runs)),
        "recipe": {"base": "yolov5-low", "epochs": epochs, "imgsz": imgsz, "batch": 16},
    }
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        study = create_study(
            check_study(settings, where="this benchmark"),
            Path(temporary) / "study",
            data=data,
            weights_folder=Path(temporary),
        )
        executor = create_executor(ExecutorConfig(jobs=1, threads=1, device="cpu"))
        states = run_study(study, executor, on_run=lambda _: None)
        whole = time.perf_counter() - started
    records = [state.record for state in states if state.record is not None]
    assert len(records) == runs, [state.reason for state in states]
    return whole, sum(sum(record.times.values()) for record in records)


if __name__ == "__main__":
    main()
