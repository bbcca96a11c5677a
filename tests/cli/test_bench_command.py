"""`ossa bench`."""

import json
from pathlib import Path

import pytest
import torch
from running import Ossa

from ossa.config import ModelConfig
from ossa.errors import UnsupportedBackbone
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import create_detector

QUICK = ("--imgsz", 64, "--warmup", 0, "--runs", 2, "--classes", 3, "--neck", "n")
QUICK += ("--runtime", "torch")
QUICK_ON_CPU = (*QUICK, "--device", "cpu", "--threads", 1)


def test_json_has_a_row_a_model(ossa: Ossa) -> None:
    result = ossa("bench", "yolov5n", "cspdarknet_n", "yolov5n", "--json", *QUICK_ON_CPU)
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["model"] for row in rows] == ["yolov5n", "cspdarknet_n"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(1000 / row["ms_per_image"])
        assert (row["batch"], row["runs"], row["form"]) == (1, 2, "deployed")
    assert "timing yolov5n, cspdarknet_n: deployed form, batch 1" in result.stderr


def test_a_gpu_is_taken_for_a_model_where_there_is_one(
    ossa: Ossa, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str | None] = []

    def choose(wanted: str | None) -> str:
        """Notes what was wanted; None is the first GPU."""
        chosen.append(wanted)
        return "cpu"

    monkeypatch.setattr("ossa.cli.options.choose_device", choose)
    assert ossa("bench", "yolov5n", *QUICK, "--threads", 1).exit_code == 0
    assert chosen == [None]


def test_the_table_names_form_protocol_and_hardware(ossa: Ossa) -> None:
    result = ossa("bench", "yolov5n", "--training-form", *QUICK_ON_CPU)
    first, whole, alone, _, told = result.stdout.splitlines()
    assert first.split()[:4] == ["model", "timed", "mean", "median"]
    assert whole.split()[:5] == ["yolov5n", "with", "decoding", "and", "NMS"]
    assert alone.split()[:3] == ["the", "network", "alone"]
    assert told.startswith("training form, batch 1, 64 x 64 px, 0 runs to warm up and 2 timed")
    assert "threads: 1" in told


def test_the_file_holds_a_command_that_repeats_it(ossa: Ossa, tmp_path: Path) -> None:
    arguments = ("yolov5n", *QUICK_ON_CPU, "--training-form", "--output", "times/here")
    assert ossa("bench", *arguments).exit_code == 0
    (file,) = (tmp_path / "times/here").iterdir()
    content = json.loads(file.read_text())
    program, *again = content["command"].split()
    assert program == "ossa"
    result = ossa(*again, "--json")
    (row,) = json.loads(result.stdout)
    timed = ("ms", "images_per_second", "_network")
    assert {key: value for key, value in row.items() if not any(t in key for t in timed)} == {
        key: value for key, value in content["rows"][0].items() if not any(t in key for t in timed)
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("yolov5q",), "error: there is no model named 'yolov5q'. Did you mean yolov5"),
        (("yolov5n", "--imgsz", "333"), "use 320 or 352"),
        (("yolov5n", "--precision", "fp8"), "'fp8' is not one of 'fp32', 'bf16'"),
        (("yolov5n", "--device", "tpu"), "Expected --device cpu, cuda, mps or the number of a GPU"),
        (("levit_128",), "error: levit_128 declares feature maps at strides [16, 32, 64]"),
        ((), "Expected a MODEL or --weights to time, found neither"),
        (("yolov5n", "--data", "bccd"), "Expected --data with --weights alone"),
        (("yolov5n", "--runtimes", "all", "--training-form"), "times what is deployed on the CPU"),
        (
            ("yolov5n", "--training-form", "--runtime", "openvino"),
            "Expected --runtime torch, which alone runs --training-form and GPUs here",
        ),
    ],
)
def test_bad_input_is_refused_with_advice(
    ossa: Ossa, arguments: tuple[str, ...], sentence: str
) -> None:
    result = ossa("bench", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


def test_a_folder_that_cannot_be_made_is_refused_before_the_timing(
    ossa: Ossa, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    result = ossa("bench", "yolov5n", "--output", "taken", *QUICK_ON_CPU)
    assert result.exit_code == 2
    assert "error: Expected a folder that can be written for --output, found" in result.stderr


def test_auto_takes_pytorch_where_openvino_cannot_express_a_network(
    ossa: Ossa, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")

    def refused(*_: object, **__: object) -> None:
        raise UnsupportedBackbone("no rule for bessel_j0")

    monkeypatch.setattr("ossa.cost.benchmark.runtime_in_memory", refused)
    result = ossa("bench", "yolov5n", *QUICK_ON_CPU, "--runtime", "auto", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["runtime"] == "torch"
    assert "no rule for bessel_j0; all are timed in PyTorch" in result.stderr
    wanted = ossa("bench", "yolov5n", *QUICK_ON_CPU, "--runtime", "openvino")
    assert wanted.exit_code == 2


@pytest.mark.slow
def test_auto_takes_openvino_on_a_processor(ossa: Ossa) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    result = ossa("bench", "yolov5n", *QUICK_ON_CPU, "--runtime", "auto", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["runtime"] == "openvino"
    assert "openvino on cpu" in result.stderr


def test_one_table_has_every_runtime_with_its_ap(
    ossa: Ossa, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossa.cost.benchmark.can_run", lambda runtime: runtime == "torch")
    torch.manual_seed(0)
    detector = create_detector("yolov5n", num_classes=4, imgsz=64)
    config = ModelConfig(name="yolov5n", neck="own")
    names = ("disc", "triangle", "cross", "ring")
    save_checkpoint(
        tmp_path / "a.safetensors", detector, model=config, names=names, imgsz=64, details={}
    )
    arguments = ("--runtimes", "all", "--weights", "a.safetensors", "--data", scenes)
    result = ossa("bench", *arguments, *QUICK_ON_CPU, "--output", "times")
    assert result.exit_code == 0, result.stderr
    first, whole, *_ = result.stdout.splitlines()
    assert first.split()[-2:] == ["runtime", "AP50-95"]
    assert whole.split()[0] == "a.safetensors"
    assert whole.split()[-3:-1] == ["torch", "fp32"]
    (file,) = (tmp_path / "times").iterdir()
    rows = json.loads(file.read_text())["rows"]
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        *(("torch", "fp32"), ("torch", "bf16")),
    ]
    scored = ossa(
        *("val", "--weights", "a.safetensors", "--data", scenes, "--imgsz", 64, "--batch", 1),
        *("--workers", 0, "--device", "cpu", "--json"),
    )
    assert rows[0]["ap"] == pytest.approx(json.loads(scored.stdout)["ap"], abs=1e-3)
