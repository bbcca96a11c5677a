"""What every backbone of the seeds, and of the families since, costs behind one neck.

    nice python benchmarks/backbone_costs.py --only-counts     # anywhere
    nice python benchmarks/backbone_costs.py                   # on an idle machine

Counts parameters and FLOPs split by part, in training form and as deployed, then times the deployed
form. Models of about the same FLOPs are timed turn by turn, those above --heavy GFLOPs with fewer
runs. After every model counted and every group timed two files are written whole: JSON with every
figure, and Markdown to be read. Started again, it does only what is not in the JSON yet; a model
that fails is named with its reason, tried again at the next start, and holds up no other. All 82
models are 106 TFLOPs of timed runs and runs to warm up.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ossa.cost.benchmark import Protocol, bench_detectors, hardware_slug, using_threads
from ossa.cost.model_cost import cost_detector
from ossa.errors import ConfigError, OssaError
from ossa.files import write_json_atomically, write_text_atomically
from ossa.models.backbones.roadmap import ROADMAP
from ossa.models.complexity import PARTS
from ossa.models.detector import create_detector

SEEDS = (
    *(f"yolov5{scale}" for scale in "nsmlx"),
    *(f"cspdarknet_{scale}" for scale in "nsmlx"),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"repvgg_{size}" for size in ("a0", "a1", "a2", "b0", "b1")),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("ghostnet_100", "ghostnetv2_100", "densenet121", "densenet169"),
    *("resnet18", "resnet34", "resnet50", "inception_v4"),
    *(step.name for step in ROADMAP),
)
MODERN = (
    *(f"convnextv2_{size}" for size in ("atto", "nano", "tiny")),
    *(f"mobilenetv4_{size}" for size in ("conv_small", "conv_medium", "hybrid_medium")),
    *("efficientnet_b0", "efficientnet_b3", "tf_efficientnetv2_b0", "efficientnetv2_rw_t"),
    *(f"efficientvit_{size}" for size in ("b0", "b1", "b2", "l1")),
    *(f"hgnetv2_{size}" for size in ("b0", "b2", "b4")),
    *("repvit_m0_9", "repvit_m1_1", "fastvit_t8", "fastvit_sa12", "mobileone_s0", "mobileone_s2"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    *(f"mambaout_{size}" for size in ("femto", "kobe", "tiny")),
    *("convnext_tiny.dinov3_lvd1689m", "vit_tiny_patch16_224", "vit_small_patch16_224"),
    *("vit_small_patch14_dinov2", "vit_small_patch16_dinov3"),
    *("eva02_tiny_patch14_224", "eva02_small_patch14_224"),
)
PUBLISHED_MPARAMS = {
    "yolov5s": ("YOLOv5s", 7.5),
    "yolov5m": ("YOLOv5m", 21.2),
    "yolov5l": ("YOLOv5l", 56.5),
    "convnext_tiny": ("ConvNeXt-YOLO", 29.8),
}
"""Name and millions of parameters in the table of ConvNeXt-YOLO (COCO, 80 classes), by ours."""

Row = dict[str, Any]


class Results:
    """Rows by model, in memory and always also in their two files."""

    def __init__(self, stem: Path, *, settings: Mapping[str, Any], command: str) -> None:
        """Starts from the rows of an earlier start.

        Raises:
            ConfigError: these were counted with other settings.
        """
        self.json_file, self.markdown_file = (
            stem.with_name(stem.name + suffix) for suffix in (".json", ".md")
        )
        self.settings, self.command = settings, command
        self.rows: dict[str, Row] = {}
        if self.json_file.exists():
            earlier = json.loads(self.json_file.read_text())
            if earlier["settings"] != settings:
                raise ConfigError(
                    f"expected rows of {settings} in {self.json_file}, "
                    f"found {earlier['settings']}: give another --output, or take the file away"
                )
            self.rows = {row["model"]: row for row in earlier["rows"]}

    def lacks(self, model: str, figure: str) -> bool:
        return figure not in self.rows.get(model, {})

    def add(self, model: str, figures: Row) -> None:
        """Lays figures over the model's row; a failure is forgotten once there are any."""
        known = {key: value for key, value in self.rows.get(model, {}).items() if key != "failed"}
        self.rows[model] = {"model": model, **known, **figures}

    def write(self) -> None:
        rows = list(self.rows.values())
        content = {"command": self.command, "settings": self.settings, "rows": rows}
        write_json_atomically(self.json_file, content)
        write_text_atomically(self.markdown_file, as_markdown(rows, self.settings, self.command))


def count(model: str, settings: Mapping[str, Any]) -> Row:
    """Returns what `ossa cost --json` says, or why it fails."""
    try:
        return cost_detector(model, **settings).row()
    except Exception as problem:  # one model must not cost the others their rows
        return _failure("counting", problem)


def time_together(
    models: Sequence[str], settings: Mapping[str, Any], protocol: Protocol
) -> dict[str, Row]:
    """Returns a row of times for each model, or why it fails."""
    try:
        detectors = {model: create_detector(model, **settings) for model in models}
        return {row["model"]: row for row in bench_detectors(detectors, protocol)}
    except Exception as problem:  # as above
        if len(models) == 1:
            return {models[0]: _failure("timing", problem)}
    return {model: time_together([model], settings, protocol)[model] for model in models}


