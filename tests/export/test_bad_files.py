"""Files that are damaged, foreign or malicious end in a sentence, and are not run."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_detector import SmallBackbone, small_detector
from torch import nn

from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone
from ossa.export import graph as extras
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.graph import ExportDescription, LogitsGraph
from ossa.export.select import open_exported
from ossa.models.checkpoint import read_checkpoint
from ossa.predict.predictor import load


class _WritesAFile(torch.nn.Module):
    """What a stranger could send: reads and writes a file while it pretends to detect."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_file(self.file, shared=True, size=16, dtype=torch.uint8) + images.sum()


@pytest.mark.parametrize(
    "name", ["evil.torchscript", "evil.pt", "evil.onnx", "evil.xml", "evil.safetensors", "evil"]
)
def test_torchscript_is_refused_whatever_its_name_and_not_loaded(name: str, tmp_path: Path) -> None:
    target, file = tmp_path / "written", tmp_path / name
    target.write_bytes(bytes(16))
    torch.jit.script(_WritesAFile(str(target))).save(str(file))
    with pytest.raises(CheckpointError, match=f"found the TorchScript file .*{name}, which is a"):
        load(file)
    assert target.read_bytes() == bytes(16)


def test_a_torchscript_name_or_a_renamed_folder_of_code_is_enough_to_be_refused(
    tmp_path: Path,
) -> None:
    named, renamed = tmp_path / "a.torchscript", tmp_path / "a.pt"
    named.write_bytes(b"nothing")
    with zipfile.ZipFile(renamed, "w") as archive:
        archive.writestr("a/CODE/__torch__.py", "def forward(self): pass")
        archive.writestr("a/data.pkl", b"\x80\x02.")
    for file, opening in ((named, open_exported), (renamed, load)):
        with pytest.raises(CheckpointError, match="found the TorchScript file"):
            opening(file)


@pytest.mark.parametrize("fixture", ["onnx_file", "openvino_file"])
@pytest.mark.parametrize("part", [0, 0.5, 0.95])
def test_a_truncated_file_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, part: float
) -> None:
    whole: Path = request.getfixturevalue(fixture)
    file = tmp_path / whole.name
    content = whole.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    weights = whole.with_suffix(".bin")
    if weights.is_file():
        file.with_suffix(".bin").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=f"{file}"):
        open_exported(file)


def test_openvino_weights_that_are_missing_or_cut_short_are_refused(
    openvino_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.xml"
    file.write_bytes(openvino_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"no weights at .*small\.bin .*small\.xml"):
        open_exported(file)
    file.with_suffix(".bin").write_bytes(openvino_file.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="weights beyond the 100 bytes"):
        open_exported(file)


def test_onnx_of_another_program_is_refused(onnx_model: Any, tmp_path: Path) -> None:
    file = tmp_path / "foreign.onnx"
    file.write_bytes(onnx_model.SerializeToString())
    for runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime, reason="needs the extras export and openvino")
        with pytest.raises(CheckpointError, match=r"description by ossa .*, found none"):
            open_exported(file, runtime=runtime)  # type: ignore[arg-type]


def test_text_that_is_called_onnx_is_refused_and_openvino_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file = tmp_path / "text.onnx"
    file.write_text("not a model")
    with pytest.raises(CheckpointError, match="Expected an ONNX file by ossa, found a damaged"):
        open_exported(file, runtime="openvino")
    assert "".join(capfd.readouterr()) == ""


def test_the_weights_of_an_openvino_file_point_to_the_file(openvino_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an OpenVINO file: give .*\.xml"):
        read_checkpoint(openvino_file.with_suffix(".bin"))


class _Bessel(nn.Module):
    """A backbone with an operation that only PyTorch knows."""

    levels = SmallBackbone.levels

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallBackbone()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine, coarse = self.inner(images)
        return torch.special.bessel_j0(fine), coarse


@pytest.mark.parametrize(
    ("of_format", "package", "said"),
    [
        (openvino_format, "openvino", r"converted to OpenVINO \(No conversion rule .*bessel_j0\)"),
        pytest.param(
            *(onnx_format, "onnxscript", r"ONNX's operator set 18 \(No ONNX function .*bessel_j0"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_operation_that_a_format_lacks_is_named(
    of_format: Any, package: str, said: str, description: ExportDescription
) -> None:
    pytest.importorskip(package, reason="needs the extras export and openvino")
    detector = small_detector()
    detector.backbone = _Bessel()
    with pytest.raises(UnsupportedBackbone, match=said):
        of_format.convert(LogitsGraph(detector), description)


def test_an_absent_extra_is_named_with_the_line_that_installs_it(
    onnx_file: Path, openvino_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    for file, runtime, extra in (
        (openvino_file, "openvino", "openvino"),
        (onnx_file, "onnxruntime", "export"),
    ):
        with pytest.raises(
            ConfigError,
            match=rf'needs the package {runtime}\. Install it: pip install "ossa\[{extra}\]"',
        ):
            open_exported(file, runtime=runtime)  # type: ignore[arg-type]


LATE = """
import gc, os, signal, sys
import ossa.export.export, ossa.predict.predictor, ossa.cli.export
from ossa.export.graph import openvino_core

print({"onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}.intersection(sys.modules))
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
cores = [openvino_core() for _ in range(2)]
cores.append(sys.modules["openvino"].Core())
for core in cores:
    core.get_property("CPU", "FULL_DEVICE_NAME")
while cores:
    del core
    cores.pop(0)
    core = None
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_extras_are_imported_late_and_signals_still_reach_a_process_whose_engines_have_gone() -> (
    None
):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["set()", *["heard"] * 3])


CONVERT = """
import socket
import numpy as np, torch
from ossa.export.graph import require

def refuse(*_, **__):
    raise AssertionError("asked for the network")

socket.getaddrinfo = socket.socket.connect = refuse
openvino, nncf = (require(package, purpose="this test") for package in ("openvino", "nncf"))
network = torch.nn.Conv2d(3, 4, 1)
model = openvino.convert_model(network, example_input=torch.zeros(1, 3, 8, 8))
nncf.quantize(model, nncf.Dataset([np.zeros((1, 3, 8, 8), np.float32)]), subset_size=1)

from nncf.telemetry.wrapper import telemetry
from openvino.tools.ovc import telemetry_stub, telemetry_utils
assert telemetry_utils.tm is telemetry_stub
print(type(telemetry).__name__)
"""


@pytest.mark.slow
def test_a_conversion_and_int8_leave_nothing_in_the_home_and_call_nobody(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs the extra openvino")
    # Where there is CI, the packages report nothing by themselves.
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "NNCF_CI")}
    ended = subprocess.run(
        [sys.executable, "-c", CONVERT],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "MagicMock"
    assert not list(tmp_path.rglob("*ga_cid*"))
