"""Times from other machines: the folder that is carried there, and the file that comes back."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from ossa.errors import ConfigError, DataError
from ossa.files import sha256_of
from ossa.study import time_models
from ossa.study.folder import StudyFolder
from ossa.study.pack import read_machines, write_pack
from ossa.study.report.answers import main_measure
from ossa.study.report.report import write_study_report
from ossa.study.results import load_study

HIDDEN = (
    "import runpy, sys; sys.modules.update(torch=None, ossa=None, pydantic=None); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a script in a Python that has neither torch nor ossa nor pydantic."""
BARE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


MODELS = ("cspdarknet_n", "resnet10t")


@pytest.fixture(scope="module")
def pack(finished: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack as it is, but with networks that only sum up the pixels."""
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    folder = tmp_path_factory.mktemp("packed") / "pack"
    (folder / "models").mkdir(parents=True)
    helper, proto = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=proto.FLOAT),
        helper.make_node("ReduceSum", ["pixels"], ["sum"], keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", proto.UINT8, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("sum", proto.FLOAT, [])
    graph = helper.make_graph(nodes, "sum", [images], [output])
    opsets = [helper.make_opsetid("", 18)]
    network = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    models = {}
    for model in MODELS:
        file = folder / "models" / f"{model}.onnx"
        file.write_bytes(network)
        weights = finished.path / "runs" / f"{model}-seed0" / "last.safetensors"
        models[model] = {
            "file": f"models/{model}.onnx",
            "file_sha256": sha256_of(file),
            "weights_sha256": sha256_of(weights),
        }
    content = {"schema_number": 1, "study": "tiny", "imgsz": 64, "models": models}
    (folder / "pack.json").write_text(json.dumps(content))
    shutil.copy(time_models.__file__, folder)
    return folder


def timed(pack: Path, folder: Path, *options: str, python: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the script measures in a folder."""
    command = (*python, str(pack / "time_models.py"), "--name", "lap.top", "--threads", "1")
    more = ("--warmup", "1", "--runs", "4", *options)
    done = subprocess.run(
        [*command, *more], cwd=folder, env=BARE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "measurements-lap.top.json").read_text())


@pytest.fixture(scope="module")
def measured(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = (sys.executable, "-c", HIDDEN)
    return timed(pack, tmp_path_factory.mktemp("machine"), python=python)


def test_a_python_without_torch_and_ossa_times_the_models(measured: dict[str, Any]):
    assert (measured["threads"], measured["warmup_runs"], measured["timed_runs"]) == (1, 1, 4)
    assert tuple(measured["models"]) == MODELS
    for times in measured["models"].values():
        assert 0 < times["median_ms"] <= times["p95_ms"]


def test_openvino_times_the_same_files(pack: Path, tmp_path: Path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    python = (sys.executable, "-c", HIDDEN)
    measured = timed(pack, tmp_path, "--runtime", "openvino", python=python)
    assert measured["runtime"] == "openvino"
    assert tuple(measured["models"]) == MODELS


def test_the_report_shows_the_models_by_their_time_on_the_other_machine(
    finished: StudyFolder, measured: dict[str, Any], tmp_path: Path
):
    measured["models"]["cspdarknet_n"] |= {"median_ms": 2.0, "p95_ms": 2.5}
    measured["models"]["resnet10t"] |= {"median_ms": 1.0, "p95_ms": 1.5}
    file = tmp_path / "measurements-lap.top.json"
    file.write_text(json.dumps(measured))
    results = load_study(finished)
    (machine,) = read_machines(results, [file])
    times = {model: machine.results.number(model, "ms_per_image") for model in MODELS}
    assert times == {"resnet10t": 1.0, "cspdarknet_n": 2.0}
    assert "1 threads, median of 4 runs): Pareto set " in machine.sentence()
    assert "no power-law fit: expected 8 models at least, found " in machine.sentence()
    page = write_study_report(results, tmp_path, machines=[machine], detections=False).read_text()
    assert "median of 4 runs" in page
    assert main_measure(machine.results) == "ms_per_image"
    assert main_measure(results) == "flops"
    assert '<div data-choice="lap.top" hidden>' in page
    assert (tmp_path / "tables" / "models-lap.top.csv").is_file()
    with pytest.raises(DataError, match=r"one file of each machine, found two of lap\.top"):
        read_machines(results, [file, file])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"study": "another"}, "Expected measurements of study tiny, found another"),
        ({"imgsz": 640}, "Expected measurements of image side in px 64, found 640"),
        ({"machine": "../up"}, "machine: string should match pattern"),
        ({"threads": 0}, "threads: input should be greater than or equal to 1, found 0"),
        ({"cpu": "x" * 301}, "cpu: string should have at most 300 characters"),
        ({"gpu": "none"}, "there is no setting 'gpu'"),
        ({"models": {}}, "models: dictionary should have at least 1 item"),
        ({"median_ms": float("nan")}, "median_ms"),
        ({"median_ms": "fast"}, "median_ms: input should be a valid number, found 'fast'"),
        ({"weights_sha256": "0" * 64}, "Expected times of weights of the study tiny, found others"),
    ],
)
def test_foreign_measurements_are_refused_in_a_sentence(
    finished: StudyFolder,
    measured: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    sentence: str,
):
    content = json.loads(json.dumps(measured))
    model = content["models"]["resnet10t"]
    target = model if set(change) <= set(model) else content
    target.update(change)
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_machines(load_study(finished), [tmp_path / "file.json"])
    assert sentence in str(error.value)


