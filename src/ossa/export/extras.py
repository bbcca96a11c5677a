"""The packages that only exports and faster runtimes need."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any

from ossa.errors import ConfigError

EXTRA_OF = {
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "openvino",
    "nncf": "openvino",
}
"""Extra of ossa that brings a package."""
_PACKAGES_OF = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
_TELEMETRY = "openvino_telemetry"
_PLACES = ("Exception from", "Check '", "FrontEnd API failed")
_TALKATIVE = ("torch.onnx", "torch.utils.cpp_extension", "nncf")


def is_installed(package: str) -> bool:
    return find_spec(package) is not None


def can_run(runtime: str) -> bool:
    """Returns whether all is installed that converts a detector for a runtime and runs it."""
    return all(map(is_installed, _PACKAGES_OF.get(runtime, ())))


def require(package: str, *, purpose: str) -> Any:
    """Returns the imported package, which from now on reports to nobody.

    Raises:
        ConfigError: it is not installed; with the line that installs it.
    """
    if not is_installed(package):
        raise ConfigError(
            f'{purpose} needs the package {package}: pip install "ossa[{EXTRA_OF[package]}]"'
        )
    # OpenVINO and NNCF tell Google Analytics of every conversion, by a package that they can do
    # without; it knows no other way to be told not to that leaves the user's home as it is.
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    return import_module(package)


def openvino_core(*, purpose: str) -> Any:
    """Returns the one `openvino.Core` of this process.

    A Core gives the thread a stack for signals, and puts the former one back when it goes, although
    that may be of a Core that has gone before: the next signal, be it Ctrl-C or the end of a child,
    then ends the process (OpenVINO 2026.4). So there is one, which stays.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    require("openvino", purpose=purpose)
    return _only_core()


@cache
def _only_core() -> Any:
    core = import_module("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # it is the device that brings the stack
    return core


def first_line(problem: BaseException) -> str:
    """Returns the line in which an error of another package says what is wrong.

    The error behind all others knows it best; of several lines it is the first that is not a place
    in OpenVINO's source, unless a later one names an operation that cannot be converted.
    """
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = [line.strip(" -") for line in str(problem).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_PLACES)]
    named = [line for line in lines if line.startswith("No conversion rule found")]
    return (named or lines or [type(problem).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters from telling their own affairs, such as progress and deprecations."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # stdout is for results: NNCF draws its progress there.
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
