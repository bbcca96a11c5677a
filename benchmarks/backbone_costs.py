"""What every backbone of the seeds costs behind one neck, and how long it takes here.

    nice python benchmarks/backbone_costs.py --output results

About half an hour on two cores. Writes one table, as CSV with every figure and as Markdown to be
read: parameters and FLOPs split by part, and milliseconds an image of the deployed form. Models
are timed turn by turn, those above --heavy GFLOPs in a group of their own with fewer runs.
"""

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ossa.cost.bench import Protocol, bench_detectors, hardware_slug, using_threads
from ossa.cost.model_cost import cost_detector
from ossa.files import write_text_atomically
from ossa.models.build import create_detector
from ossa.models.count import PARTS

MODELS = (
    *(f"cspdarknet_{scale}" for scale in "nsmlx"),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"repvgg_{size}" for size in ("a0", "a1", "a2", "b0", "b1")),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("ghostnet_100", "ghostnetv2_100", "densenet121", "densenet169"),
    *("resnet18", "resnet34", "resnet50", "inception_v4"),
)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row a model, in the order of the arguments."""
    settings = {
        "num_classes": arguments.classes,
        "neck": arguments.neck,
        "imgsz": arguments.imgsz,
    }
    costs = {}
    for model in arguments.models:
        print(f"counting {model}", file=sys.stderr)
        costs[model] = cost_detector(model, **settings)
    heavy = [m for m in costs if costs[m].deployed.total.flops > 1e9 * arguments.heavy]
    light = [m for m in costs if m not in heavy]
    times = {}
    for models, runs in ((light, arguments.runs), (heavy, arguments.heavy_runs)):
        if not models:
            continue
        protocol = Protocol(
            imgsz=arguments.imgsz, warmup=arguments.warmup, runs=runs, device=arguments.device
        )
        print(f"timing {', '.join(models)}: {protocol.in_words()}", file=sys.stderr)
        detectors = {model: create_detector(model, **settings) for model in models}
        times |= {row["model"]: row for row in bench_detectors(detectors, protocol)}
    return [{**costs[model].row(), **times[model]} for model in costs]


def as_csv(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Returns every figure, after a line with the command."""
    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
    text = io.StringIO()
    text.write(f"# {command}\n")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Returns what a reader compares: parameters, FLOPs and times."""
    titles = ["model", "M parameters", "M deployed", "GFLOPs", *PARTS, "GFLOPs deployed"]
    titles += ["ms", "ms network", "ms p95", "runs"]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    for row in rows:
        millions = [row[key] / 1e6 for key in ("params", "params_deployed")]
        keys = ("flops", *(f"flops_{part}" for part in PARTS), "flops_deployed")
        billions = [row[key] / 1e9 for key in keys]
        times = [row[key] for key in ("ms_per_image", "ms_per_image_network", "p95_ms")]
        figures = [f"{figure:.2f}" for figure in (*millions, *billions)]
        lines.append(
            _line([row["model"], *figures, *(f"{time:.1f}" for time in times), str(row["runs"])])
        )
    first, table = rows[0], "\n".join(lines)
    return f"""\
# Backbones at {first["imgsz"]} px on {first["hardware"]}, {first["threads"]} threads

    {command}

One neck and head for all. FLOPs are twice the multiply-adds of convolutions and matrix products:
of the training form in total and by part, then of the deployed form. Times of an image are of the
deployed form at batch {first["batch"]}: the mean with decoding and NMS, the mean of the network
alone, and the 95th percentile with both. {first["precision"]}, {first["memory_format"]},
torch {first["torch"]}, timm {first["timm"]}.

{table}
"""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--neck", default="s")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--heavy-runs", type=int, default=10)
    parser.add_argument("--heavy", type=float, default=60.0, metavar="GFLOPS")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/backbone_costs.py", *sys.argv[1:]])
    arguments.output.mkdir(parents=True, exist_ok=True)
    with using_threads(arguments.threads):
        rows = measure(arguments)
        hardware = hardware_slug(arguments.device, torch.get_num_threads())
    stem = arguments.output / f"backbone-costs-{hardware}-{arguments.imgsz}px"
    for suffix, write in ((".csv", as_csv), (".md", as_markdown)):
        file = stem.with_name(stem.name + suffix)
        write_text_atomically(file, write(rows, command))
        print(f"written to {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
