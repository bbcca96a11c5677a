"""Options that commands share, so that each has one name, one meaning and one help text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from ossa.data.roots import ALLOW_OUTSIDE_VARIABLE
from ossa.errors import ConfigError, suggestion

MACHINE_PANEL = "Machine and output"
_MOST_WORKERS = 8

NeckScale: TypeAlias = Literal["n", "s", "m", "l", "x"]

IMGSZ_NAMES = ("--imgsz", "--img", "--img-size")
BATCH_NAMES = ("--batch", "--batch-size")

Data = Annotated[
    str,
    typer.Option("--data", help="A data.yaml, or the folder that holds one.", metavar="PATH"),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, or the number of a GPU. The first GPU where there is one.",
        metavar="NAME",
        rich_help_panel=MACHINE_PANEL,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        max=256,
        metavar="N",
        help="Processes that load images; they change the speed, never the result. "
        f"Half the processors for a GPU, at most {_MOST_WORKERS}; where the CPU itself computes, a "
        "quarter, none of fewer than four.",
        rich_help_panel=MACHINE_PANEL,
        show_default=False,
    ),
]
CACHE_PLACES = ("auto", "disk", "none")


def _cache_place(text: str) -> str:
    if text == "ram":
        raise typer.BadParameter("expected auto, disk or none, found 'ram', which is auto today")
    if text not in CACHE_PLACES:
        raise typer.BadParameter(f"expected {', '.join(CACHE_PLACES)}, found {text!r}")
    return text


Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        parser=_cache_place,
        metavar="auto|disk|none",
        help="Decode and resize every image once. auto keeps the pixels in memory that all "
        "processes share, while they fit into a quarter of the free memory and 4 GB; disk in the "
        "cache folder (OSSA_CACHE, else ~/.cache/ossa) for every later run. It changes the speed, "
        "never the result.",
        rich_help_panel=MACHINE_PANEL,
        show_default="auto",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads with which the CPU computes. Fewer leave processors to other programs; sums "
        "are rounded otherwise with another number.",
        rich_help_panel=MACHINE_PANEL,
        show_default="one for each processor, or OMP_NUM_THREADS",
    ),
]


def _allow_outside(call: typer.Context, wanted: bool) -> None:
    """Lets all processes of a command read what lies outside the folders of a data set."""
    if wanted:
        before = os.environ.get(ALLOW_OUTSIDE_VARIABLE)
        os.environ[ALLOW_OUTSIDE_VARIABLE] = "1"
        call.call_on_close(lambda: _set_again(before))


def _set_again(before: str | None) -> None:
    os.environ.pop(ALLOW_OUTSIDE_VARIABLE, None)
    if before is not None:
        os.environ[ALLOW_OUTSIDE_VARIABLE] = before


AllowOutside = Annotated[
    bool,
    typer.Option(
        "--allow-outside",
        callback=_allow_outside,
        expose_value=False,
        help="Let lists, JSON files and links of the data lead out of the folders that the "
        "data.yaml names: for data that you trust.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
"""Nobody sees its value: `ossa.data.roots` asks the environment."""
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout and everything else on stderr.",
        rich_help_panel=MACHINE_PANEL,
    ),
]


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
    from ossa.export.open import is_exported

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
