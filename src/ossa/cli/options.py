"""Options that commands share, so that each has one name, one meaning and one help text."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from ossa.cli.command import Setting
from ossa.config import Tiles
from ossa.data.paths import ALLOW_OUTSIDE_VARIABLE
from ossa.errors import ConfigError
from ossa.machine import count_processors
from ossa.schema import validated

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


Count: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N")]
Natural: TypeAlias = Annotated[int, typer.Option(min=0, metavar="N")]
Fraction: TypeAlias = Annotated[float, typer.Option(min=0, max=1)]
File: TypeAlias = Annotated[Path, typer.Option(metavar="FILE")]
Folder: TypeAlias = Annotated[Path, typer.Option(metavar="FOLDER")]
Name: TypeAlias = Annotated[str, typer.Option(metavar="NAME")]
NAMES = typer.Option(metavar="NAME,...")
Pixels: TypeAlias = Annotated[int, typer.Option(*IMGSZ_NAMES, min=1, metavar="PIXELS")]
Side = Annotated[Pixels, typer.Option(min=32), "Side of the square input in pixels."]
TrainedSide = Annotated[
    int | None,
    typer.Option(*IMGSZ_NAMES, metavar="PIXELS", show_default="that of the training"),
    "Longer side of the network input in pixels.",
]
TileSide = Annotated[
    int | None,
    typer.Option("--tiles", metavar="PIXELS", show_default="those of the training, or none"),
    "See larger images in windows of so many pixels of the image, and join what is found in them.",
]
Overlap = Annotated[
    float | None,
    typer.Option(metavar="FRACTION", show_default="that of the training, or 0.2"),
    "Fraction of a window that neighbours share.",
]
Batch = Annotated[
    int, typer.Option(*BATCH_NAMES, min=1, max=65_536, metavar="N"), "Images in one run."
]
Classes = Annotated[int, typer.Option(min=1, max=100_000, metavar="N"), "Number of classes."]
Neck: TypeAlias = Annotated[Literal["n", "s", "m", "l", "x"], "Scale of the neck of a backbone."]
NeckType: TypeAlias = Annotated[
    Literal["pafpn", "fpn", "bifpn", "none"], "How the neck fuses the levels."
]
Head: TypeAlias = Annotated[Literal["anchor", "dense"], "Head of the detector."]
RuntimeName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]
Runtime = Annotated[
    RuntimeName,
    "What runs the network. auto takes the fastest that is installed and knows every operator: "
    "OpenVINO, then ONNX Runtime (fp32) on a CPU, else PyTorch.",
]
Weights = Annotated[File, "A checkpoint of ossa, or an official yolov5*.pt."]
AnyWeights = Annotated[File, "A checkpoint of ossa, an official yolov5*.pt, or an exported file."]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", metavar="NAME", show_default="all"),
    "train, val or test; repeat it for several.",
]
ModelArgument = typer.Argument(
    metavar="MODEL",
    help="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x (or cspdarknet-w0.375-d0.33), or any "
    "timm architecture.",
)
_DATA_HELP = "A data.yaml, or the folder of a data set."
DataPath: TypeAlias = Annotated[str, typer.Option(metavar="PATH"), _DATA_HELP]


def _keep_data(call: typer.Context, given: str) -> None:
    call.meta[_DATA] = given


def _choose_data(call: typer.Context, given: str) -> str:
    """Returns what DATA or --data names; DATA may then be the argument that follows it."""
    by_option = call.meta.get(_DATA)
    if by_option and given:
        kinds = [one.param_type_name for one in call.command.params]
        if kinds.count("argument") == 1:
            raise typer.BadParameter("give the data set as DATA or by --data, not both")
        call.meta[_SECOND] = given
    if not (by_option or given):
        raise typer.BadParameter("missing: a data.yaml, or the folder of a data set")
    return by_option or given


def _choose_second(call: typer.Context, given: str) -> str:
    """Returns the argument behind DATA, which is the first where --data is given."""
    first = call.meta.get(_SECOND, "")
    if bool(first) == bool(given):
        raise typer.BadParameter("one too many" if given else "missing")
    return first or given


_DATA, _SECOND = "ossa.data", "ossa.second"
DataArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="DATA", callback=_choose_data, show_default=False), _DATA_HELP
]
"""Has the default '', since --data may stand for it."""
DataOption: TypeAlias = Annotated[
    str,
    typer.Option(
        *("--data",),
        metavar="PATH",
        callback=_keep_data,
        expose_value=False,
        is_eager=True,
        show_default=False,
    ),
    "The same as DATA.",
]
OutputArgument: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="OUTPUT", callback=_choose_second, show_default=False),
    "New or empty folder.",
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE"),
    "Any setting, such as train.lr=0.005; may be repeated, and has the last word.",
]
_MACHINE = typer.Option(rich_help_panel=MACHINE_PANEL)
Device = Annotated[
    Name | None,
    _MACHINE,
    "cpu, cuda, mps (Apple), or the number of a GPU. The first NVIDIA GPU where there is one.",
]
Workers = Annotated[
    Natural | None,
    *(_MACHINE, typer.Option(max=256)),
    "Processes that load images; they change the speed, never the result. Half the processors for "
    f"a GPU, at most {_MOST_WORKERS}; where the CPU itself computes, a quarter, none of fewer than "
    "four.",
]
Threads = Annotated[
    Count | None,
    *(_MACHINE, shown("one for each processor, or OMP_NUM_THREADS")),
    "Threads with which the CPU computes. Results differ by rounding with another number.",
]
AsJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=MACHINE_PANEL),
    "Print one JSON document on stdout and everything else on stderr.",
]
Cache = Annotated[
    Literal["auto", "disk", "none"] | None,
    *(_MACHINE, shown("auto")),
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
"""No command receives its value: `ossa.data.paths` asks the environment."""


def choose_tiles(side: int | None, overlap: float | None, trained: Tiles | None) -> Tiles | None:
    """Returns the tiles that are wanted, else those of the training, or None for whole images.

    Raises:
        ConfigError: a value out of range, or an overlap of no tiles.
    """
    wanted = {"side": side, "overlap": overlap}
    given = {key: value for key, value in wanted.items() if value is not None}
    settings = (trained.model_dump() if trained is not None else {}) | given
    if "side" not in settings:
        if given:
            raise ConfigError(expected="--tiles beside --overlap", found="images seen whole")
        return None
    return validated(Tiles, settings, where="--tiles and --overlap")


def choose_device(wanted: str | None) -> str:
    """Returns 'cpu', 'mps' or 'cuda:N': what is wanted, or the first GPU where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return "cuda:0" if gpus else "cpu"
    if wanted == "cpu":
        return wanted
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                expected="an Apple GPU for --device mps", found="none that PyTorch can use"
            )
        return wanted
    number = "0" if wanted == "cuda" else wanted.removeprefix("cuda:")
    if not number.isdecimal():
        raise ConfigError(
            expected="--device cpu, cuda, mps or the number of a GPU", found=repr(wanted)
        )
    if int(number) >= gpus:
        found = "1 CUDA device" if gpus == 1 else f"{gpus} CUDA devices, counted from 0"
        raise ConfigError(
            expected=f"a GPU for --device {wanted}",
            found=found if gpus else "no CUDA device that PyTorch can use",
            advice=None if gpus else "leave --device out or take cpu",
        )
    return f"cuda:{number}"


def choose_device_for(weights: Path, wanted: str | None) -> str:
    """Returns what `choose_device` does; exported files run on the CPU unless one is wanted."""
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
    processors = count_processors()
    if device == "cpu":
        return min(_MOST_WORKERS, processors // 4)
    return max(1, min(_MOST_WORKERS, processors // 2))


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
    raise ConfigError(expected=f"a folder that can be written for {option}", found=found)


def check_new(option: str, folder: Path) -> None:
    """Raises ConfigError unless a folder is empty or can be made."""
    if folder.is_dir() and any(folder.iterdir()):
        found = f"{folder} in use"
        raise ConfigError(expected=f"a new or empty folder for {option}", found=found)
    check_writable(option, folder)
