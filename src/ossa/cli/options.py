"""Options that commands share, so that each has one name, one meaning and one help text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from ossa.cli.command import Setting
from ossa.data.paths import ALLOW_OUTSIDE_VARIABLE
from ossa.errors import ConfigError, suggestion

MACHINE_PANEL = "Machine and output"
IMGSZ_NAMES = ("--imgsz", "--img", "--img-size")
BATCH_NAMES = ("--batch", "--batch-size")
_MOST_WORKERS = 8


def shown(default: str) -> Any:
    """Returns what `Annotated` of an option says of a default that is not a constant."""
    return typer.Option(show_default=default)


def nms_settings(
    *, confidence: str | None = None, iou: str | None = None, panel: str | None = None
) -> tuple[Setting, ...]:
    """Returns the options of keys of `EvaluateConfig`, with defaults that are not the schema's."""
    return (
        Setting("confidence", ("--conf", "--conf-thres"), None, panel, confidence),
        Setting("nms_iou", ("--iou", "--iou-thres"), None, panel, iou),
        Setting("max_detections", ("--max-det",), None, panel),
    )


Pixels: TypeAlias = Annotated[int, typer.Option(*IMGSZ_NAMES, min=1, metavar="PIXELS")]
Side = Annotated[
    Annotated[int, typer.Option(*IMGSZ_NAMES, min=32, metavar="PIXELS")],
    "Side of the square input in pixels.",
]
Batch = Annotated[
    int, typer.Option(*BATCH_NAMES, min=1, max=65_536, metavar="N"), "Images in one run."
]
Count: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N")]
Classes: TypeAlias = Annotated[int, typer.Option(min=1, max=100_000, metavar="N")]
Fraction: TypeAlias = Annotated[float, typer.Option(min=0, max=1)]
File: TypeAlias = Annotated[Path, typer.Option(metavar="FILE")]
Folder: TypeAlias = Annotated[Path, typer.Option(metavar="FOLDER")]
Name: TypeAlias = Annotated[str, typer.Option(metavar="NAME")]
NeckScale: TypeAlias = Literal["n", "s", "m", "l", "x"]
Neck: TypeAlias = Annotated[NeckScale, "Scale of the neck behind a backbone."]
RuntimeName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]

ModelArgument = typer.Argument(
    metavar="MODEL",
    help="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x (or cspdarknet-w0.375-d0.33), or any "
    "timm architecture.",
)
DataPath: TypeAlias = Annotated[
    str, typer.Option(metavar="PATH"), "A data.yaml, or the folder that holds one."
]
DataArgument: TypeAlias = Annotated[
    str, typer.Argument(), "A data.yaml, or the folder that holds one."
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE"),
    "Any setting, such as train.lr=0.005; may be repeated, and has the last word.",
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=MACHINE_PANEL),
    "cpu, cuda, or the number of a GPU. The first GPU where there is one.",
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, max=256, metavar="N", rich_help_panel=MACHINE_PANEL),
    "Processes that load images; they change the speed, never the result. Half the processors for "
    f"a GPU, at most {_MOST_WORKERS}; where the CPU itself computes, a quarter, none of fewer than "
    "four.",
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", rich_help_panel=MACHINE_PANEL),
    shown("one for each processor, or OMP_NUM_THREADS"),
    "Threads with which the CPU computes. Fewer leave processors to other programs; sums are "
    "rounded otherwise with another number.",
]
AsJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=MACHINE_PANEL),
    "Print one JSON document on stdout and everything else on stderr.",
]


def _cache_place(text: str) -> str:
    places = ("auto", "disk", "none")
    if text == "ram":
        raise typer.BadParameter("expected auto, disk or none, found 'ram', which is auto today")
    if text not in places:
        raise typer.BadParameter(f"expected {', '.join(places)}, found {text!r}")
    return text


