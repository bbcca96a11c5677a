"""`ossa pretrain`."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import TINY, Ossa

QUICK = ("--imgsz", "32", "--batch", "4", "--epochs", "2", "--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, dark and bright, with 6 pictures to train on and 2 to score."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    for split, count in (("train", 6), ("val", 2)):
        for name, grey in (("dark", 40), ("bright", 200)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture = np.full((40, 40, 3), grey + number, np.uint8)
                cv2.imwrite(str(root / split / name / f"{number}.png"), picture)
    return root


def test_a_pretrained_backbone_starts_a_detector(ossa: Ossa, pictures: Path, scenes: Path):
    arguments = ("--model", "test_resnet", "--data", pictures, "--out", "out.safetensors")
    result = ossa("pretrain", *arguments, *QUICK, "--json")
    assert result.exit_code == 0
    row = json.loads(result.stdout)
    assert (row["model"], row["imgsz"], row["file"]) == ("test_resnet", 32, "out.safetensors")
    assert [epoch["epoch"] for epoch in row["epochs"]] == [1, 2]
    assert row["top1"] == row["epochs"][-1]["top1"]
    assert row["train_seconds"] == sum(epoch["seconds"] for epoch in row["epochs"])
    lines = result.stderr.splitlines()
    assert lines[0].startswith("epoch 1/2  loss 0.")
    assert "  top-1 " in lines[0]
    assert lines[-1] == (
        "next: ossa train --model test_resnet --backbone-weights out.safetensors --data DATA"
    )
    weights = ("--model", "test_resnet", "--backbone-weights", "out.safetensors")
    more = ("--neck", "n", "--epochs", 1, "--no-figures", *TINY)
    trained = ossa("train", "--data", scenes, *weights, *more)
    assert trained.exit_code == 0, trained.stderr
    record = json.loads(Path("runs/test_resnet/record.json").read_text())
    assert record["initial_weights"]["pretraining"] == "pictures (2 classes, 12 images)"
    assert record["initial_weights"]["licence"] == "unknown"


def test_an_existing_file_is_never_overwritten(ossa: Ossa, pictures: Path):
    Path("out.safetensors").write_text("precious")
    arguments = ("--model", "test_resnet", "--data", pictures, "--out", "out.safetensors")
    result = ossa("pretrain", *arguments, *QUICK)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: expected --out with a new .safetensors file in a folder, found "
        "out.safetensors, which exists\n"
    )
    assert Path("out.safetensors").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"--out": "out.pt"},
            "expected --out with a new .safetensors file in a folder, found out.pt",
        ),
        ({"--out": "no/out.safetensors"}, "in a folder, found no/out.safetensors"),
        ({"--data": "nothing"}, "expected images in nothing/train/CLASS/, found none"),
        ({"--model": "test_resnat"}, "no model named 'test_resnat'. Did you mean test_resnet"),
        (
            {"--recipe": "convnex"},
            "no recipe 'convnex' and no such YAML file. Did you mean convnext?",
        ),
        ({"--batch": "5"}, "expected an even --batch, no more than 12 images"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    changes: dict[str, str], sentence: str, ossa: Ossa, pictures: Path
):
    given = {"--model": "test_resnet", "--data": pictures, "--out": "out.safetensors", **changes}
    options = [part for pair in given.items() for part in pair]
    result = ossa("pretrain", *QUICK, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("out.safetensors").exists()