def time_missing(results: Results, arguments: argparse.Namespace) -> None:
    """Times the models that were counted and not timed yet, group by group."""
    untimed = [
        results.rows[model]
        for model in arguments.models
        if not results.lacks(model, "params") and results.lacks(model, "mean_ms")
    ]
    for models, runs in groups(untimed, arguments):
        protocol = Protocol(
            imgsz=arguments.imgsz, warmup=arguments.warmup, runs=runs, device=arguments.device
        )
        _say(f"timing {', '.join(models)}: {protocol}")
        for model, figures in time_together(models, results.settings, protocol).items():
            results.add(model, figures)
        results.write()


def groups(rows: Sequence[Row], arguments: argparse.Namespace) -> Iterator[tuple[list[str], int]]:
    """Yields models to be timed together, of about the same FLOPs, and with how many runs."""
    by_flops = sorted(rows, key=lambda row: row["flops_deployed"])
    heavy = [row for row in by_flops if row["flops_deployed"] > 1e9 * arguments.heavy]
    light = by_flops[: len(by_flops) - len(heavy)]
    for part, runs in ((light, arguments.runs), (heavy, arguments.heavy_runs)):
        for first in range(0, len(part), arguments.together):
            yield [row["model"] for row in part[first : first + arguments.together]], runs


def as_markdown(rows: Sequence[Row], settings: Mapping[str, Any], command: str) -> str:
    """Returns what a reader compares: parameters, FLOPs and, where they are known, times."""
    counted = [row for row in rows if "params" in row]
    timed = next((row for row in counted if "hardware" in row), None)
    titles = ["model", "M parameters", "M deployed", "GFLOPs", *PARTS, "GFLOPs deployed"]
    titles += ["forms differ by", "ms", "ms network", "ms p95", "runs"]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    lines += [_line(_cells(row)) for row in counted]
    where = f" on {timed['hardware']}, threads: {timed['threads']}" if timed else ""
    text = f"""\
# Backbones at {settings["imgsz"]} px{where}

    {command}

Neck {settings["neck"]} (of a preset its own) and head of {settings["num_classes"]} classes for all.
FLOPs are twice the multiply-adds of convolutions and matrix products: of the training form in total
and by part, then of the deployed form. The forms differ by so much of the largest output, with
random weights.
"""
    if timed:
        text += f"""\
Times of an image are of the deployed form at batch {timed["batch"]}: the mean with decoding and
NMS, the mean of the network alone, and the 95th percentile with both. {timed["precision"]},
{timed["memory_format"]}, torch {timed["torch"]}, timm {timed["timm"]}.
"""
    table = "\n".join(lines)
    return f"{text}\n{table}\n{_beside_published(counted)}{_failures(rows)}"


def _cells(row: Row) -> list[str]:
    millions = [row[key] / 1e6 for key in ("params", "params_deployed")]
    flops = ("flops", *(f"flops_{part}" for part in PARTS), "flops_deployed")
    figures = [f"{figure:.2f}" for figure in (*millions, *(row[key] / 1e9 for key in flops))]
    difference = row["difference_relative"]
    times = [row.get(key) for key in ("ms_per_image", "ms_per_image_network", "p95_ms")]
    return [
        row["model"],
        *figures,
        "–" if difference is None else f"{difference:.0e}",
        *("–" if time is None else f"{time:.1f}" for time in times),
        str(row.get("runs", "–")),
    ]


def _beside_published(rows: Sequence[Row]) -> str:
    lines = [
        _line([*PUBLISHED_MPARAMS[row["model"]], row["model"], f"{row['params'] / 1e6:.1f}"])
        for row in rows
        if row["model"] in PUBLISHED_MPARAMS
    ]
    if not lines:
        return ""
    header = [_line(["published", "M parameters", "here", "M parameters"]), _line(["---"] * 4)]
    return "\nBeside the table of ConvNeXt-YOLO:\n\n" + "\n".join([*header, *lines]) + "\n"


def _failures(rows: Sequence[Row]) -> str:
    lines = [f"- `{row['model']}`: {row['failed']}" for row in rows if "failed" in row]
    return "\nFailed:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _failure(doing: str, problem: Exception) -> Row:
    reason = " ".join(str(problem).split()) or "no further word"
    return {"failed": f"{doing}: {type(problem).__name__}: {reason}"}


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[*SEEDS, *MODERN])
    parser.add_argument("--only-counts", action="store_true", help="time nothing")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--neck", default="s")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--heavy-runs", type=int, default=10)
    parser.add_argument("--heavy", type=float, default=60.0, metavar="GFLOPS")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--together", type=int, default=6, help="models timed turn by turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("results"))
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    settings = {
        "num_classes": arguments.classes,
        "neck": arguments.neck,
        "imgsz": arguments.imgsz,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    with using_threads(arguments.threads):
        hardware = hardware_slug(arguments.device, torch.get_num_threads())
        results = Results(
            arguments.output / f"backbone-costs-{hardware}-{arguments.imgsz}px",
            settings=settings,
            command=shlex.join(["python", "benchmarks/backbone_costs.py", *sys.argv[1:]]),
        )
        for model in arguments.models:
            if results.lacks(model, "params"):
                _say(f"counting {model}")
                results.add(model, count(model, settings))
                results.write()
        if not arguments.only_counts:
            time_missing(results, arguments)
    _say(f"written to {results.json_file} and {results.markdown_file}")


if __name__ == "__main__":
    try:
        main()
    except OssaError as error:
        sys.exit(f"error: {error}")