def test_times_of_a_model_that_the_study_does_not_have_are_refused(
    finished: StudyFolder, measured: dict[str, Any], tmp_path: Path
):
    measured = {**measured, "models": {"\x1b[2J": measured["models"]["resnet10t"]}}
    (tmp_path / "file.json").write_text(json.dumps(measured))
    with pytest.raises(DataError, match=r"found others for \\x1b\[2J"):
        read_machines(load_study(finished), [tmp_path / "file.json"])


def test_a_changed_model_is_not_timed_and_a_folder_in_use_is_not_packed_into(
    finished: StudyFolder, pack: Path, tmp_path: Path
):
    content = json.loads((pack / "pack.json").read_text())
    next(iter(content["models"].values()))["file_sha256"] = "0" * 64
    (tmp_path / "models").symlink_to(pack / "models")
    (tmp_path / "pack.json").write_text(json.dumps(content))
    command = [
        sys.executable,
        str(pack / "time_models.py"),
        "--name",
        "a",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not the file that was packed: copy it again" in done.stderr
    with pytest.raises(ConfigError, match="Expected a new or empty folder, found one in use"):
        write_pack(finished, pack)


@pytest.mark.slow
def test_a_fresh_environment_without_torch_and_ossa_times_the_exported_models(
    finished: StudyFolder, tmp_path: Path
):
    pack = tmp_path / "pack"
    assert write_pack(finished, pack) == {}
    names = ("README.md", "models", "pack.json", "time_models.py")
    assert tuple(sorted(path.name for path in pack.iterdir())) == names
    assert "2 exported models" in (pack / "README.md").read_text()
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"]
    subprocess.run(install, check=True)
    for package in ("torch", "ossa"):
        found = subprocess.run([python, "-c", f"import {package}"], check=False, env=BARE)
        assert found.returncode == 1
    measured = timed(pack, tmp_path, python=(python,))
    assert tuple(measured["models"]) == MODELS
    pytest.importorskip("openvino", reason="needs the extra openvino")
    hidden = (sys.executable, "-c", HIDDEN)
    assert timed(pack, tmp_path, "--runtime", "openvino", python=hidden)["models"]
    (machine,) = read_machines(load_study(finished), [tmp_path / "measurements-lap.top.json"])
    assert set(machine.measured.models) == set(MODELS)
