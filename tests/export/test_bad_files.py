"""Files that are damaged, foreign or malicious end in a sentence, and are not run."""

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


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing"])
def test_a_torchscript_name_is_enough_to_be_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.torchscript"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="found the TorchScript file"):
        open_exported(file)


def test_a_renamed_folder_of_code_is_torchscript_still(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/CODE/__torch__.py", "def forward(self): pass")
        archive.writestr("a/data.pkl", b"\x80\x02.")
    with pytest.raises(CheckpointError, match="found the TorchScript file"):
        load(file)


@pytest.mark.parametrize("fixture", ["onnx_file", "openvino_file"])
@pytest.mark.parametrize("part", [0, 0.5, 0.95])
def test_a_truncated_file_is_told_as_such(
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


def test_openvino_weights_that_are_missing_or_cut_short_are_told(
    openvino_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.xml"
    file.write_bytes(openvino_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"expected the weights of .*xml at .*small\.bin"):
        open_exported(file)
    file.with_suffix(".bin").write_bytes(openvino_file.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged or no OpenVINO file"):
        open_exported(file)


def test_onnx_of_another_program_is_refused(onnx_model: object, tmp_path: Path) -> None:
    foreign = type(onnx_model)()
    foreign.CopyFrom(onnx_model)  # type: ignore[attr-defined]
    del foreign.metadata_props[:]  # type: ignore[attr-defined]
    file = tmp_path / "foreign.onnx"
    file.write_bytes(foreign.SerializeToString())  # type: ignore[attr-defined]
    for runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime, reason="needs the extras export and openvino")
        with pytest.raises(CheckpointError, match="carries no description by ossa"):
            open_exported(file, runtime=runtime)  # type: ignore[arg-type]


def test_text_that_is_called_onnx_is_told_without_a_word_of_openvino(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    file = tmp_path / "text.onnx"
    file.write_text("not a model")
    with pytest.raises(CheckpointError, match="is damaged or no ONNX file"):
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
    with pytest.raises(ConfigError, match=r'needs the package openvino: pip install "ossa\[openv'):
        open_exported(openvino_file)
    with pytest.raises(ConfigError, match=r'needs the package onnxruntime: pip install "ossa\[exp'):
        open_exported(onnx_file, runtime="onnxruntime")


def test_nothing_of_the_extras_is_imported_before_it_is_needed() -> None:
    program = (
        "import ossa.export.export, ossa.predict.predictor, ossa.cli.export, sys;"
        "print([name for name in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf')"
        " if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
