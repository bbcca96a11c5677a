"""The entry point `ossa`: its commands, and how each of them ends.

Exit codes: 0 done; 1 failed or stopped; 2 bad input, a misspelt option included.
"""

import functools
import importlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.rich_utils import rich_format_error

from ossa import __version__
from ossa.errors import OssaError, RunFailed, legible
from ossa.escaping import hide_credentials, print_line
from ossa.files import NO_SPACE
from ossa.machine import BUILDS_DIFFER, keep_freed_memory, use_threads_well

_COMMANDS = {
    "train": "Train a detector and score it after every epoch.",
    "pretrain": "Pretrain a backbone from random weights, as a classifier of a folder of images.",
    "val": "Score a detector, or the detections of any other, on a data set with COCO's metrics.",
    "compare": "Tell how good a detector is, or which beat the first one, with 95% intervals.",
    "export": "Write a detector as a file for another runtime.",
    "predict": "Find objects in images and videos, draw them, write them to files.",
    "backbones": "List the architectures that can be the backbone of a detector.",
    "cost": "Count what detectors cost, split by part, in training form and as deployed.",
    "bench": "Time detectors and runtimes, several of them turn by turn.",
    "app": "Try detectors side by side on a page of your own.",
    "demo": "Draw a data set, train two small detectors on it, compare them on one page.",
    "doctor": "Tell what this machine gives to ossa, and what stands in the way.",
    "data": "Data sets: get public ones, split, convert, check and look at any.",
    "weights": "Get the official weights of YOLOv5.",
    "study": "Many backbones, identical conditions.",
}
"""What the help says of each, in the order of the help. The module `ossa.cli` of the same name has
the function of the same name, and is imported when the command is called."""

_GROUPS = {
    "weights": ("get",),
    "data": ("get", "split", "convert", "check", "show"),
    "study": ("plan", "run", "status", "verify", "publish", "add", "report", "predict", "pack"),
}
"""Commands behind `ossa data` and `ossa study`, functions of these modules."""

_DONE, _FAILED, _BAD_INPUT = 0, 1, 2
_TYPER: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _LazyCommands(TyperGroup):
    """A group that imports a command when it is called, and not to list it in the help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns name, command and further arguments of a command line."""
        if args[:1] == ["detect"]:  # YOLOv5's name of predict, and Ultralytics' of the task
            args = args[1:] if args[1:2] and args[1] in _COMMANDS else ["predict", *args[1:]]
        for before, arg in pairwise(args):
            key, assigned, value = arg.partition("=")
            is_option = assigned and key.isidentifier() and not before.startswith("-")
            if is_option and not os.path.exists(arg):  # unlike Path's, no error for a long name
                ctx.fail(f"options begin with two hyphens: --{key} {legible(value)}")
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _imported(name or ""), rest


@functools.cache
def _imported(name: str) -> Any:
    """Returns a command or group of commands as typer runs it."""
    module = importlib.import_module(f"ossa.cli.{name}")
    commands = typer.Typer(help=_COMMANDS[name], **_TYPER)
    if name in _GROUPS:  # else a single command of a group would be the group
        commands.callback()(lambda: None)
    for one in _GROUPS.get(name, (name,)):
        commands.command(one)(with_exit_code(getattr(module, one)))
    return typer.main.get_command(commands)


def with_exit_code(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the command with its errors shown in one sentence on stderr, and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _show("stopped before it was done")
            raise typer.Exit(_FAILED) from None
        except Exception as error:
            sentence, exit_code = _ending(error)
            _show(sentence)
            raise typer.Exit(exit_code) from None

    return run


def _ending(error: Exception) -> tuple[str, int]:
    """Returns the sentence and the exit code for an error with which a command ends."""
    if isinstance(error, OssaError):
        return _sentence(error), _FAILED if isinstance(error, RunFailed) else _BAD_INPUT
    if isinstance(error, OSError) and error.filename is not None:
        exit_code = _FAILED if error.errno in NO_SPACE else _BAD_INPUT
        return f"could not use {legible(str(error.filename))}: {error.strerror}", exit_code
    # Beside MemoryError: torch's RuntimeError, and an ImportError of a library that finds no room.
    if isinstance(error, MemoryError) or re.search("allocate memory|failed to map", str(error)):
        return (
            "the machine has no memory for this: take a smaller --imgsz, --batch or number of "
            "--workers, or end other programs",
            _FAILED,
        )
    if "torchvision::" in str(error):
        return BUILDS_DIFFER, _FAILED
    return (
        f"{type(error).__name__}: {legible(_sentence(error), 1000)} (not foreseen, so perhaps a "
        "fault of ossa: OSSA_DEBUG=1 shows the traceback)",
        _FAILED,
    )


def _show(sentence: str) -> None:
    if os.environ.get("OSSA_DEBUG"):
        traceback.print_exc()
    print_line(f"error: {sentence}", to=sys.stderr)


def _sentence(error: Exception) -> str:
    """Returns the message of an error on one line."""
    lines = str(error).strip().splitlines()
    if "Original Traceback (most recent call last):" in lines:
        # From a process that loads images: the traceback is its text, the message its last line.
        return lines[-1].removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return " ".join(line.strip() for line in lines) or "no further word"


def _show_version(wanted: bool) -> None:
    if wanted:
        libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
        print_line(f"ossa {__version__} ({libraries})")
        raise typer.Exit(_DONE)


app = typer.Typer(name="ossa", cls=_LazyCommands, **{**_TYPER, "add_completion": True})


@app.callback()
def _ossa(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions of ossa, torch and timm.",
        ),
    ] = False,
) -> None:
    """Which backbone should my detector have?

    A YOLOv5-class detector in which any timm backbone is one argument.
    """


for _name, _help in _COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def main() -> None:
    """Runs the command of `sys.argv` and ends the process with its exit code."""
    use_threads_well()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a path may hold bytes that are no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with tempfile.TemporaryDirectory(prefix="ossa-", ignore_cleanup_errors=True) as cache:
        # matplotlib would keep a cache of fonts in the user's home; a command leaves nothing there.
        os.environ.setdefault("MPLCONFIGDIR", cache)
        try:
            code = app(prog_name="ossa", standalone_mode=False)
        except typer.Abort:
            _show("stopped before it was done")
            code = _FAILED
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            from ossa.schema import without_kind

            # A misspelt command line, which typer shows: an address in it with its password.
            message = without_kind(error.message)  # type: ignore[attr-defined]
            error.message = hide_credentials(message)  # type: ignore[attr-defined]
            rich_format_error(error)  # type: ignore[arg-type]
            code = _BAD_INPUT
        sys.exit(code)
