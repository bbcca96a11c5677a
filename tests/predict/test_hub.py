"""Detectors go to the Hugging Face hub and come back; a folder stands for the hub."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from known_detector import NAMES

import ossa
from ossa.config import ModelConfig
from ossa.errors import ConfigError, RunFailed
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import build_detector

MODEL = ModelConfig(name="yolov5n", neck="own")


def saved(folder: Path, **details: Any) -> Path:
    torch.manual_seed(0)
    detector = build_detector(MODEL, num_classes=len(NAMES), imgsz=64)
    file = folder / "last.safetensors"
    save_checkpoint(file, detector, model=MODEL, names=NAMES, imgsz=64, details=details)
    return file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is published, by repository."""
    folder = tmp_path / "hub"

    class Api:
        def create_repo(self, name: str, **_: Any) -> str:
            return f"https://huggingface.co/{name}"

        def upload_folder(self, *, repo_id: str, folder_path: str) -> None:
            shutil.copytree(folder_path, folder / repo_id)

    def download(repository: str, file: str, *, revision: str | None) -> str:
        if not (folder / repository).is_dir():
            raise OSError("404: no such repository\nand much more")
        return str(folder / repository / file)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return folder


def test_a_detector_comes_back_as_it_was_pushed(tmp_path: Path, hub: Path) -> None:
    run = {"data": "/home/somebody/cells/data.yaml", "recipe": "quick", "seed": 3}
    file = saved(tmp_path, run=run, metrics={"ap": 0.43219, "f1": 0.6})
    assert ossa.push_to_hub(file, "me/cells") == "https://huggingface.co/me/cells"
    assert ossa.load("hf://me/cells").names == NAMES
    assert (hub / "me/cells/best.safetensors").read_bytes() == file.read_bytes()
    card = (hub / "me/cells/README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("ossa", "object-detection")
    assert "3 classes: cat, dog, fire truck." in card
    assert "| ap | 0.4322 |" in card
    assert "Trained on cells with the recipe quick, seed 3" in card
    assert "somebody" not in card


def test_nothing_of_a_stranger_s_file_is_markup_in_the_card(tmp_path: Path, hub: Path) -> None:
    run = {"data": "<img src=x>", "recipe": {"a": "<b>"}, "seed": "[x](y)"}
    ossa.push_to_hub(saved(tmp_path, run=run, metrics={"ap": "high"}), "me/cells")
    card = (hub / "me/cells/README.md").read_text()
    assert "<img" not in card.replace("\\<", "")
    assert "[x]" not in card.replace("\\[", "")


def test_what_is_not_there_is_one_sentence(hub: Path) -> None:
    with pytest.raises(RunFailed) as refusal:
        ossa.load("hf://me/nothing")
    assert str(refusal.value).endswith("found 404: no such repository.")
    for address in ("hf://me", "hf://me/too/deep", "hf:///x"):
        with pytest.raises(ConfigError, match="Expected hf://user/name"):
            ossa.load(address)


def test_weights_of_an_unknown_licence_are_not_published(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(ConfigError, match="a licence of the weights"):
        ossa.push_to_hub(saved(tmp_path, pretraining="imagenet-1k"), "me/cells")
    assert not hub.exists()