Cache = Annotated[
    str | None,
    typer.Option(parser=_cache_place, metavar="auto|disk|none", rich_help_panel=MACHINE_PANEL),
    shown("auto"),
    "Decode and resize every image once. auto keeps the pixels in memory that all processes share, "
    "while they fit into a quarter of the free memory and 4 GB; disk in the cache folder "
    "(OSSA_CACHE, else ~/.cache/ossa) for every later run. It changes the speed, never the result.",
]


def _allow_outside(call: typer.Context, wanted: bool) -> None:
    """Lets all processes of a command read what lies outside the folders of a data set."""
    if not wanted:
        return
    before = os.environ.get(ALLOW_OUTSIDE_VARIABLE)

    def restore() -> None:
        os.environ.pop(ALLOW_OUTSIDE_VARIABLE, None)
        if before is not None:
            os.environ[ALLOW_OUTSIDE_VARIABLE] = before

    os.environ[ALLOW_OUTSIDE_VARIABLE] = "1"
    call.call_on_close(restore)


AllowOutside = Annotated[
    bool,
    typer.Option(callback=_allow_outside, expose_value=False, rich_help_panel=MACHINE_PANEL),
    "Let lists, JSON files and links of the data lead out of the folders that the data.yaml names: "
    "for data that you trust.",
]
"""No command receives its value: `ossa.data.roots` asks the environment."""


def choose_device(wanted: str | None) -> str:
    """Returns 'cpu' or 'cuda:N': what is wanted, or the first GPU where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return "cuda:0" if gpus else "cpu"
    if wanted == "cpu":
        return wanted
    number = "0" if wanted == "cuda" else wanted.removeprefix("cuda:")
    if not number.isdecimal():
        raise ConfigError(f"expected --device cpu, cuda or the number of a GPU, found {wanted!r}")
    if int(number) >= gpus:
        raise ConfigError(
            f"--device {wanted}: this machine has {gpus or 'no'} CUDA "
            f"device{'s, counted from 0' if gpus > 1 else ''}"
            + ("" if gpus else " that PyTorch can use; leave --device out or take cpu")
        )
    return f"cuda:{number}"


def choose_device_for(weights: Path, wanted: str | None) -> str:
    """Returns what `choose_device` does; exported files run on the CPU unless told otherwise."""
    from ossa.export.select import is_exported

    return "cpu" if wanted is None and is_exported(weights) else choose_device(wanted)


def set_threads(wanted: int | None) -> None:
    """Has torch compute with so many threads on the CPU, where a number is wanted."""
    if wanted is not None:
        import torch

        torch.set_num_threads(wanted)


def choose_workers(wanted: int | None, *, device: str) -> int:
    """Returns what is wanted; else half the processors, or a quarter where they compute, too.

    Threads of a network wait for the one whose processor a worker has: on two, yolov5n at 320 px
    trains 53 images a second without a worker and 45 with one (benchmarks/train.py).
    """
    if wanted is not None:
        return wanted
    processors = os.cpu_count() or 1
    if device == "cpu":
        return min(_MOST_WORKERS, processors // 4)
    return max(1, min(_MOST_WORKERS, processors // 2))


def check_words(option: str, words: Iterable[str], known: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest known word, for the first word that is not known."""
    for word in words:
        if word not in known:
            raise ConfigError(
                f"expected {option} {', '.join(known)}, found {word!r}.{suggestion(word, known)}"
            )


def check_writable(option: str, folder: Path) -> None:
    """Raises ConfigError unless a folder can be made, or written into where it exists."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        found = f"{nearest}, which is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        found = f"{nearest} without the permission to write"
    else:
        return
    raise ConfigError(f"expected a folder that can be written for {option}, found {found}")


def check_new(option: str, folder: Path) -> None:
    """Raises ConfigError unless a folder is empty or can be made."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"expected a new or empty folder for {option}, found {folder} in use: name another"
        )
    check_writable(option, folder)
